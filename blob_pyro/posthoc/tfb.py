"""Training-free Bayesianisation: as much posterior variance as the loss bears."""

import math
from collections.abc import Iterable

import torch

from blob_pyro.guides.tfb import TFBGuide
from blob_pyro.infer.data_pass import log_likelihood
from blob_pyro.infer.posterior_draws import Batch
from blob_pyro.infer.posterior_functions import posterior_predictive
from blob_pyro.infer.progress import tracked
from blob_pyro.lora.sites import LoraSite
from blob_pyro.models import Classifier


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


# Between these lies any scale of interest, since entries of base weights are near 0.02; ten halves
# of their distance, in logarithms, leave 1.4 %.
_SCALES = (1e-5, 10.0)
_NUM_HALVINGS = 10


def tfb(
    model: Classifier,
    loader: Iterable[Batch],
    *,
    tolerance: float = 0.01,
    num_samples: int = 10,
    seed: int = 0,
    progress: bool = True,
) -> TFBGuide:
    r"""Make a trained adapter Bayesian without training, by a search for one scale.

    Each layer's adapter is rotated to the singular vectors of its :math:`B`
    (:func:`blob_pyro.posthoc.to_singular_basis`), and :math:`\sigma_q` of
    :class:`blob_pyro.guides.TFBGuide` is found by bisection: the largest one for which

    .. math:: |L(\sigma_q) - L(0)| \le \epsilon L(0),

    where L is the NLL of K draws' mean probabilities on an anchor set, the same standard normal
    numbers for every :math:`\sigma_q`.

    Parameters
    ----------
    model
        A model over the trained adapter with ``latent=("A",)``, whether PEFT loaded it or
        :func:`blob_pyro.guides.model_at_mean` took it from a fitted guide.  Its adapter is rotated
        in place, which leaves its predictions as they are.
    loader
        The anchor set.  If it has no labels, the adapter's own most likely classes serve.
    tolerance
        :math:`\epsilon`, relative to the loss without variance.  A fall of the loss counts as a
        change too.
    num_samples
        Draws K.
    seed
        Seed of the draws.
    progress
        Show a progress bar on the terminal.

    Returns
    -------
    TFBGuide
        With the largest acceptable ``update_scale``, to 2 %.

    Raises
    ------
    ValueError
        If ``B`` is latent, ``tolerance`` not positive, ``num_samples`` below 1, the loader empty,
        or the tolerance is kept by every scale (as with an adapter that was never trained) or none.

    Examples
    --------
    >>> from blob_pyro.models import SequenceClassifier
    >>> from blob_pyro.testing import tiny_network
    >>> net = tiny_network("bert", "SEQ_CLS")
    >>> guide = tfb(SequenceClassifier(net, num_data=2),
    ...             [{"input_ids": torch.tensor([[5, 6], [7, 8]])}], progress=False)
    >>> guide.update_scale > 0
    True

    References
    ----------
    Shi et al., "Training-Free Bayesianization for Low-Rank Adapters of Large Language Models",
    NeurIPS 2025, arXiv 2412.05723.
    """
    if not (tolerance > 0 and num_samples > 0):
        raise ValueError(f"{tolerance=} and {num_samples=} must be positive")
    guide = TFBGuide(model)
    for name, site in model.sites.items():
        to_singular_basis(site)
        guide.M[name].data.copy_(site.projection.initial_weight)
    anchors = list(loader)
    at_mean = posterior_predictive(model, guide, anchors, 0, progress=False)
    labels = at_mean.get("labels", at_mean["logits"][0].argmax(dim=-1))
    reference = _nll(at_mean["logits"], labels)

    def loss(scale: float) -> float:
        guide.update_scale = scale
        drawn = posterior_predictive(model, guide, anchors, num_samples, seed, progress=False)
        return _nll(drawn["logits"], labels)

    def changes(scale: float) -> bool:
        # A loss that is no number, as half precision gives for huge weights, is a change.
        return not abs(loss(scale) - reference) <= tolerance * reference

    low, high = _SCALES
    if changes(low) or not changes(high):
        raise ValueError(
            f"the anchor loss is {reference:.6g} without variance, {loss(low):.6g} at an "
            f"update_scale of {low} and {loss(high):.6g} at {high}: no scale between is the "
            f"largest that keeps it to a tolerance of {tolerance:g}; give another, other anchors, "
            "or an adapter that has been trained"
        )
    for _ in tracked(range(_NUM_HALVINGS), progress, "searching for a scale"):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if changes(middle) else (middle, high)
    guide.update_scale = low
    return guide


def _nll(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Give the mean NLL of the draws' mean probabilities, nats."""
    log_probs = log_likelihood(logits, labels).double()
    return float((math.log(len(logits)) - log_probs.logsumexp(dim=0)).mean())
