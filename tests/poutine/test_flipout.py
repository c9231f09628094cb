from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.poutine import runtime

from blob_pyro.guides import LowRankGaussianGuide
from blob_pyro.infer import ReweightedTrace_ELBO
from blob_pyro.models import Classifier
from blob_pyro.poutine import flipout
from blob_pyro.poutine.operations import GroupedWeight

Batch = dict[str, torch.Tensor]


@pytest.fixture
def flipped_rows(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of weights of each call of a layer: one if shared, one a row under flipout."""
    counts: list[int] = []
    plain = GroupedWeight.__call__

    def counted(self: GroupedWeight, x: torch.Tensor) -> torch.Tensor:
        counts.append(len(self.weight))
        return plain(self, x)

    monkeypatch.setattr(GroupedWeight, "__call__", counted)
    return counts


def in_context(model: Classifier, guide: Any, batch: Batch) -> None:
    with flipout():
        ReweightedTrace_ELBO(1).loss_and_grads(model, guide, **batch)


def as_decorator(model: Classifier, guide: Any, batch: Batch) -> None:
    ReweightedTrace_ELBO(1).loss_and_grads(flipout(model), guide, **batch)


def as_decorator_with_arguments(model: Classifier, guide: Any, batch: Batch) -> None:
    ReweightedTrace_ELBO(1).loss_and_grads(flipout(per="example")(model), guide, **batch)


def around_svi(model: Classifier, guide: Any, batch: Batch) -> None:
    svi = SVI(flipout(model), guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO())
    svi.step(**batch)


@pytest.mark.parametrize("use", [in_context, as_decorator, as_decorator_with_arguments, around_svi])
def test_flipout_lasts_as_long_as_its_scope(
    use: Callable[..., None], classifier: Any, token_batch: Any, flipped_rows: list[int]
) -> None:
    model, batch = classifier("llama"), token_batch()
    guide = LowRankGaussianGuide(model)
    model.example_axes()  # the trial gives all its texts one weight
    flipped_rows.clear()
    use(model, guide, batch)
    assert {*flipped_rows} == {4}
    assert runtime._PYRO_STACK == []
    ReweightedTrace_ELBO(1).loss(model, guide, **batch)
    assert flipped_rows[-1] == 1


def test_nothing_is_left_after_exit(classifier: Any, token_batch: Any) -> None:
    model = classifier("llama")
    messenger = flipout()
    with messenger:
        ReweightedTrace_ELBO(1).loss(model, LowRankGaussianGuide(model), **token_batch())
        assert set(messenger._centers) == set(model.sites)
    assert messenger._centers == {}


def test_an_error_inside_leaves_nothing_either() -> None:
    messenger = flipout()
    messenger._centers["A"] = torch.zeros(())
    with pytest.raises(KeyError), messenger:
        raise KeyError
    assert messenger._centers == {}
    assert runtime._PYRO_STACK == []


def test_per_token_reaches_the_layers(classifier: Any, token_batch: Any) -> None:
    model = classifier("llama")
    with flipout(per="token"):
        ReweightedTrace_ELBO(1).loss_and_grads(model, LowRankGaussianGuide(model), **token_batch())
    signs = [site.projection._applied.signs_in for site in model.sites.values()]
    assert [sign.shape for sign in signs] == [(4, 6, 16)] * 4


def test_each_example_is_the_network_with_its_own_weights(
    architecture: tuple[str, str], classifier: Any, token_batch: Any
) -> None:
    model, batch = classifier(*architecture), token_batch()
    guide = LowRankGaussianGuide(model, init_scale=0.49)
    with flipout():
        trace = pyro.poutine.trace(guide).get_trace()
        logits = pyro.poutine.replay(model, trace=trace)(**batch)
    weights = {name: site.projection._applied.weight for name, site in model.sites.items()}
    for row in range(4):
        own = {name: weight[row] for name, weight in weights.items()}
        alone = {name: tensor[row : row + 1] for name, tensor in batch.items()}
        torch.testing.assert_close(
            pyro.poutine.condition(model, own)(**alone)[0], logits[row], atol=1e-5, rtol=1e-4
        )


def test_an_autoguide_states_no_centre(classifier: Any, token_batch: Any) -> None:
    model = classifier("llama")
    guide = AutoNormal(model)
    guide(**token_batch())
    with flipout(), pytest.raises(ValueError, match=r"no centre is known for site .*q_proj"):
        Trace_ELBO().loss(model, guide, **token_batch())
    assert runtime._PYRO_STACK == []
