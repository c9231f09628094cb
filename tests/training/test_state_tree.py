from __future__ import annotations

import json

import pytest
import torch

from blob_pyro.training.checkpoint_file import flatten, unflatten


def test_an_optimisers_state_comes_back() -> None:
    parameters = [torch.nn.Parameter(torch.randn(3, 2, dtype=torch.float64)) for _ in range(2)]
    optimizer = torch.optim.AdamW(parameters, lr=0.1)
    sum(parameter.square().sum() for parameter in parameters).backward()
    optimizer.step()
    tree, tensors = flatten(optimizer.state_dict())
    again = unflatten(json.loads(json.dumps(tree)), tensors)
    assert again["param_groups"] == optimizer.state_dict()["param_groups"]
    for index, state in optimizer.state_dict()["state"].items():
        assert again["state"][index].keys() == state.keys()
        for name, tensor in state.items():
            assert torch.equal(again["state"][index][name], tensor)
            assert again["state"][index][name].dtype == tensor.dtype


def test_tensors_are_copies() -> None:
    tensor = torch.zeros(2)
    _, tensors = flatten([tensor])
    tensor.add_(1)
    assert tensors["/0"].tolist() == [0, 0]


def test_another_kind_is_named_with_its_place() -> None:
    with pytest.raises(TypeError, match="/a/1 is a set, which a checkpoint cannot hold"):
        flatten({"a": [0, {1}]})
