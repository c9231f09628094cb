"""A question and all its options in one row, kept apart by mask and positions."""

from dataclasses import dataclass, replace
from typing import Self

import torch


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
