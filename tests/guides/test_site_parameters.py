from __future__ import annotations

import torch
from pyro import poutine

from blob_pyro.guides import SiteParameters

VALUES = {
    "net.layers.0.lora_A.weight": torch.arange(6.0).reshape(2, 3),
    "net.layers.1.lora_A.weight": torch.ones(1, 3),
    "bias": torch.zeros(()),
}


def test_parameters_have_the_names_of_their_sites() -> None:
    parameters = SiteParameters(VALUES)
    assert list(parameters) == list(VALUES)
    assert set(parameters.state_dict()) == set(VALUES)
    for name, value in VALUES.items():
        assert torch.equal(parameters[name], value)
        assert parameters[name].requires_grad


def test_the_values_are_copied() -> None:
    parameters = SiteParameters(VALUES)
    with torch.no_grad():
        parameters["bias"].add_(1)
    assert VALUES["bias"] == 0


def test_a_statement_has_prefix_and_name() -> None:
    parameters = SiteParameters(VALUES)
    trace = poutine.trace(lambda: parameters.pyro_param("M", "bias")).get_trace()
    assert trace.param_nodes == ["M.bias"]
    assert trace.nodes["M.bias"]["value"].unconstrained() is parameters["bias"]
