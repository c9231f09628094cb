"""The Gaussian of a Laplace approximation, with a Kronecker-factored curvature for each site."""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, Literal, get_args

import torch
from typing_extensions import override

from blob_pyro.distributions import KroneckerPrecisionNormal
from blob_pyro.guides.lora_guide import Batch, Draw, LoraGuide
from blob_pyro.guides.site_parameters import SiteParameters
from blob_pyro.lora.projection import in_this_thread
from blob_pyro.models import BayesianLora, Classifier

LaplacePredictive = Literal["linearised", "probit", "network"]


class LaplaceGuide(LoraGuide):
    r"""A Gaussian around a point estimate, precision :math:`F + \lambda I` for each site.

    :math:`F \approx G \otimes H` is the Kronecker-factored Fisher information: :math:`G` of the
    gradients at what the weight puts out, :math:`H` of what goes in.  Of each factor at most
    ``max_rank`` eigenpairs are held, so a layer with n inputs takes ``max_rank`` times n numbers,
    about as many as the adapter itself.  Directions beyond have the precision of the prior,
    :math:`\lambda`.

    :func:`blob_pyro.posthoc.laplace` makes one from a fitted guide; a new one has no curvature.
    Its entries are not independent, so ``flipout`` refuses it.

    Parameters
    ----------
    model
        A model of :mod:`blob_pyro.models`; ``M`` starts at its adapter's own weights.
    prior_precision
        :math:`\lambda`, in the units of one over the weight's square.  It takes the place of the
        model's prior, as :math:`1 / \sigma_p^2` would; ``kl`` still is that from the model's.
    max_rank
        Eigenpairs of a factor.
    predictive
        How :func:`blob_pyro.infer.posterior_predictive` predicts: by draws from the model
        linearised at ``M``, which is what the curvature belongs to; in closed form, by the
        ``"probit"`` approximation of their mean; or by draws that go through the ``"network"``, as
        with every other guide (and with Pyro's ``Predictive``).

    Attributes
    ----------
    log_likelihood
        That of the training data at ``M``, nats, summed over the data set; 0 in a new guide.

    Raises
    ------
    ValueError
        If ``max_rank`` is below 1, ``prior_precision`` not positive and finite, or ``predictive``
        unknown.

    Examples
    --------
    >>> from blob_pyro.models import SequenceClassifier
    >>> from blob_pyro.testing import tiny_network
    >>> net = tiny_network("bert", "SEQ_CLS", target_modules=["query"])
    >>> guide = LaplaceGuide(SequenceClassifier(net, num_data=10), prior_precision=4.0)
    >>> [float(scale.mean()) for scale in guide.scale().values()]
    [0.5, 0.5]

    References
    ----------
    Yang et al., "Bayesian Low-rank Adaptation for Large Language Models" (Laplace-LoRA), ICLR 2024,
    arXiv 2308.13111; Immer, Korzepa and Bauer, "Improving predictions of Bayesian neural nets via
    local linearization", AISTATS 2021.
    """

    independent_entries = False
    log_likelihood: torch.Tensor

    def __init__(
        self,
        model: BayesianLora,
        prior_precision: float = 1.0,
        max_rank: int = 10,
        predictive: LaplacePredictive = "linearised",
    ) -> None:
        if not 0 < prior_precision < math.inf:
            raise ValueError(f"prior_precision={prior_precision} must be positive and finite")
        if max_rank < 1:
            raise ValueError(f"max_rank={max_rank}: keep at least one eigenpair of each factor")
        if predictive not in get_args(LaplacePredictive):
            raise ValueError(f"{predictive=} is unknown; use one of {get_args(LaplacePredictive)}")
        super().__init__(model)
        self.prior_precision = prior_precision
        self.max_rank = max_rank
        self.predictive: LaplacePredictive = predictive
        # Of G, along the rows of a weight, and of H, along its columns.
        self.row_basis, self.row_values = self._no_curvature(0)
        self.col_basis, self.col_values = self._no_curvature(1)
        like = next(iter(self.mean().values()))
        wide = torch.promote_types(like.dtype, torch.float32)
        self.register_buffer("log_likelihood", like.new_zeros((), dtype=wide))

    @override
    def logits_function(
        self, model: Classifier, draws: Sequence[Draw]
    ) -> Callable[[Batch], torch.Tensor] | None:
        if self.predictive == "network":
            return None
        if self.predictive == "probit":
            return partial(_probit_logits, model, self)
        mean = self.mean()
        deviations = {n: torch.stack([draw[n] - mean[n] for draw in draws]) for n in mean}
        return partial(_moved_logits, model, mean, deviations)

    def _no_curvature(self, side: int) -> tuple[SiteParameters, SiteParameters]:
        basis = self.each(lambda mean: torch.eye(mean.shape[side]).to(mean)[:, : self.max_rank])
        eigenvalues = self.each(lambda mean: mean.new_zeros(min(mean.shape[side], self.max_rank)))
        # Computed, not learned.
        return basis.requires_grad_(False), eigenvalues.requires_grad_(False)

    @override
    def site_posterior(self, name: str) -> KroneckerPrecisionNormal:
        return KroneckerPrecisionNormal(
            self.M.pyro_param("M", name),
            self.row_basis[name],
            self.row_values[name],
            self.col_basis[name],
            self.col_values[name],
            self.prior_precision,
            validate_args=False,
        )

    @override
    def scale(self) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            return {name: self.site_posterior(name).stddev for name in self.sites}

    @override
    def variance_of_update(self, name: str, left: torch.Tensor) -> torch.Tensor:
        return self.site_posterior(name).product_variance(left)

    def log_marginal_likelihood(self) -> torch.Tensor:
        r"""Laplace approximation of the log evidence, under the prior precision that is set.

        :math:`\log p(D \mid \theta) + \frac{1}{2} \left[ P \log \lambda - \lambda \|\theta\|^2 -
        \log \det (F + \lambda I) \right]` for the P weights :math:`\theta` of all sites.

        Returns
        -------
        torch.Tensor
            Nats, a scalar.  Differences mean something: between prior precisions, ranks or models
            of the same data.
        """
        with torch.no_grad():
            return self.log_likelihood + 0.5 * sum(
                self.M[name].numel() * math.log(self.prior_precision)
                - self.prior_precision * self.M[name].square().sum()
                - self.site_posterior(name).log_det_precision()
                for name in self.sites
            )


