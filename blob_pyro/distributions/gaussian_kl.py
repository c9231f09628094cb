"""The closed-form KL divergence of a correlated Gaussian from a factorised one."""

from __future__ import annotations

import math

import torch
from torch.distributions import Independent, Normal, register_kl

from blob_pyro.distributions.kronecker_precision_normal import KroneckerPrecisionNormal
from blob_pyro.distributions.located import normal_entries
from blob_pyro.distributions.matrix_normal import MatrixNormal
from blob_pyro.distributions.matrix_shaped import MatrixShaped


@register_kl(KroneckerPrecisionNormal, Independent)
@register_kl(MatrixNormal, Independent)
@register_kl(MatrixShaped, Independent)
def kl_from_factorised_normal(
    posterior: KroneckerPrecisionNormal | MatrixNormal | MatrixShaped, prior: Independent[Normal]
) -> torch.Tensor:
    r"""KL divergence of a Gaussian over matrices from independent normal entries.

    .. math:: KL(q, p) = -H(q) + \frac{1}{2} \sum_{ij} \left[
        \frac{Var_q(A_{ij}) + (E_q A_{ij} - \mu_{ij})^2}{\sigma_{ij}^2}
        + \log 2 \pi \sigma_{ij}^2 \right]

    Correlations enter only through the entropy.  ``torch.distributions.kl_divergence`` finds this
    function, and so does the ELBO.

    Parameters
    ----------
    posterior
        :math:`q`, event shape ``(r, n)``.
    prior
        :math:`p`, independent normal entries of the same event shape; batch shapes are broadcast.

    Returns
    -------
    torch.Tensor
        Nats, one number for each member of the batch.

    Raises
    ------
    NotImplementedError
        If the prior is no matrix of independent normals; the ELBO then takes the log densities of
        a draw.

    Examples
    --------
    >>> from torch.distributions import kl_divergence
    >>> posterior = MatrixNormal(torch.zeros(2, 3), torch.eye(2), torch.eye(3))
    >>> prior = Independent(Normal(torch.zeros(2, 3), 1.0), 2)
    >>> abs(float(kl_divergence(posterior, prior))) < 1e-6
    True
    """
    base = normal_entries(prior, posterior.event_shape)
    squares = posterior.variance + (posterior.mean - base.loc).square()
    terms = squares / base.scale.square() + 2 * base.scale.log() + math.log(2 * math.pi)
    return 0.5 * terms.sum((-2, -1)) - posterior.entropy()
