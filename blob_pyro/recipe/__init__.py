"""From a base model and a task to a fitted posterior: settings, methods by name, and a run."""

from blob_pyro.recipe.fine_tune import fine_tune
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
from blob_pyro.recipe.posterior import Posterior, load
from blob_pyro.recipe.predictions import Predictions, load_predictions
from blob_pyro.recipe.recipe import PAPER, RECIPES, SMALL, CausalScoring, Cycle, Recipe
from blob_pyro.recipe.run import finish, run_recipe

__all__ = [
    # a posterior
    "Posterior",
    "Predictions",
    "fine_tune",
    "load",
    "load_predictions",
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
    "run_recipe",
    "finish",
]
