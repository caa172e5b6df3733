"""Densities, posteriors and sufficient statistics of a mixture of diagonal Gaussians."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


class Mixture(NamedTuple):
    """Parameters of a mixture, on the host in float64; `variances` are squared sigmas."""

    weights: Float[np.ndarray, " k"]
    means: Float[np.ndarray, "k d"]
    variances: Float[np.ndarray, "k d"]


class Density(NamedTuple):
    """log(w_k N(x; mu_k, sigma_k)) as a matrix product: [y, y^2] @ slope + offset, y = x - center.

    The rows are centered because the float32 rounding error of the product grows with |y|.
    """

    center: Float[Array, " d"]
    slope: Float[Array, "e k"]
    offset: Float[Array, " k"]


class Statistics(NamedTuple):
    """Posterior-weighted sums over rows of 1, y and y^2 (y = x - center) for each component.

    `log_likelihood` is the sum of the log-likelihoods of the rows.
    """

    zeroth: Float[Array, " k"]
    first: Float[Array, "k d"]
    second: Float[Array, "k d"]
    log_likelihood: Float[Array, ""]


def centered(mixture: Mixture) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, "k d"]]:
    """Return the mean of the mixture in float32 and the component means relative to it."""
    center = np.asarray(mixture.weights @ mixture.means, np.float32)
    return center, mixture.means - center.astype(np.float64)


def density(mixture: Mixture) -> Density:
    """Return the densities of `mixture` as float32 arrays on the device."""
    center, means = centered(mixture)
    precisions = 1 / mixture.variances
    slope = np.concatenate([means * precisions, -0.5 * precisions], axis=1).T
    with np.errstate(divide="ignore"):  # weight 0: log 0 = -inf, posterior 0
        log_weights = np.log(mixture.weights)
    offset = log_weights - 0.5 * (
        means**2 * precisions + np.log(2 * np.pi * mixture.variances)
    ).sum(axis=1)
    return Density(*(jnp.asarray(a, jnp.float32) for a in (center, slope, offset)))


def log_joint(x: Float[Array, "n d"], parameters: Density) -> Float[Array, "n k"]:
    """Return log p(x, component); its softmax is the posterior, its logsumexp log p(x)."""
    y = x - parameters.center[None]
    return _log_joint(jnp.concatenate([y, y * y], axis=1), parameters)


def statistics(x: Float[Array, "n d"], num_rows: Int[Array, ""], parameters: Density) -> Statistics:
    """Return the sums over the first `num_rows` rows of `x`; the remaining rows are padding."""
    y = x - parameters.center[None]
    powers = jnp.concatenate([y, y * y], axis=1)
    joint = _log_joint(powers, parameters)
    top = joint.max(axis=1, keepdims=True)
    unnormalized = jnp.exp(joint - top)
    total = unnormalized.sum(axis=1, keepdims=True)
    is_row = (jnp.arange(x.shape[0]) < num_rows)[:, None]
    posterior = jnp.where(is_row, unnormalized / total, 0)
    moments = jnp.dot(posterior.T, powers, precision=jax.lax.Precision.HIGHEST)
    first, second = jnp.split(moments, 2, axis=1)
    log_likelihood = jnp.where(is_row, top + jnp.log(total), 0).sum()
    return Statistics(posterior.sum(axis=0), first, second, log_likelihood)


def _log_joint(powers: Float[Array, "n e"], parameters: Density) -> Float[Array, "n k"]:
    product = jnp.dot(powers, parameters.slope, precision=jax.lax.Precision.HIGHEST)
    return product + parameters.offset[None]
