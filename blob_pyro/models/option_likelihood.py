"""Likelihood of a causal language model that scores the text of each option."""

import inspect
import warnings
from dataclasses import dataclass, replace
from typing import Any, Literal, Self, get_args

import torch
from peft import PeftModel
from pyro.infer.util import is_validation_enabled
from typing_extensions import override

from blob_pyro.lora import Latent, Prior, check_peft_model
from blob_pyro.models.batches import other_inputs
from blob_pyro.models.classifier import Classifier
from blob_pyro.models.padding import padding_token
from blob_pyro.models.positions import check_keeps_logits, last_columns, shortest_window
from blob_pyro.models.text_trials import check_causal

Normalize = Literal["mean", "sum"]
_FINE_TOLERANCE = 1e-4
# Packed logits must equal those of one row an option to this, relative to their size.
_TOLERANCE = {torch.float64: _FINE_TOLERANCE, torch.float32: _FINE_TOLERANCE}
# Tokens of a made-up prompt: more than a window that no configuration names is likely to have.
_LONG = 40


@dataclass(frozen=True)
class PackedOptions:
    """A batch of rows ``prompt, option 1, option 2, ...``, padded anywhere but between tokens.

    Parameters
    ----------
    input_ids
        Token ids, ``B x T``, int64.
    attention_mask
        Nonzero where a token is real, ``B x T``.
    option_ids
        For each of the last S columns the option that it belongs to, from 1; 0 for the prompt and
        for padding.  ``B x S``, int64, with S < T.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    option_ids: torch.Tensor

    @property
    def num_leading(self) -> int:
        """Columns T - S before the first option of any row."""
        return self.input_ids.shape[1] - self.option_ids.shape[1]

    def filled(self, padding: int) -> Self:
        """Put the padding token where no token is real."""
        ids = self.input_ids.masked_fill(self.attention_mask == 0, padding)
        return replace(self, input_ids=ids)

    def has_prompt(self) -> torch.Tensor:
        """Tell which rows have a token before their options: ``B``, bool."""
        return ((self.attention_mask != 0) & (self.owners() == 0)).any(dim=1)

    def owners(self) -> torch.Tensor:
        """Give the option of every column, 0 for prompt and padding: ``B x T``."""
        return torch.nn.functional.pad(self.option_ids, (self.num_leading, 0))

    def ranks(self) -> torch.Tensor:
        """Count each option's tokens from 0, in the order of the columns: ``B x S``."""
        # An option's tokens are contiguous: count columns from where it starts.
        columns = torch.arange(self.option_ids.shape[1], device=self.option_ids.device)
        before = torch.nn.functional.pad(self.option_ids, (1, -1), value=-1)
        starts = torch.where(self.option_ids != before, columns, 0).cummax(dim=1).values
        return columns - starts

    def predecessors(self) -> torch.Tensor:
        """Give the column that predicts each option token, counted from T - S - 1: ``B x S``.

        The prompt's last column predicts the first token of every option.
        """
        columns = torch.arange(self.option_ids.shape[1], device=self.option_ids.device)
        first = (self.option_ids > 0).long().argmax(dim=1, keepdim=True)
        return torch.where(self.ranks() == 0, first, columns)

    def position_ids(self) -> torch.Tensor:
        """Count positions as if each option alone followed the prompt: ``B x T``."""
        owners = self.owners()
        prompt = ((self.attention_mask != 0) & (owners == 0)).long()
        counted = (prompt.cumsum(dim=1) - 1).clamp(min=0)
        ranks = torch.nn.functional.pad(self.ranks(), (self.num_leading, 0))
        return torch.where(owners > 0, prompt.sum(dim=1, keepdim=True) + ranks, counted)

    def visibility(self) -> torch.Tensor:
        """Tell which column sees which: ``B x 1 x T x T``, bool, queries first.

        A token sees the prompt and its own option up to itself.
        """
        owners = self.owners()
        columns = torch.arange(owners.shape[1], device=owners.device)
        related = (owners[:, None, :] == 0) | (owners[:, None, :] == owners[:, :, None])
        real = (self.attention_mask != 0)[:, None, :]
        # A padding column sees itself, since a softmax over nothing is no number.
        itself = columns[:, None] == columns
        return ((related & real & (columns[:, None] >= columns)) | itself)[:, None]

    def one_by_one(self, num_options: int, padding: int = 0) -> Self:
        """Give each option a row of its own, padded on the right: ``B * num_options`` rows.

        There no token sees the padding, whatever a network makes of masks.
        """
        owners = self.owners()[:, None, :]
        options = torch.arange(1, num_options + 1, device=owners.device)[:, None]
        mine = owners == options
        kept = mine | ((owners == 0) & (self.attention_mask != 0)[:, None, :])
        width = int(kept.sum(dim=2).amax())
        # Stable: what is kept comes first, in its order.
        order = kept.long().argsort(dim=2, descending=True, stable=True)[..., :width]
        input_ids = self.input_ids[:, None, :].expand_as(kept).gather(2, order)
        shortest_prompt = int((kept & ~mine).sum(dim=2).amin())
        return type(self)(
            input_ids.flatten(0, 1),
            kept.gather(2, order).flatten(0, 1).long(),
            mine.gather(2, order)[..., shortest_prompt:].long().flatten(0, 1),
        ).filled(padding)


