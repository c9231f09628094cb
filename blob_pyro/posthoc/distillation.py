"""Distillation: what a posterior predicts, taught to one plain adapter."""

from __future__ import annotations

from typing import Any, Self

import pyro
import pyro.distributions as dist
import torch
from datasets import Dataset
from pyro import poutine
from torch.utils.data import DataLoader
from typing_extensions import override

from blob_pyro.guides import DirichletGuide, LoraGuide, PointEstimateGuide, model_at_mean
from blob_pyro.infer import ReweightedTrace_ELBO
from blob_pyro.infer.data_pass import evaluation_mode, on_device, seeded
from blob_pyro.models import BayesianLora, CausalLM, Classifier
from blob_pyro.models.causal_lm import IGNORED, targets_of
from blob_pyro.models.padding import align_padding, mask_of, padding_token
from blob_pyro.tasks.collators import padded
from blob_pyro.tasks.task_data import with_column
from blob_pyro.training import Collator, TrainingConfig, fit, sharded_predictive

# Of a uniform distribution, mixed into what the Dirichlet sees: no logarithm is below -12.
_FLOOR = 1e-3
# Rate of the prior of a precision: with ten draws, less than 0.001 nats of disagreement is noise.
_RATE = 1e-3
# Of the Dirichlet beside the mean, whose gradients would be lost in its own.
_WEIGHT = 0.1
# Stands for the concentration of an option that a question lacks.
_ABSENT = 1e-6


class DirichletStudent(BayesianLora):
    r"""A classifier that observes the probabilities of K draws in place of labels.

    With concentrations :math:`\exp(z + c) = s m`, mean :math:`m = softmax(z)` and precision s, a
    text's statements are

    - ``labels``: a label of each draw, averaged out, :math:`\sum_c \bar p_c \log m_c`;
    - ``probabilities``: the draws under the Dirichlet, counted as one, with m held fixed;
    - ``precision``: s under an exponential prior of mean 1000.

    The first is greatest at :math:`m = \bar p`; a Dirichlet alone would learn the mean of
    :math:`\log p` instead.  The others so move the precision only, and weigh a tenth.  Draws and m
    are mixed with 0.001 of the uniform distribution in the second.

    Parameters
    ----------
    classifier
        The model that will predict, of temperature 1.  They share the network.
    log_precision
        c.
    """

    def __init__(self, classifier: Classifier, log_precision: float = 0.0) -> None:
        super().__init__(
            classifier.network,
            classifier.num_data,
            adapter=classifier.adapter,
            prior=classifier.prior,
            latent=classifier.latent,
        )
        # In a tuple: it is no part of the state.
        self._classifier = (classifier,)
        self.log_precision = log_precision

    @override
    def train(self, mode: bool = True) -> Self:
        """Stay without dropout, as the teacher predicts."""
        return super().train(False)

    def forward(
        self,
        input_ids: torch.Tensor,
        teacher: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        **inputs: torch.Tensor,
    ) -> torch.Tensor:
        """Run the program on a Hugging Face batch given as keywords.

        Parameters
        ----------
        input_ids, attention_mask, **inputs
            As in :class:`blob_pyro.models.Classifier`.
        teacher
            Probabilities of the draws, ``B x K x C``; 0 for options that a question lacks.

        Returns
        -------
        torch.Tensor
            Logits, ``B x C``, float32 or wider.
        """
        mask = mask_of(input_ids, attention_mask, self.network)
        self.draw(input_ids.shape)
        batch = {"input_ids": input_ids, "attention_mask": mask, **inputs}
        logits = self._classifier[0].class_logits(batch)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        draws = teacher.to(logits).transpose(0, 1)
        offered = logits.isfinite()
        precision = (logits.logsumexp(dim=-1) + self.log_precision).exp()
        mean = _floored(logits.softmax(dim=-1).detach(), offered, absent=0.0)
        alphas = (precision[:, None] * mean).masked_fill(~offered, _ABSENT)
        with self.data_plate(input_ids):
            logits = pyro.deterministic("logits", logits, event_dim=1)
            # A trial whose outcome is a distribution: the mean over labels drawn from it.
            label = dist.Multinomial(1, logits=logits, validate_args=False)
            pyro.sample("labels", label, obs=draws.mean(dim=0))
            with poutine.scale(scale=_WEIGHT):
                with pyro.plate("draws", len(draws), dim=-2), poutine.scale(scale=1 / len(draws)):
                    spread = dist.Dirichlet(alphas, validate_args=False)
                    observed = _floored(draws, offered, absent=1.0)
                    pyro.sample("probabilities", spread, obs=observed)
                prior = dist.Exponential(precision.new_tensor(_RATE), validate_args=False)
                pyro.sample("precision", prior, obs=precision)
        return logits


