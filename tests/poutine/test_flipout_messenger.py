from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from blob_pyro.poutine import AppliedWeight, FlipoutMessenger, apply_weight

RANK, IN_FEATURES = 2, 3
MEAN = torch.tensor([[0.5, -1.0, 2.0], [0.0, 1.5, -0.5]])
SCALE = torch.tensor([[0.3, 0.6, 0.9], [1.2, 0.2, 0.5]])


def flipped(
    per: Any,
    shape: tuple[int, ...],
    mean: torch.Tensor = MEAN,
    scale: torch.Tensor = SCALE,
    num_draws: int | None = None,
) -> tuple[AppliedWeight, torch.Tensor]:
    """Run guide and model as an ELBO does; give the applied weight and the draw behind it."""

    def guide() -> torch.Tensor:
        posterior = dist.Normal(mean, scale).to_event(2)
        return pyro.sample("A", posterior, infer={"center": posterior.mean})

    def model() -> tuple[AppliedWeight, torch.Tensor]:
        prior = dist.Normal(torch.zeros_like(mean), 1.0).to_event(2)
        weight = pyro.sample("A", prior)
        return apply_weight(weight, torch.Size(shape), name="A"), weight

    def in_plate(program: Any) -> Any:
        return program if num_draws is None else pyro.plate("draws", num_draws, dim=-2)(program)

    trace = poutine.trace(in_plate(guide)).get_trace()
    with FlipoutMessenger(per):
        return poutine.replay(in_plate(model), trace=trace)()


def weights_of_examples(project: AppliedWeight, rows: int) -> torch.Tensor:
    """Read off each example's weight, ``rows x r x n``, by projecting the unit vectors."""
    return project(torch.eye(IN_FEATURES).expand(rows, -1, -1)).mT


def test_tokens_of_an_example_share_their_signs_and_examples_do_not() -> None:
    project, _ = flipped("example", (8, 5))
    y = project(torch.randn(IN_FEATURES).expand(8, 5, -1))
    torch.testing.assert_close(y, y[:, :1].expand_as(y))
    # 8 examples with 2^4 sign patterns each agree with probability 2^-28.
    assert (y[:, 0] - y[0, 0]).abs().max() > 0.1


@pytest.mark.parametrize("num_draws", [None, 3])
def test_an_example_sees_the_mean_plus_the_deviation_under_signs(num_draws: int | None) -> None:
    project, draw = flipped("example", (12, 5), num_draws=num_draws)
    deviation = weights_of_examples(project, 12) - MEAN
    drawn = (draw.reshape(-1, RANK, IN_FEATURES) - MEAN).repeat_interleave(
        12 // (num_draws or 1), 0
    )
    torch.testing.assert_close(deviation.abs(), drawn.abs())
    # t s^T has rank one: every 2 x 2 minor of a sign matrix has an even number of minus signs.
    signs = (deviation * drawn).sign()
    assert torch.equal(signs * signs[:, :1, :1], signs[:, :, :1] * signs[:, :1, :])


@pytest.mark.parametrize("num_draws", [None, 2])
def test_per_token_is_the_formula(num_draws: int | None) -> None:
    project, draw = flipped("token", (4, 5), num_draws=num_draws)
    s, t = project.signs_in, project.signs_out
    assert (s.shape, t.shape) == ((4, 5, IN_FEATURES), (4, 5, RANK))
    assert set(torch.cat([s.flatten(), t.flatten()]).tolist()) == {-1.0, 1.0}
    x = torch.randn(4, 5, IN_FEATURES)
    deviation = (draw.reshape(-1, RANK, IN_FEATURES) - MEAN).repeat_interleave(
        4 // (num_draws or 1), 0
    )
    for b in range(4):
        for token in range(5):
            noise = deviation[b] @ (x[b, token] * s[b, token]) * t[b, token]
            expected = MEAN @ x[b, token] + noise
            torch.testing.assert_close(project(x)[b, token], expected)


@pytest.mark.parametrize("per", ["example", "token"])
def test_expected_output_is_the_mean_path(per: Any, z_score: Any) -> None:
    # One draw, 40,000 pairs of signs; 4 means within 4 standard errors: fails 1 seed in 4000.
    project, _ = flipped(per, (40_000, 2))
    x = torch.randn(2, IN_FEATURES)
    y = project(x.expand(40_000, -1, -1))
    assert z_score(y, x @ MEAN.T) < 4


