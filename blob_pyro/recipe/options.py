"""The settings that a single method has, beside those of every recipe."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from blob_pyro.settings import Settings


class EnsembleOptions(Settings):
    """Of ``ens``."""

    num_members: int = Field(default=3, ge=1)
    """Number of fits, each from its own seed."""


class LaplaceOptions(Settings):
    """Of ``lap``."""

    max_rank: int = Field(default=10, ge=1)
    """Most eigenpairs that are kept of each factor."""

    predictive: Literal["linearised", "probit", "network"] = "linearised"
    """How it predicts: draws of the linearised network, its probit, or draws of the network."""


class SWAGOptions(Settings):
    """Of ``swag``."""

    learning_rate: float = Field(default=0.02, gt=0)
    """Rate of the SGD whose path is averaged."""

    num_steps: int = Field(default=200, ge=1)
    """Steps of the path."""

    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Momentum of the SGD."""

    collect_every: int = Field(default=4, ge=1)
    """Steps between two weights that are collected."""

    num_deviations: int = Field(default=20, ge=2)
    """Deviations that are kept for the low-rank covariance."""

    @model_validator(mode="after")
    def _enough_steps(self) -> Self:
        collected = self.num_steps // self.collect_every
        if collected < self.num_deviations:
            raise ValueError(
                f"num_steps={self.num_steps} with collect_every={self.collect_every} collect "
                f"{collected} weights but num_deviations={self.num_deviations}; take at least "
                f"{self.num_deviations * self.collect_every} steps, or fewer deviations"
            )
        return self


class IVONOptions(Settings):
    """Of ``ivon``."""

    learning_rate: float = Field(default=0.1, gt=0)
    """Peak rate of IVON."""

    beta2: float = Field(default=0.9999, ge=0, lt=1)
    """Share of the running Hessian that stays at a step."""

    clip_radius: float = Field(default=0.02, gt=0)
    """Bound on each entry of a Newton step, before the rate."""


class TFBOptions(Settings):
    """Of ``tfb``."""

    tolerance: float = Field(default=0.01, gt=0)
    """Relative rise of the loss that the largest scale may cause."""

    num_samples: int = Field(default=10, ge=1)
    """Draws that the loss is averaged over."""


class TemperatureOptions(Settings):
    """Of ``temperature``."""

    per_class: bool = False
    """One temperature for each class instead of one for all."""

    num_samples: int = Field(default=10, ge=0)
    """Draws whose average is calibrated; 0 for the posterior mean."""
