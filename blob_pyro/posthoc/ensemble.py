"""Deep ensembles: one program of several fitted ones."""

from collections.abc import Iterable
from typing import Any

import torch

from blob_pyro.guides.ensemble import EnsembleGuide, EnsembleMember, member_config
from blob_pyro.guides.lora_guide import LoraGuide
from blob_pyro.guides.model_at_mean import Model, model_at_mean
from blob_pyro.models import BayesianLora, Classifier
from blob_pyro.networks.identity import sampled_values


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
        If there is no program, base networks, temperatures, LoRA scalings or parts with a head of
        two programs differ, a Laplace approximation predicts by its linearised model, or a program
        is an ensemble.

    Examples
    --------
    >>> import copy
    >>> from peft import LoraConfig, get_peft_model
    >>> from torch import nn
    >>> from blob_pyro.guides import PointEstimateGuide
    >>> programs, base = [], nn.Sequential(nn.Linear(4, 3))
    >>> for seed in range(2):
    ...     net = get_peft_model(copy.deepcopy(base), LoraConfig(r=2, target_modules=["0"]))
    ...     model = BayesianLora(net, 10)
    ...     programs.append((model, PointEstimateGuide(model)))
    >>> model, guide = ensemble(programs)
    >>> len(guide.members), len(guide.draws(4))
    (2, 4)
    """
    fitted, last, earlier = [], None, None
    for model, guide in programs:
        _check_member(model, guide)
        earlier = _check_alike(earlier, model)
        fitted.append((member_config(guide, model.latent), learned_state(model, guide)))
        last = model, guide
    if last is None:
        raise ValueError("an ensemble needs at least one member; fit some programs first")
    model = model_at_mean(*last)
    members = [EnsembleMember.from_config(model, config) for config, _ in fitted]
    for member, (_, state) in zip(members, fitted, strict=True):
        member.load_state_dict(state)
    with torch.no_grad():
        for name, (_, module, leaf) in model.heads.items():
            own = torch.stack([member.heads[name] for member in members])
            module.get_parameter(leaf).copy_(own.mean(dim=0))
    return model, EnsembleGuide(model, members)


def learned_state(model: BayesianLora, guide: LoraGuide) -> dict[str, torch.Tensor]:
    """Copy what a fit learned: guide, point estimates and heads, by name."""
    state = {f"guide.{name}": value for name, value in guide.state_dict().items()}
    for name, site in model.sites.items():
        if model.latent == ("A",):
            state[f"points.{name.replace('.lora_A.', '.lora_B.')}"] = site.lora_B
    for name, (_, module, leaf) in model.heads.items():
        state[f"heads.{name}"] = module.get_parameter(leaf)
    return {name: value.detach().clone() for name, value in state.items()}


def _check_alike(earlier: dict[str, Any] | None, model: BayesianLora) -> dict[str, Any]:
    """Give what a network has once for all members, which has to be that of the one before."""
    found: dict[str, Any] = {"list of heads": sorted(model.heads)}
    found |= {f"scaling of {n!r}": site.scaling for n, site in model.sites.items()}
    if isinstance(model, Classifier):
        found["temperature"] = model.temperature.tolist()
    config: Any = model.network.peft_config[model.adapter]
    found["base network"] = sampled_values(model.network, config.modules_to_save or ())[:12]
    for name, value in found.items():
        if earlier is not None and earlier.get(name, value) != value:
            raise ValueError(
                f"the {name} of one member is {earlier[name]} and of another {value}, but an "
                "ensemble has one; fit all with one base network, lora_alpha, rank and "
                "modules_to_save, and calibrate the ensemble"
            )
    return found


def _check_member(model: BayesianLora, guide: LoraGuide) -> None:
    if isinstance(guide, EnsembleGuide):
        raise ValueError("a member is an ensemble itself; give the programs of all in one call")
    if guide.predictive != "network":
        raise ValueError(
            f"a member is a {type(guide).__name__} with predictive={guide.predictive!r}, but an "
            "ensemble's draws go through the network; make it with predictive='network'"
        )
