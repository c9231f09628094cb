"""The methods of a comparison by name: a guide each, and how it comes to be fitted."""

from blob_pyro.methods.method import (
    Combine,
    Finish,
    MakeGuide,
    Method,
    Objective,
    Program,
    Settings,
    point_estimate,
)
from blob_pyro.methods.plain_lora import ZERO_SHOT
from blob_pyro.methods.registry import METHODS, find_method

__all__ = [
    # by name
    "METHODS",
    "ZERO_SHOT",
    "find_method",
    # what a method is
    "Combine",
    "Finish",
    "MakeGuide",
    "Method",
    "Objective",
    "Program",
    "Settings",
    "point_estimate",
]
