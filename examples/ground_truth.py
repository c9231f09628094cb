"""Guides beside the true posterior of a linear layer's ``A``, ``B`` fixed.

With Gaussian noise the posterior of ``A`` is a Gaussian in closed form.  With a categorical
likelihood it is what NUTS finds, run on the very same Pyro model.  Inputs are correlated, so that
the entries of ``A`` are; the data are a draw from the model itself.

Prints a table for each problem, and draws the means and standard deviations of all posteriors into
``--output``.  ``--smoke-test`` takes two steps and a few draws.
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from peft import LoraConfig, get_peft_model
from pyro.infer import MCMC, NUTS, Predictive
from pyro.ops.stats import effective_sample_size, split_gelman_rubin
from torch import nn

from blob_pyro.diagnostics import plot_style
from blob_pyro.diagnostics.plots.style import series
from blob_pyro.distributions import MatrixNormal, MatrixShaped
from blob_pyro.guides import (
    FullCovarianceGuide,
    LoraGuide,
    LowRankGaussianGuide,
    LowRankPlusDiagonalGuide,
    MatrixNormalGuide,
)
from blob_pyro.infer import ReweightedTrace_ELBO
from blob_pyro.models import BayesianLora

GUIDES: dict[str, type[LoraGuide]] = {
    "mean field": LowRankGaussianGuide,
    "matrix normal": MatrixNormalGuide,
    "low rank plus diagonal": LowRankPlusDiagonalGuide,
    "full covariance": FullCovarianceGuide,
}
NUM_DATA, NUM_NEW = 40, 200
PRIOR_SCALE = 1.0


class LinearModel(BayesianLora):
    """A linear layer under LoRA; a subclass adds the likelihood.

    Parameters
    ----------
    rank, in_features, out_features
        Sizes r, n and m of the layer.
    up_scale
        Standard deviation of the entries of ``B``, which is drawn and then fixed.
    """

    def __init__(self, rank: int, in_features: int, out_features: int, up_scale: float) -> None:
        linear = nn.Sequential(nn.Linear(in_features, out_features, bias=False))
        net = get_peft_model(linear, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=["0"]))
        super().__init__(net.double(), NUM_DATA, PRIOR_SCALE)
        ((self.site_name, site),) = self.sites.items()
        # PEFT starts B at zero, where A would have no effect.
        nn.init.normal_(site.lora_B, std=up_scale).requires_grad_(False)

    def outputs(self, x: torch.Tensor) -> torch.Tensor:
        """Draw ``A`` and run the network: ``B x m``, or ``K x B x m`` under a plate of K draws."""
        num_draws = self.draw(x.shape)
        outputs = self.network(x.repeat(num_draws, 1))
        return outputs if num_draws == 1 else outputs.unflatten(0, (num_draws, -1))


class Regression(LinearModel):
    """Gaussian noise of standard deviation 1."""

    def forward(self, x: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
        """Run the program on inputs ``B x n`` and outputs ``B x m``, or draw those."""
        mean = self.outputs(x)
        with pyro.plate("data", len(x)):
            return pyro.sample("y", dist.Normal(mean, 1.0).to_event(1), obs=y)


class Classification(LinearModel):
    """A softmax over the outputs."""

    def forward(self, x: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
        """Run the program on inputs ``B x n`` and classes ``B``, or draw those."""
        outputs = self.outputs(x)
        with pyro.plate("data", len(x)):
            logits = pyro.deterministic("logits", outputs, event_dim=1)
            return pyro.sample("y", dist.Categorical(logits=logits), obs=y)


@dataclass(frozen=True)
class Problem:
    """A model and data that it generated: ``x`` and ``y`` to learn from, ``x_new`` to predict."""

    model: LinearModel
    x: torch.Tensor
    y: torch.Tensor
    x_new: torch.Tensor


def make_problem(model: LinearModel) -> Problem:
    """Draw correlated inputs, and outputs from the model."""
    in_features = model.sites[model.site_name].projection.in_features
    index = torch.arange(in_features)
    covariance = 0.7 ** (index[:, None] - index).abs().double()
    inputs = dist.MultivariateNormal(torch.zeros(in_features).double(), covariance)
    x, x_new = inputs.sample((NUM_DATA,)), inputs.sample((NUM_NEW,))
    with torch.no_grad():
        return Problem(model, x, model(x), x_new)


def exact_posterior(problem: Problem) -> tuple[torch.Tensor, torch.Tensor]:
    r"""Give mean and precision of the posterior of ``vec(A)`` under Gaussian noise of variance 1.

    The precision is :math:`I / \sigma_p^2 + s^2 B^\top B \otimes X^\top X`.
    """
    site = problem.model.sites[problem.model.site_name]
    left, x = site.scaling * site.lora_B, problem.x
    residual = problem.y - site.layer.base_layer(x).detach()
    precision = torch.kron(left.T @ left, x.T @ x)
    precision += torch.eye(len(precision)) / PRIOR_SCALE**2
    return torch.linalg.solve(precision, (left.T @ residual.T @ x).flatten()), precision


def fit(
    problem: Problem, guide: LoraGuide, num_steps: int = 1000, num_particles: int = 512
) -> LoraGuide:
    """Maximise the ELBO by Adam; the learning rate falls, so that the noise averages out."""
    elbo = ReweightedTrace_ELBO(1, num_particles=num_particles, vectorize_particles=True)
    loss = elbo(problem.model, guide)
    optimizer = torch.optim.Adam(guide.parameters(), lr=0.05, betas=(0.9, 0.99))
    decay = torch.optim.lr_scheduler.ExponentialLR(optimizer, 3e-4 ** (1 / num_steps))
    for _ in range(num_steps):
        optimizer.zero_grad()
        loss(problem.x, problem.y).backward()
        optimizer.step()
        decay.step()
    return guide


def fit_all(
    problem: Problem, seed: int, num_steps: int, num_particles: int
) -> dict[str, LoraGuide]:
    """Fit every guide to a problem, each from the same seed."""
    guides = {}
    for name, guide_class in GUIDES.items():
        pyro.set_rng_seed(seed)
        guide = guide_class(problem.model, init_scale=0.25)
        guides[name] = fit(problem, guide, num_steps, num_particles)
    return guides


def covariance(guide: LoraGuide) -> torch.Tensor:
    """Give the dense covariance of ``vec(A)`` under a guide."""
    (name,) = guide.sites
    with torch.no_grad():
        posterior = guide.site_posterior(name)
        if isinstance(posterior, MatrixNormal):
            rows, columns = posterior.row_tril, posterior.col_tril
            return torch.kron(rows @ rows.T, columns @ columns.T)
        if isinstance(posterior, MatrixShaped):
            return posterior.base_dist.covariance_matrix
        return posterior.variance.flatten().diag()


def run_nuts(problem: Problem, num_samples: int = 1000, warmup_steps: int = 300) -> torch.Tensor:
    """Sample the posterior by two chains of NUTS, one after another: ``chains x draws x r x n``."""
    chains = []
    for _ in range(2):
        kernel = NUTS(problem.model, full_mass=True)
        mcmc = MCMC(kernel, num_samples, warmup_steps, disable_progbar=True)
        mcmc.run(problem.x, problem.y)
        chains.append(mcmc.get_samples()[problem.model.site_name])
    return torch.stack(chains)


def probabilities(problem: Problem, draws: torch.Tensor) -> torch.Tensor:
    """Average the class probabilities of the new inputs over draws of ``A``."""
    samples = {problem.model.site_name: draws}
    predictive = Predictive(problem.model, samples, return_sites=("logits",), parallel=True)
    return predictive(problem.x_new)["logits"].softmax(-1).mean(0)


def guide_draws(guide: LoraGuide, num_samples: int) -> torch.Tensor:
    """Draw ``A`` from a guide, ``draws x r x n``."""
    (name,) = guide.sites
    with torch.no_grad(), pyro.plate("draws", num_samples, dim=-2):
        return guide()[name].squeeze(1)


def total_variation(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Give the total variation distance of two tables of probabilities, row by row."""
    return 0.5 * (left - right).abs().sum(-1)


