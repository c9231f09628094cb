"""The posterior mean as part of the base weights."""

from __future__ import annotations

from typing import cast

from transformers import PreTrainedModel

from blob_pyro.guides import LoraGuide
from blob_pyro.lora import unbayesianize
from blob_pyro.models import BayesianLora


def merge_mean(model: BayesianLora, guide: LoraGuide) -> PreTrainedModel:
    r"""Merge the posterior mean into the base weights, :math:`W = W_0 + s B M`.

    What is left is an ordinary network without adapter, as fast as the base model, whose
    uncertainty is lost.

    Parameters
    ----------
    model, guide
        The fitted program.  Its network becomes the result, so neither can be used any more; save
        the posterior before.

    Returns
    -------
    transformers.PreTrainedModel
        Ready for ``save_pretrained``.

    Raises
    ------
    ValueError
        If the merged weights would not be finite.

    Examples
    --------
    >>> from peft import LoraConfig, get_peft_model
    >>> from transformers import BertConfig, BertForSequenceClassification
    >>> from blob_pyro.guides import LowRankGaussianGuide
    >>> from blob_pyro.models import SequenceClassifier
    >>> config = BertConfig(vocab_size=50, hidden_size=8, num_hidden_layers=1,
    ...                     num_attention_heads=2, intermediate_size=16, num_labels=3)
    >>> lora = LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"])
    >>> model = SequenceClassifier(
    ...     get_peft_model(BertForSequenceClassification(config), lora), num_data=10)
    >>> type(merge_mean(model, LowRankGaussianGuide(model))).__name__
    'BertForSequenceClassification'

    References
    ----------
    Wang et al., "BLoB", NeurIPS 2024, theorem 3.1 (the mean on the full weight).
    """
    net = unbayesianize(model.network, guide.mean(), model.adapter)
    merged = net.merge_and_unload(safe_merge=True, adapter_names=[model.adapter])
    return cast(PreTrainedModel, merged)
