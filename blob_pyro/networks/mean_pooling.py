"""A classification head on the mean of a text's token vectors, for sentence encoders."""

from typing import Any, NoReturn, cast

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput
from typing_extensions import override


class MeanPoolingForSequenceClassification(PreTrainedModel):
    """A linear head on the mean of an encoder's last hidden states over the real tokens.

    The head that Transformers gives an architecture reads one token, which a sentence encoder was
    never trained to put its sentence into.  The encoder's name here, ``mean_pooled``, is one that
    no other network has, so that an adapter of this one fits no network that pools otherwise.

    Parameters
    ----------
    backbone
        Encoder without head; changed in place: it loses its own pooling layer, if it has one.
    num_labels
        Number of classes.

    Examples
    --------
    >>> from transformers import BertConfig, BertModel
    >>> config = BertConfig(vocab_size=50, hidden_size=8, num_hidden_layers=1,
    ...                     num_attention_heads=2, intermediate_size=16)
    >>> network = MeanPoolingForSequenceClassification(BertModel(config), num_labels=3)
    >>> network(torch.tensor([[5, 6, 7]])).logits.shape
    torch.Size([1, 3])
    """

    base_model_prefix = "mean_pooled"
    supports_gradient_checkpointing = True
    # The encoder was asked when it was made; this part has no attention.
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True

    def __init__(self, backbone: PreTrainedModel, num_labels: int) -> None:
        config = backbone.config
        config.num_labels = num_labels
        super().__init__(config)
        if getattr(backbone, "pooler", None) is not None:
            cast(Any, backbone).pooler = None
        self.mean_pooled = backbone
        self.classifier = nn.Linear(config.hidden_size, num_labels, dtype=backbone.dtype)
        nn.init.normal_(self.classifier.weight, std=getattr(config, "initializer_range", 0.02))
        nn.init.zeros_(self.classifier.bias)
        self.name_or_path = backbone.name_or_path
        # PEFT asks the outermost part how the layers were loaded.
        for flag in ("is_loaded_in_4bit", "is_loaded_in_8bit", "hf_quantizer"):
            if getattr(backbone, flag, None) is not None:
                setattr(self, flag, getattr(backbone, flag))

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **inputs: Any
    ) -> SequenceClassifierOutput:
        """Classify texts.

        Parameters
        ----------
        input_ids
            Token ids, ``B x T``, int64.
        attention_mask
            Nonzero where a token is real, ``B x T``; None if all are.
        **inputs
            Whatever else the encoder takes.

        Returns
        -------
        SequenceClassifierOutput
            ``logits``, ``B x num_labels``.
        """
        states = self.mean_pooled(
            input_ids=input_ids, attention_mask=attention_mask, **inputs
        ).last_hidden_state
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        real = (mask != 0).unsqueeze(-1).to(states.dtype)
        mean = (states * real).sum(1) / real.sum(1)
        return SequenceClassifierOutput(logits=self.classifier(mean))

    @override
    def save_pretrained(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse, since ``from_pretrained`` would make another network of what is written."""
        raise ValueError(
            f"Transformers has no loader for a {type(self).__name__}; save network.mean_pooled, "
            "which is an ordinary encoder, and network.classifier.state_dict()"
        )


def pooling_of(network: nn.Module) -> str:
    """Name the pooling that loads such a network again: ``"mean"`` or ``"head"``."""
    return "mean" if isinstance(network, MeanPoolingForSequenceClassification) else "head"
