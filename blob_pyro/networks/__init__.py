"""Base models: loading them and their tokenizers, the head of a sentence encoder, identity."""

from blob_pyro.networks.identity import base_identity
from blob_pyro.networks.loading import (
    SMOLLM2,
    SMOLLM2_INSTALL,
    Pooling,
    is_encoder,
    load_causal_lm,
    load_sequence_classifier,
    load_tokenizer,
    torch_dtype,
)
from blob_pyro.networks.mean_pooling import MeanPoolingForSequenceClassification, pooling_of

__all__ = [
    # loading
    "SMOLLM2",
    "SMOLLM2_INSTALL",
    "Pooling",
    "is_encoder",
    "load_causal_lm",
    "load_sequence_classifier",
    "load_tokenizer",
    "torch_dtype",
    # networks
    "MeanPoolingForSequenceClassification",
    "base_identity",
    "pooling_of",
]
