"""``blob-pyro estimate`` against what training steps and predictions really take.

Networks of several shapes with random weights in float32, on a CPU, each case in a process of its
own.  A small network of the same kind runs first, so that what the process
itself needs is there before; then the peak of the resident memory of two steps, or of a prediction
under ten draws, is read off Linux (``VmHWM``).  Attention has no dropout, with which CPUs have no
fused kernel.  ``--smoke-test`` takes one small network.
"""

import argparse
import ctypes
import gc
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from paired_comparison import print_table
from peft import get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from blob_pyro.guides import LowRankGaussianGuide
from blob_pyro.infer import ReweightedTrace_ELBO, posterior_predictive
from blob_pyro.models import LabelTokenClassifier, SequenceClassifier
from blob_pyro.networks import load_causal_lm, load_sequence_classifier
from blob_pyro.networks.sharding import place
from blob_pyro.poutine import flipout
from blob_pyro.recipe.memory import MemoryEstimate, estimate_memory
from blob_pyro.recipe.network import has_head, lora_config

SMOLLM2 = {
    **{"model_type": "llama", "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536},
    **{"num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3},
    "tie_word_embeddings": True,
}
MINILM = {
    **{"model_type": "bert", "vocab_size": 30522, "hidden_size": 384, "intermediate_size": 1536},
    **{"num_hidden_layers": 6, "num_attention_heads": 12, "attention_probs_dropout_prob": 0.0},
}
NETWORKS: dict[str, dict[str, Any]] = {
    "SmolLM2": SMOLLM2,
    "MiniLM": MINILM,
    "deep": {**SMOLLM2, "hidden_size": 320, "intermediate_size": 1280, "num_attention_heads": 5,
             "num_key_value_heads": 5, "num_hidden_layers": 24, "vocab_size": 8192},
    "wide": {**SMOLLM2, "hidden_size": 1536, "intermediate_size": 4096, "num_attention_heads": 12,
             "num_key_value_heads": 4, "num_hidden_layers": 4, "vocab_size": 8192},
    "small": {**SMOLLM2, "vocab_size": 512, "num_hidden_layers": 2},
}  # fmt: skip
DRAWS = 10


@dataclass(frozen=True)
class Case:
    """What is measured, and how it is estimated."""

    network: str
    rows: int
    tokens: int
    what: str = "a step"
    quantization: str | None = None
    num_shards: int = 1

    def estimate(self) -> int:
        """Give the bytes that ``estimate_memory`` expects."""
        found: MemoryEstimate = estimate_memory(
            AutoConfig.for_model(**NETWORKS[self.network]),
            batch_size=self.rows,
            sequence_length=self.tokens,
            dtype=torch.float32,
            quantization=self.quantization,  # type: ignore[arg-type]
            num_samples=DRAWS,
            num_shards=self.num_shards,
        )
        if self.what == "a prediction":
            return found.prediction
        return found.total(checkpointing=self.what == "checkpointing")


CASES = [
    *(Case("SmolLM2", 4, 64, w) for w in ("a step", "checkpointing", "a prediction")),
    *(Case("MiniLM", 16, 128, w) for w in ("a step", "checkpointing", "a prediction")),
    *(Case("deep", 4, 128, w) for w in ("a step", "a prediction")),
    *(Case("wide", 4, 128, w) for w in ("a step", "checkpointing", "a prediction")),
    *(Case("MiniLM", 16, 128, "a step", q) for q in ("4bit", "8bit")),
    *(Case("deep", 4, 128, w, "8bit") for w in ("a step", "a prediction")),
    *(Case("SmolLM2", 4, 64, w, "4bit") for w in ("a step", "checkpointing")),
    *(Case(network, 4, 128, "a step", num_shards=2) for network in ("deep", "wide")),
]


def resident(line: str) -> int:
    status = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(row for row in status if row.startswith(line)).split()[1])


def program(sizes: dict[str, Any], quantization: str | None) -> Any:
    """Make a model and its guide, over a random network that is quantised while it is loaded."""
    config = AutoConfig.for_model(**sizes)
    encoder = sizes["model_type"] == "bert"
    torch.manual_seed(0)
    kind: Any = AutoModelForSequenceClassification if encoder else AutoModelForCausalLM
    network = kind.from_config(config)
    if quantization is not None:
        with tempfile.TemporaryDirectory() as folder:
            network.save_pretrained(folder)
            del network
            network = (
                load_sequence_classifier(folder, 2, quantization=quantization)
                if encoder
                else load_causal_lm(folder, quantization=quantization)
            )
            # The file's pages are in memory as long as a tensor lies on them.
            for parameter in network.parameters():
                if parameter.is_floating_point():
                    parameter.data = parameter.data.clone()
    net = get_peft_model(network, lora_config(network, 8, 16, None))
    model: Any = (
        SequenceClassifier(net, num_data=100)
        if has_head(network)
        else LabelTokenClassifier(net, label_token_ids=[0, 1], num_data=100)
    )
    return model, LowRankGaussianGuide(model)


def run(case: Case, sizes: dict[str, Any]) -> int:
    """Give the growth of the resident memory up to the peak."""
    collect()
    before = resident("VmRSS")
    model, guide = program(sizes, case.quantization)
    if case.num_shards > 1:
        place(model, Accelerator(cpu=True))
    module = ReweightedTrace_ELBO(num_batches=25, per_datum=True)(model, guide)
    if case.what == "checkpointing":
        model.gradient_checkpointing_enable()
    collect()
    # From here on, the peak is a new one.
    Path("/proc/self/clear_refs").write_text("5")
    ids = torch.randint(sizes["vocab_size"], (case.rows, case.tokens))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if case.what == "a prediction":
        posterior_predictive(model, guide, [batch], DRAWS, seed=0, parallel=DRAWS, progress=False)
    else:
        train(module, {**batch, "labels": ids[:, 0] % 2})
    return resident("VmHWM") - before


def train(module: Any, batch: dict[str, torch.Tensor]) -> None:
    learned = [parameter for parameter in module.train().parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=1e-4)
    for _ in range(2):
        optimizer.zero_grad()
        with flipout():
            module(**batch).backward()
        optimizer.step()


def collect() -> None:
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)


