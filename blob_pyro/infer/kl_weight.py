"""Schedules that spread the KL divergence over a cycle of minibatches."""

import math
from typing import Literal, get_args

Schedule = Literal["blob", "blundell", "uniform"]
# What moves the guide's scales in DecoupledSVI.
ScaleUpdates = Literal["kl_optim", "both"]


def check_schedule(num_batches: int, schedule: str) -> None:
    """Raise a ``ValueError`` if the cycle is empty or the schedule unknown."""
    if num_batches % 1 or num_batches < 1:
        raise ValueError(f"num_batches={num_batches}: a cycle needs at least one batch")
    if schedule not in get_args(Schedule):
        raise ValueError(f"schedule={schedule!r} is unknown; choose one of {get_args(Schedule)}")


def kl_weight(step: int, num_batches: int, schedule: Schedule = "blob") -> float:
    r"""Give the share of the KL divergence that one minibatch carries.

    With :math:`i = 1 + (step \bmod M)` and M = ``num_batches``: ``uniform`` is :math:`1 / M`,
    ``blundell`` :math:`2^{M - i} / (2^M - 1)` (early batches carry it), ``blob``
    :math:`2^{i - 1} / (2^M - 1)` (late batches carry it).  The shares of a cycle sum to one.

    Parameters
    ----------
    step
        Number of gradient steps taken before this one, from 0; the cycle repeats.
    num_batches
        Length M of the cycle.
    schedule
        ``"blob"``, ``"blundell"`` or ``"uniform"``.

    Returns
    -------
    float
        :math:`\lambda_i` in [0, 1]; it underflows to 0.0 far from the loaded end.

    Raises
    ------
    ValueError
        If ``num_batches`` is below 1, ``step`` negative or ``schedule`` unknown.

    Examples
    --------
    >>> [round(kl_weight(step, 3, "blob"), 3) for step in range(4)]
    [0.143, 0.286, 0.571, 0.143]
    >>> kl_weight(0, 10**6, "uniform")
    1e-06

    References
    ----------
    Blundell et al., "Weight Uncertainty in Neural Networks", ICML 2015, section 3.4; Wang et al.,
    "BLoB", NeurIPS 2024, section 3.3.
    """
    check_schedule(num_batches, schedule)
    if step < 0:
        raise ValueError(f"step={step}: steps are counted from 0")
    if schedule == "uniform":
        return 1.0 / num_batches
    position = step % num_batches
    if schedule == "blundell":
        position = num_batches - 1 - position
    # 2^(i-1) / (2^M - 1) with both sides divided by 2^M, so that no M overflows.
    return float(2.0 ** (position - num_batches) / (1.0 - 2.0**-num_batches))


def rescaled_num_batches(num_data: int, batch_size: int, gamma: float = 8.0) -> int:
    r"""Give the cycle length of the paper's code, :math:`\lfloor 100 N^{\pi / \gamma} / B \rfloor`.

    It grows more slowly than the data, so that the KL of a small data set is spread over a cycle
    of several epochs.

    Parameters
    ----------
    num_data
        Number of training examples N.
    batch_size
        Examples a step B.
    gamma
        The paper's :math:`\gamma`; larger means shorter cycles.

    Returns
    -------
    int
        Number of minibatches M of a cycle, at least 1.

    Raises
    ------
    ValueError
        If an argument is not positive.

    Examples
    --------
    >>> rescaled_num_batches(500, 4)
    286

    References
    ----------
    Wang et al., "BLoB", NeurIPS 2024, appendix B (data-set rescaling) and the code that goes with
    it.
    """
    if not (num_data > 0 and batch_size > 0 and gamma > 0):
        raise ValueError(f"{num_data=}, {batch_size=} and {gamma=} must be positive")
    return max(1, int(100 * num_data ** (math.pi / gamma) / batch_size))
