"""Posteriors that the paper's own code saved."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from peft import PeftModel
from torch import nn

from blob_pyro.files.adapter import ADAPTER_FILE, check_tensors, load_adapter, read_tensors
from blob_pyro.guides import LowRankGaussianGuide
from blob_pyro.guides.low_rank_gaussian import Parameterization
from blob_pyro.models import BayesianLora
from blob_pyro.poutine import in_turn

Model = TypeVar("Model", bound=BayesianLora)
_RHO = ".lora_A_rho"


def import_bayesian_peft(
    folder: str | Path,
    base_model: nn.Module,
    prior_scale: float = 0.2,
    *,
    likelihood: Callable[..., Model],
    parameterization: Parameterization = "square",
) -> tuple[Model, LowRankGaussianGuide]:
    r"""Read a posterior that the paper's code (bayesian-peft) saved.

    Its folder is a PEFT adapter that holds, beside ``....q_proj.lora_A.weight`` (the mean), a
    tensor ``....q_proj.lora_A_rho`` of the same shape; the standard deviation is
    :math:`\rho^2`.  Likelihood, prior and data size are not saved there.

    Parameters
    ----------
    folder
        The folder, with ``adapter_config.json`` and ``adapter_model.safetensors``.
    base_model
        The loaded network that was fine-tuned, without adapter; it is changed in place, as PEFT
        does.
    prior_scale
        Standard deviation of the prior over ``A`` (``--bayes-beta`` there).
    likelihood
        Makes the model from the PEFT network and the keyword ``prior_scale``, such as
        ``partial(LabelTokenClassifier, label_token_ids=[...], num_data=...)`` for that code's
        multiple-choice tasks.
    parameterization
        ``"softplus"`` for a posterior that was fitted with a negative ``--bayes-eps``.

    Returns
    -------
    model, guide
        The posterior, ready to predict from or to train on.

    Raises
    ------
    ValueError
        If a file is damaged, is a plain adapter, or belongs to another base model.

    Examples
    --------
    >>> from functools import partial
    >>> from blob_pyro.models import LabelTokenClassifier
    >>> answers = partial(LabelTokenClassifier, label_token_ids=[319, 350], num_data=640)
    >>> model, guide = import_bayesian_peft(
    ...     "checkpoints/blob", llama, likelihood=answers)  # doctest: +SKIP

    References
    ----------
    Wang et al., "BLoB", NeurIPS 2024, section 3.2; ``modelwrappers/blob.py`` of its code.
    """
    folder = Path(folder)
    path = folder / ADAPTER_FILE
    tensors = read_tensors(path)
    rho = {name.removesuffix(_RHO): tensors.pop(name) for name in [*tensors] if name.endswith(_RHO)}
    if not rho:
        raise ValueError(
            f"{path} has no tensor {_RHO[1:]}, so it is a plain adapter and no posterior; "
            "PeftModel.from_pretrained reads it"
        )
    if isinstance(base_model, PeftModel):
        raise ValueError(
            "base_model is a PeftModel already; give the network without adapter, such as "
            "AutoModelForCausalLM.from_pretrained(...)"
        )
    # Neither draws elsewhere nor warnings notice what PEFT and the guide start from.
    with in_turn(), torch.random.fork_rng(devices=[]):
        net = load_adapter(folder, base_model, tensors)
        model = likelihood(net, prior_scale=prior_scale)
        guide = LowRankGaussianGuide(model, parameterization=parameterization)
    found = {f"{name}.lora_A.weight": tensor for name, tensor in rho.items()}
    check_tensors(path, found, guide.G.state_dict(), "the means (lora_A) in it")
    guide.G.load_state_dict(found)
    model.eval()
    return model, guide
