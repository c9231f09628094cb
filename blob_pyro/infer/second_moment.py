"""A sum of outer products, of which only the leading directions are kept."""

from __future__ import annotations

import torch


class SecondMoment:
    r"""Leading eigenpairs of :math:`\sum_t x_t x_t^\top`, from vectors that come in batches.

    A root of at most ``max_rank`` rows is kept, and cut back to its leading directions after each
    batch, so nothing of ``size x size`` is built unless a batch has more vectors than that.  It is
    exact as long as the vectors span no more than ``max_rank`` directions, and always for
    ``size <= max_rank``; otherwise what is cut off is lost, and the sum too small.

    Parameters
    ----------
    size
        Length of the vectors.
    max_rank
        Most eigenpairs.

    Examples
    --------
    >>> moment = SecondMoment(3, max_rank=2)
    >>> moment.add(torch.tensor([[3.0, 0.0, 0.0], [0.0, 2.0, 0.0]]))
    >>> moment.eigenpairs()[1]
    tensor([9., 4.])

    References
    ----------
    Yang et al., "Bayesian Low-rank Adaptation for Large Language Models", ICLR 2024
    (factors of low rank).
    """

    def __init__(self, size: int, max_rank: int) -> None:
        self._rank = min(size, max_rank)
        self._root = torch.zeros(0, size)

    def add(self, vectors: torch.Tensor) -> None:
        """Add the outer products of vectors, shape ``(count, size)``."""
        rows = torch.cat([self._root.to(vectors), vectors])
        if len(rows) > self._rank:
            rows = _leading(rows, self._rank)
        self._root = rows

    def eigenpairs(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Give ``min(size, max_rank)`` orthonormal columns and their eigenvalues, from the largest.

        Directions that no vector had have the eigenvalue 0.
        """
        missing = self._rank - len(self._root)
        padded = torch.nn.functional.pad(self._root, (0, 0, 0, missing))
        _, singular_values, basis = torch.linalg.svd(padded, full_matrices=False)
        return basis.mT, singular_values.square()


def _leading(rows: torch.Tensor, rank: int) -> torch.Tensor:
    """Give ``rank`` rows with the leading eigenpairs of the same second moment."""
    if rows.shape[1] <= len(rows):
        values, vectors = torch.linalg.eigh(rows.mT @ rows)
        return values[-rank:].clamp(min=0).sqrt()[:, None] * vectors[:, -rank:].mT
    # The smaller Gram matrix has the same eigenvalues.
    _, vectors = torch.linalg.eigh(rows @ rows.mT)
    return vectors[:, -rank:].mT @ rows
