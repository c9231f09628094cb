"""Writing text under a posterior, with the uncertainty of every token."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.distributions import Categorical
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from blob_pyro.infer.data_pass import evaluation_mode, seeded
from blob_pyro.infer.posterior_draws import Draw, Guide, posterior_draws
from blob_pyro.lora.projection import in_this_thread
from blob_pyro.models import BayesianLora
from blob_pyro.models.batches import tile
from blob_pyro.models.padding import align_padding, mask_of, padding_token
from blob_pyro.models.text_trials import LENGTHS, made_up_texts, same

# Tokens that a trial writes: one after reading, and one out of a cache.
_TRIED = 2
# What networks went through, whether padded and how: architectures decide, and no weights.
_PASSED: WeakKeyDictionary[nn.Module, set[tuple[bool, bool | None]]] = WeakKeyDictionary()
_WAY_OUT = (
    "pass use_cache=False, which reads each text anew at every token; if that is refused too, use "
    "another network"
)
_ONE_TEXT = "decode greedily, or by do_sample=True"
# What an option means where it is set, and the values with which it does nothing.
_REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "num_beams": ((None, 1), f"beams would have to be moved in the draws' caches; {_ONE_TEXT}"),
    "num_beam_groups": ((None, 1), f"beams would have to be moved in all caches; {_ONE_TEXT}"),
    "constraints": ((None,), f"constraints need beams; {_ONE_TEXT}"),
    "force_words_ids": ((None,), f"forced words need beams; {_ONE_TEXT}"),
    "penalty_alpha": ((None, 0, 0.0), f"contrastive search reads hidden states; {_ONE_TEXT}"),
    "dola_layers": ((None,), f"DoLa reads hidden states; {_ONE_TEXT}"),
    "guidance_scale": ((None, 1, 1.0), "guidance runs the network twice a token; leave it out"),
    "negative_prompt_ids": ((None,), "guidance runs the network twice a token; leave it out"),
    "assistant_model": ((None,), f"an assistant's tokens are checked several at once; {_ONE_TEXT}"),
    "assistant_early_exit": ((None,), f"drafts are checked several at once; {_ONE_TEXT}"),
    "prompt_lookup_num_tokens": ((None,), f"drafts are checked several at once; {_ONE_TEXT}"),
    "use_mtp": ((None, False), f"drafts are checked several at once; {_ONE_TEXT}"),
    "custom_generate": ((None,), f"code of its own may do anything; {_ONE_TEXT}"),
    "past_key_values": ((None,), "each draw has a cache of its own; pass the whole prompt"),
    "cache_implementation": ((None, "dynamic"), "a cache of fixed size has no room for the draws"),
    "return_dict_in_generate": (
        (None, False),
        "generate returns a Generation: tokens, total and epistemic uncertainty; leave it out",
    ),
}  # fmt: skip


class AveragedNetwork(LogitsProcessor):
    r"""Makes a language model look like one whose next-token probabilities are an average.

    Inside, each row runs once for every draw, each with a cache of its own; outside there is one
    row, with the logits :math:`\log \frac{1}{K} \sum_k p_k(v)`.  Whatever decodes from them decodes
    one common text, and sampling, stopping and penalties are applied to the average.

    As a logits processor it changes nothing and notes the uncertainty of every token to come.

    Parameters
    ----------
    num_draws
        Number of draws K, whose weights the network holds.
    """

    def __init__(self, num_draws: int) -> None:
        self.num_draws = num_draws
        self._log_probs = torch.empty(0)
        self._notes: list[tuple[torch.Tensor, torch.Tensor]] = []

    @contextmanager
    def over(self, network: nn.Module) -> Iterator[None]:
        """Answer in the place of a network for a while."""
        tile, average = in_this_thread(self._tile), in_this_thread(self._average)
        tiled = network.register_forward_pre_hook(tile, with_kwargs=True)
        with tiled, network.register_forward_hook(average):
            yield

    def _tile(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        rows = len(kwargs["input_ids"])
        tiled = {
            name: value.repeat(self.num_draws, *[1] * (value.dim() - 1))
            for name, value in kwargs.items()
            if isinstance(value, torch.Tensor) and value.dim() > 1 and len(value) == rows
        }
        positions = kwargs.get("position_ids")
        if positions is not None and positions.dim() == 3:
            # A place in a picture has several numbers, which stand before the rows.
            tiled["position_ids"] = positions.repeat(1, self.num_draws, 1)
        return args, {**kwargs, **tiled}

    def _average(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        logits = output.logits[:, -1].float()
        self._log_probs = logits.reshape(self.num_draws, -1, logits.shape[-1]).log_softmax(-1)
        mean = self._log_probs.logsumexp(0) - math.log(self.num_draws)
        output.logits = mean[:, None]
        return output

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Note the uncertainty of the next token, and give the scores back as they are."""
        mean = self._log_probs.logsumexp(0) - math.log(self.num_draws)
        total, each = (
            Categorical(logits=part, validate_args=False).entropy()
            for part in (mean, self._log_probs)
        )
        self._notes.append((total, (total - each.mean(0)).clamp(min=0)))
        return scores

    def uncertainty(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Give total and epistemic uncertainty of all tokens so far, ``rows x S`` each, nats."""
        total, epistemic = zip(*self._notes, strict=True)
        return torch.stack(total, dim=1), torch.stack(epistemic, dim=1)


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
        Seed of draws and sampling; None uses the global random state.
    per_draw
        Write one text for each draw, rather than one for all.
    **options
        For Hugging Face's ``generate``: ``max_new_tokens``, ``do_sample``, ``temperature``,
        ``generation_config``, ``logits_processor``, ``stopping_criteria``, ``streamer``, ...

    Returns
    -------
    Generation
        On the model's device.

    Raises
    ------
    ValueError
        If the network writes no text, reads padding or is divided among processes, or an option is
        set that a common text of several draws cannot follow (beams, an assistant, guidance, ...).

    Examples
    --------
    >>> from blob_pyro.guides import LowRankGaussianGuide
    >>> from blob_pyro.models import CausalLM
    >>> from blob_pyro.testing import tiny_network
    >>> net = tiny_network("llama", "CAUSAL_LM")
    >>> model = CausalLM(net, num_data=10)
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
    if model.is_sharded:
        raise ValueError(
            "the network is divided among processes, which may end their texts after different "
            "tokens; generate without FSDP"
        )
    network = cast(Any, model.network.get_base_model())
    check_options(network, options)
    mask = mask_of(input_ids, attention_mask, network)
    prompts = {"input_ids": input_ids, "attention_mask": mask}
    prompts = align_padding(prompts, "left", padding_token(network))
    with torch.no_grad(), seeded(seed), evaluation_mode(model):
        draws = posterior_draws(guide, num_samples, prompts)
        for padded in {False, bool((mask == 0).any())}:
            _check_cache(model, draws[0], padded, option(network, options, "use_cache"))
        average = AveragedNetwork(1 if per_draw else len(draws))
        processors = [average, *(options.pop("logits_processor", None) or [])]
        with model.under(draws, input_ids.shape), average.over(network):
            sequences = network.generate(
                **(tile(prompts, len(draws)) if per_draw else prompts),
                logits_processor=LogitsProcessorList(processors),
                **options,
            )
    tokens = sequences[:, input_ids.shape[1] :]
    real = ~_after_the_end(tokens, network, options)
    uncertainty = (part.where(real, 0.0) for part in average.uncertainty())
    shape = (len(draws), -1, tokens.shape[1]) if per_draw else tokens.shape
    return Generation(*(part.reshape(shape) for part in (tokens, *uncertainty)))


def _check_cache(model: BayesianLora, draw: Draw, padded: bool, use_cache: bool | None) -> None:
    """Raise a ``ValueError`` if the network writes other words than it would by reading anew."""
    network = cast(Any, model.network.get_base_model())
    passed = _PASSED.setdefault(network, set())
    if (padded, use_cache) in passed:
        return
    texts = made_up_texts(network, LENGTHS if padded else LENGTHS[:1] * 2)
    plain = GenerationConfig(
        max_new_tokens=_TRIED, min_new_tokens=_TRIED, use_cache=use_cache, output_logits=True,
        return_dict_in_generate=True, pad_token_id=network.generation_config.pad_token_id or 0,
    )  # fmt: skip
    kind = type(network).__name__
    with model.under([draw], texts["input_ids"].shape):
        try:
            written = network.generate(**align_padding(texts, "left"), generation_config=plain)
        except Exception as error:
            raise ValueError(
                f"{kind} can't continue two texts at once ({error}); {_WAY_OUT}"
            ) from error
        alone = [
            network(torch.cat([ids[mask == 1], new])[None], use_cache=False).logits
            for ids, mask, new in zip(*texts.values(), written.sequences[:, -_TRIED:], strict=True)
        ]
    found = torch.stack(written.logits, dim=1)
    wanted = torch.cat([logits[:, -1 - _TRIED : -1] for logits in alone])
    if not same(network, found, wanted):
        if padded:
            raise ValueError(
                f"{kind} reads padding, so it would write other texts than for each prompt alone; "
                "give prompts of one length, or one at a time"
            )
        raise ValueError(
            f"{kind} continues two texts at once in another way than each alone: its cache mixes "
            f"them, or Transformers' generate gives it other positions; {_WAY_OUT}"
        )
    passed.add((padded, use_cache))


def _after_the_end(tokens: torch.Tensor, network: Any, options: dict[str, Any]) -> torch.Tensor:
    end = option(network, options, "eos_token_id")
    ends = torch.isin(tokens, torch.tensor([] if end is None else end, device=tokens.device))
    return (ends.cumsum(1) - ends.long()) > 0


def check_options(network: Any, options: Mapping[str, Any]) -> None:
    """Raise a ``ValueError`` where a text could not be written from the average, with the way out.

    Parameters
    ----------
    network
        A network of Transformers.
    options
        Arguments of its ``generate``.
    """
    kind = type(network).__name__
    if not getattr(network, "can_generate", bool)():
        raise ValueError(f"{kind} writes no text; generate needs a causal language model")
    if network.config.is_encoder_decoder:
        raise ValueError(
            f"{kind} is an encoder-decoder, whose encoder would run once for all draws; generate "
            "needs a causal language model"
        )
    for name, (harmless, reason) in _REFUSED.items():
        value = option(network, options, name)
        if not any(value is each or value == each for each in harmless):
            shown = value if isinstance(value, str | int | float) else type(value).__name__
            raise ValueError(f"{name}={shown}: {reason}")
    for name, value in options.items():
        if isinstance(value, torch.Tensor) and value.dim() > 1:
            raise ValueError(
                f"{name} is a tensor of shape {tuple(value.shape)}, which is not known to follow "
                "the rows of the prompts; pass input_ids and attention_mask only"
            )


def option(network: Any, options: Mapping[str, Any], name: str) -> Any:
    """Give what holds for an option: as passed, of a passed configuration, or the network's own."""
    if name in options:
        return options[name]
    for config in (options.get("generation_config"), network.generation_config):
        value = getattr(config, name, None)
        if value is not None:
            return value
    return None
