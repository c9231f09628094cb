"""From a base model and a task to a fitted posterior: the settings, and following them."""

from blob_pyro.recipe.finishing import finish
from blob_pyro.recipe.fitting import fine_tune
from blob_pyro.recipe.presets import PAPER, RECIPES, SMALL
from blob_pyro.recipe.recipe import CausalScoring, Cycle, Recipe

__all__ = [
    # settings
    "CausalScoring",
    "Cycle",
    "Recipe",
    # by name
    "PAPER",
    "RECIPES",
    "SMALL",
    # following them
    "fine_tune",
    "finish",
]