def linearised_logits(
    model: Classifier, guide: LaplaceGuide, batch: Batch
) -> tuple[torch.Tensor, torch.Tensor]:
    r"""Give the normal distribution of each example's logits under the linearised model.

    Parameters
    ----------
    model, guide
        The program, its guide from :func:`blob_pyro.posthoc.laplace`; without dropout,
        ``model.eval()``.
    batch
        Keywords for the model, B examples, on its device.

    Returns
    -------
    mean, covariance
        ``B x C`` and :math:`J \Sigma J^\top`, ``B x C x C``.

    Examples
    --------
    >>> from blob_pyro.models import SequenceClassifier
    >>> from blob_pyro.testing import tiny_network
    >>> net = tiny_network("bert", "SEQ_CLS")
    >>> model = SequenceClassifier(net, num_data=2).eval()
    >>> mean, covariance = linearised_logits(
    ...     model, LaplaceGuide(model), {"input_ids": torch.tensor([[5, 6], [7, 8]])})
    >>> covariance.shape
    torch.Size([2, 3, 3])

    References
    ----------
    Yang et al., "Bayesian Low-rank Adaptation for Large Language Models" (Laplace-LoRA), ICLR 2024.
    """
    logits, jacobians = _linearised(model, guide.mean(), batch)
    covariance = torch.zeros_like(logits).diag_embed()
    with torch.no_grad():
        for name, jacobian in jacobians.items():
            root = guide.site_posterior(name).scaled(jacobian).flatten(2)
            covariance = covariance + torch.einsum("cbi,dbi->bcd", root, root)
    return logits, covariance


def _probit_logits(model: Classifier, guide: LaplaceGuide, batch: Batch) -> torch.Tensor:
    r"""Give :math:`f / \sqrt{1 + \pi v / 8}` for variances v of the logits, ``1 x B x C``.

    Its softmax approximates the mean of the softmax, in closed form.
    """
    logits, covariance = linearised_logits(model, guide, batch)
    return (logits / (1 + math.pi / 8 * covariance.diagonal(dim1=-2, dim2=-1)).sqrt())[None]


def _moved_logits(model: Classifier, mean: Draw, deviations: Draw, batch: Batch) -> torch.Tensor:
    r"""Give :math:`f_M(x) + J(x) (\theta - M)` under K deviations from the mean, ``K x B x C``."""
    logits, jacobians = _linearised(model, mean, batch)
    moves = [
        torch.einsum("cbij,kij->kbc", jacobian, deviations[name].to(jacobian))
        for name, jacobian in jacobians.items()
    ]
    return logits + torch.stack(moves).sum(0)


