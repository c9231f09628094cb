"""Noise that differs between the processes of a run."""

from __future__ import annotations

import pyro
import torch
from accelerate import Accelerator


def separate_noise(accelerator: Accelerator) -> None:
    """Give every process but the first a random state of its own.

    Programs are made from one seed, so that every process starts from the same parameters; from
    then on, each has to draw its own weights, signs and dropout.
    """
    if accelerator.process_index > 0:
        pyro.set_rng_seed((torch.initial_seed() + accelerator.process_index) % 2**32)
