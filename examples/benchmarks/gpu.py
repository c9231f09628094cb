"""What holds and what it costs on a GPU, in one command, without a network: a page of tables.

``python examples/benchmarks/gpu.py --output gpu.md``

*Correctness*, with tiny networks: the CPU and the device compute the same with the same draws, for
all likelihoods, with flipout, draws in one pass, bf16 and fp16, ``torch.compile``, a checkpoint and
``generate``.  *Speed*, with a random network of Llama 7B's shape in bf16: the time and memory of a
training step, and the time of predictions with K draws in one pass, with the last eight layers
latent, and distilled, as ratios to plain LoRA with PEFT.  ``--smoke-test`` runs all that a CPU can,
with tiny networks.  The exit status is 1 if something does not hold.
"""

import argparse
import operator
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyro
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from datasets import Dataset
from paired_comparison import (
    begin,
    median_interval,
    paired,
    print_table,
    seconds_in_turns,
    shared_copy,
    with_adapter,
    with_interval,
)
from peft import PeftModel
from plain_and_bayesian import peak_bytes
from predictive import DISTILLED, LATE, LOOP, ONE_PASS, plain_seconds, variants
from pyro import poutine
from training_step import compare_cost
from transformers import LlamaConfig, LlamaForCausalLM

import blob_pyro
from blob_pyro.guides import LowRankGaussianGuide
from blob_pyro.infer import ReweightedTrace_ELBO
from blob_pyro.models import (
    BayesianLora,
    CausalLM,
    LabelTokenClassifier,
    OptionLikelihood,
    SequenceClassifier,
)
from blob_pyro.poutine import flipout
from blob_pyro.testing import tiny_batch, tiny_network
from blob_pyro.training import CheckpointConfig, TrainingConfig, fit, flush_denormals

Found = tuple[torch.Tensor, torch.Tensor]
# Of the largest number compared.
SAME, FINE, COARSE = 1e-6, 1e-4, 0.05
LLAMA_7B = {"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008,
            "num_hidden_layers": 32, "num_attention_heads": 32}  # fmt: skip
SMALL = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 9,
         "num_attention_heads": 4}  # fmt: skip
MIB = 2**20


def options_batch() -> dict[str, torch.Tensor]:
    batch = tiny_batch(tokens=8)
    option_ids = torch.tensor([[1, 1, 2, 2, 3]] * 4).masked_fill(
        batch["attention_mask"][:, 3:] == 0, 0
    )
    return {**batch, "option_ids": option_ids, "labels": batch["labels"] % 2}


def texts_batch() -> dict[str, torch.Tensor]:
    batch = tiny_batch()
    learned = (batch["attention_mask"].cumsum(1) > 2) & (batch["attention_mask"] == 1)
    return {**batch, "labels": batch["input_ids"].masked_fill(~learned, -100)}


LIKELIHOODS: dict[str, tuple[Callable[[], BayesianLora], Callable[[], Any]]] = {
    "SequenceClassifier": (
        lambda: SequenceClassifier(tiny_network("bert", "SEQ_CLS"), 8),
        tiny_batch,
    ),
    "LabelTokenClassifier": (
        lambda: LabelTokenClassifier(tiny_network("llama"), [7, 9, 11], 8),
        tiny_batch,
    ),
    "OptionLikelihood": (lambda: OptionLikelihood(tiny_network("llama"), 3, 8), options_batch),
    "CausalLM": (lambda: CausalLM(tiny_network("llama"), 8), texts_batch),
}
Program = tuple[Any, LowRankGaussianGuide, dict[str, torch.Tensor]]


def program(name: str = "LabelTokenClassifier", dtype: torch.dtype = torch.float32) -> Program:
    """Make the same program each time, on the CPU, with draws that lie far from the mean."""
    pyro.set_rng_seed(0)
    make, batch = LIKELIHOODS[name]
    model = make().eval()
    for parameter in model.network.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.to(dtype)
    return model, LowRankGaussianGuide(model, init_scale=0.5), batch()


def on(device: str, tensors: Any) -> Any:
    """Move a batch or a draw, whose gradients are then its own."""
    return {name: tensor.detach().to(device) for name, tensor in tensors.items()}


def loss_and_gradients(
    model: BayesianLora, draw: Any, batch: Any, device: str
) -> list[torch.Tensor]:
    draw = {name: value.requires_grad_() for name, value in on(device, draw).items()}
    trace = poutine.trace(poutine.condition(model.to(device), draw)).get_trace(**on(device, batch))
    loss = -trace.log_prob_sum()
    return [loss.detach(), *torch.autograd.grad(loss, list(draw.values()))]


