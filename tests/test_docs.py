"""The pages: nothing public is missing, no link is broken, and their code and formulas hold."""

from __future__ import annotations

import importlib
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas
import pyro
import pyro.distributions as dist
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from pyro.infer import SVI, Predictive
from torch.distributions import kl_divergence
from transformers import LlamaConfig, LlamaForSequenceClassification
from typer.testing import CliRunner

import blob_pyro
from blob_pyro.cli import app
from blob_pyro.guides import LowRankGaussianGuide
from blob_pyro.infer import ReweightedTrace_ELBO
from blob_pyro.models import BayesianLora, Classifier
from blob_pyro.poutine import flipout

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
REFERENCE = "\n".join(path.read_text() for path in sorted((DOCS / "api").glob("*.md")))
# The command line has its --help.
ROOMS = sorted(
    path.parent.name
    for path in (ROOT / "blob_pyro").glob("*/__init__.py")
    if path.parent.name != "cli"
)
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")


def missing_names(room: str, reference: str) -> list[str]:
    """The public names of a room that the reference leaves out.

    ``automodule`` takes the classes and functions, which have docstrings, and leaves out constants
    and aliases, which need a line each.
    """
    module = importlib.import_module(f"blob_pyro.{room}")
    whole = f".. automodule:: {module.__name__}\n   :members:\n" in reference
    missing = []
    for name in module.__all__:
        value = getattr(module, name)
        by_module = whole and (inspect.isclass(value) or inspect.isfunction(value))
        # autodata shows what an alias stands for; a dict's would be dict's own docstring.
        by_line = (
            f".. autodata:: {module.__name__}.{name}\n" in reference
            or f".. py:data:: {name}\n   :module: {module.__name__}\n" in reference
        )
        if not by_module and not by_line:
            missing.append(name)
    return missing


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_is_in_the_reference(room: str) -> None:
    assert missing_names(room, REFERENCE) == []


def test_the_check_sees_a_missing_name() -> None:
    without = REFERENCE.replace(".. autodata:: blob_pyro.infer.Schedule\n", "")
    assert missing_names("infer", without) == ["Schedule"]
    assert "run_cell" in missing_names("benchmark", "")


def test_names_at_the_top_are_in_the_reference() -> None:
    top = importlib.import_module("blob_pyro")
    assert [
        n for n in top.__all__ if n != "__version__" and f"`blob_pyro.{n}`" not in REFERENCE
    ] == []


def anchors(page: Path) -> set[str]:
    """What headings are called in links, as GitHub and MyST have it."""
    titles = re.findall(r"^#{1,3} (.+)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def broken_links(page: Path, text: str) -> Iterator[str]:
    """The relative links of a page that lead nowhere."""
    for match in LINK.finditer(re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
        link = match[1] or match[2]
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            yield link


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_lead_somewhere(page: Path) -> None:
    assert [*broken_links(page, page.read_text())] == []


@pytest.mark.parametrize(
    "link", ["[a](nowhere.md)", "![a](images/nothing.png)", "[a](speed.md#no-such-heading)"]
)
def test_the_check_sees_a_broken_link(link: str) -> None:
    assert len([*broken_links(DOCS / "index.md", f"{link} and [b](speed.md#prediction)")]) == 1


def test_every_command_of_a_measurement_exists() -> None:
    scripts = re.findall(r"(examples/[\w/]+\.py)", (DOCS / "measurements.md").read_text())
    assert scripts
    assert [script for script in scripts if not (ROOT / script).exists()] == []


def own_likelihoods() -> dict[str, Any]:
    """What the how-to page defines."""
    scope: dict[str, Any] = {
        "pyro": pyro,
        "dist": dist,
        "BayesianLora": BayesianLora,
        "Classifier": Classifier,
    }
    text = (DOCS / "own_likelihood.md").read_text()
    for block in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL):
        exec(compile(block, "own_likelihood.md", "exec"), scope)
    return scope


def classification_network(num_labels: int) -> PeftModel:
    config = LlamaConfig(
        vocab_size=60,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_labels=num_labels,
        pad_token_id=1,
    )
    lora = LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["q_proj"])
    return get_peft_model(LlamaForSequenceClassification(config), lora)


@pytest.mark.parametrize(("name", "num_labels"), [("Regression", 1), ("LastTokenClassifier", 3)])
def test_the_likelihoods_of_the_how_to_page_train(name: str, num_labels: int) -> None:
    pyro.set_rng_seed(0)
    model = own_likelihoods()[name](classification_network(num_labels), num_data=8)
    guide = LowRankGaussianGuide(model, init_scale=0.09)
    ids = torch.arange(2, 26).reshape(4, 6)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    labels = torch.zeros(4) if num_labels == 1 else torch.zeros(4, dtype=torch.int64)
    elbo = ReweightedTrace_ELBO(num_batches=1, kl_scale=1e-3)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-2}), loss=elbo)
    with flipout():
        losses = [svi.step(**batch, labels=labels) for _ in range(30)]
    assert sum(losses[-5:]) < sum(losses[:5])
    for parallel in (False, True):
        drawn = Predictive(model, guide=guide, num_samples=3, parallel=parallel)(**batch)
        assert drawn["labels"].shape[0] == 3
        assert drawn["labels"].shape[-1] == 4


