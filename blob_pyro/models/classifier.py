"""The part that all classification likelihoods share: plate, logits and label site."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, cast

import pyro
import pyro.distributions as dist
import torch
from pyro.infer.util import is_validation_enabled

from blob_pyro.models.batches import check_inputs, checked_labels, other_inputs, tile, untile
from blob_pyro.models.bayesian_lora import BayesianLora
from blob_pyro.models.padding import Side, align_padding, mask_of, padding_token
from blob_pyro.models.text_trials import padding_is_exact


class Classifier(BayesianLora):
    """Base of the classification models: a PEFT network under a categorical likelihood.

    A call draws every latent weight first and then runs the network, which holds no Pyro
    statement.  Sites: one latent a LoRA layer (and those of a hyper-prior), ``logits``
    (deterministic, ``B x C``) and ``labels`` (observed when given), the last two inside
    ``pyro.plate("data")`` of size ``num_data``.  Logits are divided by ``temperature``, which is 1
    unless it is set before the fit, or fitted after it by :func:`blob_pyro.posthoc.calibrate`.  A
    subclass implements :meth:`class_logits` and :attr:`num_classes`.  Parameters are those of
    :class:`BayesianLora`.
    """

    temperature: torch.Tensor

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.register_buffer("temperature", self._like(1.0))

    def find_padding_side(self, *sides: Side) -> None:
        """Find a side on which padding leaves logits as they are, by a trial; None if none does."""
        self.padding_side: Side | None = sides[0]
        if self.network.device.type == "meta":
            return
        with self.trial():
            for self.padding_side in sides:
                if padding_is_exact(self.network, self.class_logits):
                    return
        self.padding_side = None

    def align(self, batch: dict[str, torch.Tensor], side: Side | None) -> dict[str, torch.Tensor]:
        """Move padding to a side, or refuse it if there is none to move it to."""
        if side is not None:
            return align_padding(batch, side, padding_token(self.network))
        if bool((batch["attention_mask"] == 0).any()):
            raise ValueError(
                f"{type(self.network.get_base_model()).__name__} gives a padded text other logits "
                "than the text alone, whichever side is padded; give batches of texts of one "
                "length (batch_size=1)"
            )
        return batch

    def set_temperature(self, temperature: torch.Tensor | float) -> None:
        """Divide all logits by one number, or by one for each class (``C``), from now on."""
        self.temperature = self._like(temperature)

    def _like(self, value: torch.Tensor | float) -> torch.Tensor:
        weight = next(iter(self.sites.values())).projection.initial_weight
        dtype = torch.promote_types(weight.dtype, torch.float32)
        return torch.as_tensor(value, dtype=dtype, device=weight.device)

    @property
    @abstractmethod
    def num_classes(self) -> int:
        """Number of classes C."""

    @abstractmethod
    def class_logits(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Run the network: tensors by name, rows first, to logits of shape ``rows x C``."""

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **inputs: torch.Tensor,
    ) -> torch.Tensor:
        """Run the program on a Hugging Face batch given as keywords.

        Parameters
        ----------
        input_ids
            Token ids, ``B x T``, int64.
        attention_mask
            Nonzero where a token is real, ``B x T``.  May be left out if nothing is padded.
        labels
            Class indices, ``B``, integers; None to sample them.
        **inputs
            Anything else that the network takes: rows first, or the pictures of one row after those
            of the other.

        Returns
        -------
        torch.Tensor
            Logits, ``B x C`` (``K x B x C`` under a plate of K draws), float32 or wider.

        Raises
        ------
        ValueError
            If padded text comes without a mask, or labels have another shape or type or are out of
            range.
        """
        batch, labels = self._checked_batch(input_ids, attention_mask, labels, **inputs)
        num_draws = self.draw(input_ids.shape)
        logits = self._tempered(self._logits(batch, num_draws))
        with self.data_plate(input_ids):
            logits = pyro.deterministic("logits", logits, event_dim=1)
            # Labels are checked above; a NaN is the objective's to report, with step and terms.
            likelihood = dist.Categorical(logits=logits, validate_args=False)
            pyro.sample("labels", likelihood, obs=labels)
        return logits

    def logits_under(
        self, draws: Sequence[Mapping[str, torch.Tensor]], **batch: torch.Tensor
    ) -> torch.Tensor:
        """Run the network under fixed draws, without any Pyro statement.

        Parameters
        ----------
        draws
            Site name to weight, ``r x n``, for each of K draws; names of ``heads`` to their values
            too if they are an ensemble's.
        **batch
            As in a call of the model.

        Returns
        -------
        torch.Tensor
            Logits, ``K x B x C``, float32 or wider.
        """
        if len(draws) > 1 and any(name in draws[0] for name in self.heads):
            return torch.cat([self.logits_under([draw], **batch) for draw in draws])
        inputs, _ = self._checked_batch(**batch)
        with self.under(draws, inputs["input_ids"].shape) as num_draws:
            logits = self._logits(inputs, num_draws)
        return self._tempered(logits if num_draws > 1 else logits[None])

    def check_draws_at_once(self, **batch: torch.Tensor) -> None:
        """Raise a ``ValueError`` if several draws can't share a pass over such a batch."""
        # Texts alone can, and most batches have nothing else.
        if other_inputs(batch):
            inputs, _ = self._checked_batch(**batch)
            self._check_draws_at_once(inputs, self.class_logits)

    def _logits(self, batch: dict[str, torch.Tensor], num_draws: int) -> torch.Tensor:
        """Give the logits under the draws that are installed, ``B x C`` or ``K x B x C``."""
        if num_draws > 1:
            self._check_draws_at_once(batch, self.class_logits)
        return untile(self.class_logits(tile(batch, num_draws)), num_draws)

    def _checked_batch(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **inputs: torch.Tensor,
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor | None]:
        mask = mask_of(input_ids, attention_mask, self.network)
        batch = {"input_ids": input_ids, "attention_mask": mask, **inputs}
        check_inputs(batch)
        return batch, self._checked(labels, self._num_offered(batch))

    def _tempered(self, logits: torch.Tensor) -> torch.Tensor:
        # Past PyroModule's attribute access, which would look for a statement.
        temperature = cast(torch.Tensor, self._buffers["temperature"])
        return logits / temperature.to(logits.device)

    def _num_offered(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Count the classes that each example offers, which come first: ``B``, int64."""
        return torch.full_like(batch["input_ids"][:, 0], self.num_classes)

    @staticmethod
    def _checked(labels: torch.Tensor | None, offered: torch.Tensor) -> torch.Tensor | None:
        if labels is None:
            return None
        labels = checked_labels(labels, offered.shape)
        if not is_validation_enabled():
            return labels
        wrong = ((labels < 0) | (labels >= offered)).nonzero()
        if len(wrong):
            row = int(wrong[0])
            raise ValueError(
                f"labels[{row}] = {int(labels[row])} but the model has {int(offered[row])} "
                f"classes; labels are integers from 0 to {int(offered[row]) - 1}"
            )
        return labels
