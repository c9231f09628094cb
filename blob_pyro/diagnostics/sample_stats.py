"""What is known of the fit and of each draw beside the draw itself: ArviZ's ``sample_stats``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from blob_pyro.diagnostics.arrays import as_numpy
from blob_pyro.diagnostics.chains import Fit, as_fits, check_shape, stack
from blob_pyro.diagnostics.latent_groups import SAMPLE_DIMS
from blob_pyro.diagnostics.loss_curve import TERMS, Records, loss_curve

if TYPE_CHECKING:
    import xarray


def sample_stats(
    log_q: Fit | Sequence[Fit] | None,
    records: Records | Sequence[Records] | None,
    sample_shape: Mapping[str, int],
) -> xarray.Dataset:
    """Make the group of the guide's log density and of the curve of the loss.

    Parameters
    ----------
    log_q
        Site name to K, nats; one such mapping a chain; None if not known.
    records
        What was logged of each step; one such sequence a chain; None if not known.
    sample_shape
        Length of ``chain`` and ``draw``.

    Returns
    -------
    xarray.Dataset
        ``log_q`` (chain, draw, site), and ``loss``, ``nll``, ``kl`` and ``kl_weight`` (chain,
        step), as far as known.

    Raises
    ------
    ValueError
        If the chains or draws are not as many as wanted, or fits differ in their steps.

    Examples
    --------
    >>> group = sample_stats({"q": [-1.0, -2.0]}, None, {"chain": 1, "draw": 2})
    >>> group["log_q"].dims
    ('chain', 'draw', 'site')
    """
    import xarray

    variables: dict[str, Any] = {}
    coords: dict[str, Any] = {}
    if log_q is not None:
        fits = as_fits("log_q", log_q)
        sites = list(fits[0])
        density = stack("log_q", [{"log_q": _by_site(fit, sites)} for fit in fits])
        check_shape("log_q", density, sample_shape)
        variables["log_q"] = ((*SAMPLE_DIMS, "site"), density)
        coords["site"] = sites
    if records is not None:
        curves = [loss_curve(each) for each in _by_chain(records)]
        steps = stack("step", curves)
        check_shape("records", steps, {"chain": sample_shape["chain"]})
        variables |= {term: (("chain", "step"), stack(term, curves)) for term in TERMS}
        coords["step"] = steps[0].astype(int)
    return xarray.Dataset(variables, coords)


def _by_site(log_q: Fit, sites: Sequence[str]) -> npt.NDArray[Any]:
    return np.stack([as_numpy(log_q[site]) for site in sites], axis=-1)


def _by_chain(records: Records | Sequence[Records]) -> Sequence[Records]:
    one = not records or hasattr(records[0], "step")
    return cast("Sequence[Records]", [records] if one else records)