class OptionLikelihood(Classifier):
    r"""A causal language model that chooses the option whose text is likeliest after the prompt.

    The class logits are :math:`\frac{1}{T_k} \sum_t \log p(o_{kt} | prompt, o_{k,<t})` (or the sum
    over tokens).  The prompt is computed once for all its options: they share a row, each seeing
    the prompt and itself only, at the positions that it would have alone.

    A batch has ``input_ids``, ``attention_mask`` (``B x T``) and ``option_ids`` (``B x S``), see
    :class:`PackedOptions`.  Questions may have different numbers of options; the logits of those
    that a question lacks are ``-inf``.

    Parameters
    ----------
    net
        PEFT model of a causal LM.
    num_options
        Most options of a question, C; may be changed at any time, since no weight depends on it.
    num_data
        Number of training questions.
    prior_scale
        Standard deviation of the prior.
    adapter
        Name of the PEFT adapter.
    normalize
        ``"mean"`` over an option's tokens, or their ``"sum"``.
    prior, latent
        See :class:`BayesianLora`.

    Attributes
    ----------
    packs
        Whether options share a row.  An architecture that does not honour the mask or the positions
        is found out by a trial at construction, announced by a warning, and given one row an
        option.

    Raises
    ------
    ValueError
        If there are fewer than two options, ``normalize`` is unknown, or the architecture cannot
        restrict its logits to the last positions.

    Examples
    --------
    >>> from blob_pyro.testing import tiny_network
    >>> net = tiny_network("llama", "CAUSAL_LM")
    >>> model = OptionLikelihood(net, num_options=2, num_data=10)
    >>> model(input_ids=torch.tensor([[5, 6, 7, 8, 9]]),  # a prompt of two tokens
    ...       option_ids=torch.tensor([[1, 1, 2]])).shape
    torch.Size([1, 2])
    """

    def __init__(
        self,
        net: PeftModel,
        num_options: int,
        num_data: int,
        prior_scale: float = 0.2,
        adapter: str = "default",
        *,
        normalize: Normalize = "mean",
        prior: Prior | None = None,
        latent: Latent = ("A",),
    ) -> None:
        check_peft_model(net)
        if num_options < 2:
            raise ValueError(f"num_options={num_options}: a choice needs at least two options")
        if normalize not in get_args(Normalize):
            raise ValueError(f"normalize={normalize!r} is unknown; use 'mean' or 'sum'")
        base = net.get_base_model()
        check_keeps_logits(net, "a causal LM that has it")
        super().__init__(net, num_data, prior_scale, adapter, prior=prior, latent=latent)
        with self.trial():
            check_causal(self.network)
        self.num_options = num_options
        self.normalize: Normalize = normalize
        self._window = shortest_window(net)
        takes_positions = "position_ids" in inspect.signature(base.forward).parameters
        self.packs = takes_positions and self._packing_is_right()
        if not self.packs:
            warnings.warn(
                f"{type(base).__name__} does not keep packed options apart (it ignores position "
                "ids or a mask for each query), so each option gets a row of its own: the prompt "
                "is computed once for each",
                stacklevel=2,
            )

    @property
    @override
    def num_classes(self) -> int:
        return self.num_options

    @override
    def class_logits(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        if other := other_inputs(batch):
            raise ValueError(
                f"OptionLikelihood reads texts alone, but the batch has {sorted(other)} too; use "
                "LabelTokenClassifier"
            )
        packed = PackedOptions(batch["input_ids"], batch["attention_mask"], batch["option_ids"])
        packed = packed.filled(padding_token(self.network) or 0)
        self._check_options(packed)
        # The mask of packed rows knows no sliding window: longer rows go one by one.
        if self.packs and packed.input_ids.shape[1] <= self._window:
            return self._scores_together(packed, self.num_options)
        rows = packed.one_by_one(self.num_options, padding_token(self.network) or 0)
        return self._scores(rows, 1, attention_mask=rows.attention_mask).view(-1, self.num_options)

    @override
    def _num_offered(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return batch["option_ids"].amax(dim=1)

    @override
    def likelihood_config(self) -> dict[str, Any]:
        return {"num_options": self.num_options, "normalize": self.normalize}

    def _check_options(self, packed: PackedOptions) -> None:
        if packed.num_leading < 1:
            raise ValueError(
                f"option_ids has {packed.option_ids.shape[1]} columns and input_ids "
                f"{packed.input_ids.shape[1]}, so there is no prompt to predict an option's first "
                "token; give a prompt of a token or more"
            )
        if is_validation_enabled() and not bool(packed.has_prompt().all()):
            row = int(packed.has_prompt().logical_not().nonzero()[0])
            raise ValueError(
                f"row {row} has no prompt, so nothing predicts the first token of its options; "
                "give a prompt of a token or more"
            )
        if is_validation_enabled() and (found := int(packed.option_ids.max())) > self.num_options:
            raise ValueError(
                f"a question has {found} options but the model has num_options="
                f"{self.num_options}; set model.num_options, which no weight depends on"
            )

    def _scores_together(self, packed: PackedOptions, num_options: int) -> torch.Tensor:
        """Give the scores of options that share a row, ``rows x num_options``."""
        return self._scores(
            packed,
            num_options,
            attention_mask=self._as_bias(packed.visibility()),
            position_ids=packed.position_ids(),
        )

    def _scores(
        self, packed: PackedOptions, num_options: int, **inputs: torch.Tensor
    ) -> torch.Tensor:
        """Give the scores of every row's options, ``rows x num_options``."""
        logits = self.network(
            input_ids=packed.input_ids,
            logits_to_keep=last_columns(packed.input_ids, packed.option_ids.shape[1] + 1),
            use_cache=False,
            **inputs,
        ).logits
        return self._sum_by_option(_token_log_probs(logits, packed), packed, num_options)

    def _as_bias(self, visible: torch.Tensor) -> torch.Tensor:
        # A sum with the scores of attention is what every implementation of it takes.
        dtype = self.network.dtype
        lowest = torch.finfo(dtype).min
        return torch.zeros_like(visible, dtype=dtype).masked_fill(~visible, lowest)

    def _sum_by_option(
        self, log_probs: torch.Tensor, packed: PackedOptions, num_options: int
    ) -> torch.Tensor:
        empty = log_probs.new_zeros(log_probs.shape[0], num_options + 1)
        sums = empty.scatter_add(1, packed.option_ids, log_probs)[:, 1:]
        lengths = empty.scatter_add(1, packed.option_ids, torch.ones_like(log_probs))[:, 1:]
        scores = sums / lengths.clamp(min=1) if self.normalize == "mean" else sums
        return scores.masked_fill(lengths == 0, -torch.inf)

    def _packing_is_right(self) -> bool:
        """Try packing on a made-up batch: two questions with options of different lengths."""
        like = next(iter(self.sites.values())).projection.initial_weight
        if like.is_meta:
            return True
        size = self.network.config.get_text_config().vocab_size
        packed = _made_up_batch(like.device, size, min(_LONG, max(4, self._window - 6)))
        with self.trial():
            rows = packed.one_by_one(3)
            alone = self._scores(rows, 1, attention_mask=rows.attention_mask).view(-1, 3)
            try:
                together = self._scores_together(packed, 3)
                changed = (packed.input_ids + (packed.owners() == 1)) % size
                other = replace(packed, input_ids=changed)
                beside = self._scores_together(other, 3)
            except Exception:  # Whatever a network does not take in a packed row.
                return False
        tolerance = _TOLERANCE.get(self.network.dtype, 0.02)
        # Another first option leaves the others as they are, with the same rounding.
        return torch.allclose(together, alone, rtol=tolerance, atol=tolerance) and torch.allclose(
            beside[:, 1:], together[:, 1:], rtol=_FINE_TOLERANCE, atol=_FINE_TOLERANCE
        )


def _token_log_probs(logits: torch.Tensor, packed: PackedOptions) -> torch.Tensor:
    """Give the log probability of every option token, ``rows x S``, 0 for prompt and padding.

    ``logits`` are those of the last S + 1 columns.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    source = packed.predecessors()
    rows = torch.arange(len(source), device=source.device)[:, None]
    tokens = packed.input_ids[:, packed.num_leading :]
    log_probs = logits[rows, source, tokens] - logits.logsumexp(dim=-1).gather(1, source)
    return log_probs.masked_fill(packed.option_ids == 0, 0.0)


def _made_up_batch(device: torch.device, vocab_size: int, num_prompt: int) -> PackedOptions:
    option_ids = torch.tensor([[1, 1, 1, 2, 3, 3], [1, 2, 2, 2, 2, 3]], device=device)
    width = num_prompt + option_ids.shape[1]
    input_ids = torch.arange(2 * width, device=device).reshape(2, width) % vocab_size
    mask = torch.ones_like(input_ids)
    mask[1, :2] = 0
    return PackedOptions(input_ids, mask, option_ids)