def test_one_example_is_a_draw_from_the_guide(z_score: Any) -> None:
    # 2000 draws, one pair of signs each: a normal's first, second and fourth moments in 6 entries
    # and the product of the two entries of each column; 21 means within 4 standard errors fail
    # 1 seed in 750.
    weights = torch.cat(
        [weights_of_examples(flipped("example", (1, 1))[0], 1) for _ in range(2000)]
    )
    deviation = (weights - MEAN) / SCALE
    for power, moment in ((1, 0.0), (2, 1.0), (4, 3.0)):
        assert z_score(deviation**power, moment) < 4
    assert z_score(deviation[:, 0] * deviation[:, 1], 0.0) < 4


def gradients(per: Any, x: torch.Tensor, num_draws: int) -> torch.Tensor:
    """Sample the gradient of ``sum_bp (sum_t y_btp)^2`` with respect to mean and scale."""
    sample = []
    for _ in range(num_draws):
        mean, scale = MEAN.clone().requires_grad_(), SCALE.clone().requires_grad_()
        project, _ = flipped(per, tuple(x.shape[:2]), mean, scale)
        loss = project(x).sum(dim=1).square().sum()
        sample.append(torch.stack(torch.autograd.grad(loss, (mean, scale))))
    return torch.stack(sample)


@pytest.mark.parametrize("per", ["example", "token"])
def test_expected_gradient_is_that_of_the_shared_draw_per_example_only(
    per: Any, z_score: Any
) -> None:
    # With X = sum_t x_t, a shared draw has E[(X . A_p)^2] = (X . M_p)^2 + sum_j X_j^2 Omega_pj^2;
    # with signs per token sum_t x_tj^2 stands for X_j^2.
    x = torch.randn(4, 1, IN_FEATURES) + 0.3 * torch.randn(4, 3, IN_FEATURES)
    total = x.sum(dim=1)
    of_mean = 2 * (total @ MEAN.T).T @ total
    shared, biased = (
        torch.stack([of_mean, 2 * SCALE * squares.sum(dim=0)])
        for squares in (total.square(), x.square().sum(dim=1))
    )
    sample = gradients(per, x, 2000)
    # 12 means within 4 standard errors: fails 1 seed in 1300.
    assert z_score(sample, shared if per == "example" else biased) < 4
    assert z_score(sample, biased if per == "example" else shared) > 8


def test_flipout_lowers_the_variance_of_the_gradient() -> None:
    # 64 equal examples: the shared draw's noise stays, flipout's falls by up to 64.  A variance
    # from 300 gradients has a standard error of some 20 %, so half is out of reach by chance.
    x = torch.ones(64, 1, IN_FEATURES)

    def variance(rows: int) -> float:
        return float((gradients("example", x[:rows], 300) / rows).var(dim=0).mean())

    assert variance(64) < variance(1) / 2


def test_unknown_per_is_refused() -> None:
    with pytest.raises(ValueError, match=r"flipout: per='word' is unknown; use 'example' or 'tok"):
        FlipoutMessenger("word")  # type: ignore[arg-type]


@pytest.mark.parametrize("infer", [None, {"other": 1}])
def test_a_guide_without_a_centre_is_refused(infer: Any) -> None:
    weight = pyro.sample("A", dist.Normal(MEAN, SCALE).to_event(2), infer=infer)
    with (
        FlipoutMessenger(),
        pytest.raises(ValueError, match=r"no centre is known for site 'A'.*Leave flipout out when"),
    ):
        apply_weight(weight, torch.Size([1, 1]), name="A")


def test_per_token_gives_a_head_the_signs_of_the_last_tokens() -> None:
    project, _ = flipped("token", (4, 5))
    x = torch.randn(4, 5, IN_FEATURES)
    torch.testing.assert_close(project(x)[:, -2:], project(x[:, -2:]))


@pytest.mark.parametrize("shape", [(4, 6), (3, 5), (4,), (20,)])
def test_per_token_refuses_another_shape(shape: tuple[int, ...]) -> None:
    project, _ = flipped("token", (4, 5))
    with pytest.raises(ValueError, match=r"signs for a batch of \(4, 5\) tokens but a LoRA layer"):
        project(torch.randn(*shape, IN_FEATURES))
