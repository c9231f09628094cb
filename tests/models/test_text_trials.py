from __future__ import annotations

import pytest
from peft import LoraConfig, get_peft_model
from transformers import CanineConfig, CanineForSequenceClassification

from blob_pyro.models import SequenceClassifier


def test_a_network_of_characters_is_refused() -> None:
    config = CanineConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24
    )
    lora = LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"])
    net = get_peft_model(CanineForSequenceClassification(config), lora)
    with pytest.raises(ValueError, match="CanineConfig has no vocab_size, so no text can be made"):
        SequenceClassifier(net, num_data=8)
