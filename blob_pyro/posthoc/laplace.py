"""From a point estimate to a Laplace approximation: the curvature of the likelihood around it."""

from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from scipy.optimize import brentq

from blob_pyro.guides.laplace import LaplaceGuide, LaplacePredictive, SiteRecords
from blob_pyro.guides.lora_guide import Batch
from blob_pyro.infer.data_pass import evaluation_mode, log_likelihood, on_device
from blob_pyro.infer.progress import tracked
from blob_pyro.lora import NormalPrior
from blob_pyro.models import Classifier


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


def laplace(
    model: Classifier,
    loader: Iterable[Batch],
    *,
    prior_precision: float | Literal["marginal_likelihood"] | None = None,
    max_rank: int = 10,
    predictive: LaplacePredictive = "linearised",
    progress: bool = True,
) -> LaplaceGuide:
    r"""Make the Laplace approximation around a trained adapter.

    The Fisher information of each site is that of the categorical likelihood under the model's own
    predictions (which is the generalised Gauss-Newton matrix), summed over classes and examples and
    factored over the tokens t that the logits depend on,

    .. math:: F \approx \frac{1}{T} \sum_t g_t g_t^\top \otimes \sum_t a_t a_t^\top,

    with :math:`a_t` what the weight is applied to and :math:`g_t` the gradients at what it puts
    out.  It is exact for one token.  One pass over the data, with a backward pass for each class.

    Parameters
    ----------
    model
        A model over the trained adapter, whether PEFT loaded it or
        :func:`blob_pyro.guides.model_at_mean` took it from a fitted guide.  Both ``A`` and ``B``
        get a posterior if both are latent, as in the paper.
    loader
        Labelled batches of the training data; a part of them counts for all ``model.num_data``.
    prior_precision
        :math:`\lambda`; None takes that of the model's normal prior, :math:`1 / \sigma_p^2`.
        ``"marginal_likelihood"`` takes the one that maximises it.  That is far too small where the
        adapter knows its few examples by heart, since nothing is left of the curvature.
    max_rank, predictive
        Eigenpairs kept of each factor, and how to predict: see
        :class:`blob_pyro.guides.LaplaceGuide`.
    progress
        Show a progress bar on the terminal.

    Returns
    -------
    LaplaceGuide
        With the model's point estimates as they are; nothing is trained.

    Raises
    ------
    ValueError
        If the loader is empty or has no labels, an argument is one that
        :class:`blob_pyro.guides.LaplaceGuide` refuses, the model's prior is not normal with one
        scale and no precision is given, or none is best, since no logit depends on the latent
        weights.

    Examples
    --------
    >>> from blob_pyro.models import SequenceClassifier
    >>> from blob_pyro.testing import tiny_network
    >>> net = tiny_network("bert", "SEQ_CLS")
    >>> model = SequenceClassifier(net, 2, latent=("A", "B"))
    >>> batch = {"input_ids": torch.tensor([[5, 6], [7, 8]]), "labels": torch.tensor([0, 2])}
    >>> posterior = laplace(model, [batch], progress=False)
    >>> posterior.prior_precision > 0
    True

    References
    ----------
    Yang et al., "Bayesian Low-rank Adaptation for Large Language Models" (Laplace-LoRA), ICLR 2024,
    arXiv 2308.13111; Eschenhagen et al., "Kronecker-Factored Approximate
    Curvature for Modern Neural Network Architectures", NeurIPS 2023 ("expand").
    """
    maximise = prior_precision == "marginal_likelihood"
    precision = 1.0 if maximise else _precision(model, prior_precision)
    posterior = LaplaceGuide(model, precision, max_rank, predictive)
    model.example_axes()
    weights = posterior.mean()
    curvatures = {name: _SiteCurvature(weight.shape, max_rank) for name, weight in weights.items()}
    device = next(model.parameters()).device
    total, num_seen = torch.zeros((), device=device), 0
    with evaluation_mode(model):
        for batch in tracked(loader, progress, "curvature"):
            if "labels" not in batch:
                raise ValueError("the batches have no labels; give the labelled training data")
            records = SiteRecords(model, weights, on_device(device, batch))
            logits, labels = records.logits.detach(), batch["labels"].to(device)
            total = total + log_likelihood(logits[None], labels).sum()
            num_seen += len(labels)
            _add_fisher(curvatures, records)
    if num_seen == 0:
        raise ValueError("the loader gave no batch; there is no curvature without data")
    factor = model.num_data / num_seen
    with torch.no_grad():
        posterior.log_likelihood.copy_(factor * total)
        for name, curvature in curvatures.items():
            curvature.write(posterior, name, factor)
    if maximise:
        posterior.prior_precision = _best_prior_precision(posterior)
    return posterior


