"""A question and all its options in one row, kept apart by mask and positions."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class PackedOptions:
    """A batch of rows ``prompt, option 1, option 2, ...``, the prompt padded on its left.

    Parameters
    ----------
    input_ids
        Token ids, ``B x (P + S)``, int64: P columns of prompt, then S of options.
    attention_mask
        Nonzero where a token is real, ``B x (P + S)``.
    option_ids
        For each option column the option that it belongs to, from 1; 0 for padding.  ``B x S``,
        int64.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    option_ids: torch.Tensor

    @property
    def prompt_width(self) -> int:
        """Columns P of the prompt."""
        return self.input_ids.shape[1] - self.option_ids.shape[1]

    def owners(self) -> torch.Tensor:
        """Give the option of every column, 0 for the prompt: ``B x (P + S)``."""
        return torch.nn.functional.pad(self.option_ids, (self.prompt_width, 0))

    def ranks(self) -> torch.Tensor:
        """Count each option's tokens from 0, in the order of the columns: ``B x S``."""
        # An option's tokens are contiguous: count columns from where it starts.
        columns = torch.arange(self.option_ids.shape[1], device=self.option_ids.device)
        before = torch.nn.functional.pad(self.option_ids, (1, -1), value=-1)
        starts = torch.where(self.option_ids != before, columns, 0).cummax(dim=1).values
        return columns - starts

    def position_ids(self) -> torch.Tensor:
        """Count positions as if each option alone followed the prompt: ``B x (P + S)``."""
        prompt = (self.attention_mask[:, : self.prompt_width] != 0).long()
        counted = (prompt.cumsum(dim=1) - 1).clamp(min=0)
        return torch.cat([counted, prompt.sum(dim=1, keepdim=True) + self.ranks()], dim=1)

    def visibility(self) -> torch.Tensor:
        """Tell which column sees which: ``B x 1 x (P + S) x (P + S)``, bool, queries first.

        A token sees the prompt and its own option up to itself.
        """
        owners = self.owners()
        columns = torch.arange(owners.shape[1], device=owners.device)
        related = (owners[:, None, :] == 0) | (owners[:, None, :] == owners[:, :, None])
        real = (self.attention_mask != 0)[:, None, :]
        # A padding column sees itself, since a softmax over nothing is no number.
        itself = columns[:, None] == columns
        return ((related & real & (columns[:, None] >= columns)) | itself)[:, None]

    def one_by_one(self, num_options: int) -> PackedOptions:
        """Give each option a row of its own: ``(B * num_options) x (P + L)``, L the longest's."""
        owners = torch.arange(1, num_options + 1, device=self.option_ids.device)
        mine = self.option_ids[:, None, :] == owners[:, None]
        length = int(mine.sum(dim=2).amax())
        # Stable: an option's tokens come first, in their order.
        order = (~mine).long().argsort(dim=2, stable=True)[..., :length]
        kept = mine.gather(2, order)
        return PackedOptions(
            torch.cat(
                [
                    self._prompt(self.input_ids, num_options),
                    self._options(self.input_ids, order),
                ],
                dim=2,
            ).flatten(0, 1),
            torch.cat([self._prompt(self.attention_mask, num_options), kept], dim=2).flatten(0, 1),
            kept.long().flatten(0, 1),
        )

    def _prompt(self, tensor: torch.Tensor, num_options: int) -> torch.Tensor:
        return tensor[:, None, : self.prompt_width].expand(-1, num_options, -1)

    def _options(self, tensor: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
        part = tensor[:, None, self.prompt_width :].expand(-1, order.shape[1], -1)
        return part.gather(2, order)
