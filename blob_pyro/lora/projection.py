"""The LoRA projection whose weight is a Pyro latent, and who runs its network."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import pyro
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.nn import PyroModule, PyroSample
from pyro.poutine.runtime import am_i_wrapped
from torch import nn

from blob_pyro.lora.prior import Prior
from blob_pyro.poutine import AppliedWeight, apply_weight


class NetworkUse:
    """The state that all latent projections of one network share.

    A draw that a model installed holds for that model's call, in its thread, and for the backward
    pass that follows.  Any other call of the network is a bare one.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._owner: int | None = None
        # Whether a model stands over the network: then a bare call is no sample statement.
        self.has_model = False

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run the network with the draws that are installed meanwhile; other threads wait."""
        with self._lock:
            before, self._owner = self._owner, threading.get_ident()
            try:
                yield
            finally:
                self._owner = before

    @contextmanager
    def bare(self) -> Iterator[None]:
        """Keep models of other threads waiting for a bare call, or one within a model's own."""
        with self._lock:
            yield

    @property
    def is_bare(self) -> bool:
        """Whether the network is called by somebody else than the model that drew."""
        if torch.compiler.is_compiling():
            return False
        # Gradient checkpointing runs layers again, on a GPU in a thread of autograd's.
        in_backward = torch._C._current_graph_task_id() != -1
        return self._owner != threading.get_ident() and not in_backward

    def __reduce__(self) -> tuple[Any, ...]:
        # Copies of a network share one of their own.
        return NetworkUse, (), {"has_model": self.has_model}


def use_of(network: nn.Module) -> NetworkUse:
    """Give what keeps callers of a network apart, a new one if nothing in it is Bayesian."""
    uses = (m.use for m in network.modules() if isinstance(m, LoraProjection))
    return next(uses, NetworkUse())


def in_this_thread(hook: Callable[..., Any]) -> Callable[..., Any]:
    """Let a hook of a network pass over the calls that other threads make meanwhile."""
    thread = threading.get_ident()

    def answer(*args: Any) -> Any:
        if torch.compiler.is_compiling() or threading.get_ident() == thread:
            return hook(*args)
        return None

    return answer


