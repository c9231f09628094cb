"""Tokens of texts of different lengths, of which only some are random."""

from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from typing_extensions import override


class LabelledTokens(TorchDistribution):
    r"""Independent categorical tokens at some positions of each row: one event a row.

    :math:`\log p(y_b) = \sum_{t \in labelled_b} \log p(y_{bt})`.  Logits are held for the labelled
    positions only, since those of a whole batch over a large vocabulary fill a memory.

    Parameters
    ----------
    logits
        ``... x L x V``: those of the L labelled positions, row after row.
    labelled
        Which positions these are, ``B x T``, bool, L of them true.

    Examples
    --------
    >>> labelled = torch.tensor([[False, True, True], [False, False, True]])
    >>> tokens = LabelledTokens(torch.zeros(3, 8), labelled)
    >>> (tokens.log_prob(torch.tensor([[-100, 3, 5], [-100, -100, 1]])) / -torch.tensor(8.).log())
    tensor([2., 1.])
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    has_rsample = False

    def __init__(self, logits: torch.Tensor, labelled: torch.Tensor) -> None:
        self.logits = logits
        self.labelled = labelled
        rows, width = labelled.shape
        batch_shape = torch.Size([*logits.shape[:-2], rows])
        super().__init__(batch_shape, torch.Size([width]), validate_args=False)

    @override
    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """Sum the log probabilities of each row's labelled tokens, ``... x B``, nats.

        Parameters
        ----------
        value
            ``B x T``, int64; what stands at other positions does not matter.
        """
        tokens = value[self.labelled].expand(self.logits.shape[:-1])
        log_probs = -torch.nn.functional.cross_entropy(
            self.logits.flatten(0, -2), tokens.flatten(), reduction="none"
        ).reshape(tokens.shape)
        row = self.labelled.nonzero()[:, 0].expand(tokens.shape)
        return log_probs.new_zeros(self.batch_shape).scatter_add(-1, row, log_probs)