def likelihood(name: str, device: str) -> Iterator[Found]:
    found = []
    for place in ("cpu", device):
        model, guide, batch = program(name)
        (draw,) = guide.draws(1)
        found.append(loss_and_gradients(model, draw, batch, place))
    yield from zip(found[1], found[0], strict=True)


def flipped_signs(device: str) -> Iterator[Found]:
    model, guide, batch = program()
    plain, _, _ = program()
    model, guide, inputs = model.to(device), guide.to(device), on(device, batch)
    with flipout():
        trace = poutine.trace(guide).get_trace(**inputs)
        found = poutine.replay(model, trace)(**inputs).detach()
    weights = {name: site.projection._applied.weight for name, site in model.sites.items()}
    for row, logits in enumerate(found):
        draw = on("cpu", {name: weight[row] for name, weight in weights.items()})
        one = {name: tensor[row : row + 1] for name, tensor in batch.items()}
        with torch.no_grad():
            yield logits, poutine.condition(plain, draw)(**one)[0]


def draws_in_one_pass(device: str, dtype: torch.dtype = torch.float32) -> Iterator[Found]:
    model, guide, batch = program()
    draws = guide.draws(5)
    with torch.no_grad():
        wanted = torch.cat([model.logits_under([draw], **batch) for draw in draws])
        model, _, _ = program(dtype=dtype)
        there = [on(device, draw) for draw in draws]
        yield model.to(device).logits_under(there, **on(device, batch)), wanted


