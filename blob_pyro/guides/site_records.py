"""What goes into each latent weight in one forward pass, and the gradients at what comes out."""

from collections import defaultdict
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch

from blob_pyro.guides.lora_guide import Batch
from blob_pyro.models import Classifier


class SiteRecords:
    """A forward pass of a model with given weights, its latent layers observed.

    A weight acts on each token, so the Jacobian of a logit in it is a sum over tokens of gradient
    times input; neither is ever built for the whole batch.

    Parameters
    ----------
    model
        The Pyro model, in evaluation mode.
    weights
        Site name to weight, one draw.
    batch
        Keywords for the model, B examples.

    Attributes
    ----------
    logits
        ``B x C``, with the graph that the gradients need.

    Raises
    ------
    ValueError
        If the examples can't be told apart in a layer.

    Examples
    --------
    >>> from blob_pyro.guides import PointEstimateGuide
    >>> from blob_pyro.models import SequenceClassifier
    >>> from blob_pyro.testing import tiny_network
    >>> net = tiny_network("bert", "SEQ_CLS", target_modules=["query"])
    >>> model = SequenceClassifier(net, num_data=1).eval()
    >>> batch = {"input_ids": torch.tensor([[5, 6, 7, 8]])}
    >>> records = SiteRecords(model, PointEstimateGuide(model).mean(), batch)
    >>> inputs, _ = records.inputs.values()  # two layers
    >>> gradients, _ = records.gradients(torch.eye(3)[:1]).values()
    >>> tuple(inputs.shape), tuple(gradients.shape)  # examples, tokens, features in and out
    ((1, 4, 16), (1, 4, 2))
    """

    def __init__(
        self, model: Classifier, weights: Mapping[str, torch.Tensor], batch: Batch
    ) -> None:
        self._calls = defaultdict[str, list[tuple[torch.Tensor, torch.Tensor]]](list)
        self._axes = model.example_axes()
        self._rows = len(batch["input_ids"])
        # So that every layer's output is part of the graph, whatever else is frozen.
        leaves = {name: value.detach().requires_grad_() for name, value in weights.items()}
        with torch.enable_grad(), model.use.running(), ExitStack() as hooks:
            for name, site in model.sites.items():
                hook = site.projection.register_forward_hook(partial(self._record, name))
                hooks.enter_context(hook)
            self.logits: torch.Tensor = model.logits_under([leaves], **batch)[0]

    def _record(
        self, name: str, _: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor
    ) -> None:
        self._calls[name].append((inputs[0].detach(), output))

    @property
    def inputs(self) -> dict[str, torch.Tensor]:
        """What each weight was applied to: site name to ``B x T x inputs``, float32 or wider."""
        return {
            name: self._by_example(name, [given for given, _ in calls])
            for name, calls in self._calls.items()
        }

    def gradients(self, directions: torch.Tensor) -> dict[str, torch.Tensor]:
        """Gradients of ``(directions * logits).sum()`` at what each weight put out.

        Parameters
        ----------
        directions
            ``B x C``, one direction for each example.

        Returns
        -------
        dict
            Site name to ``B x T x outputs``, float32 or wider, exactly 0 at tokens that no logit
            depends on, such as padding.
        """
        outputs = [output for calls in self._calls.values() for _, output in calls]
        gradients = iter(
            torch.autograd.grad(
                self.logits,
                outputs,
                directions.to(self.logits),
                retain_graph=True,
                allow_unused=True,
                materialize_grads=True,
            )
        )
        return {
            name: self._by_example(name, [next(gradients) for _ in calls])
            for name, calls in self._calls.items()
        }

    def _by_example(self, name: str, tensors: list[torch.Tensor]) -> torch.Tensor:
        """Put all that a layer saw of one example, in however many rows or calls, together."""
        axis = self._axes[name]
        if axis is None:
            raise ValueError(
                f"site {name!r}: text alone never reaches its layer, so the axis of its examples "
                "is unknown; leave the layer out of target_modules"
            )
        tensors = [tensor.transpose(0, axis) for tensor in tensors]
        for tensor in tensors:
            if tensor.shape[0] % self._rows:
                raise ValueError(
                    f"site {name!r}: its layer saw {tensor.shape[0]} rows of {self._rows} examples "
                    "and they cannot be told apart; leave the layer out of target_modules"
                )
        joined = torch.cat([t.reshape(self._rows, -1, t.shape[-1]) for t in tensors], dim=1)
        return joined.to(torch.promote_types(joined.dtype, torch.float32))