class LoraProjection(PyroModule):
    """A projection ``x -> x A^T`` of a LoRA layer, with ``A`` a latent variable.

    It takes the place of the ``nn.Linear`` that PEFT keeps in ``lora_A[adapter]`` (or in
    ``lora_B[adapter]``, where r and n below are that matrix's m and r).  A model calls
    :meth:`sample` and :meth:`install` before it runs the network, which then computes with that
    draw and contains no Pyro statement; the draw stays for the backward pass, so that gradient
    checkpointing recomputes with the same weight.  A network that is called by itself computes with
    the mean of the guide that was made last, as PEFT does with the saved adapter.  Where there is
    no model, calling the projection within a Pyro handler is a sample statement like any other
    ``PyroSample``.

    Parameters
    ----------
    path
        Dotted path of the ``lora_A`` in the PEFT model; the site's ``name`` is that path, then
        ``.weight``.
    weight
        The adapter's own matrix, shape ``(r, n)``: where a guide starts.
    prior
        Makes the prior distribution, of event shape ``(r, n)``, from this projection.  One
        that is a ``PyroModule`` belongs to the model, which names its sites.
    use
        What the projections of a network share; None for a projection alone.
    """

    initial_weight: torch.Tensor
    use: NetworkUse

    def __init__(
        self, path: str, weight: torch.Tensor, prior: Prior, use: NetworkUse | None = None
    ) -> None:
        super().__init__(path)
        self.name = f"{path}.weight"
        # In a tuple, so that a prior that is a module is not registered once a projection.
        self._prior = (prior,)
        self.register_buffer("initial_weight", weight.detach().clone(), persistent=False)
        self._draw: torch.Tensor | None = None
        self._applied: AppliedWeight | None = None
        self._mean: Callable[[], torch.Tensor] | None = None
        self.use = use or NetworkUse()
        # A partial, since Pyro makes the name of a function longer each time.
        self.weight = PyroSample(cast(Any, partial(LoraProjection._prior_distribution)))

    @property
    def in_features(self) -> int:
        """Number of input features, n of ``A`` and r of ``B``."""
        return self.initial_weight.shape[1]

    @property
    def out_features(self) -> int:
        """Number of output features, the rank r of ``A`` and m of ``B``."""
        return self.initial_weight.shape[0]

    @property
    def prior(self) -> Prior:
        """The function from this projection to the distribution of its weight."""
        return self._prior[0]

    def _prior_distribution(self) -> TorchDistributionMixin:
        return self.prior(self)

    def sample(self) -> torch.Tensor:
        """Draw the weight: the sample statement of this site."""
        self.forget()
        # That of the PyroSample, without the search for it among the module's attributes.
        return pyro.sample(self.name, self._prior_distribution())

    def install(self, weight: torch.Tensor, applied: AppliedWeight) -> None:
        """Make the network use a draw, as :func:`blob_pyro.poutine.apply_weight` has it applied."""
        # Past PyroModule's own assignment, which takes longer than the product with the weight.
        self.__dict__.update(_draw=weight, _applied=applied)

    def forget(self) -> None:
        """Forget the draw, which nothing will need again."""
        self.__dict__.update(_draw=None, _applied=None)

    def follow(self, mean: Callable[[], torch.Tensor]) -> None:
        """Let bare calls of the network compute with what a guide gives as its mean."""
        self.__dict__["_mean"] = mean

    @property
    def mean_weight(self) -> torch.Tensor:
        """The mean, ``r x n``, of the guide that was made last, or where a guide starts."""
        mean = self.__dict__["_mean"]
        return self.initial_weight if mean is None else mean().to(self.initial_weight)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run :meth:`forward`; without Pyro's context where no statement can be made."""
        if self.use.has_model or not am_i_wrapped():
            return nn.Module.__call__(self, *args, **kwargs)
        return super().__call__(*args, **kwargs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Project ``(rows, ..., n)`` to ``(rows, ..., r)`` with the draw, or with a new one."""
        if self._applied is not None and not self.use.is_bare:
            return self._applied(x)
        if self._pyro_context.active:
            return apply_weight(self.weight, x.shape[:-1], name=self.name)(x)
        if self.training and torch.is_grad_enabled():
            raise ValueError(
                f"the network is trained without its guide, so the latent weight {self.name!r} "
                "would stay at its mean; train the model and its guide (blob_pyro.training.fit, "
                "SVI), or call network.eval() to predict"
            )
        return nn.functional.linear(x, self.mean_weight)

    def __getattr__(self, name: str) -> Any:
        # PEFT reads weight.dtype at each call: that must be no sample statement, and no noise.
        if name == "weight" and not self._pyro_context.active:
            bare = self._draw is None or self.use.is_bare
            return self.mean_weight if bare else self._draw
        return super().__getattr__(name)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        # The network's own state has the weight, as PEFT saves it; a model's leaves it to guides.
        if prefix.startswith(self.name.removesuffix("weight")):
            destination[f"{prefix}weight"] = self.mean_weight.detach()

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *others: Any) -> None:
        weight, errors = state_dict.get(f"{prefix}weight"), others[-1]
        if weight is None or torch.equal(weight.to(self.mean_weight), self.mean_weight):
            return
        if self.__dict__["_mean"] is None:
            self.initial_weight.copy_(weight)
        else:
            errors.append(
                f"site {self.name!r} has a posterior, which a weight is not; call "
                "unbayesianize(peft_model) first, or blob_pyro.load_posterior"
            )

    def __getstate__(self) -> dict[str, Any]:
        # A draw belongs to the call that made it (and its graph cannot be copied).
        return {**self.__dict__, "_draw": None, "_applied": None}
