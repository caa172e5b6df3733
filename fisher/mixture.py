"""What a mixture of diagonal Gaussians says of rows: densities, posteriors, and their sums."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


class Mixture(NamedTuple):
    """Parameters, on the host in float64."""

    weights: Float[np.ndarray, " k"]
    means: Float[np.ndarray, "k d"]
    variances: Float[np.ndarray, "k d"]


class Density(NamedTuple):
    """log(w_k N(x; mu_k, sigma_k)) as a matrix product: [y, y^2] @ slope + offset, y = x - center.

    Centered, since in float32 what is lost of the product is in proportion to the size of y.
    """

    center: Float[Array, " d"]
    slope: Float[Array, "e k"]
    offset: Float[Array, " k"]


class Statistics(NamedTuple):
    """Sums over rows, weighted by each component's posterior, of 1, y and y^2 (y = x - center).

    Beside them, the sum of the rows' log-likelihoods.
    """

    zeroth: Float[Array, " k"]
    first: Float[Array, "k d"]
    second: Float[Array, "k d"]
    log_likelihood: Float[Array, ""]


def centered(mixture: Mixture) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, "k d"]]:
    """The mixture's mean, rounded to float32, and the components' means seen from there."""
    center = np.asarray(mixture.weights @ mixture.means, np.float32)
    return center, mixture.means - center.astype(np.float64)


def density(mixture: Mixture) -> Density:
    """The densities of `mixture`, prepared for the device."""
    center, means = centered(mixture)
    precisions = 1 / mixture.variances
    slope = np.concatenate([means * precisions, -0.5 * precisions], axis=1).T
    with np.errstate(divide="ignore"):  # a weight of 0 is never chosen
        log_weights = np.log(mixture.weights)
    offset = log_weights - 0.5 * (
        means**2 * precisions + np.log(2 * np.pi * mixture.variances)
    ).sum(axis=1)
    return Density(*(jnp.asarray(a, jnp.float32) for a in (center, slope, offset)))


def log_joint(x: Float[Array, "n d"], parameters: Density) -> Float[Array, "n k"]:
    """log p(x, component): the posterior is its softmax, the log-likelihood its logsumexp."""
    y = x - parameters.center[None]
    return _log_joint(jnp.concatenate([y, y * y], axis=1), parameters)


def statistics(x: Float[Array, "n d"], num_rows: Int[Array, ""], parameters: Density) -> Statistics:
    """The sums over the first `num_rows` rows."""
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