def print_table(header: list[str], rows: list[list[str]]) -> None:
    print(f"\n| {' | '.join(header)} |\n|{'---|' * len(header)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    print()


def compare_with_exact(problem: Problem, guides: Mapping[str, LoraGuide], path: Path) -> None:
    """Print each guide's distance from the best Gaussian of its family, and plot all of them."""
    mean, precision = exact_posterior(problem)
    full, factorised = torch.linalg.inv(precision), torch.diag(1 / precision.diagonal())
    scale = full.diagonal().sqrt()
    # With one row, a matrix normal has every covariance; the best of low rank is not known.
    best = {"mean field": factorised, "matrix normal": full, "full covariance": full}
    moments, rows = {"exact": (mean, scale)}, []
    for name, guide in guides.items():
        (found,), found_covariance = guide.mean().values(), covariance(guide)
        moments[name] = found.flatten(), found_covariance.diagonal().sqrt()
        ratio = moments[name][1] / scale
        rows.append(
            [
                name,
                f"{((moments[name][0] - mean).abs() / scale).max():.4f}",
                f"{_relative(found_covariance, full):.4f}",
                f"{_relative(found_covariance, best[name]):.4f}" if name in best else "",
                f"{ratio.min():.2f} to {ratio.max():.2f}",
            ]
        )
    header = ["guide", "error of mean (posterior sds, largest)", "error of covariance"]
    print_table([*header, "from its family's best", "sd / exact sd"], rows)
    plot(moments, path)


def _relative(found: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    return (found - expected).norm() / expected.norm()


def compare_with_nuts(
    problem: Problem, guides: Mapping[str, LoraGuide], chains: torch.Tensor, path: Path
) -> None:
    """Print how means, standard deviations and predictions differ from those of NUTS."""
    r_hat = split_gelman_rubin(chains, 0, 1).max()
    num_effective = effective_sample_size(chains, 0, 1).min()
    draws = chains.flatten(0, 1)
    mean, scale = draws.mean(0), draws.std(0)
    truth = probabilities(problem, draws)
    between = total_variation(*(probabilities(problem, chain) for chain in chains))
    print(
        f"NUTS: R-hat at most {r_hat:.4f}, effective sample size at least {num_effective:.0f}; "
        f"total variation between its chains {between.mean():.4f}, largest {between.max():.4f}"
    )
    moments, rows = {"NUTS": (mean.flatten(), scale.flatten())}, []
    for name, guide in guides.items():
        (found_mean,), (found_scale,) = guide.mean().values(), guide.scale().values()
        moments[name] = found_mean.flatten(), found_scale.flatten()
        ratio = found_scale / scale
        found = probabilities(problem, guide_draws(guide, len(draws)))
        distance = total_variation(found, truth)
        rows.append(
            [
                name,
                f"{((found_mean - mean).abs() / scale).max():.3f}",
                f"{ratio.min():.2f} to {ratio.max():.2f}",
                f"{distance.mean():.4f}",
                f"{distance.max():.4f}",
            ]
        )
    header = ["posterior", "error of mean (posterior sds, largest)", "sd / NUTS's sd"]
    print_table([*header, "total variation, mean", "largest"], rows)
    plot(moments, path)


def plot(moments: Mapping[str, tuple[torch.Tensor, torch.Tensor]], path: Path) -> None:
    """Draw mean and standard deviation of every latent, the posteriors side by side."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    with plot_style():
        figure, axes = plt.subplots(figsize=(8.0, 3.6), layout="constrained")
        for index, (name, (mean, scale)) in enumerate(moments.items()):
            position = torch.arange(len(mean)) + 0.15 * (index - (len(moments) - 1) / 2)
            look = series((index + 2) % 6)
            axes.errorbar(
                position, mean, scale, fmt=look.marker, color=look.color, label=name, markersize=4
            )
        axes.set(xlabel="entry of A", ylabel="mean ± standard deviation")
        axes.set_xticks(range(len(mean)))
        figure.legend(loc="outside upper center", ncols=len(moments))
        figure.savefig(path)
        plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke-test", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path())
    options = parser.parse_args()
    num_steps, num_particles, num_samples = (2, 4, 8) if options.smoke_test else (1000, 512, 1000)
    torch.set_num_threads(1)
    options.output.mkdir(parents=True, exist_ok=True)

    pyro.set_rng_seed(options.seed)
    problem = make_problem(Regression(rank=1, in_features=12, out_features=2, up_scale=0.2))
    print("regression, rank 1, 12 latents")
    guides = fit_all(problem, options.seed, num_steps, num_particles)
    compare_with_exact(problem, guides, options.output / "ground_truth_regression.png")

    for rank, in_features in ((1, 12), (2, 6)):
        pyro.set_rng_seed(options.seed)
        problem = make_problem(Classification(rank, in_features, out_features=3, up_scale=0.5))
        print(f"classification, rank {rank}, {rank * in_features} latents")
        chains = run_nuts(problem, num_samples, warmup_steps=num_samples * 3 // 10)
        guides = fit_all(problem, options.seed, num_steps, num_particles)
        path = options.output / f"ground_truth_classification_rank_{rank}.png"
        compare_with_nuts(problem, guides, chains, path)


if __name__ == "__main__":
    main()
