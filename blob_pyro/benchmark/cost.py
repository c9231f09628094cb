"""What a part of a benchmark costs: time, memory and parameters."""

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from blob_pyro.guides import LoraGuide
from blob_pyro.models import Classifier

_PEAK_RESET = "5"


@dataclass
class Cost:
    """Time and memory, filled in when :func:`measured` ends.

    Parameters
    ----------
    seconds
        Wall-clock time.
    peak_bytes
        Most memory at one time: the GPU's, if there is one, else the process's resident memory,
        base model included.
    """

    seconds: float = 0.0
    peak_bytes: int = 0


@contextmanager
def measured() -> Iterator[Cost]:
    """Measure what the body of a ``with`` statement costs.

    Where the system cannot forget an earlier peak of the process (other than Linux), that one
    counts too.

    Yields
    ------
    Cost
        Zeros until the body ends.

    Examples
    --------
    >>> with measured() as cost:
    ...     ones = torch.ones(1000)
    >>> cost.seconds > 0, cost.peak_bytes > 4000
    (True, True)
    """
    cost = Cost()
    _reset_peak()
    start = time.monotonic()
    yield cost
    cost.seconds = time.monotonic() - start
    cost.peak_bytes = _peak_bytes()


def _reset_peak() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    elif (switch := Path("/proc/self/clear_refs")).exists():
        switch.write_text(_PEAK_RESET)


def _peak_bytes() -> int:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024
    # Kilobytes, but for macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def extra_parameters(model: Classifier, guide: LoraGuide) -> int:
    """Count the numbers that a fitted program keeps beyond those of plain LoRA.

    Parameters
    ----------
    model, guide
        The program.

    Returns
    -------
    int
        Entries of the guide's parameters and buffers, less those of the matrices that it covers
        (point estimates, ``B`` or heads, are those of plain LoRA).

    Examples
    --------
    >>> from blob_pyro.guides import LowRankGaussianGuide
    >>> from blob_pyro.models import SequenceClassifier
    >>> from blob_pyro.testing import tiny_network
    >>> net = tiny_network("bert", "SEQ_CLS", target_modules=["query"])
    >>> model = SequenceClassifier(net, 10)
    >>> extra_parameters(model, LowRankGaussianGuide(model))  # a scale for each entry of A
    64
    """
    plain = sum(site.projection.initial_weight.numel() for site in model.sites.values())
    return sum(tensor.numel() for tensor in guide.state_dict().values()) - plain
