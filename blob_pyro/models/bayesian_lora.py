"""The part that all likelihoods share: a PEFT network, its latent weights and their draws."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, cast

import pyro
import torch
from accelerate.utils.memory import should_reduce_batch_size
from peft import PeftModel
from pyro import poutine
from pyro.nn import PyroModule
from pyro.nn.module import pyro_method
from torch.distributed.fsdp import FSDPModule

from blob_pyro.lora import (
    CheckpointContexts,
    Latent,
    LoraSite,
    NormalPrior,
    Prior,
    bayesianize,
    check_peft_model,
    lora_sites,
)
from blob_pyro.lora.projection import NetworkUse
from blob_pyro.lora.saveable import check_saveable
from blob_pyro.lora.sites import reinstalled
from blob_pyro.models.batches import Batch, other_inputs, tile
from blob_pyro.models.example_axes import beside_texts, example_axes
from blob_pyro.models.shared_trunk import SharedTrunk
from blob_pyro.models.text_trials import same
from blob_pyro.models.without_dropout import without_dropout
from blob_pyro.poutine import AppliedWeight, apply_weight, in_turn, local_param
from blob_pyro.poutine.operations import GroupedWeight, along, tells_rows_apart


class BayesianLora(PyroModule):
    """A PEFT network whose LoRA matrices are latent; a subclass adds the likelihood.

    A subclass's ``forward`` calls :meth:`draw` first, then runs the network, which holds no Pyro
    statement, and then makes its own statements inside ``pyro.plate("data", num_data)``.

    Parameters
    ----------
    net
        A PEFT model.  If it is not Bayesian yet, :func:`blob_pyro.lora.bayesianize` makes it so.
    num_data
        Number of training examples N; a batch of B counts N / B times.
    prior_scale
        Standard deviation of the prior over each entry of a latent matrix.
    adapter
        Name of the PEFT adapter.
    prior
        Any function from a :class:`blob_pyro.lora.LatentWeight` to a distribution, in place of
        ``NormalPrior(prior_scale)``.  A module becomes the submodule ``prior``.
    latent
        Which matrices are latent: ``("A",)``, and ``B`` is a point estimate, or ``("A", "B")``.

    Raises
    ------
    TypeError
        If ``net`` is no PEFT model.
    ValueError
        If there are no data, or ``net`` was made Bayesian with another prior or other matrices.

    Examples
    --------
    A likelihood of one's own:

    >>> import pyro, pyro.distributions as dist
    >>> from peft import LoraConfig, get_peft_model
    >>> class Regression(BayesianLora):
    ...     def forward(self, x, y=None):
    ...         num_draws = self.draw(x.shape)
    ...         mean = self.network(x.repeat(num_draws, 1)).reshape(-1, len(x))
    ...         with pyro.plate("data", self.num_data, subsample=x):
    ...             return pyro.sample("y", dist.Normal(mean.squeeze(0), 0.1), obs=y)
    >>> lora = LoraConfig(r=1, target_modules=["0"])
    >>> model = Regression(get_peft_model(torch.nn.Sequential(torch.nn.Linear(4, 1)), lora), 9)
    >>> model(torch.zeros(9, 4)).shape
    torch.Size([9])
    """

    def __init__(
        self,
        net: PeftModel,
        num_data: int,
        prior_scale: float = 0.2,
        adapter: str = "default",
        *,
        prior: Prior | None = None,
        latent: Latent = ("A",),
    ) -> None:
        super().__init__()
        check_peft_model(net)
        if num_data % 1 or num_data < 1:
            raise ValueError(f"num_data={num_data}: a model needs at least one training example")
        prior = prior or NormalPrior(prior_scale)
        if not lora_sites(net, adapter):
            bayesianize(net, adapter=adapter, prior=prior, latent=latent)
        check_saveable(net, adapter)
        self.num_data = num_data
        self.adapter = adapter
        self.net = net
        self.sites: dict[str, LoraSite] = lora_sites(net, adapter)
        self._projections = [site.projection for site in self.sites.values()]
        # Where each parameter is, since walking the network at every step takes time.
        self._places = [
            (f"{path}.{leaf}" if path else leaf, module, leaf)
            for path, module in net.named_modules()
            for leaf in module._parameters
        ]
        self.heads = self._heads()
        self.latent = latent
        self._first_layer = next(iter(self.sites)).rpartition(".lora_")[0]
        self._example_axes: dict[str, int | None] = {}
        self._beside_texts: list[str] = []
        self._tiles: dict[tuple[object, ...], bool] = {}
        self.trunk = SharedTrunk(net, self.sites)
        self._attention = _attention_of(net)
        self._check_sites(prior)
        self.use.has_model = True
        if isinstance(prior, torch.nn.Module):
            like = next(iter(self.sites.values())).projection.initial_weight
            prior = cast(Prior, prior.to(like))
        self.prior = prior

    def _check_sites(self, prior: Prior) -> None:
        found = {site.matrix for site in self.sites.values()}
        if found != set(self.latent):
            raise ValueError(
                f"net was made Bayesian with the latents {tuple(sorted(found))} but the model was "
                f"given latent={self.latent}; pass the same to both"
            )
        for name, site in self.sites.items():
            if site.projection.prior != prior:
                raise ValueError(
                    f"site {name!r} has the prior {site.projection.prior} but the model was given "
                    f"{prior}; pass the same prior_scale or prior to both"
                )

    def _heads(self) -> dict[str, tuple[str, torch.nn.Module, str]]:
        """Find what the adapter trains beside its matrices: name to name in the network, and place.

        The name is the same whatever the adapter is called.
        """
        own = re.compile(rf"\.modules_to_save\.{re.escape(self.adapter)}(?=\.)")
        bias = re.compile(rf"(?<=\.lora_B)\.{re.escape(self.adapter)}(?=\.bias$)")
        found = {}
        for name, module, leaf in self._places:
            known = bias.sub("", own.sub("", name))
            if known != name and module._parameters[leaf] is not None:
                found[known] = name, module, leaf
        return found

    @property
    def network(self) -> PeftModel:
        """The PEFT model, read without the ``pyro.module`` statement of attribute access."""
        return cast(PeftModel, self._modules["net"])

    @property
    def is_sharded(self) -> bool:
        """Whether each process holds a part of the network only, so that all have to run it."""
        return any(isinstance(module, FSDPModule) for module in self.network.modules())

    @property
    def use(self) -> NetworkUse:
        """What keeps callers of the network apart."""
        return self._projections[0].use

    @property
    def accepts_loss_kwargs(self) -> bool:
        """Refuse transformers' ``Trainer``, which asks for this before it trains."""
        raise TypeError(
            f"Trainer wants a module that returns its loss, and a {type(self).__name__} is a Pyro "
            "program; give it blob_pyro.training.TrainerModule(model, guide, elbo), and see "
            "docs/trainer.md"
        )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the program; other threads wait for the network."""
        with self.use.running():
            try:
                return super().__call__(*args, **kwargs)
            finally:
                # Without gradients no backward pass will run the network again.
                if not torch.is_grad_enabled():
                    self.forget()

    def forget(self) -> None:
        """Forget the draws, after the last backward pass that needs them."""
        for site in self.sites.values():
            site.projection.forget()

    @contextmanager
    def under(
        self, draws: Sequence[Mapping[str, torch.Tensor]], shape: torch.Size
    ) -> Iterator[int]:
        """Let the network compute with fixed draws, without any Pyro statement.

        Parameters
        ----------
        draws
            Site name to weight, ``r x n``, for each of K draws.  A draw of an ensemble brings its
            member's head along, by the names of ``heads``; then K is 1.
        shape
            ``(rows, tokens)`` of the batch, before the draws are tiled.

        Yields
        ------
        int
            K: the network is to be run on ``K * rows`` rows, draw after draw.
        """
        self._check_active()
        tiled = torch.Size([len(draws) * shape[0], *shape[1:]])
        with self.use.running(), self._with_head(draws):
            weights = {name: _stacked([draw[name] for draw in draws]) for name in self.sites}
            # Whatever handlers there are, a draw is used as it is.
            self._install(weights, {n: GroupedWeight(w, tiled[0]) for n, w in weights.items()})
            try:
                yield len(draws)
            finally:
                if not torch.is_grad_enabled():
                    self.forget()
        # Another thread may have switched adapters meanwhile.
        self._check_active()

    @contextmanager
    def _with_head(self, draws: Sequence[Mapping[str, torch.Tensor]]) -> Iterator[None]:
        """Put the head that a draw brings along where the network's own is."""
        brought = {name: draws[0][name] for name in self.heads if name in draws[0]}
        if brought and len(draws) > 1:
            raise ValueError(
                f"{len(draws)} draws of an ensemble have a head each, but a network has one; give "
                "one draw a pass"
            )
        places = {name: self.heads[name][1:] for name in brought}
        own = {name: module._parameters[leaf] for name, (module, leaf) in places.items()}
        try:
            for name, (module, leaf) in places.items():
                module._parameters[leaf] = cast(torch.nn.Parameter, brought[name])
            yield
        finally:
            for name, (module, leaf) in places.items():
                module._parameters[leaf] = own[name]

    @contextmanager
    def trial(self) -> Iterator[None]:
        """Let the network compute with a prior draw, and leave no trace of it.

        There is no dropout, gradient or statement meanwhile, and no random number is used up.
        """
        layers = [*self.network.modules()]
        with (
            in_turn(),
            self.use.running(),
            torch.no_grad(),
            without_dropout(self),
            torch.random.fork_rng(),
        ):
            with poutine.block():
                draw = self.sample_latents()
            with self.under([draw], torch.Size([1])):
                yield
        if layers != [*self.network.modules()]:
            raise ValueError(
                f"{type(self.network.get_base_model()).__name__} exchanged layers of its own while "
                "it read a short text, so that answers would depend on what it read before; load "
                "it so that it reads all texts alike (BigBird: attention_type='original_full')"
            )

    @pyro_method
    def sample_latents(self, names: Iterable[str] | None = None) -> dict[str, torch.Tensor]:
        """Make the sample statements of latent sites, and nothing else.

        Parameters
        ----------
        names
            Of which sites; None for all.

        Returns
        -------
        dict
            Site name to weight, ``r x n`` (``K x 1 x r x n`` under a plate of K draws).
        """
        names = self.sites if names is None else names
        return {name: self.sites[name].projection.sample() for name in names}

    def draw(self, shape: torch.Size) -> int:
        """Draw every latent weight and hand it to its projection; state the point estimates.

        Parameters
        ----------
        shape
            ``(rows, tokens)`` of the batch, before the draws are tiled.

        Returns
        -------
        int
            Number of draws K: the network is to be run on ``K * rows`` rows, draw after draw.

        Raises
        ------
        ValueError
            If another adapter of the network is the active one, or examples need weights of their
            own and can't be told apart in some layer.
        """
        self._check_active()
        self._state_point_estimates()
        weights = self.sample_latents()
        num_draws = max(
            1 if weight.dim() == 2 else weight.shape[:-2].numel() for weight in weights.values()
        )
        tiled = torch.Size([num_draws * shape[0], *shape[1:]])
        self._install(
            weights,
            {name: apply_weight(weight, tiled, name=name) for name, weight in weights.items()},
        )
        return num_draws

    def _install(
        self, weights: Mapping[str, torch.Tensor], applied: Mapping[str, AppliedWeight]
    ) -> None:
        if any(map(tells_rows_apart, applied.values())):
            axes = self.example_axes()
            # An example may have any number of pictures: one draw is for the pictures of all.
            shared = {
                name: GroupedWeight(weights[name], 1)
                for name in self._beside_texts
                if weights[name].dim() == 2
            }
            applied = {
                name: shared.get(name) or along(axes[name], function, name)
                for name, function in applied.items()
            }
        for name, site in self.sites.items():
            site.projection.install(weights[name], applied[name])

    def example_axes(self) -> dict[str, int | None]:
        """Give the axis of each latent layer's input on which the examples of a batch stand.

        Draws that share a pass, flipout and Laplace need it.  A trial finds it, once.

        Returns
        -------
        dict
            Site name to 0 or 1; None for a layer that text never reaches.

        Raises
        ------
        ValueError
            If the examples can't be told apart in some layer.
        """
        if not self._example_axes:
            with self.use.running():
                axes = example_axes(self.network, self.sites)
            beside: set[Any] = beside_texts(self.network)
            self._beside_texts = [
                n for n in axes if axes[n] is None and self.sites[n].layer in beside
            ]
            self._example_axes.update(axes)
        return self._example_axes

    def _check_draws_at_once(self, batch: Batch, logits: Callable[[Batch], torch.Tensor]) -> None:
        """Raise a ``ValueError`` if draws can't share a pass over such a batch, as a trial says.

        Texts are repeated once for each draw.  Pictures are repeated likewise, where the trial gets
        the logits of one draw twice.

        Parameters
        ----------
        batch
            Tensors by name.
        logits
            The function from a batch to its logits.
        """
        if not (other := other_inputs(batch)):
            return
        self.example_axes()
        if self._beside_texts:
            raise ValueError(
                f"several draws can't share a pass over {sorted(other)}: texts never reach the "
                f"layer of site {self._beside_texts[0]!r}, so the axis of its examples is unknown; "
                "use one draw a pass (parallel=False), or leave the layer out of target_modules"
            )
        kind = other, len(batch["input_ids"]) > 1
        if kind not in self._tiles:
            self._tiles[kind] = self._tiles_rightly(batch, logits)
        if not self._tiles[kind]:
            raise ValueError(
                f"{type(self.network.get_base_model()).__name__} gives other logits if its "
                f"inputs {sorted(other)} are repeated for a second draw; use one draw a pass "
                "(parallel=False)"
            )

    def _tiles_rightly(self, batch: Batch, logits: Callable[[Batch], torch.Tensor]) -> bool:
        projections = [site.projection for site in self.sites.values()]
        starts = [GroupedWeight(each.initial_weight, 1) for each in projections]
        trial = reinstalled(projections, starts)
        with self.use.running(), torch.no_grad(), without_dropout(self), trial:
            once = logits(batch)
            try:
                twice = logits(tile(batch, 2))
            except Exception as error:
                if should_reduce_batch_size(error):
                    raise
                return False
        # Classes that an example does not offer have no finite logit.
        wanted = torch.nan_to_num(torch.cat([once, once]), neginf=0.0)
        return same(self.network, torch.nan_to_num(twice, neginf=0.0), wanted)

    def data_plate(self, rows: torch.Tensor) -> AbstractContextManager[Any]:
        """Make the plate ``data`` over a batch, in which each example counts N / B times.

        Parameters
        ----------
        rows
            Any tensor of the batch, examples first.
        """
        return pyro.plate(
            "data",
            max(self.num_data, len(rows)),
            subsample=torch.arange(len(rows), device=rows.device),
            dim=-1,
            device=str(rows.device),
        )

    def _check_active(self) -> None:
        # PEFT switches all layers at once.
        layer = next(iter(self.sites.values())).layer
        if any(site.layer.merged for site in self.sites.values()):
            raise ValueError(
                f"the adapter {self.adapter!r} is merged into the network, so its draws have no "
                "effect; call model.network.unmerge_adapter() first"
            )
        if layer.disable_adapters:
            raise ValueError(
                f"the adapter {self.adapter!r} is disabled, so its draws have no effect; call "
                "model.network itself for the base model, or enable the adapter first"
            )
        there: Any = self.network.get_submodule(self._first_layer)
        if there is not layer:
            raise ValueError(
                f"the adapter {self.adapter!r} is no longer in the network (unload was called), "
                "so its draws have no effect; make a new model of the network"
            )
        for site, projection in zip(self.sites.values(), self._projections, strict=True):
            matrices: Any = getattr(site.layer, f"lora_{site.matrix}")
            if self.adapter not in matrices or matrices[self.adapter] is not projection:
                raise ValueError(
                    f"the network's adapter {self.adapter!r} is another one by now (as after a "
                    "second get_peft_model, or model_at_mean), to which this model's draws do not "
                    "belong; give each model a network or a name of an adapter of its own"
                )
        if (attention := _attention_of(self.network)) != self._attention:
            raise ValueError(
                f"the network's attention is {attention!r}, but {self._attention!r} was tried when "
                "this model was made, and another one may read padding or packed texts otherwise; "
                "set it before, and make a new model of the network"
            )
        if (active := layer.active_adapters) != [self.adapter]:
            raise ValueError(
                f"the network's active adapter is {', '.join(active)}, not {self.adapter}, "
                "whose weights this model draws; call "
                f"model.network.set_adapter({self.adapter!r}) first"
            )

    def _state_point_estimates(self) -> None:
        for name, module, leaf in self._places:
            parameter = module._parameters[leaf]
            if parameter is not None and parameter.requires_grad:
                local_param(name, parameter)

    def gradient_checkpointing_enable(self) -> None:
        """Trade time for memory: recompute the network's layers in the backward pass.

        Unlike the network's own method it is also right when several draws are made before one
        backward pass, since each layer is recomputed with the draw that it first ran with.

        Raises
        ------
        ValueError
            If the network can't.
        """
        net = self.network
        # The newer name, in whose presence transformers announces the end of the older.
        newer = hasattr(net, "activation_checkpointing_enable")
        enable = net.activation_checkpointing_enable if newer else net.gradient_checkpointing_enable
        try:
            enable({"use_reentrant": False, "context_fn": CheckpointContexts(net, self.adapter)})
        except ValueError as error:
            raise ValueError(
                f"{type(net.get_base_model()).__name__} can't recompute its layers ({error}); "
                "train with gradient_checkpointing=False, and smaller batches"
            ) from error

    def likelihood_config(self) -> dict[str, Any]:
        """Give the constructor's arguments beside network, data size and latents."""
        return {}


def _stacked(weights: Sequence[torch.Tensor]) -> torch.Tensor:
    return weights[0] if len(weights) == 1 else torch.stack(list(weights))


def _attention_of(network: PeftModel) -> Any:
    config = getattr(network.get_base_model(), "config", None)
    return getattr(config, "_attn_implementation", None)
