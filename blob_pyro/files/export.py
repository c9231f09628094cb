"""Posterior draws as ordinary adapters."""

import copy
from pathlib import Path
from typing import cast

import torch
from peft import (
    LoraConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from transformers import PreTrainedModel

from blob_pyro.files.adapter import write_adapter
from blob_pyro.files.atomic import atomic_folder, check_new
from blob_pyro.guides import LoraGuide
from blob_pyro.infer import posterior_draws
from blob_pyro.infer.data_pass import evaluation_mode, seeded
from blob_pyro.lora import unbayesianize
from blob_pyro.models import BayesianLora
from blob_pyro.networks import dequantised, quantization_of
from blob_pyro.networks.loading import quiet_peft
from blob_pyro.poutine import in_turn


def merge_mean(model: BayesianLora, guide: LoraGuide) -> PreTrainedModel:
    r"""Merge the posterior mean into the base weights, :math:`W = W_0 + s B M`.

    The result is an ordinary network without adapter, as fast as the base model, which knows no
    uncertainty.  It is a copy: the program stays as it is, and memory has to hold both.  Weights
    that were quantised are so no longer, since rounding again would lose the adapter.

    Parameters
    ----------
    model, guide
        The fitted program.

    Returns
    -------
    transformers.PreTrainedModel
        Ready for ``save_pretrained``.

    Raises
    ------
    ValueError
        If the merged weights would not be finite, or layers share a weight that would be merged.

    Examples
    --------
    >>> from blob_pyro.guides import LowRankGaussianGuide
    >>> from blob_pyro.models import SequenceClassifier
    >>> from blob_pyro.testing import tiny_network
    >>> net = tiny_network("bert", "SEQ_CLS")
    >>> model = SequenceClassifier(net, num_data=10)
    >>> type(merge_mean(model, LowRankGaussianGuide(model))).__name__
    'BertForSequenceClassification'

    References
    ----------
    Wang et al., "BLoB", NeurIPS 2024, theorem 3.1 (the mean on the full weight).
    """
    _check_own_weights(model)
    with model.use.running():
        net = copy.deepcopy(model.network)
    net = unbayesianize(net, guide.mean(), model.adapter)
    if quantization_of(net) is not None:
        net = _over_dequantised(net, model.adapter)
    merged = net.merge_and_unload(safe_merge=True, adapter_names=[model.adapter])
    return cast(PreTrainedModel, merged)


def _over_dequantised(net: PeftModel, adapter: str) -> PeftModel:
    """Give a copy of a network the same adapter over layers that are not quantised."""
    config = cast(LoraConfig, net.peft_config[adapter])
    # "auto" would ask the Hub for the base model's vocabulary, which fails without a network.
    state = get_peft_model_state_dict(net, adapter_name=adapter, save_embedding_layers=False)
    base = dequantised(cast(PreTrainedModel, net.unload()))
    with in_turn(), torch.random.fork_rng(devices=[]), quiet_peft():
        net = cast(PeftModel, get_peft_model(base, config, adapter))
    set_peft_model_state_dict(net, state, adapter)
    return net


def _check_own_weights(model: BayesianLora) -> None:
    """Raise if a weight with an adapter stands in another layer too, which would change with it."""
    users: dict[int, set[str]] = {}
    for name, module in model.network.named_modules():
        for parameter in module.parameters(recurse=False):
            users.setdefault(id(parameter), set()).add(name)
    for site in model.sites.values():
        for parameter in site.layer.get_base_layer().parameters(recurse=False):
            if len(shared := users[id(parameter)]) > 1:
                raise ValueError(
                    f"the layers {sorted(shared)} share one weight (tied "
                    "embeddings), so that merging into one would change the others; load "
                    "the saved posterior as an adapter"
                )


def export_draws(
    folder: str | Path, model: BayesianLora, guide: LoraGuide, num_samples: int = 10, seed: int = 0
) -> list[Path]:
    r"""Write posterior draws, each as an ordinary PEFT adapter.

    For programs that serve LoRA adapters and know nothing of posteriors: ask each adapter and
    average the probabilities, :math:`\frac{1}{K} \sum_k p(y | x, A_k)`, not the logits.

    Parameters
    ----------
    folder
        A new folder, in which each draw gets one: ``draw-0``, ``draw-1``, ...
    model, guide
        The fitted program.
    num_samples
        Number of draws K; 0 writes the posterior mean, as one "draw".
    seed
        Seed of the draws, which are those of :func:`blob_pyro.infer.posterior_predictive` with
        this seed.

    Returns
    -------
    list of pathlib.Path
        The adapters' folders, for ``PeftModel.from_pretrained(base_model, path)``.

    Raises
    ------
    ValueError
        If ``folder`` exists and is not empty, or ``num_samples`` is negative.

    Examples
    --------
    >>> import tempfile
    >>> from blob_pyro.guides import LowRankGaussianGuide
    >>> from blob_pyro.models import SequenceClassifier
    >>> from blob_pyro.testing import tiny_network
    >>> net = tiny_network("bert", "SEQ_CLS")
    >>> model = SequenceClassifier(net, num_data=10)
    >>> folder = Path(tempfile.mkdtemp()) / "draws"
    >>> paths = export_draws(folder, model, LowRankGaussianGuide(model), num_samples=2)
    >>> [path.name for path in paths]
    ['draw-0', 'draw-1']

    References
    ----------
    Wang et al., "BLoB", NeurIPS 2024, section 3.4 (Bayesian model averaging).
    """
    folder = Path(folder)
    check_new(folder)
    # Dropout as a posterior draws masks in evaluation mode only.
    with seeded(seed), torch.no_grad(), evaluation_mode(model):
        draws = posterior_draws(guide, num_samples, {})
    names = (*model.sites, *model.heads)
    with atomic_folder(folder) as draft:
        for index, draw in enumerate(draws):
            adapter = draft / f"draw-{index}"
            adapter.mkdir()
            write_adapter(adapter, model, {name: draw[name] for name in names if name in draw})
    return [folder / f"draw-{index}" for index in range(len(draws))]
