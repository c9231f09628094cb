"""Deep ensembles: one program of several fitted ones."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from blob_pyro.guides.ensemble import EnsembleGuide, EnsembleMember, member_config
from blob_pyro.guides.lora_guide import LoraGuide
from blob_pyro.guides.model_at_mean import Model, model_at_mean
from blob_pyro.models import BayesianLora, Classifier


def ensemble(programs: Iterable[tuple[Model, LoraGuide]]) -> tuple[Model, EnsembleGuide]:
    """Make one program of several that were fitted to the same data, such as with other seeds.

    Parameters
    ----------
    programs
        Pairs of model and guide over the same base network, one by one: an iterator may fit or
        load the next one when it is asked, in the network of the one before if it likes.

    Returns
    -------
    model, guide
        In the network of the last program, which is of no use by itself afterwards.

    Raises
    ------
    ValueError
        If there is no program, an adapter brings along a head, of which a network has only one, the
        temperatures or LoRA scalings of two programs differ, or a Laplace approximation predicts by
        its linearised model.

    Examples
    --------
    >>> from peft import LoraConfig, get_peft_model
    >>> from torch import nn
    >>> from blob_pyro.guides import PointEstimateGuide
    >>> programs = []
    >>> for seed in range(2):
    ...     net = nn.Sequential(nn.Linear(4, 3))
    ...     model = BayesianLora(get_peft_model(net, LoraConfig(r=2, target_modules=["0"])), 10)
    ...     programs.append((model, PointEstimateGuide(model)))
    >>> model, guide = ensemble(programs)
    >>> len(guide.members), len(guide.draws(4))
    (2, 4)
    """
    fitted, last, scaling = [], None, {}
    for model, guide in programs:
        _check_no_head(model)
        _check_draws_are_of_the_network(guide)
        if last is not None:
            _check_same_temperature(last[0], model)
            _check_same_scaling(scaling, model)
        scaling = {name: site.scaling for name, site in model.sites.items()}
        fitted.append((member_config(guide, model.latent), _member_state(model, guide)))
        last = model, guide
    if last is None:
        raise ValueError("an ensemble needs at least one member; fit some programs first")
    model = model_at_mean(*last)
    members = []
    for config, state in fitted:
        members.append(EnsembleMember.from_config(model, config))
        members[-1].load_state_dict(state)
    return model, EnsembleGuide(model, members)


def _member_state(model: BayesianLora, guide: LoraGuide) -> dict[str, torch.Tensor]:
    """Copy what a member has to hold, while the next one is fitted in the same network."""
    state = {f"guide.{name}": value for name, value in guide.state_dict().items()}
    for name, site in model.sites.items():
        if model.latent == ("A",):
            state[f"points.{name.replace('.lora_A.', '.lora_B.')}"] = site.lora_B
    return {name: value.detach().clone() for name, value in state.items()}


def _check_same_temperature(earlier: BayesianLora, model: BayesianLora) -> None:
    if not isinstance(earlier, Classifier) or not isinstance(model, Classifier):
        return
    one, other = earlier.temperature.tolist(), model.temperature.tolist()
    if one != other:
        raise ValueError(
            f"members have the temperatures {one} and {other}, and an ensemble has one for all of "
            "them; call ensemble(programs) before calibrate, which then fits it"
        )


def _check_same_scaling(earlier: dict[str, float], model: BayesianLora) -> None:
    for name, site in model.sites.items():
        if earlier.get(name, site.scaling) != site.scaling:
            raise ValueError(
                f"members scale their updates at {name!r} by {earlier[name]:g} and "
                f"{site.scaling:g}, and a network scales all of them alike; fit them with one "
                "lora_alpha and rank"
            )


def _check_draws_are_of_the_network(guide: LoraGuide) -> None:
    if guide.predictive != "network":
        raise ValueError(
            f"a member is a {type(guide).__name__} with predictive={guide.predictive!r}, "
            "but an ensemble's draws go through the network; make it with predictive='network', "
            "or average the members' predictions"
        )


def _check_no_head(model: BayesianLora) -> None:
    heads = [
        name
        for name, parameter in model.network.named_parameters()
        if parameter.requires_grad and "lora_" not in name
    ]
    if heads:
        raise ValueError(
            f"the adapter trains {heads[0]!r} too, and a network has only one of it while each "
            "member of an ensemble needs its own; use a likelihood without such a head "
            "(LabelTokenClassifier, OptionLikelihood), and no modules_to_save"
        )
