"""The same adapter with the singular vectors of ``B`` as its rank-one parts."""

from __future__ import annotations

import torch

from blob_pyro.lora.sites import LoraSite


@torch.no_grad()
def to_singular_basis(site: LoraSite) -> None:
    r"""Rotate a layer's adapter in place, so that the columns of :math:`B` are orthogonal.

    With :math:`B = U diag(d) V^\top`, :math:`B \leftarrow U diag(d)` and
    :math:`A \leftarrow V^\top A`: their product, and so the network, stays as it is.  Columns
    that are zero but for rounding become zero.

    Parameters
    ----------
    site
        A site of ``A`` whose layer has a deterministic ``B``.  A guide made before no longer fits.

    Examples
    --------
    >>> from peft import LoraConfig, get_peft_model
    >>> from torch import nn
    >>> from blob_pyro.lora import bayesianize
    >>> lora = LoraConfig(r=2, target_modules=["0"], init_lora_weights=False)
    >>> (site,) = bayesianize(get_peft_model(nn.Sequential(nn.Linear(4, 3)), lora)).values()
    >>> to_singular_basis(site)
    >>> bool((site.lora_B[:, 0] @ site.lora_B[:, 1]).abs() < 1e-6)
    True

    References
    ----------
    Shi et al., "Training-Free Bayesianization for Low-Rank Adapters of Large Language Models",
    NeurIPS 2025, arXiv 2412.05723 (its SVD of ``B``).
    """
    B, A = site.lora_B, site.projection.initial_weight
    # torch has no decomposition of half-precision matrices.
    wide = torch.promote_types(B.dtype, torch.float32)
    left, values, right = torch.linalg.svd(B.to(wide), full_matrices=False)
    # That of the decomposition: in bfloat16's, times a layer's width, every column would be zero.
    rounding = torch.finfo(wide).eps * max(B.shape)
    values = values.where(values > rounding * values[0], 0.0)
    rank = len(values)
    B.zero_()[:, :rank] = left * values
    # A rank above the layer's outputs leaves rows of A that B does not reach.
    A.copy_(torch.cat([right @ A.to(wide), A.new_zeros(len(A) - rank, A.shape[1], dtype=wide)]))
