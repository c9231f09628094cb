"""The two that the benchmarks compare: plain LoRA with PEFT alone, and BLoB over the same network.

Both have the same head: the logits of the label tokens at the last position, and of no other.
"""

import json
import tempfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from paired_comparison import LABEL_TOKENS
from peft import PeftModel
from torch import nn
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

from blob_pyro.guides import LowRankGaussianGuide
from blob_pyro.infer import ReweightedTrace_ELBO
from blob_pyro.models import LabelTokenClassifier
from blob_pyro.models.positions import last_columns

Batch = dict[str, torch.Tensor]
Handler = Callable[[], AbstractContextManager[Any]]


class TrainingStep(NamedTuple):
    """One way to take a gradient step: call it, or look at what it keeps in memory."""

    module: nn.Module
    optimizer: torch.optim.Optimizer
    loss: Callable[[], torch.Tensor]

    def __call__(self) -> None:
        """Take the step."""
        self.loss().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def resident_bytes(self) -> int:
        """Count weights, buffers and the optimiser's state."""
        state = [value for entry in self.optimizer.state.values() for value in entry.values()]
        tensors = [*self.module.parameters(), *self.module.buffers(), *state]
        return sum(tensor.nbytes for tensor in tensors)

    def peak_bytes(self) -> int:
        """Count the most that one step holds beside them."""
        return peak_bytes(self)


def peak_bytes(run: Callable[[], object]) -> int:
    """Count the most that a call holds in new tensors at once, on the accelerator if it is used."""
    if torch.accelerator.is_available():
        torch.accelerator.reset_peak_memory_stats()
        before = torch.accelerator.memory_allocated()
        run()
        torch.accelerator.synchronize()
        if (peak := torch.accelerator.max_memory_allocated() - before) > 0:
            return peak
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    held = peak = 0
    allocations = (event for event in events if event["name"] == "[memory]")
    for event in sorted(allocations, key=lambda event: event["ts"]):
        held += event["args"]["Bytes"]
        peak = max(peak, held)
    return peak


def adamw(module: nn.Module) -> torch.optim.Optimizer:
    """Make the optimiser of whatever is trained in a module."""
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.0)


def plain_logits(net: PeftModel, batch: Batch) -> torch.Tensor:
    """Run an unmodified PEFT network: one product of the head for the last column of all rows."""
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    kept = last_columns(batch["input_ids"], 1)
    return net(**inputs, logits_to_keep=kept, use_cache=False).logits[:, -1, LABEL_TOKENS]


def plain_loss(net: PeftModel, batch: Batch) -> torch.Tensor:
    """Give the mean negative log-likelihood of the labels."""
    return functional.cross_entropy(plain_logits(net, batch), batch["labels"])


def plain_step(net: PeftModel, batch: Batch) -> TrainingStep:
    """Make plain LoRA's step."""
    return TrainingStep(net, adamw(net), partial(plain_loss, net, batch))


def bayesian_steps(
    net: PeftModel, batch: Batch, handlers: Mapping[str, Handler], num_data: int = 500
) -> dict[str, TrainingStep]:
    """Make BLoB's step under each handler, over one model and guide; ``net`` is made Bayesian."""
    model = LabelTokenClassifier(net, LABEL_TOKENS, num_data)
    num_batches = max(1, num_data // len(batch["labels"]))
    elbo = ReweightedTrace_ELBO(num_batches, per_datum=True)
    module = elbo(model, LowRankGaussianGuide(model))
    optimizer = adamw(module)
    return {
        name: TrainingStep(module, optimizer, partial(_bayesian_loss, module, batch, handler))
        for name, handler in handlers.items()
    }


def _bayesian_loss(module: nn.Module, batch: Batch, handler: Handler) -> torch.Tensor:
    with handler():
        return module(**batch)


def plain_predictions(net: PeftModel, batches: list[Batch]) -> torch.Tensor:
    """Predict all batches in one deterministic pass, ``N x C``."""
    net.eval()
    with torch.no_grad():
        return torch.cat([plain_logits(net, batch) for batch in batches])
