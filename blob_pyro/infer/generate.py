"""Writing text under a posterior, with the uncertainty of every token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import pyro
import torch
from pyro import poutine

from blob_pyro.infer.averaged_network import AveragedNetwork
from blob_pyro.infer.data_pass import evaluation_mode, own_random_state
from blob_pyro.infer.posterior_draws import Draw, Guide, posterior_draws, stacked_draws
from blob_pyro.models import BayesianLora
from blob_pyro.models.padding import align_padding, mask_of
from blob_pyro.models.tiling import tile


@dataclass(frozen=True)
class Generation:
    """Texts that were written, and how uncertain each of their tokens was.

    Parameters
    ----------
    tokens
        New tokens, ``B x S`` (``K x B x S`` for one text a draw), int64; padded after the end.
    total
        Entropy of the distribution that each token was chosen from, before temperature and the
        like, in nats; 0 after the end of a text.
    epistemic
        The part of it that more data could remove: the mutual information between token and
        weights, in nats.  0 for one text a draw, since a draw does not disagree with itself.
    """

    tokens: torch.Tensor
    total: torch.Tensor
    epistemic: torch.Tensor


def generate(
    model: BayesianLora,
    guide: Guide,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    num_samples: int = 10,
    seed: int | None = None,
    *,
    per_draw: bool = False,
    **options: Any,
) -> Generation:
    r"""Write texts after prompts, averaging the probabilities of K posterior draws at every token.

    :math:`p(y_t | y_{<t}, x) = \frac{1}{K} \sum_k p(y_t | y_{<t}, x, A_k)`: all draws read the same
    text.  Hugging Face's ``generate`` decodes, greedily or by sampling, from that average.

    Parameters
    ----------
    model, guide
        A fitted program over a causal language model, of any likelihood.
    input_ids, attention_mask
        Prompts, ``B x T``, padded on either side.  The mask may be left out if nothing is padded.
    num_samples
        Number of draws K; 0 writes with the posterior mean.
    seed
        Seed of draws and sampling; None goes on with the global random state.
    per_draw
        Write one text for each draw, rather than one for all.
    **options
        For Hugging Face's ``generate``: ``max_new_tokens``, ``do_sample``, ``temperature``, ...

    Returns
    -------
    Generation
        On the model's device.

    Raises
    ------
    ValueError
        If the network writes no text, or beams are asked for.

    Examples
    --------
    >>> from peft import LoraConfig, get_peft_model
    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> from blob_pyro.guides import LowRankGaussianGuide
    >>> from blob_pyro.models import CausalLM
    >>> config = LlamaConfig(vocab_size=50, hidden_size=8, intermediate_size=16,
    ...                      num_hidden_layers=1, num_attention_heads=2, pad_token_id=0)
    >>> lora = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj", "v_proj"])
    >>> model = CausalLM(get_peft_model(LlamaForCausalLM(config), lora), num_data=10)
    >>> prompt = torch.tensor([[5, 6, 7]])
    >>> text = generate(model, LowRankGaussianGuide(model), prompt, num_samples=4, seed=0,
    ...                 max_new_tokens=3, min_new_tokens=3)
    >>> text.tokens.shape, text.epistemic.shape
    (torch.Size([1, 3]), torch.Size([1, 3]))

    References
    ----------
    Malinin and Gales, "Uncertainty estimation in autoregressive structured prediction", ICLR 2021,
    section 3.1 (token-level ensembles by a product of expectations).
    """
    network = cast(Any, model.network.get_base_model())
    _check(network, options)
    mask = mask_of(input_ids, attention_mask, network)
    prompts = align_padding({"input_ids": input_ids, "attention_mask": mask}, "left")
    with torch.no_grad(), evaluation_mode(model), own_random_state(seed):
        if seed is not None:
            torch.manual_seed(seed)
        draws = posterior_draws(guide, num_samples, prompts)
        _install(model, draws, input_ids.shape)
        average = AveragedNetwork(1 if per_draw else len(draws))
        with average.over(network):
            sequences = network.generate(
                **(tile(prompts, len(draws)) if per_draw else prompts),
                **{"logits_processor": [average], **options},
            )
    tokens = sequences[:, input_ids.shape[1] :]
    real = ~_after_the_end(tokens, network, options)
    uncertainty = (part.where(real, 0.0) for part in average.uncertainty())
    shape = (len(draws), -1, tokens.shape[1]) if per_draw else tokens.shape
    return Generation(*(part.reshape(shape) for part in (tokens, *uncertainty)))


def _check(network: Any, options: dict[str, Any]) -> None:
    if not getattr(network, "can_generate", bool)():
        raise ValueError(
            f"{type(network).__name__} writes no text; generate needs a causal language model"
        )
    beams = options.get("num_beams", network.generation_config.num_beams)
    if beams not in (None, 1):
        raise ValueError(
            f"num_beams={beams}: beams would have to be moved in the caches of all draws; decode "
            "greedily, or by do_sample=True"
        )


def _install(model: BayesianLora, draws: list[Draw], shape: torch.Size) -> None:
    if len(draws) == 1:
        poutine.condition(model.draw, draws[0])(shape)
        return
    with pyro.plate("draws", len(draws), dim=-2):
        poutine.condition(model.draw, stacked_draws(draws))(shape)


def _after_the_end(tokens: torch.Tensor, network: Any, options: dict[str, Any]) -> torch.Tensor:
    end = options.get("eos_token_id", network.generation_config.eos_token_id)
    ends = torch.isin(tokens, torch.tensor([] if end is None else end, device=tokens.device))
    return (ends.cumsum(1) - ends.long()) > 0
