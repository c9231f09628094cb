"""Plain LoRA, with and without a prior, and no LoRA at all."""

from __future__ import annotations

from blob_pyro.methods.method import Method

# Hu et al., "LoRA", ICLR 2022.
MLE = Method("mle", objective="likelihood")

# The baseline of Wang et al., "BLoB", NeurIPS 2024, table 1; TrainingConfig.weight_decay is that of
# ``B``, since the prior regularises ``A``.
MAP = Method("map", objective="posterior")

# PEFT starts ``B`` at zero, so an adapter that is not trained changes nothing.
ZERO_SHOT = Method("zero_shot")