def _floored(probabilities: torch.Tensor, offered: torch.Tensor, absent: float) -> torch.Tensor:
    uniform = _FLOOR / offered.sum(dim=-1, keepdim=True)
    return ((1 - _FLOOR) * probabilities + uniform).masked_fill(~offered, absent)


def distill(
    model: Classifier,
    guide: LoraGuide,
    data: Dataset,
    collator: Collator,
    config: TrainingConfig | None = None,
    num_samples: int = 10,
    *,
    progress: bool = True,
    **run: Any,
) -> tuple[Classifier, DirichletGuide]:
    """Teach the predictions of a posterior to a plain adapter, which predicts in one pass.

    The student starts at the posterior's mean, its head included.  It learns the average of the
    draws, and how far they disagree: see :class:`DirichletStudent`.

    Parameters
    ----------
    model, guide
        The fitted program, the teacher.  Its network is changed in place, so neither is of use
        afterwards.
    data
        Examples, with or without labels, which are not looked at.  A text that comes twice counts
        twice.
    collator
        As in :func:`blob_pyro.training.fit`.
    config
        Steps, rates and seed; None for the defaults.
    num_samples
        Draws K of the teacher, at least 2.
    progress
        Show a progress bar while the teacher predicts.
    **run
        ``checkpoints``, ``accelerator`` and ``on_step`` of :func:`blob_pyro.training.fit`.

    Returns
    -------
    model, guide
        The student; its temperature is 1, so that plain PEFT predicts the same.

    Raises
    ------
    ValueError
        If the teacher has no draws: it is a point, or predicts in closed form.

    References
    ----------
    Malinin, Mlodozeniec and Gales, "Ensemble Distribution Distillation", ICLR 2020,
    arXiv 1905.00076; its likelihood, with the mean fitted apart.
    """
    config = (config or TrainingConfig()).changed(flipout=False, validate_every=None)
    _check_draws(guide)
    if num_samples < 2:
        raise ValueError(f"num_samples={num_samples}: disagreement takes two draws or more")
    seed = config.seed
    drawn = sharded_predictive(model, guide, data, collator, num_samples, seed, progress=progress)
    teacher = drawn["logits"].double().softmax(dim=-1).transpose(0, 1)
    model = model_at_mean(model, guide, latent=("A",))
    model.set_temperature(1.0)
    model.num_data = len(data)
    student = DirichletGuide(model)
    start = sharded_predictive(model, student, data, collator, 0, seed)["logits"]
    level = start[0].double().logsumexp(dim=-1).median()
    student.log_precision = float(_precision(teacher).log().median() - level)
    data = with_column(data, "teacher", teacher.float().tolist())

    def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = {name: value for name, value in collator(rows).items() if name != "labels"}
        return {**batch, "teacher": torch.tensor([row["teacher"] for row in rows])}

    program = DirichletStudent(model, student.log_precision), student
    elbo = ReweightedTrace_ELBO(1, "uniform", 0.0, max_plate_nesting=2, per_datum=True)
    fit(*program, elbo, data, collate, config, **run)
    return model.eval(), student


