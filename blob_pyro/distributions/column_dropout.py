"""A matrix whose columns are dropped at random."""

import math
from typing import Any, ClassVar

import torch
from pyro.distributions import constraints
from typing_extensions import override

from blob_pyro.distributions.located import Located


class ColumnDropout(Located):
    r"""The law of :math:`A diag(m)` with :math:`m_j = 0` with probability p, else 1 / (1 - p).

    Dropout of an input, :math:`(x \circ m) A^\top = x (A diag(m))^\top`, as a law of the weight.

    Parameters
    ----------
    loc
        :math:`A`, shape ``(..., r, n)``.
    rate
        Probability p that a column is zero, between 0 and 1.
    validate_args
        As in torch.

    Examples
    --------
    >>> draw = ColumnDropout(torch.ones(2, 5), 0.5).sample()
    >>> sorted({*draw.flatten().tolist(), 0.0, 2.0}), bool((draw[0] == draw[1]).all())
    ([0.0, 2.0], True)

    References
    ----------
    Gal and Ghahramani, "Dropout as a Bayesian Approximation", ICML 2016, section 3.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "loc": constraints.independent(constraints.real, 2)
    }

    def __init__(self, loc: torch.Tensor, rate: float, validate_args: bool | None = None) -> None:
        self.loc, self.rate = loc, rate
        super().__init__(loc.shape[:-2], loc.shape[-2:], validate_args=validate_args)

    @property
    @override
    def variance(self) -> torch.Tensor:
        return self.loc.square() * self.rate / (1 - self.rate)

    @override
    def rsample(self, sample_shape: Any = torch.Size()) -> torch.Tensor:  # noqa: B008
        shape = torch.Size(sample_shape) + self.batch_shape + (1, self.event_shape[1])
        kept = self.loc.new_empty(shape).bernoulli_(1 - self.rate)
        return self.loc * kept / (1 - self.rate)

    @override
    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """Give the log probability of the columns that are zero being those; ``-inf`` elsewhere."""
        dropped = (value == 0).all(dim=-2)
        kept = self.loc / (1 - self.rate)
        possible = torch.isclose(value, kept).all(dim=-2) | dropped
        rates = torch.where(dropped, math.log(self.rate), math.log1p(-self.rate)).to(value)
        return rates.masked_fill(~possible, -math.inf).sum(dim=-1)
