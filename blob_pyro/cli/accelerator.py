"""The processes of a run, as accelerate sees them."""

from __future__ import annotations

from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import DistributedType

from blob_pyro.cli.options import Precision
from blob_pyro.cli.terminal import console


def make_accelerator(precision: Precision | None, tracker: str | None, folder: Path) -> Accelerator:
    """Make the accelerator of a run that writes to a folder, and let one process speak for all.

    Raises
    ------
    ValueError
        If the tracker's package is not installed.
    """
    accelerator = Accelerator(
        mixed_precision=None if precision is None else precision.value,
        log_with=tracker,
        project_dir=folder.with_name(f"{folder.name}-logs"),
    )
    if tracker is not None:
        accelerator.init_trackers("blob-pyro")
        if not accelerator.trackers:
            raise ValueError(
                f"--tracker {tracker}: its package is not installed; install it, or leave it out"
            )
    console.quiet = not accelerator.is_main_process
    return accelerator


def check_can_save(accelerator: Accelerator) -> None:
    """Refuse a run whose posterior could not be saved, before it begins.

    Raises
    ------
    ValueError
        If the parameters themselves are sharded.
    """
    kind = accelerator.distributed_type
    plugin = accelerator.state.deepspeed_plugin if kind == DistributedType.DEEPSPEED else None
    if kind == DistributedType.FSDP or (plugin is not None and plugin.zero_stage == 3):
        raise ValueError(
            f"under {kind.value} no process holds the whole posterior, so it could not be saved; "
            "use data parallelism, or call blob_pyro.training.fit in a script and gather it there"
        )
