"""LoRA layers of PEFT whose matrices are Pyro latents."""

from blob_pyro.lora.bayesianize import bayesianize, unbayesianize
from blob_pyro.lora.layer_checks import check_latent, check_no_adapter, check_peft_model
from blob_pyro.lora.prior import HierarchicalNormalPrior, LatentWeight, NormalPrior, Prior
from blob_pyro.lora.projection import LoraProjection
from blob_pyro.lora.sites import CheckpointContexts, Latent, LoraSite, Matrix, lora_sites

__all__ = [
    # verbs
    "bayesianize",
    "check_latent",
    "check_no_adapter",
    "check_peft_model",
    "lora_sites",
    "unbayesianize",
    # priors
    "HierarchicalNormalPrior",
    "LatentWeight",
    "NormalPrior",
    "Prior",
    # classes
    "CheckpointContexts",
    "Latent",
    "LoraProjection",
    "LoraSite",
    "Matrix",
]