def distill_text(
    model: CausalLM,
    guide: LoraGuide,
    data: Dataset,
    collator: Collator,
    config: TrainingConfig | None = None,
    num_samples: int = 10,
    **run: Any,
) -> tuple[CausalLM, PointEstimateGuide]:
    r"""Teach what a posterior would write to a plain adapter, which writes in one pass.

    At each labelled token of each text every draw k names a next token, from
    :math:`p(y_t \mid y_{<t}, x, A_k)`.  The student learns the K tokens of a place by maximum
    likelihood, which is greatest at the draws' average.  Nothing of the vocabulary's size is kept.

    Parameters
    ----------
    model, guide
        The fitted program, the teacher.  Its network is changed in place, so neither is of use
        afterwards.
    data
        Examples for the collator: those that the teacher was fitted to, and as many more of
        their kind as you have.  The labels say where a token is learned, and the text before it.
    collator
        As in :func:`blob_pyro.training.fit`.
    config
        Steps, rates and seed; None for the defaults.
    num_samples
        Draws K of the teacher: the student's data are K copies of each text.
    **run
        ``checkpoints``, ``accelerator`` and ``on_step`` of :func:`blob_pyro.training.fit`.

    Returns
    -------
    model, guide
        The student, which starts at the posterior's mean.

    Raises
    ------
    ValueError
        If the teacher has no draws, or its texts come with anything else, such as pictures.

    Examples
    --------
    >>> from blob_pyro.guides import LowRankGaussianGuide
    >>> from blob_pyro.testing import tiny_network
    >>> model = CausalLM(tiny_network("llama", "CAUSAL_LM"), num_data=1)
    >>> guide = LowRankGaussianGuide(model, init_scale=0.25)
    >>> data = Dataset.from_list([{"input_ids": [5, 6, 7], "labels": [-100, 6, 7]}])
    >>> batch = lambda rows: {name: torch.tensor([row[name] for row in rows]) for name in rows[0]}
    >>> student, _ = distill_text(model, guide, data, batch, TrainingConfig(num_steps=1))
    >>> student.num_data
    10
    """
    config = (config or TrainingConfig()).changed(flipout=False, validate_every=None)
    _check_draws(guide)
    taught = _named_tokens(model, guide, data, collator, num_samples, config.seed)
    model = model_at_mean(model, guide, latent=("A",))
    model.num_data = len(taught)
    student = PointEstimateGuide(model)
    elbo = ReweightedTrace_ELBO(1, "uniform", 0.0, per_datum=True)
    fit(model, student, elbo, Dataset.from_list(taught), _collate_tokens, config, **run)
    return model.eval(), student


def _named_tokens(
    model: CausalLM,
    guide: LoraGuide,
    data: Dataset,
    collator: Collator,
    num_samples: int,
    seed: int,
) -> list[dict[str, list[int]]]:
    """Give each text once for each draw, with the labels that this draw names."""
    device, taught = next(model.parameters()).device, []
    with torch.no_grad(), seeded(seed), evaluation_mode(model):
        draws = guide.draws(num_samples)
        for rows in DataLoader(data, batch_size=16, collate_fn=collator):
            batch = on_device(device, rows)
            mask = mask_of(batch["input_ids"], batch.get("attention_mask"), model.network)
            if others := {*batch} - {"input_ids", "attention_mask", "labels"}:
                raise ValueError(f"only texts can be distilled, but the collator gives {others}")
            batch = {**batch, "attention_mask": mask}
            batch = align_padding(batch, "right", padding_token(model.network))
            real, (_, learned) = batch["attention_mask"].bool(), targets_of(batch)
            for draw in draws:
                logits = poutine.condition(model, draw)(**batch)
                labels = batch["labels"].clone()
                labels[:, 1:][learned] = dist.Categorical(logits=logits).sample()
                for ids, named, shown in zip(batch["input_ids"], labels, real, strict=True):
                    row = {"input_ids": ids[shown].tolist(), "labels": named[shown].tolist()}
                    taught.append(row)
    return taught


def _collate_tokens(rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    input_ids, mask = padded([row["input_ids"] for row in rows], 0)
    labels, _ = padded([row["labels"] for row in rows], IGNORED)
    return {"input_ids": input_ids, "attention_mask": mask, "labels": labels}


def _check_draws(guide: LoraGuide) -> None:
    if guide.is_point or guide.predictive in ("probit", "dirichlet"):
        raise ValueError(
            f"a {type(guide).__name__} with predictive={guide.predictive!r} has no draws that a "
            "student could learn from; start from a method that draws, such as blob"
        )


def _precision(teacher: torch.Tensor) -> torch.Tensor:
    """Give the precision of a Dirichlet of the draws' mean and variances, by text."""
    mean = teacher.mean(dim=1)
    spread = teacher.var(dim=1).sum(dim=-1).clamp(min=1e-12)
    return ((mean * (1 - mean)).sum(dim=-1) / spread - 1).clamp(0.1, 1 / _RATE)
