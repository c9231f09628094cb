"""Which answers to give and which to leave to a person: thresholds of confidence with a bound."""

import math
from typing import Annotated, Self

import numpy as np
from pydantic import Field, model_validator
from scipy.special import expit, logit
from scipy.stats import beta

from blob_pyro.diagnostics.predictive import FloatArray, Values, log_probs_and_labels
from blob_pyro.settings import Settings

# The surest 5 %, 10 %, ... 100 % of the examples.
NUM_THRESHOLDS = 20
# In log odds. A text's confidence depends in its last digits on the batch that it is in.
MARGIN = 1e-3
_Count = Annotated[int, Field(ge=0)]


class AnswerThresholds(Settings):
    r"""Thresholds of confidence, and the errors among held-out examples that reach each.

    Of :math:`n_j` examples at or above threshold j, :math:`e_j` are answered wrong.  With
    probability ``confidence_level`` over the held-out examples, the error among all future answers
    at or above threshold j is at most :attr:`bounds`, for all T thresholds at once: each is the
    upper end of Clopper and Pearson's interval at the level :math:`1 - \delta / T`, where
    :math:`\delta` is 1 - ``confidence_level``.

    Examples
    --------
    >>> logits = np.array([[[5.0, 0.0]] * 90 + [[0.5, 0.0]] * 10])
    >>> found = answer_thresholds(logits, [0] * 95 + [1] * 5)
    >>> best = found.best(max_error=0.1)
    >>> found.answered[best], found.errors[best], round(float(found.bounds[best]), 3)
    (90, 0, 0.064)

    References
    ----------
    Geifman, El-Yaniv: "Selective classification for deep neural networks", NeurIPS 2017; here T
    shares that are fixed beforehand take the place of their binary search.
    """

    confidence_level: float = Field(gt=0, lt=1)
    """Probability that all bounds hold."""
    num_examples: int = Field(ge=1)
    """How many examples were held out."""
    thresholds: list[Annotated[float, Field(ge=0)]] = Field(min_length=1)
    """T falling probabilities, at or above each of which an answer is given."""
    answered: list[_Count]
    """How many of the examples are answered at each threshold."""
    errors: list[_Count]
    """How many of those answers are wrong."""

    @model_validator(mode="after")
    def _counts_agree(self) -> Self:
        counts = zip(self.thresholds, self.answered, self.errors, strict=True)
        if any(not errors <= answered <= self.num_examples for _, answered, errors in counts):
            raise ValueError("errors, answered and num_examples are not in rising order")
        return self

    @property
    def bounds(self) -> FloatArray:
        """Highest error among future answers at each threshold, T, from 0 to 1."""
        answered, errors = np.array(self.answered), np.array(self.errors)
        level = 1 - (1 - self.confidence_level) / len(self.thresholds)
        # Nothing is known where all answers were wrong, or none was given.
        upper = beta.ppf(level, errors + 1, np.maximum(answered - errors, 1))
        return np.where(errors < answered, upper, 1.0)

    def best(self, max_error: float) -> int:
        """Find the threshold that answers the most with an error of at most ``max_error``.

        Raises
        ------
        ValueError
            If no bound is so low; the message says how many examples it takes at least.
        """
        if not 0 < max_error < 1:
            raise ValueError(f"max_error={max_error} is no share between 0 and 1")
        bounds = self.bounds
        reached = np.flatnonzero(bounds <= max_error)
        if len(reached):
            return int(reached[-1])
        lowest = int(bounds.argmin())
        delta = (1 - self.confidence_level) / len(self.thresholds)
        needed = math.ceil(math.log(delta) / math.log1p(-max_error))
        raise ValueError(
            f"no threshold keeps the error at {max_error:.3g} with {self.confidence_level:.3g} "
            f"confidence: of {self.num_examples} held-out examples, the lowest bound is "
            f"{bounds[lowest]:.3g} ({self.errors[lowest]} errors in {self.answered[lowest]} "
            f"answers); {needed} answers without an error would be enough, so hold out more "
            "examples or raise max_error"
        )


def answer_thresholds(
    logits: Values, labels: Values, *, confidence_level: float = 0.95
) -> AnswerThresholds:
    """Count the errors of held-out examples at thresholds that answer 5 %, 10 %, ... of them.

    A threshold lies a little above the confidence of the surest example that it leaves out, so
    examples of one confidence are answered together, and a share may be smaller for that.

    Parameters
    ----------
    logits
        K x N x C, float: K posterior draws, N held-out examples, C classes.
    labels
        N, integer, from 0 to C - 1.
    confidence_level
        Probability that all bounds hold.

    Returns
    -------
    AnswerThresholds
        At 20 thresholds, the last of which answers all.

    Examples
    --------
    >>> answer_thresholds([[[2.0, 0.0]] * 40], [0] * 40).answered[-2:]
    [0, 40]
    """
    log_p, label = log_probs_and_labels(logits, labels)
    confidence = np.exp(log_p.max(axis=1))
    wrong = log_p.argmax(axis=1) != label
    falling = -np.sort(-confidence)
    shares = [len(label) * j // NUM_THRESHOLDS for j in range(1, NUM_THRESHOLDS)]
    # Given the first one left out, those above are independent draws of whatever is above it.
    left_out = falling[shares]
    above = np.maximum(expit(logit(left_out) + MARGIN), np.nextafter(left_out, np.inf))
    thresholds = [*above, 0.0]
    reached = [confidence >= threshold for threshold in thresholds]
    return AnswerThresholds(
        confidence_level=confidence_level,
        num_examples=len(label),
        thresholds=[float(threshold) for threshold in thresholds],
        answered=[int(rows.sum()) for rows in reached],
        errors=[int(wrong[rows].sum()) for rows in reached],
    )
