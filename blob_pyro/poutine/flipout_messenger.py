"""Flipout: noise that is independent between examples though one weight was drawn."""

from collections.abc import Callable
from typing import Any, Literal, TypeVar, cast, get_args, overload

import torch
from pyro.poutine.messenger import Messenger

from blob_pyro.poutine.operations import AppliedWeight, GroupedWeight

Per = Literal["example", "token"]
Program = TypeVar("Program", bound=Callable[..., Any])


class FlipoutMessenger(Messenger):
    """Handler behind :func:`blob_pyro.poutine.flipout`.

    It learns the centre of each latent weight from the guide, which states it at the site as
    ``infer={"center": M}`` (Pyro's ``replay`` carries it into the model), and answers
    :func:`blob_pyro.poutine.apply_weight` with weights whose deviation from the centre has had its
    signs flipped.
    """

    def __init__(self, per: Per = "example") -> None:
        super().__init__()
        if per not in get_args(Per):
            raise ValueError(f"flipout: per={per!r} is unknown; use 'example' or 'token'")
        self.per = per
        self._centers: dict[str, torch.Tensor] = {}

    def __exit__(self, *exc_info: Any) -> None:
        self._centers.clear()
        super().__exit__(*exc_info)

    def _pyro_post_sample(self, msg: Any) -> None:
        if "center" in msg["infer"]:
            self._centers[msg["name"]] = msg["infer"]["center"]

    def _pyro_apply_weight(self, msg: Any) -> None:
        if msg["name"] not in self._centers:
            raise ValueError(
                f"flipout: no centre is known for site {msg['name']!r}; the guide must sample it "
                "with infer={'center': mean}, about which it is symmetric. Leave flipout out when "
                "you predict, or with correlated entries (TrainingConfig(flipout=False))"
            )
        weight, shape = msg["args"]
        apply = _per_example if self.per == "example" else TokenFlipout
        msg["value"] = apply(weight, self._centers[msg["name"]], shape)
        msg["done"] = True


def _random_signs(like: torch.Tensor, *shape: int) -> torch.Tensor:
    return like.new_empty(shape).bernoulli_(0.5).mul_(2).sub_(1)


def _per_example(weight: torch.Tensor, center: torch.Tensor, shape: torch.Size) -> AppliedWeight:
    # ((x * s) D^T) * t = x (D * t s^T)^T: signs shared by all tokens of an example make a weight
    # per example, so one batched product does the work of two products and two masks.
    rank, in_features = weight.shape[-2:]
    signs = _random_signs(weight, shape[0], rank + in_features)
    signs_out, signs_in = signs[:, :rank, None], signs[:, None, rank:]
    if weight.dim() == 2:
        drawn, flips = weight, signs_out * signs_in
    else:
        drawn = weight.reshape(-1, 1, rank, in_features)
        flips = (signs_out * signs_in).unflatten(0, (drawn.shape[0], -1))
    # M + flips * (A - M), in one operation.
    return GroupedWeight(torch.lerp(_shared(center), drawn, flips), shape[0])


def _shared(center: torch.Tensor) -> torch.Tensor:
    # A plate over draws expands the guide's centre, but the centre is the same for each draw.
    return center if center.dim() == 2 else center.flatten(0, -3)[0]


class TokenFlipout:
    """Signs drawn for each token, ``x -> x M^T + ((x * s) D^T) * t``; for comparison only."""

    def __init__(self, weight: torch.Tensor, center: torch.Tensor, shape: torch.Size) -> None:
        rank, in_features = weight.shape[-2:]
        self.shape = torch.Size(shape)
        self.mean = GroupedWeight(_shared(center), shape[0])
        self.deviation = GroupedWeight(weight - center, shape[0])
        # Drawn now, not in the call: gradient checkpointing must meet the same signs twice.
        self.signs_in = _random_signs(weight, *shape, in_features)
        self.signs_out = _random_signs(weight, *shape, rank)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Project ``(rows, tokens, n)`` to ``(rows, tokens, r)``; a head sees the last ones."""
        rows, tokens = x.shape[0], x.shape[1:-1].numel()
        if x.dim() != 3 or rows != self.shape[0] or tokens > self.shape[1]:
            raise ValueError(
                f"flipout(per='token') drew signs for a batch of {tuple(self.shape)} tokens but a "
                f"LoRA layer got {tuple(x.shape[:-1])}; use flipout(per='example')"
            )
        signs_in, signs_out = self.signs_in[:, -tokens:], self.signs_out[:, -tokens:]
        return self.mean(x) + self.deviation(x * signs_in) * signs_out


@overload
def flipout(fn: None = None, *, per: Per = "example") -> FlipoutMessenger: ...
@overload
def flipout(fn: Program, *, per: Per = "example") -> Program: ...
def flipout(fn: Program | None = None, *, per: Per = "example") -> FlipoutMessenger | Program:
    r"""Decorrelate the noise between the examples of a batch without drawing more weights.

    For a drawn weight :math:`A` with mean :math:`M`, an example's projection becomes
    :math:`x M^\top + ((x \circ s)(A - M)^\top) \circ t` with random signs :math:`s \in \{-1, 1\}^n`
    and :math:`t \in \{-1, 1\}^r`.  Because the guide is symmetric about :math:`M`, each example
    still sees a draw from it, so the gradient of the ELBO stays unbiased and its variance falls
    with the batch size.

    Parameters
    ----------
    fn
        A model (or any Pyro program) to decorate; leave it out for a context manager.
    per
        ``"example"``: all tokens of an example share their signs, as one weight function must.
        ``"token"``: new signs for each token, as in the paper's code; this breaks the correlation
        between tokens and biases the gradient.  Kept for comparison.

    Returns
    -------
    FlipoutMessenger or callable
        A context manager, or ``fn`` under the handler.

    Raises
    ------
    ValueError
        If ``per`` is unknown, or a site's guide states no centre.

    Examples
    --------
    >>> import torch
    >>> from blob_pyro.poutine import apply_weight
    >>> with flipout():
    ...     pyro_program = "svi.step(**batch) goes here"
    >>> flipout(per="word")
    Traceback (most recent call last):
        ...
    ValueError: flipout: per='word' is unknown; use 'example' or 'token'

    References
    ----------
    Wen et al., "Flipout: Efficient Pseudo-Independent Weight Perturbations on Mini-Batches", ICLR
    2018, equation 4; Wang et al., "BLoB", NeurIPS 2024, section 3.3.
    """
    messenger = FlipoutMessenger(per)
    return messenger if fn is None else cast(Program, messenger(fn))
