from math import exp, log

import numpy as np
import pytest

from blob_pyro.diagnostics.predictive import as_numpy, check_labels, check_logits, log_probs


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64", "int64"])
def test_tensors_of_any_dtype_keep_their_values(dtype: str) -> None:
    torch = pytest.importorskip("torch")
    array = as_numpy(torch.tensor([[1, -2]], dtype=getattr(torch, dtype)))
    assert array.dtype == (np.float32 if dtype == "bfloat16" else np.dtype(dtype))
    np.testing.assert_array_equal(array, [[1, -2]])


def test_tensor_with_gradient_is_detached() -> None:
    torch = pytest.importorskip("torch")
    np.testing.assert_array_equal(as_numpy(torch.ones(3, requires_grad=True)), np.ones(3))


def test_tensor_of_an_accelerator_is_copied_to_the_host() -> None:
    class Elsewhere:
        """A tensor that, as on an accelerator, NumPy cannot read before ``cpu``."""

        dtype = "torch.float32"
        on_host = False

        def detach(self) -> "Elsewhere":
            return self

        def cpu(self) -> "Elsewhere":
            self.on_host = True
            return self

        def numpy(self) -> np.ndarray:
            assert self.on_host
            return np.arange(2.0)

    np.testing.assert_array_equal(as_numpy(Elsewhere()), [0.0, 1.0])  # type: ignore[arg-type]


def test_logits_become_float64_and_may_mask_classes() -> None:
    logits = np.array([[[0.0, -np.inf, 1.0]]], dtype=np.float16)
    checked = check_logits(logits)
    assert checked.dtype == np.float64
    np.testing.assert_array_equal(checked, logits)


@pytest.mark.parametrize(
    ("logits", "message"),
    [
        (np.zeros((5, 3)), r"shape \(5, 3\); wanted K draws x .*`logits\[None\]`"),
        (np.zeros((0, 5, 3)), r"shape \(0, 5, 3\); wanted"),
        (np.zeros((2, 0, 3)), r"shape \(2, 0, 3\); wanted"),
        (np.zeros((2, 5, 1)), r"at least 1 x 1 x 2.*a single logit x as \(0, x\)"),
        ([[[0.0, 1.0], [np.nan, 1.0]]], r"draw 0, example 1 are \[nan, 1.0\] \(1 such rows\)"),
        ([[[0.0, np.inf]]], r"draw 0, example 0 are \[0.0, inf\]"),
        ([[[-np.inf, -np.inf]]], r"\[-inf, -inf\].*finite value for some class"),
    ],
)
def test_bad_logits_are_refused(logits: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_logits(logits)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1], r"labels have shape \(2,\) and .*wanted \(3,\).*same order"),
        ([[0], [1], [2]], r"labels have shape \(3, 1\) and .*wanted \(3,\)"),
        ([0.0, 1.0, 1.0], r"dtype float64; wanted \(3,\) integers"),
        ([0, -100, -100], r"labels\[1\] is -100 \(2 such labels\); wanted 0 to 3.*-100"),
        ([0, 1, 4], r"labels\[2\] is 4 \(1 such labels\); wanted 0 to 3"),
    ],
)
def test_bad_labels_are_refused(labels: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_labels(labels, num_examples=3, num_classes=4)  # type: ignore[arg-type]


def test_equals_the_mean_of_softmaxes_computed_by_hand() -> None:
    logits = np.random.default_rng(0).normal(scale=3.0, size=(4, 5, 3))
    for n in range(5):
        for c in range(3):
            probs = [exp(row[c]) / sum(map(exp, row)) for row in logits[:, n].tolist()]
            np.testing.assert_allclose(log_probs(logits)[n, c], log(sum(probs) / 4), rtol=1e-12)


def test_probabilities_are_averaged_and_not_logits() -> None:
    logits = [[[0.0, 0.0]], [[0.0, log(9.0)]]]  # 1/2 and 9/10; averaged logits give 3/4
    np.testing.assert_allclose(np.exp(log_probs(logits))[0, 1], 0.7, rtol=1e-12)


def test_large_logits_neither_overflow_nor_lose_the_tail() -> None:
    logits = np.array([[[0.0, 2000.0]], [[0.0, 2000.0]]], dtype=np.float32)
    np.testing.assert_array_equal(log_probs(logits), [[-2000.0, 0.0]])


def test_never_above_zero() -> None:
    logits = np.zeros((25, 1, 2))
    logits[..., 1] = 60.0  # without a guard, 25 sure draws round to 9e-16
    assert log_probs(logits).max() == 0.0


def test_masked_classes_have_probability_zero() -> None:
    logits = np.array([[[0.0, -np.inf, 0.0]], [[1.0, -np.inf, 1.0]]])
    np.testing.assert_allclose(np.exp(log_probs(logits)), [[0.5, 0.0, 0.5]], rtol=1e-12)
