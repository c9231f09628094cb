from __future__ import annotations

from typing import Any

import pytest
import torch

from blob_pyro.infer import posterior_predictive

K = 5


@pytest.mark.parametrize("parallel", [True, 1, 2, 3, 5, 99])
@pytest.mark.parametrize("name", ["llama", "bert"])
def test_draws_together_give_the_logits_of_draws_one_by_one(
    name: str, parallel: bool | int, program: Any, token_batch: Any, predicted: Any
) -> None:
    model, guide = program(name)
    batches = [token_batch(4), token_batch(3)]
    one_by_one = predicted(model, guide, batches, parallel=False)
    together = predicted(model, guide, batches, parallel=parallel)
    assert one_by_one["logits"].shape == together["logits"].shape == (K, 7, 3)
    torch.testing.assert_close(together, one_by_one, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["llama", "bert"])
def test_draws_together_take_one_pass_of_the_network(
    name: str, program: Any, token_batch: Any, predicted: Any
) -> None:
    model, guide = program(name)
    rows = rows_seen(model)
    predicted(model, guide, [token_batch(4)], parallel=2)
    assert rows == [8, 8, 4]


def test_the_cpu_takes_no_more_tokens_at_once_than_pay(
    program: Any, token_batch: Any, predicted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, guide = program("bert")
    rows = rows_seen(model)
    batch = token_batch(4)
    monkeypatch.setattr(
        "blob_pyro.infer.posterior_functions._CPU_TOKENS", 3 * batch["input_ids"].numel()
    )
    predicted(model, guide, [batch], parallel=True)
    assert rows == [12, 8]
    rows.clear()
    predicted(model, guide, [batch], parallel=5)
    assert rows == [20]


@pytest.fixture
def predicted() -> Any:
    def predict(model: Any, guide: Any, batches: Any, **options: Any) -> dict[str, torch.Tensor]:
        return posterior_predictive(model, guide, batches, K, 3, progress=False, **options)

    return predict


def rows_seen(model: Any, most: int = 10**9, error: BaseException | None = None) -> list[int]:
    """Note the rows of each pass of the network; above ``most`` of them memory runs out."""
    model.example_axes()  # its trial is no pass of a draw
    rows: list[int] = []

    def note(_module: Any, _args: Any, options: dict[str, torch.Tensor]) -> None:
        rows.append(len(options["input_ids"]))
        if rows[-1] > most:
            if error is not None:
                raise error
            torch.empty(10**16)  # the allocator's own error, not one made up here

    model.network.register_forward_pre_hook(note, with_kwargs=True)
    return rows


@pytest.mark.parametrize("error", [None, torch.OutOfMemoryError("CUDA out of memory.")])
def test_where_memory_runs_out_fewer_draws_go_together(
    error: Any, program: Any, token_batch: Any, predicted: Any
) -> None:
    model, guide = program("bert")
    batches = [token_batch(4), token_batch(4)]
    wanted = predicted(model, guide, batches, parallel=False)["logits"]
    rows = rows_seen(model, most=8, error=error)
    with pytest.warns(UserWarning, match=r"memory ran out with 4 draws.*going on with 2. Pass par"):
        found = predicted(model, guide, batches, parallel=4)["logits"]
    # Tried once with 4 and never again, in the second batch neither.
    assert rows == [16, 8, 8, 4, 8, 8, 4]
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:memory ran out")
def test_what_is_too_large_for_one_draw_stays_an_error(
    program: Any, token_batch: Any, predicted: Any
) -> None:
    model, guide = program("bert")
    rows_seen(model, most=2)
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        predicted(model, guide, [token_batch(4)], parallel=True)


def test_another_error_is_not_taken_for_memory(
    program: Any, token_batch: Any, predicted: Any
) -> None:
    model, guide = program("bert")
    rows_seen(model, most=2, error=RuntimeError("size mismatch"))
    with pytest.raises(RuntimeError, match="size mismatch"):
        predicted(model, guide, [token_batch(4)], parallel=True)
