from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from accelerate.utils import DistributedType

from blob_pyro.cli.train import check_can_save


def accelerator(kind: DistributedType, stage: int = 0) -> Any:
    plugin = SimpleNamespace(zero_stage=stage)
    return SimpleNamespace(distributed_type=kind, state=SimpleNamespace(deepspeed_plugin=plugin))


@pytest.mark.parametrize(
    ("kind", "stage"), [(DistributedType.FSDP, 0), (DistributedType.DEEPSPEED, 3)]
)
def test_a_run_that_could_not_be_saved_is_refused(kind: DistributedType, stage: int) -> None:
    with pytest.raises(ValueError, match=rf"under {kind.value} no process holds the whole post"):
        check_can_save(accelerator(kind, stage))


@pytest.mark.parametrize(
    ("kind", "stage"), [(DistributedType.MULTI_GPU, 0), (DistributedType.DEEPSPEED, 2)]
)
def test_a_run_whose_processes_hold_everything_is_not(kind: DistributedType, stage: int) -> None:
    check_can_save(accelerator(kind, stage))
