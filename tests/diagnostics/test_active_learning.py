from itertools import combinations, product

import numpy as np
import pytest

from blob_pyro.diagnostics import bald, batch_bald, mutual_information, variation_ratio


def draws(
    seed: int = 0, num_draws: int = 5, num_examples: int = 6, num_classes: int = 3
) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return 2.0 * rng.normal(size=(num_draws, num_examples, num_classes))


def brute_force(logits: np.ndarray, batch: tuple[int, ...]) -> float:
    """The information of a batch, as the mean over draws of KL(p_k(y), p(y)) over labellings."""
    probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    total = 0.0
    for labels in product(range(logits.shape[2]), repeat=len(batch)):
        under_each = np.array(
            [np.prod([draw[n, y] for n, y in zip(batch, labels, strict=True)]) for draw in probs]
        )
        total += np.mean(under_each * np.log(under_each / under_each.mean()))
    return float(total)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_information_of_each_step_against_brute_force(seed: int) -> None:
    logits = draws(seed)
    indices, information = batch_bald(logits, 4)
    assert len(set(indices.tolist())) == 4
    for size in range(1, 5):
        exact = brute_force(logits, tuple(indices[:size]))
        np.testing.assert_allclose(information[size - 1], exact, rtol=1e-9)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_each_step_takes_the_best_next_example(seed: int) -> None:
    logits = draws(seed)
    indices = batch_bald(logits, 3).indices.tolist()
    for size in range(3):
        rest = [n for n in range(6) if n not in indices[:size]]
        gains = {n: brute_force(logits, (*indices[:size], n)) for n in rest}
        assert max(gains, key=gains.__getitem__) == indices[size]


@pytest.mark.parametrize("seed", range(5))
def test_greedy_has_most_of_the_best_batch(seed: int) -> None:
    logits = draws(seed)
    best = max(brute_force(logits, batch) for batch in combinations(range(6), 3))
    assert (1 - 1 / np.e) * best < batch_bald(logits, 3).information[-1] <= best + 1e-9


def test_a_batch_of_one_is_bald() -> None:
    logits = draws()
    index, information = batch_bald(logits, 1)
    assert index[0] == bald(logits).argmax()
    np.testing.assert_allclose(information, bald(logits).max())


def test_a_question_is_not_asked_twice_where_bald_would() -> None:
    logits = draws(num_examples=4, num_draws=8)
    logits[:, 1] = logits[:, 0]
    logits[:, :2] *= 5  # the draws disagree most about the two that are the same
    assert set(bald(logits).argsort()[-2:]) == {0, 1}
    assert set(batch_bald(logits, 2).indices.tolist()) != {0, 1}


def test_classes_that_are_ruled_out_do_no_harm() -> None:
    logits = draws()
    logits[:, :, 2] = -np.inf
    np.testing.assert_allclose(batch_bald(logits, 2), batch_bald(logits[:, :, :2], 2))


def test_one_draw_tells_nothing() -> None:
    np.testing.assert_allclose(batch_bald(draws(num_draws=1), 3).information, 0.0, atol=1e-12)


def test_too_many_labellings_are_refused() -> None:
    logits = draws(num_examples=9, num_classes=10)
    assert len(batch_bald(logits[:, :, :3], 9).indices) == 9
    with pytest.raises(ValueError, match=r"more than 1000000 joint labellings; choose fewer"):
        batch_bald(logits, 7)


def test_bald_is_mutual_information() -> None:
    assert bald is mutual_information


def test_variation_ratio_is_the_chance_of_error_if_the_model_is_right() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(5, 7, 3))
    probs = (np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)).mean(0)
    np.testing.assert_allclose(variation_ratio(logits), 1 - probs.max(-1), rtol=1e-12)