def _linearised(model: Classifier, mean: Draw, batch: Batch) -> tuple[torch.Tensor, Draw]:
    """Give the logits at the mean, and by site their derivatives, ``C x B x r x n``.

    A batch takes a backward pass for each class, whatever the number of draws.
    """
    records = SiteRecords(model, mean, batch)
    logits, inputs = records.logits.detach(), records.inputs
    one = torch.eye(logits.shape[1], dtype=logits.dtype, device=logits.device)
    by_class = [records.gradients(direction.expand_as(logits)) for direction in one]
    return logits, {
        name: torch.stack([gradients[name].mT @ given for gradients in by_class])
        for name, given in inputs.items()
    }


class SiteRecords:
    """A forward pass of a model with given weights, its latent layers observed.

    A weight acts on each token, so the Jacobian of a logit in it is a sum over tokens of gradient
    times input; neither is ever built for the whole batch.

    Parameters
    ----------
    model
        The Pyro model, in evaluation mode.
    weights
        Site name to weight, one draw.
    batch
        Keywords for the model, B examples.

    Attributes
    ----------
    logits
        ``B x C``, with the graph that the gradients need.

    Raises
    ------
    ValueError
        If the examples can't be told apart in a layer.

    Examples
    --------
    >>> from blob_pyro.guides import PointEstimateGuide
    >>> from blob_pyro.models import SequenceClassifier
    >>> from blob_pyro.testing import tiny_network
    >>> net = tiny_network("bert", "SEQ_CLS", target_modules=["query"])
    >>> model = SequenceClassifier(net, num_data=1).eval()
    >>> batch = {"input_ids": torch.tensor([[5, 6, 7, 8]])}
    >>> records = SiteRecords(model, PointEstimateGuide(model).mean(), batch)
    >>> inputs, _ = records.inputs.values()  # two layers
    >>> gradients, _ = records.gradients(torch.eye(3)[:1]).values()
    >>> tuple(inputs.shape), tuple(gradients.shape)  # examples, tokens, features in and out
    ((1, 4, 16), (1, 4, 2))
    """

    def __init__(
        self, model: Classifier, weights: Mapping[str, torch.Tensor], batch: Batch
    ) -> None:
        self._calls = defaultdict[str, list[tuple[torch.Tensor, torch.Tensor]]](list)
        self._axes = model.example_axes()
        self._rows = len(batch["input_ids"])
        # So that every layer's output is part of the graph, whatever else is frozen.
        leaves = {name: value.detach().requires_grad_() for name, value in weights.items()}
        with torch.enable_grad(), model.use.running(), ExitStack() as hooks:
            for name, site in model.sites.items():
                hook = site.projection.register_forward_hook(
                    in_this_thread(partial(self._record, name))
                )
                hooks.enter_context(hook)
            self.logits: torch.Tensor = model.logits_under([leaves], **batch)[0]

    def _record(
        self, name: str, _: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor
    ) -> None:
        self._calls[name].append((inputs[0].detach(), output))

    @property
    def inputs(self) -> dict[str, torch.Tensor]:
        """What each weight was applied to: site name to ``B x T x inputs``, float32 or wider."""
        return {
            name: self._by_example(name, [given for given, _ in calls])
            for name, calls in self._calls.items()
        }

    def gradients(self, directions: torch.Tensor) -> dict[str, torch.Tensor]:
        """Gradients of ``(directions * logits).sum()`` at what each weight put out.

        Parameters
        ----------
        directions
            ``B x C``, one direction for each example.

        Returns
        -------
        dict
            Site name to ``B x T x outputs``, float32 or wider, exactly 0 at tokens that no logit
            depends on, such as padding.
        """
        outputs = [output for calls in self._calls.values() for _, output in calls]
        gradients = iter(
            torch.autograd.grad(
                self.logits,
                outputs,
                directions.to(self.logits),
                retain_graph=True,
                allow_unused=True,
                materialize_grads=True,
            )
        )
        return {
            name: self._by_example(name, [next(gradients) for _ in calls])
            for name, calls in self._calls.items()
        }

    def _by_example(self, name: str, tensors: list[torch.Tensor]) -> torch.Tensor:
        """Put all that a layer saw of one example, in however many rows or calls, together."""
        axis = self._axes[name]
        if axis is None:
            raise ValueError(
                f"site {name!r}: text alone never reaches its layer, so the axis of its examples "
                "is unknown; leave the layer out of target_modules"
            )
        tensors = [tensor.transpose(0, axis) for tensor in tensors]
        for tensor in tensors:
            if tensor.shape[0] % self._rows:
                raise ValueError(
                    f"site {name!r}: its layer saw {tensor.shape[0]} rows of {self._rows} examples "
                    "and they cannot be told apart; leave the layer out of target_modules"
                )
        joined = torch.cat([t.reshape(self._rows, -1, t.shape[-1]) for t in tensors], dim=1)
        return joined.to(torch.promote_types(joined.dtype, torch.float32))
