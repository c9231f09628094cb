from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.poutine.util import prune_subsample_sites
from torch.distributions import kl_divergence

from blob_pyro.infer import ReweightedTrace_ELBO
from blob_pyro.poutine import kl_terms

DATA = torch.tensor([0.3, -0.7, 1.2])
MASK = torch.tensor([True, False, True])
FACTORS = torch.tensor([0.5, 2.0, 1.0])


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def leaf(value: Any) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64, requires_grad=True)


def observe(loc: torch.Tensor) -> None:
    with pyro.plate("data", 3):
        pyro.sample("x", dist.Normal(loc, 1.0), obs=DATA.double())


def local(
    on_model: Callable[[], Any] = nullcontext,
    on_guide: Callable[[], Any] = nullcontext,
    point: bool = False,
) -> Any:
    """A Normal latent for each datum, the site under a handler on either side."""
    loc, log_scale = leaf([0.4, -0.2, 0.1]), leaf(-0.5)

    def model() -> None:
        with pyro.plate("data", 3):
            with on_model():
                z = pyro.sample("z", dist.Normal(0.5, 1.5))
            pyro.sample("x", dist.Normal(z, 1.0), obs=DATA.double())

    def guide() -> None:
        fn = dist.Delta(loc) if point else dist.Normal(loc, log_scale.exp())
        with pyro.plate("data", 3), on_guide():
            pyro.sample("z", fn)

    return model, guide, [loc] if point else [loc, log_scale]


def positive(prior: type[Any]) -> Any:
    """A positive latent under AutoNormal, whose Delta carries the Jacobian of exp."""

    def model() -> None:
        observe(pyro.sample("z", prior(*[0.0] * (prior is dist.LogNormal), 1.3)))

    guide = AutoNormal(model, init_scale=0.5)
    guide()
    return model, guide, list(guide.parameters())


def density() -> Any:
    """A Delta with a density, inside an Independent."""
    loc = leaf([0.2, -0.4])

    def model() -> None:
        prior = dist.LogNormal(0.0, 1.0).expand([2]).to_event(1)
        observe(pyro.sample("z", prior).sum(-1))

    def guide() -> None:
        normal = dist.Normal(loc, 0.5).to_event(1)
        u = pyro.sample("u", normal, infer={"is_auxiliary": True})
        pyro.sample("z", dist.Delta(u.exp(), log_density=-u).to_event(1))

    return model, guide, [loc]


def scale_above_weight(weight_first: bool) -> Any:
    """A scale with its own prior above a weight; in one guide the scale depends on the weight."""
    loc, log_scale, slope = leaf(0.3), leaf(-0.7), leaf(0.5)

    def model() -> None:
        s = pyro.sample("s", dist.LogNormal(-0.2, 0.5))
        observe(pyro.sample("w", dist.Normal(0.0, s)))

    def guide() -> None:
        normal = dist.Normal(loc, log_scale.exp())
        if weight_first:
            w = pyro.sample("w", normal)
            pyro.sample("s", dist.LogNormal(slope * w, 0.4))
        else:
            pyro.sample("s", dist.LogNormal(slope, 0.4))
            pyro.sample("w", normal)

    return model, guide, [loc, log_scale, slope]


def handler(name: str, value: Any) -> Callable[[], Any]:
    # A copy, so that equal tensors on both sides are not one object.
    own = value.clone() if isinstance(value, torch.Tensor) else value
    return lambda: getattr(poutine, name)(**{name: own})


def both(name: str, value: Any) -> Any:
    return local(handler(name, value), handler(name, value))


# What stands before each datum's closed form.
ANALYTIC: dict[str, tuple[Callable[[], Any], Any]] = {
    "normal": (local, 1.0),
    "scaled": (lambda: both("scale", 0.3), 0.3),
    "scaled-by-tensors": (lambda: both("scale", FACTORS), FACTORS),
    "masked": (lambda: both("mask", MASK), MASK),
}
SAMPLED: dict[str, Callable[[], Any]] = {
    "scaled-model": lambda: local(on_model=handler("scale", 0.3)),
    "scaled-guide": lambda: local(on_guide=handler("scale", 0.3)),
    "other-scale": lambda: local(handler("scale", FACTORS), handler("scale", FACTORS.flip(0))),
    "masked-model": lambda: local(on_model=handler("mask", MASK)),
    "other-mask": lambda: local(handler("mask", MASK), handler("mask", ~MASK)),
    "half-normal": lambda: positive(dist.HalfNormal),
    "log-normal": lambda: positive(dist.LogNormal),
    "density": density,
}
PROGRAMS: dict[str, Callable[[], Any]] = {
    **{name: make for name, (make, _) in ANALYTIC.items()},
    **SAMPLED,
    "point": lambda: local(point=True),
    "scale-then-weight": lambda: scale_above_weight(False),
    "weight-then-scale": lambda: scale_above_weight(True),
}