def measure(case: Case) -> None:
    torch.set_num_threads(1)
    sizes = NETWORKS[case.network]
    heads = {n: sizes[n] for n in ("num_attention_heads", "num_key_value_heads") if n in sizes}
    one = max(heads.values())
    run(case, {**sizes, "vocab_size": 64, "hidden_size": 64 * one, "num_hidden_layers": 1})
    peak = run(case, sizes)
    if int(os.environ.get("RANK", "0")) == 0:
        print(json.dumps(peak))


def measured(case: Case) -> int:
    # What is freed shall go back at once, so that resident memory is memory in use.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    processes: list[str] = []
    if case.num_shards > 1:
        environment |= {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
        each = f"--nproc-per-node={case.num_shards}"
        processes = ["-m", "torch.distributed.run", "--standalone", each]
    done = subprocess.run(
        [
            *(sys.executable, *processes, __file__),
            *("--measure", json.dumps(asdict(case))),
        ],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return int(json.loads(done.stdout.splitlines()[-1]))


def main(smoke_test: bool) -> None:
    table = []
    for case in [Case("small", 4, 64)] if smoke_test else CASES:
        if case.quantization is not None and find_spec("bitsandbytes") is None:
            print(f"left out, for want of bitsandbytes: {case}", file=sys.stderr)
            continue
        estimated, found = case.estimate(), measured(case)
        table.append(
            [
                f"{case.network}, {case.quantization or 'float32'}"
                + (f", one of {case.num_shards} processes" if case.num_shards > 1 else ""),
                f"{case.rows} x {case.tokens}, {case.what}",
                f"{estimated / 2**20:.0f}",
                f"{found / 2**20:.0f}",
                f"{estimated / found:.2f}",
            ]
        )
        print(table[-1], file=sys.stderr, flush=True)
    print_table(["network", "run", "estimated, MiB", "measured, MiB", "ratio"], table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke-test", action="store_true")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure is not None:
        measure(Case(**json.loads(options.measure)))
    else:
        main(options.smoke_test)
