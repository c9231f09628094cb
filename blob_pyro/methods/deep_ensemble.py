"""Deep ensembles of plain LoRA."""

from __future__ import annotations

from blob_pyro.guides import ensemble
from blob_pyro.methods.method import Method


def _check(num_members: int) -> None:
    if num_members < 1:
        raise ValueError(f"num_members={num_members}: give at least 1")


# Lakshminarayanan et al., NeurIPS 2017; three members as in Wang et al., "BLoB", NeurIPS 2024.
ENS = Method("ens", starts_from="mle", combine=ensemble, options={"num_members": 3}, check=_check)