def _precision(model: Classifier, given: float | str | None) -> float:
    if given is None and isinstance(model.prior, NormalPrior):
        return float(model.prior.scale**-2)
    if not isinstance(given, (int, float)):
        raise ValueError(
            f"prior_precision={given!r}, but the prior {model.prior!r} has no single precision; "
            "give a number, or 'marginal_likelihood'"
        )
    return given


class _SiteCurvature:
    """The two factors of one site, as they accumulate."""

    def __init__(self, shape: torch.Size, max_rank: int) -> None:
        self.outputs = SecondMoment(shape[0], max_rank)
        self.inputs = SecondMoment(shape[1], max_rank)
        self.num_tokens = 0

    def write(self, posterior: LaplaceGuide, name: str, factor: float) -> None:
        row_basis, row_values = self.outputs.eigenpairs()
        col_basis, col_values = self.inputs.eigenpairs()
        posterior.row_basis[name].copy_(row_basis)
        posterior.row_values[name].copy_(row_values * factor / max(self.num_tokens, 1))
        posterior.col_basis[name].copy_(col_basis)
        posterior.col_values[name].copy_(col_values)


def _add_fisher(curvatures: Mapping[str, _SiteCurvature], records: SiteRecords) -> None:
    inputs = records.inputs
    # Tokens that no logit depends on add nothing, but would dilute the product of the sums.
    used = {
        name: torch.zeros_like(given[..., 0], dtype=torch.bool) for name, given in inputs.items()
    }
    for direction in _fisher_root(records.logits.detach()):
        for name, gradients in records.gradients(direction).items():
            matters = (gradients != 0).any(-1)
            used[name] |= matters
            curvatures[name].outputs.add(gradients[matters])
    for name, given in inputs.items():
        curvatures[name].inputs.add(given[used[name]])
        curvatures[name].num_tokens += int(used[name].sum())


def _fisher_root(logits: torch.Tensor) -> torch.Tensor:
    r"""Give :math:`s_c = \sqrt{p_c} (e_c - p)`, ``C x B x C``.

    :math:`\sum_c s_c s_c^\top = diag(p) - p p^\top` is the Fisher information of the logits.
    """
    probs = logits.softmax(dim=-1)
    one = torch.eye(probs.shape[-1], dtype=probs.dtype, device=probs.device)
    return probs.mT.sqrt()[..., None] * (one[:, None] - probs)


def _best_prior_precision(posterior: LaplaceGuide) -> float:
    r"""Maximise the marginal likelihood.

    There :math:`\lambda \|\theta\|^2 = \sum_i e_i / (e_i + \lambda)`, with the curvature's
    eigenvalues.  The difference falls in :math:`\lambda` all the way, so it has one root; both ends
    of the bracket follow from bounds on the sum.
    """
    with torch.no_grad():
        parts = [
            torch.outer(posterior.row_values[name], posterior.col_values[name]).flatten()
            for name in posterior.sites
        ]
        eigenvalues = torch.cat(parts).double()
        norm = float(sum(mean.double().square().sum() for mean in posterior.mean().values()))
    largest = float(eigenvalues.max())
    if largest == 0 or norm == 0:
        raise ValueError(
            "no prior precision is best, since no logit depends on the latent weights (as in an "
            "adapter that was never trained); train it first, or pass prior_precision"
        )
    low = min(largest, 0.5 / norm)
    high = (float(eigenvalues.sum()) / norm) ** 0.5

    def excess(precision: float) -> float:
        return float((eigenvalues / (eigenvalues + precision)).sum()) - precision * norm

    return float(brentq(excess, low, high, rtol=1e-10))