def test_the_script_for_a_table_of_texts_writes_what_the_command_line_reads(
    tmp_path: Path, base_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = ["no toner,printing", "locked out,login"] * 5
    for name in ("tickets.csv", "more_tickets.csv"):
        Path(name).write_text("\n".join(["body,queue", *rows]))
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "own_data.md").read_text(), flags=re.DOTALL)
    assert len([line for line in blocks[0].splitlines() if line]) == 7
    script = blocks[0].replace('"distilbert-base-uncased"', f"{base_folder!r}, num_steps=1")
    exec(compile(script, "own_data.md", "exec"), {})
    result = CliRunner().invoke(app, ["predict", "posterior", "no toner", "--json"])
    assert set(json.loads(result.stdout)["probabilities"]) == {"login", "printing"}


def test_strangers_are_told_as_the_page_says(
    tmp_path: Path, base_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = "no toner,printing\nlocked out,login\n" * 5
    Path("more_tickets.csv").write_text(f"body,queue\n{rows}")
    Path("strangers.csv").write_text("body\nwho won?\nis it late?\n")
    posterior = blob_pyro.fine_tune(
        ["toner", "no toner", "login", "locked out"],
        base_folder,
        ["printing", "printing", "login", "login"],
        num_steps=1,
        rank=2,
        progress=False,
    )
    page = (DOCS / "strangers.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    posterior.save("posterior")
    (command,) = re.findall(r"^blob-pyro (.*)$", page, flags=re.MULTILINE)
    done = CliRunner().invoke(app, command.split())
    assert done.exit_code == 0, done.output
    scope: dict[str, Any] = {}
    exec(compile(block, "strangers.md", "exec"), scope)
    scores = scope["found"].ood_auroc()
    assert len(scores) == 4
    assert all(f"| `{score}`" in page for score in scores)


def test_the_page_of_decisions_decides(
    tmp_path: Path, base_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    page = (DOCS / "decisions.md").read_text()
    train, evaluate, predict = re.findall(r"^blob-pyro (.*)$", page, flags=re.MULTILINE)[:3]
    rows = [row for n in range(5) for row in (f"{n} printer,printing", f"{n} login,login")]
    Path("tickets.csv").write_text("\n".join(["body,queue", *rows]))
    run = CliRunner().invoke
    fit = run(app, [*train.split(), "--model", base_folder, "--num-steps", "10"])
    assert fit.exit_code == 0, fit.output
    # As right as can be: labels of the posterior's own.
    texts = [f"{text} {n}" for n in range(70) for text in ("the printer", "my login")]
    queues = blob_pyro.load("posterior").predict(texts)
    pandas.DataFrame({"body": texts, "queue": queues}).to_csv("held_out.csv", index=False)
    pandas.DataFrame({"body": texts[:3]}).to_csv("new_tickets.csv", index=False)
    for command in (evaluate, predict):
        done = run(app, command.split())
        assert done.exit_code == 0, done.output
    assert {*pandas.read_csv("answers.csv")["decision"]} <= {"answer", "defer"}
    blocks = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    scope: dict[str, Any] = {}
    exec(compile(blocks[0], "decisions.md", "exec"), scope)
    assert scope["answers"].num_examples == 140
    assert blob_pyro.load("posterior").answers == scope["answers"]
    pytest.importorskip("mapie", reason="MAPIE is not installed")
    exec(compile(blocks[1], "decisions.md", "exec"), scope)
    assert scope["within"].shape == (1, 2, 1)


def kl_of_degenerate_gaussians(J: torch.Tensor, loc: torch.Tensor, var: torch.Tensor) -> float:
    """The KL of N(J loc, J diag(var) J') from N(0, 0.04 J J') on the range of J, by eigenvalues."""
    wide, narrow = 0.2**2 * J @ J.T, J @ var.diag() @ J.T
    rank = J.shape[1]
    inverse = torch.linalg.pinv(wide, hermitian=True)
    spectra = [torch.linalg.eigvalsh(matrix)[-rank:].log().sum() for matrix in (wide, narrow)]
    square = (J @ loc) @ inverse @ (J @ loc)
    return float((inverse @ narrow).trace() + square - rank + spectra[0] - spectra[1]) / 2


def test_both_forms_of_the_kl_agree() -> None:
    generator = torch.Generator().manual_seed(0)
    m, n, r, scaling = 5, 4, 2, 2.0
    B, loc, scale = (
        torch.randn(*shape, generator=generator, dtype=torch.float64)
        for shape in ((m, r), (r * n,), (r * n,))
    )
    q = dist.Normal(loc, scale.abs())
    on_a = float(kl_divergence(q, dist.Normal(torch.zeros_like(loc), 0.2)).sum())
    J = scaling * torch.kron(torch.eye(n, dtype=torch.float64), B)
    assert kl_of_degenerate_gaussians(J, loc, scale**2) == pytest.approx(on_a, rel=1e-9)


def papers(text: str) -> set[str]:
    """The arXiv numbers that a text cites."""
    return set(re.findall(r"(?:arXiv |abs/|\()(\d{4}\.\d{5})\b", text))


def test_every_paper_is_in_the_bibliography() -> None:
    listed = papers((DOCS / "bibliography.md").read_text())
    sources = [*PAGES, *(ROOT / "blob_pyro").rglob("*.py")]
    assert len(listed) > 20
    assert {n for path in sources for n in papers(path.read_text())} - listed == set()
