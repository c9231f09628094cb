"""Predictions of a fitted classifier as an ArviZ object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from blob_pyro.diagnostics.arviz.from_pyro_svi import (
    SAMPLE_DIMS,
    Dims,
    Fit,
    Fits,
    Sizes,
    from_pyro_svi,
)
from blob_pyro.diagnostics.arviz.groups import (
    constant_group,
    latent_group,
    observed_groups,
    predicted,
    replicated_group,
    sample_stats,
    stack_layers,
)
from blob_pyro.diagnostics.loss_curve import Records
from blob_pyro.version import __version__


def to_arviz(
    predictive: Fits,
    *,
    posterior: Fits | None = None,
    prior: Fit | None = None,
    prior_predictive: Fit | None = None,
    predictions: Fits | None = None,
    log_prior: Fits | None = None,
    log_q: Fits | None = None,
    records: Records | Sequence[Records] | None = None,
    constant_data: Fit | None = None,
    predictions_constant_data: Fit | None = None,
    by_layer: bool = False,
    class_names: Sequence[str] | None = None,
    coords: Mapping[str, Any] | None = None,
    dims: Dims | None = None,
    seed: int = 0,
    attrs: Mapping[str, Any] | None = None,
) -> Any:
    """Convert the predictions of a fitted classifier, and what belongs to them, to ArviZ.

    It is :func:`from_pyro_svi` with groups made of logits, and with short names of LoRA sites.
    The draws are independent draws from the guide, not from the exact posterior: read R-hat only
    across independent fits, given as chains, and use :func:`blob_pyro.diagnostics.loo`.

    Parameters
    ----------
    predictive
        What ``blob_pyro.infer.posterior_predictive`` returns: ``logits`` (K x N x C, float) and,
        where known, ``labels`` (N, integer) and ``log_likelihood`` (K x N, nats). A sequence of
        them makes one chain of each independent fit; all have the same examples in one order.
    posterior
        Draws of chosen sites: site name to K x ..., or a sequence of such mappings, one a chain.
        Without it the group holds the class probabilities, so that ``arviz.loo`` and R-hat work.
        Choose few weights: importance sampling over all of them says nothing.
    prior
        Draws of the same sites from the prior: site name to K' x ....
    prior_predictive
        ``logits`` under draws from the prior, K' x N x C, of the examples of ``predictive``.
    predictions
        ``logits`` of examples without labels, K x N' x C; a sequence if ``predictive`` is one.
    log_prior, log_q
        What ``blob_pyro.infer.log_densities`` gives: site name to K, nats; one mapping a chain.
    records
        What ``blob_pyro.training.fit`` returns; a sequence of it, of as many steps each, if
        ``predictive`` is one.
    constant_data, predictions_constant_data
        What belongs to the examples (text, ids): name to N x ..., and to N' x ....
    by_layer
        Stack the sites that differ only in the number of their layer along a dimension ``layer``.
    class_names
        C names, the coordinate ``class``; 0 to C - 1 without them.
    coords, dims
        As in ArviZ: values of dimensions (``{"example": ids}`` names examples), and names of the
        dimensions of sites (after the draws) and constant data (after the examples). Matrices of
        LoRA sites have ``rank`` and ``in_feature``.
    seed
        Seed of the categorical draws called ``labels``.
    attrs
        Attributes of the object, beside ``inference_library``.

    Returns
    -------
    arviz.InferenceData or xarray.DataTree
        The former from ArviZ 0.2x, the latter from 1.x. Groups, as far as given:

        - ``posterior`` and ``prior``: the sites (chain, draw, ...), or ``probs`` in the former.
          A site is called by its module: ``model.layers.3.self_attn.q_proj``
        - ``posterior_predictive``, ``prior_predictive``: ``labels`` (chain, draw, example), one
          categorical draw for each draw, and ``probs`` (chain, draw, example, class)
        - ``predictions``: the same, with the dimension ``new_example``
        - ``log_likelihood``: ``labels`` (chain, draw, example), nats
        - ``log_prior``: the sites (chain, draw), nats
        - ``sample_stats``: ``log_q`` (chain, draw, site), and ``loss``, ``nll``, ``kl``,
          ``kl_weight`` (chain, step)
        - ``observed_data``: ``labels`` (example)
        - ``constant_data``, ``predictions_constant_data``: what was given

    Raises
    ------
    ValueError
        If shapes, names or labels do not fit together, or a name cannot be written to a file.

    Examples
    --------
    >>> import numpy as np
    >>> logits = np.random.default_rng(0).normal(size=(30, 4, 2))
    >>> data = to_arviz({"logits": logits, "labels": [0, 1, 1, 0]}, class_names=["no", "yes"])
    >>> data.posterior_predictive["probs"].dims
    ('chain', 'draw', 'example', 'class')

    References
    ----------
    The InferenceData schema: https://python.arviz.org/en/latest/schema/schema.html
    """
    arrays, log_p = predicted("predictive", predictive)
    sizes = dict(zip((*SAMPLE_DIMS, "example", "class"), log_p.shape, strict=True))
    sample_shape = {dim: sizes[dim] for dim in SAMPLE_DIMS}
    replicated = replicated_group(log_p, "example", seed)
    groups: dict[str, Any] = {
        "posterior": replicated[["probs"]],
        "posterior_predictive": replicated,
    }
    groups |= observed_groups(arrays, log_p.shape)
    dims = dims or {}
    for name, draws in {"posterior": posterior, "prior": prior, "log_prior": log_prior}.items():
        if draws is not None:
            group = latent_group(name, draws, dims, {} if name == "prior" else sample_shape)
            groups[name] = stack_layers(group) if by_layer else group
    if log_q is not None or records is not None:
        groups["sample_stats"] = sample_stats(log_q, records, sample_shape)
    for name, other, dim, alike in (
        ("prior_predictive", prior_predictive, "example", ("example", "class")),
        ("predictions", predictions, "new_example", (*SAMPLE_DIMS, "class")),
    ):
        if other is not None:
            groups[name] = replicated_group(predicted(name, other)[1], dim, seed)
            _check_sizes(name, groups[name].sizes, {each: sizes[each] for each in alike})
    if constant_data is not None:
        groups["constant_data"] = constant_group(constant_data, "example", sizes["example"], dims)
    if predictions_constant_data is not None:
        if predictions is None:
            raise ValueError("predictions_constant_data is given without predictions; wanted both")
        num_new = groups["predictions"].sizes["new_example"]
        groups["predictions_constant_data"] = constant_group(
            predictions_constant_data, "new_example", num_new, dims
        )
    named = {} if class_names is None else {"class": list(class_names)}
    return from_pyro_svi(
        **groups,
        coords={**named, **(coords or {})},
        attrs={
            "inference_library": "blob_pyro",
            "inference_library_version": __version__,
            **(attrs or {}),
        },
    )


def _check_sizes(name: str, found: Mapping[Any, int], wanted: Sizes) -> None:
    if any(found[dim] != size for dim, size in wanted.items()):
        raise ValueError(
            f"{name} has logits of the sizes {dict(found)}; wanted those of predictive, "
            f"{dict(wanted)}. Predict with the same draws, classes and, from the prior, examples."
        )
