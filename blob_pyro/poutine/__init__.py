"""Effect handlers for LoRA projections, and the operations that they answer."""

from blob_pyro.poutine.flipout_messenger import FlipoutMessenger, flipout
from blob_pyro.poutine.operations import AppliedWeight, apply_weight, local_param
from blob_pyro.poutine.taking_turns import in_turn, one_run, taking_turns
from blob_pyro.poutine.trace_kl import Site, analytic_kl, kl_terms, sample_sites

__all__ = [
    # operations
    "apply_weight",
    "local_param",
    "in_turn",
    "one_run",
    "taking_turns",
    # handlers
    "flipout",
    # traces
    "analytic_kl",
    "kl_terms",
    "sample_sites",
    # classes
    "AppliedWeight",
    "FlipoutMessenger",
    "Site",
]