def traces(model: Any, guide: Any) -> Any:
    guide_trace = poutine.trace(guide).get_trace()
    model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace()
    return prune_subsample_sites(model_trace), prune_subsample_sites(guide_trace)


@pytest.mark.parametrize("name", ANALYTIC)
def test_the_kl_of_normals_is_closed_and_has_no_noise(name: str) -> None:
    make, factor = ANALYTIC[name]
    model, guide, (loc, log_scale) = make()
    terms = kl_divergence(dist.Normal(loc, log_scale.exp()), dist.Normal(0.5, 1.5))
    first, second = (sum(kl_terms(*traces(model, guide))) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.isclose(first, (factor * terms).sum(), rtol=1e-12)


@pytest.mark.parametrize("name", [*SAMPLED, "point", "weight-then-scale"])
def test_elsewhere_the_densities_of_the_draw_serve(name: str) -> None:
    model, guide, _ = PROGRAMS[name]()
    model_trace, guide_trace = traces(model, guide)
    got = sum(kl_terms(model_trace, guide_trace))
    if name == "weight-then-scale":  # the weight is sampled, the scale above it still closed
        q, p = guide_trace.nodes, model_trace.nodes
        w = q["w"]["value"]
        wanted = q["w"]["fn"].log_prob(w) - p["w"]["fn"].log_prob(w)
        wanted = wanted + kl_divergence(q["s"]["fn"], p["s"]["fn"])
    else:
        prior_density = model_trace.log_prob_sum(lambda site, _: site != "x")
        wanted = guide_trace.log_prob_sum() - prior_density
    assert torch.isclose(got, wanted, rtol=1e-12)
    if name != "point":
        assert got != sum(kl_terms(*traces(model, guide)))


def test_below_a_drawn_scale_the_weight_has_its_closed_form() -> None:
    model, guide, _ = scale_above_weight(False)
    model_trace, guide_trace = traces(model, guide)
    q, p = guide_trace.nodes, model_trace.nodes
    wanted = sum(kl_divergence(q[name]["fn"], p[name]["fn"]) for name in ("s", "w"))
    assert torch.isclose(sum(kl_terms(model_trace, guide_trace)), wanted, rtol=1e-12)


def losses_and_gradients(elbo: Any, program: Any) -> torch.Tensor:
    model, guide, params = program
    rows = []
    for _ in range(40):
        loss = elbo.differentiable_loss(model, guide)
        gradients = torch.autograd.grad(loss, params)
        rows.append(torch.cat([loss.detach()[None], *[grad.flatten() for grad in gradients]]))
    return torch.stack(rows)


@pytest.mark.parametrize(
    ("name", "oracle"),
    [(name, Trace_ELBO) for name in PROGRAMS]
    # Elsewhere it takes closed forms that do not hold.
    + [(name, TraceMeanField_ELBO) for name in (*ANALYTIC, "point", "scale-then-weight")],
)
def test_loss_and_gradient_have_the_expectation_of_pyros(
    name: str, oracle: Any, z_scores: Any
) -> None:
    options: Any = {"num_particles": 100, "vectorize_particles": True, "max_plate_nesting": 1}
    program = PROGRAMS[name]()
    ours = losses_and_gradients(ReweightedTrace_ELBO(1, "uniform", **options), program)
    pyros = losses_and_gradients(oracle(**options), program)
    # Means of 40 batches of 100 draws each.  Student's t with 39 degrees of freedom or more is
    # beyond 5 with probability 1.3e-5, and there are at most 5 components and 21 cases: a seed
    # (conftest's is 0) fails with probability below 0.2 %.
    assert z_scores(ours, pyros).max() < 5


@pytest.mark.parametrize(
    ("fn", "prior"),
    [
        (dist.Bernoulli(0.3), dist.Bernoulli(0.5)),
        (dist.Normal(0.0, 1.0).has_rsample_(False), dist.Normal(0.0, 2.0)),
        (dist.Poisson(3.0), dist.Geometric(0.5)),
    ],
)
def test_a_guide_without_reparametrization_is_refused(fn: Any, prior: Any) -> None:
    # Even where the KL is in closed form: the likelihood would give no gradient.
    with pytest.raises(ValueError, match=rf"guide site 'z' is a {type(fn).__name__}, whose draw"):
        kl_terms(*traces(lambda: observe(pyro.sample("z", prior)), lambda: pyro.sample("z", fn)))
