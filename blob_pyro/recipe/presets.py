"""Recipes by name."""

from __future__ import annotations

from blob_pyro.recipe.recipe import Recipe
from blob_pyro.training import TrainingConfig

# Chosen for a small model and a few hundred texts; docs/recipe.md says what was tried.
SMALL = Recipe(training=TrainingConfig(num_steps=200, batch_size=4))

# What was published for a 7B model (BLoB, NeurIPS 2024, appendix B.1), on Llama's layers.
PAPER = Recipe(
    rank=8,
    alpha=16,
    target_modules=("q_proj", "v_proj", "lm_head"),
    prior_scale=0.2,
    init_scale=0.05,
    kl_scale=None,
    schedule="blob",
    cycle="rescaled",
    training=TrainingConfig(
        num_steps=5000,
        batch_size=4,
        learning_rate=1e-4,
        kl_learning_rate=0.01,
        spread_updates="kl_optim",
        warmup_fraction=0.06,
        max_grad_norm=None,
    ),
)

RECIPES = {"small": SMALL, "paper": PAPER}
