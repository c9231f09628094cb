"""From a base model and a task to a fitted posterior: settings, methods by name, and a run."""

from blob_pyro.recipe.method import (
    Combine,
    Finish,
    MakeGuide,
    Method,
    Objective,
    Program,
    Settings,
    point_estimate,
)
from blob_pyro.recipe.methods import METHODS, ZERO_SHOT, find_method
from blob_pyro.recipe.recipe import PAPER, RECIPES, SMALL, CausalScoring, Cycle, Recipe
from blob_pyro.recipe.run import fine_tune, finish

__all__ = [
    # settings
    "CausalScoring",
    "Cycle",
    "Recipe",
    # by name
    "PAPER",
    "RECIPES",
    "SMALL",
    # methods
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
    # following them
    "fine_tune",
    "finish",
]
