"""A program as the module that ``transformers.Trainer`` and ``trl.SFTTrainer`` train."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from pyro import poutine
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from blob_pyro.guides import LoraGuide
from blob_pyro.infer import ReweightedTrace_ELBO
from blob_pyro.models import BayesianLora, Classifier
from blob_pyro.poutine import flipout, taking_turns

_OF_NETWORK = ("config", "generation_config", "add_model_tags")


class TrainerModule(nn.Module):
    """A program as a module that returns its loss, the way ``transformers.Trainer`` wants it.

    In training it gives the loss that :func:`fit` descends; in evaluation the mean negative
    log-likelihood and, for a classifier, the logits under the posterior's mean.  Its parameters
    and its state are those that are learned, so checkpoints are small.

    Parameters
    ----------
    model, guide
        The program; save it with ``save_posterior(folder, model, guide)`` afterwards.
    elbo
        The objective, whose steps :class:`FollowSteps` counts: ``num_batches`` is the length of
        the KL's cycle in gradient steps, however many passes make one.

    Examples
    --------
    >>> import torch
    >>> from blob_pyro.guides import LowRankGaussianGuide
    >>> from blob_pyro.models import SequenceClassifier
    >>> from blob_pyro.testing import tiny_batch, tiny_network
    >>> model = SequenceClassifier(tiny_network("bert", "SEQ_CLS"), num_data=4)
    >>> elbo = ReweightedTrace_ELBO(num_batches=1, per_datum=True)
    >>> module = TrainerModule(model, LowRankGaussianGuide(model), elbo).eval()
    >>> module(**tiny_batch())["logits"].shape
    torch.Size([4, 3])
    """

    def __init__(self, model: BayesianLora, guide: LoraGuide, elbo: ReweightedTrace_ELBO) -> None:
        super().__init__()
        self.model, self.guide = model, guide
        self.elbo = elbo
        self.step: int | None = None
        # Trainer counts labels, which are examples of a classifier but tokens of a text.
        self.accepts_loss_kwargs = isinstance(model, Classifier)

    def forward(
        self,
        labels: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **batch: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """Give the loss, and in evaluation the logits.

        Parameters
        ----------
        labels
            As in a call of the model; None to predict.
        num_items_in_batch
            Examples of the gradient step, of which the batch is a part; None if it is all.
        **batch
            As in a call of the model.

        Returns
        -------
        dict
            ``loss``, a scalar, nats; ``logits``, ``B x C``.

        Raises
        ------
        RuntimeError
            In training, if nobody says which step it is.
        """
        if not self.training:
            return self._at_mean(labels, batch)
        if self.step is None:
            raise RuntimeError(
                "the KL's weight follows the gradient steps, and nobody counts them; give Trainer "
                "callbacks=[FollowSteps(module)]"
            )
        # A micro-batch is no step: each of them has the KL's weight of this one.
        self.elbo.step = self.step
        with taking_turns(), flipout() if self.guide.independent_entries else nullcontext():
            loss = self.elbo.differentiable_loss(self.model, self.guide, labels=labels, **batch)
        if num_items_in_batch is not None:
            loss = loss * (len(batch["input_ids"]) / num_items_in_batch)
        return {"loss": loss}

    def _at_mean(
        self, labels: torch.Tensor | None, batch: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        with taking_turns():
            program = poutine.condition(self.model, data=self.guide.mean())
            trace = poutine.trace(program).get_trace(labels=labels, **batch)
        outputs = {}
        if labels is not None:
            site: Any = trace.nodes["labels"]
            outputs["loss"] = -site["fn"].log_prob(site["value"]).mean()
        if isinstance(self.model, Classifier):
            outputs["logits"] = trace.nodes["_RETURN"]["value"]
        return outputs

    def state_dict(self, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Give what is learned, without the network that it is added to."""
        learned = {name for name, value in self.named_parameters() if value.requires_grad}
        return {
            name: value
            for name, value in super().state_dict(**kwargs).items()
            if name in learned or name.startswith("guide.")
        }

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Take what is learned, all of it and nothing else; the network stays as it is."""
        whole, learned = super().state_dict(), self.state_dict()
        rest = {name: value for name, value in whole.items() if name not in learned}
        return super().load_state_dict({**rest, **state_dict})

    def gradient_checkpointing_enable(self, **_: Any) -> None:
        """Compute the network's layers again in the backward pass, in this library's one way."""
        self.model.gradient_checkpointing_enable()

    activation_checkpointing_enable = gradient_checkpointing_enable  # the name from Transformers 6

    def __getattr__(self, name: str) -> Any:
        """Lend what trainers look for and write at a language model."""
        if name in _OF_NETWORK:
            return getattr(self.model.network, name)
        return super().__getattr__(name)


class FollowSteps(TrainerCallback):
    """Tells a :class:`TrainerModule` which gradient step it is in, also after a resume.

    Parameters
    ----------
    module
        What ``Trainer`` trains.
    """

    def __init__(self, module: TrainerModule) -> None:
        self.module = module

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Set the module's step."""
        self.module.step = state.global_step
