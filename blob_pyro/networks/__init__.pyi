from .features import pooled_features as pooled_features
from .identity import base_identity as base_identity
from .loading import MINILM as MINILM
from .loading import SMOLLM2 as SMOLLM2
from .loading import SMOLLM2_INSTALL as SMOLLM2_INSTALL
from .loading import is_encoder as is_encoder
from .loading import load_causal_lm as load_causal_lm
from .loading import load_sequence_classifier as load_sequence_classifier
from .loading import load_tokenizer as load_tokenizer
from .loading import torch_dtype as torch_dtype
from .mean_pooling import (
    MeanPoolingForSequenceClassification as MeanPoolingForSequenceClassification,
)
from .mean_pooling import pooling_of as pooling_of
from .pooling import Pooling as Pooling
from .quantization import Quantization as Quantization
from .quantization import dequantised as dequantised
from .quantization import quantization_of as quantization_of
