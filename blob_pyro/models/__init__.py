"""Likelihoods as Pyro models over a PEFT network."""

from blob_pyro.models.bayesian_lora import BayesianLora
from blob_pyro.models.causal_lm import CausalLM
from blob_pyro.models.classifier import Classifier
from blob_pyro.models.label_token_classifier import LabelTokenClassifier
from blob_pyro.models.option_likelihood import Normalize, OptionLikelihood, PackedOptions
from blob_pyro.models.sequence_classifier import SequenceClassifier

__all__ = [
    # bases
    "BayesianLora",
    "Classifier",
    # likelihoods
    "CausalLM",
    "LabelTokenClassifier",
    "Normalize",
    "OptionLikelihood",
    "PackedOptions",
    "SequenceClassifier",
]
