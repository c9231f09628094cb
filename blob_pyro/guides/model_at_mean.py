"""From a fitted program to one whose guide is yet to be made, at the same weights."""

from typing import TypeVar

from blob_pyro.guides.lora_guide import LoraGuide
from blob_pyro.lora import Latent, unbayesianize
from blob_pyro.models import BayesianLora, Classifier

Model = TypeVar("Model", bound=BayesianLora)


def model_at_mean(model: Model, guide: LoraGuide, latent: Latent = ("A", "B")) -> Model:
    """Make a model anew around the mean of a fitted guide, with other matrices latent.

    The mean of a guide of ``A`` and the point estimate ``B`` become the adapter of the new model,
    so any guide that is made for it starts there: the way from plain LoRA to posteriors that are
    built around it.

    Parameters
    ----------
    model, guide
        The fitted program.  Its network is changed in place, so neither is of use afterwards.
    latent
        Which matrices are latent in the new model, see :class:`blob_pyro.models.BayesianLora`.

    Returns
    -------
    BayesianLora
        Of the class of ``model``, with its network, data size, prior, settings and temperature, and
        in the same mode of training or evaluation.

    Examples
    --------
    >>> from peft import LoraConfig, get_peft_model
    >>> from torch import nn
    >>> from blob_pyro.guides import PointEstimateGuide
    >>> net = get_peft_model(nn.Sequential(nn.Linear(4, 3)), LoraConfig(r=2, target_modules=["0"]))
    >>> model = BayesianLora(net, num_data=10)
    >>> list(model_at_mean(model, PointEstimateGuide(model)).sites)
    ['base_model.model.0.lora_A.weight', 'base_model.model.0.lora_B.weight']
    """
    net = unbayesianize(model.network, guide.mean(), model.adapter)
    made = type(model)(
        net,
        num_data=model.num_data,
        adapter=model.adapter,
        prior=model.prior,
        latent=latent,
        **model.likelihood_config(),
    )
    if isinstance(made, Classifier) and isinstance(model, Classifier):
        made.set_temperature(model.temperature)
    return made.train(model.training)