def losses(device: str, config: TrainingConfig, **run: Any) -> torch.Tensor:
    model, guide, _ = program()
    guide = LowRankGaussianGuide(model.to(device))
    rows = Dataset.from_dict({"text": ["a"] * 8, "row": [*range(8)]})

    def collate(examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        places = [example["row"] for example in examples]
        return {name: tensor[places] for name, tensor in tiny_batch(8).items()}

    pyro.set_rng_seed(1)
    elbo = ReweightedTrace_ELBO(4, "uniform", 1e-3, per_datum=True)
    records = fit(model, guide, elbo, rows, collate, config, **run)
    return torch.tensor([record.nll for record in records])


STEPS = TrainingConfig(num_steps=6, batch_size=4)


def accelerator(device: str, precision: str = "no") -> Accelerator:
    AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(mixed_precision=precision, cpu=device == "cpu")


def mixed_precision(precision: str, device: str) -> Iterator[Found]:
    found, wanted = (
        losses(device, STEPS, accelerator=accelerator(device, each)) for each in (precision, "no")
    )
    yield found, wanted


def compiled(device: str) -> Iterator[Found]:
    run = partial(losses, device, accelerator=accelerator(device))
    yield run(STEPS.changed(compile=True)), run(STEPS)


def resumed(device: str) -> Iterator[Found]:
    run = partial(losses, device, STEPS, accelerator=accelerator(device))
    with tempfile.TemporaryDirectory() as folder:
        config = CheckpointConfig(folder, save_every=3, keep_last=4)
        whole = run(checkpoints=config)
        # As if the run had been killed after half of it.
        for path in sorted(Path(folder).iterdir())[2:]:
            path.unlink()
        yield run(checkpoints=CheckpointConfig(folder, save_every=3, resume=True)), whole


def written(device: str) -> Iterator[Found]:
    prompt = torch.tensor([[5, 6, 7], [8, 9, 10]])
    draws = program("CausalLM")[1].draws(3)
    texts = []
    for place in ("cpu", device):
        model = program("CausalLM")[0].to(place)
        moved = [on(place, draw) for draw in draws]
        guide: Any = SimpleNamespace(draws=lambda count, moved=moved: moved)
        texts.append(
            blob_pyro.generate(model, guide, prompt.to(place), max_new_tokens=6, eos_token_id=None)
        )
    yield texts[1].tokens.float(), texts[0].tokens.float()
    yield texts[1].epistemic, texts[0].epistemic


def checks(smoke_test: bool) -> dict[str, tuple[float, Callable[[str], Iterator[Found]]]]:
    """Give what is compared, and how near it has to be."""
    found = {
        f"{name}: loss and gradients of a draw": (FINE, partial(likelihood, name))
        for name in LIKELIHOODS
    }
    found |= {
        "flipout: each text has the weight of its signs": (FINE, flipped_signs),
        "five draws in one pass": (FINE, draws_in_one_pass),
        "five draws, base weights in bf16": (
            COARSE,
            partial(draws_in_one_pass, dtype=torch.bfloat16),
        ),
        "six steps in bf16, against float32 there": (COARSE, partial(mixed_precision, "bf16")),
        "six steps, resumed from a checkpoint": (SAME, resumed),
        "text that three draws write": (FINE, written),
    }
    if not smoke_test:  # What takes a GPU, or a compiler.
        found |= {
            "five draws, base weights in fp16": (
                COARSE,
                partial(draws_in_one_pass, dtype=torch.float16),
            ),
            "six steps in fp16, against float32 there": (COARSE, partial(mixed_precision, "fp16")),
            "six steps, compiled, against eager there": (FINE, compiled),
        }
    return found


def check_all(device: str, smoke_test: bool) -> bool:
    rows, holds = [], True
    for name, (tolerance, compare) in checks(smoke_test).items():
        try:
            pairs = [(found.cpu().double(), wanted.double()) for found, wanted in compare(device)]
            errors = [
                (found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-6)
                for found, wanted in pairs
            ]
            # Unlike Python's, this maximum is NaN if one of them is.
            error = float(torch.stack(errors).max())
            fine, shown = error <= tolerance, f"{error:.1e}"
        except Exception as problem:  # The other checks shall run.
            fine, shown = False, f"{type(problem).__name__}: {problem}".splitlines()[0]
        rows.append([name, f"{tolerance:g}", shown, "yes" if fine else "**NO**"])
        holds &= fine
    print(f"## The CPU against {device}\n\nLargest difference, relative to the largest number.\n")
    print_table(["what", "at most", "found", "holds"], rows)
    return holds


def llama(sizes: dict[str, int], dtype: torch.dtype, device: str) -> PeftModel:
    """Make a random network where it shall be, with an adapter on query and value."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            network = LlamaForCausalLM(LlamaConfig(**sizes))
    finally:
        torch.set_default_dtype(default)
    return with_adapter(network, rank=8)


def compare_predictions(net: PeftModel, rows: int, tokens: int, options: Any) -> None:
    draws = options.num_draws
    ways = variants(net, rows, 1, tokens, draws, num_late=8)
    seconds = seconds_in_turns(ways, options.repeats, warm_up=1)
    plain = plain_seconds(seconds)

    def cells(variant: tuple[str, int]) -> list[str]:
        ratio = median_interval(paired(operator.truediv, seconds[variant], plain))
        return [with_interval(ratio, 2), f"{peak_bytes(ways[variant]) / MIB:.0f}"]

    print(f"## Prediction\n\n{rows} texts of {tokens} tokens; plain LoRA: one pass takes")
    print(
        f"{median_interval(plain)[0]:.4f} s. Time as a ratio to it (95 %); peak beside weights.\n"
    )
    names = {LOOP: "one after the other", ONE_PASS: "in one pass", LATE: "last eight layers latent"}
    table = [
        [f"K = {count}, {names[way]}", *cells((way, count))] for count in draws for way in names
    ]
    table.append(["distilled", *cells((DISTILLED, 0))])
    print_table(["", "time, ratio", "memory, MiB"], table)


class Tee:
    """Writes to the terminal and to a file."""

    def __init__(self, *files: Any) -> None:
        self.files = files

    def write(self, text: str) -> None:
        """Write everywhere."""
        for file in self.files:
            file.write(text)

    def flush(self) -> None:
        """Let everything be seen."""
        for file in self.files:
            file.flush()


def main() -> bool:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke-test", action="store_true")
    parser.add_argument("--device", help="the accelerator that is there, if nothing is said")
    parser.add_argument("--output", type=Path, default=Path("gpu.md"))
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--num-draws", type=int, nargs="+", default=[1, 5, 10, 30])
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    here = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    device = options.device or (here.type if here else "cpu")
    if options.smoke_test:
        device, options.repeats, options.num_draws, options.tokens = "cpu", 1, [1, 3], 8
    elif device == "cpu":
        parser.error("there is no accelerator; --smoke-test runs a small form of this on a CPU")
    sizes, dtype = (SMALL, torch.float32) if options.smoke_test else (LLAMA_7B, torch.bfloat16)
    flush_denormals()
    with options.output.open("w") as file, redirect_stdout(Tee(sys.stdout, file)):
        print("# A GPU\n")
        begin(options.seed, device)
        holds = check_all(device, options.smoke_test)
        net = llama(sizes, dtype, device)
        print(f"# Speed\n\nA random Llama, {sizes}, {dtype}, rank 8 on query and value.\n")
        print("## A training step\n")
        copies = partial(shared_copy, net)
        compare_cost(copies, options.tokens, options.repeats, rows=options.batch_size)
        compare_predictions(net, options.batch_size, options.tokens, options)
    return holds


if __name__ == "__main__":
    if not main():
        sys.exit(1)
