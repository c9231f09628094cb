"""SWAG: the Gaussian of the weights that SGD visits at a constant rate."""

from collections import deque
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from accelerate.utils import send_to_device
from datasets import Dataset
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_constant_schedule
from typing_extensions import override

from blob_pyro.guides import LoraGuide, PointEstimateGuide
from blob_pyro.guides.swag import SWAGGuide
from blob_pyro.infer import ELBOTerms, ReweightedTrace_ELBO
from blob_pyro.models import BayesianLora
from blob_pyro.training import Collator, TrainingConfig, fit
from blob_pyro.training.steps import Steps


class PathMoments:
    r"""Mean, variance and the last few deviations of weights that are collected one by one.

    After T collections: :math:`\bar\theta_T = \frac{1}{T} \sum_t \theta_t`, the variances
    :math:`\frac{1}{T} \sum_t (\theta_t - \bar\theta_T)^2`, and the last K deviations
    :math:`\theta_t - \bar\theta_t`, each from the mean of its own time.  The sums are Welford's,
    which do not cancel as :math:`E \theta^2 - (E \theta)^2` does in float32; all moments are
    float32 or wider.

    Parameters
    ----------
    num_deviations
        K, the number of deviations that are kept; 0 for none.

    Examples
    --------
    >>> moments = PathMoments(num_deviations=2)
    >>> for value in (1.0, 2.0, 6.0):
    ...     moments.collect({"w": torch.tensor([value])})
    >>> moments.mean["w"], moments.variance()["w"]
    (tensor([3.]), tensor([4.6667]))
    >>> moments.deviations()["w"]
    tensor([[0.5000, 3.0000]])

    References
    ----------
    Maddox et al., "A Simple Baseline for Bayesian Uncertainty in Deep Learning", NeurIPS 2019,
    algorithm 1; Welford, Technometrics 1962.
    """

    def __init__(self, num_deviations: int) -> None:
        self.num_collected = 0
        self.mean: dict[str, torch.Tensor] = {}
        self._squares: dict[str, torch.Tensor] = {}
        self._deviations: deque[dict[str, torch.Tensor]] = deque(maxlen=num_deviations)

    @torch.no_grad()
    def collect(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Take the weights of one point of the path, always of the same names and shapes."""
        self.num_collected += 1
        late = {}
        for name, point in weights.items():
            # In half precision a T-th of a deviation would be lost in the mean.
            weight = point.to(torch.promote_types(point.dtype, torch.float32))
            mean = self.mean.setdefault(name, torch.zeros_like(weight))
            early = weight - mean
            mean += early / self.num_collected
            late[name] = weight - mean
            squares = self._squares.setdefault(name, torch.zeros_like(weight))
            squares += early * late[name]
        self._deviations.append(late)

    def variance(self) -> dict[str, torch.Tensor]:
        """Give the variances over the path, of the shapes of the weights."""
        return {name: squares / self.num_collected for name, squares in self._squares.items()}

    def deviations(self) -> dict[str, torch.Tensor]:
        """Give the last deviations, oldest first, along a new last dimension."""
        return {
            name: torch.stack([late[name] for late in self._deviations], dim=-1)
            for name in self.mean
        }

    def state_dict(self) -> dict[str, Any]:
        """Give what a checkpoint needs."""
        return {
            "num_collected": self.num_collected,
            "mean": self.mean,
            "squares": self._squares,
            "deviations": [*self._deviations],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.num_collected = state["num_collected"]
        self.mean, self._squares = state["mean"], state["squares"]
        self._deviations.extend(state["deviations"])


class PathSteps(Steps):
    """SGD at a constant rate, whose path is collected.

    Parameters
    ----------
    model, guide, elbo, config, accelerator
        As in :class:`blob_pyro.training.steps.Steps`.
    latent, others
        Take the means of the guide and the other trainable parameters.
    momentum
        Of SGD.
    collect_every
        Steps from one collection to the next.
    """

    def __init__(
        self,
        model: BayesianLora,
        guide: LoraGuide,
        *program: Any,
        latent: PathMoments,
        others: PathMoments,
        momentum: float,
        collect_every: int,
    ) -> None:
        self._momentum, self._collect_every = momentum, collect_every
        points = {name: value for name, value in model.named_parameters() if value.requires_grad}
        self._path = ((latent, dict(guide.M.items())), (others, points))
        super().__init__(model, guide, *program)

    @override
    def _descent(
        self, model: BayesianLora, guide: LoraGuide, config: TrainingConfig
    ) -> tuple[torch.optim.Optimizer, LRScheduler]:
        parameters = [value for _, weights in self._path for value in weights.values()]
        sgd = torch.optim.SGD(parameters, lr=config.learning_rate, momentum=self._momentum)
        return sgd, get_constant_schedule(sgd)

    @property
    @override
    def settings(self) -> dict[str, Any]:
        return {"momentum": self._momentum, "collect_every": self._collect_every}

    @override
    def _parts(self) -> dict[str, Any]:
        return super()._parts() | {"latent": self._path[0][0], "others": self._path[1][0]}

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(send_to_device(state, self._accelerator.device))

    @override
    def _descend(self, terms: ELBOTerms) -> tuple[ELBOTerms, float]:
        done = super()._descend(terms)
        if self._schedule.last_epoch % self._collect_every == 0:
            for moments, weights in self._path:
                moments.collect(weights)
        return done


def swag(
    model: BayesianLora,
    guide: PointEstimateGuide,
    elbo: ReweightedTrace_ELBO,
    data: Dataset,
    collator: Collator,
    config: TrainingConfig,
    *,
    momentum: float = 0.9,
    collect_every: int = 4,
    num_deviations: int = 20,
    **run: Any,
) -> SWAGGuide:
    r"""Continue from a point estimate by SGD at a constant rate, and fit a Gaussian to its path.

    .. math:: \theta \sim N\left(\bar\theta, \tfrac{1}{2} diag(Var) +
        \tfrac{1}{2 (K - 1)} D D^\top\right),

    with mean and variance over all weights that were collected, and the last K deviations
    :math:`D` from the mean of their time.  What is latent gets this posterior; other trainable
    parameters (``B``, if only ``A`` is latent, and heads) are set to their mean over the path.

    How wide the posterior is depends on the rate and on the batch size: it is that of SGD's noise,
    which only in a special case is the Bayesian posterior.

    Parameters
    ----------
    model, guide
        The fitted program; both walk the path, in place.
    elbo
        What SGD descends: the objective that the point was fitted with, so that it starts at the
        bottom.
    data, collator
        As in :func:`blob_pyro.training.fit`.
    config
        Steps, batch size, seed, and ``learning_rate``, which stays constant.
    momentum
        Of SGD.
    collect_every
        Steps from one collection to the next.
    num_deviations
        K; there have to be as many collections.
    run
        ``checkpoints``, ``accelerator`` and ``on_step`` of :func:`blob_pyro.training.fit`.

    Returns
    -------
    SWAGGuide
        Its draws go into ``model``, whose other parameters are now those of the path.

    Raises
    ------
    ValueError
        If ``num_deviations`` is below 2 or above the number of collections.

    Examples
    --------
    >>> from blob_pyro.models import SequenceClassifier
    >>> from blob_pyro.testing import tiny_network
    >>> model = SequenceClassifier(tiny_network("bert", "SEQ_CLS"), num_data=2)
    >>> elbo = ReweightedTrace_ELBO(num_batches=1, kl_scale=1e-3, per_datum=True)
    >>> data = Dataset.from_dict({"input_ids": [[5, 6], [7, 8]], "labels": [0, 2]})
    >>> def collator(rows):
    ...     return {name: torch.tensor([row[name] for row in rows]) for name in rows[0]}
    >>> guide = swag(model, PointEstimateGuide(model), elbo, data, collator,
    ...              TrainingConfig(num_steps=6, learning_rate=0.1), collect_every=2,
    ...              num_deviations=3)
    >>> min(float(scale.min()) for scale in guide.scale().values()) > 0
    True

    References
    ----------
    Maddox et al., "A Simple Baseline for Bayesian Uncertainty in Deep Learning", NeurIPS 2019,
    algorithm 1; for LoRA: Onal et al., 2024, arXiv 2405.03425.
    """
    collected = config.total_steps // collect_every
    if not 2 <= num_deviations <= collected:
        raise ValueError(
            f"num_deviations={num_deviations} must lie between 2 and the {collected} weights that "
            f"num_steps={config.num_steps} with collect_every={collect_every} collect"
        )
    latent, others = PathMoments(num_deviations), PathMoments(0)
    steps = partial(
        PathSteps, latent=latent, others=others, momentum=momentum, collect_every=collect_every
    )
    fit(model, guide, elbo, data, collator, config, steps=steps, **run)
    points = dict(model.named_parameters())
    with torch.no_grad():
        for name, mean in others.mean.items():
            points[name].copy_(mean)
    posterior = SWAGGuide(model, num_deviations)
    posterior.set_moments(latent.mean, latent.variance(), latent.deviations())
    posterior.hyper.load_state_dict(guide.hyper.state_dict())
    return posterior
