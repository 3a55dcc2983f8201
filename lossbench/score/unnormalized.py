"""Densities known up to a constant: maximum likelihood and noise contrast without sampling them.

A model gives log p0(x), its density up to the partition function Z; a noise density q, which can be
sampled and evaluated, stands in for the samples of the model. Draw new noise at each step. Where q
has thinner tails than p0 the importance weights p0 / q have no variance: fit q to the data's
moments and widen it.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from lossbench._math import widen
from lossbench._typing import AnyArray, Float, Scalar, typed


@typed
def log_partition_importance(
    log_p_noise: Float[AnyArray, " m"], log_q_noise: Float[AnyArray, " m"]
) -> Float[jax.Array, ""]:
    """Log of the mean importance weight: an estimate of log Z, and its gradient of that of log Z.

    log (1/m) sum_j p0(y_j) / q(y_j), y_j drawn from q. The mean is unbiased, its log low by half of
    the relative variance, chi^2(p || q) / m; so -log p0(x) + this, the plug-in estimate of the
    negative log-likelihood, has a biased gradient, which `compositional_likelihood_loss` mends.

    `log_p_noise` log p0(y_j) (m,); `log_q_noise` log q(y_j) (m,). Returns a scalar. O(m).

    >>> import jax.numpy as jnp
    >>> print(log_partition_importance(jnp.array([1.0, 1.0]), jnp.array([0.0, 0.0])))
    1.0
    """
    log_weights = widen(log_p_noise) - widen(log_q_noise)
    return jax.nn.logsumexp(log_weights) - jnp.log(jnp.asarray(log_weights.size, log_weights.dtype))


@typed
def effective_sample_size(
    log_p_noise: Float[AnyArray, " m"], log_q_noise: Float[AnyArray, " m"]
) -> Float[jax.Array, ""]:
    """How many draws from the model the weighted noise is worth: (sum w)^2 / sum w^2, w = p0 / q.

    From 1 to m; about m / (1 + chi^2(p || q)). Below ten or so the gradients of this module are
    ruled by single points.

    `log_p_noise` (m,) and `log_q_noise` (m,), as in `log_partition_importance`. Returns a scalar.

    Kong, Liu and Wong, Journal of the American Statistical Association 89 (1994).

    >>> import jax.numpy as jnp
    >>> print(effective_sample_size(jnp.array([0.0, 0.0, -100.0]), jnp.zeros(3)).round(4))
    2.0
    """
    weights = jax.nn.softmax(widen(log_p_noise) - widen(log_q_noise))
    return 1 / jnp.sum(jnp.square(weights))


class CompositionalState(NamedTuple):
    """The running partition function of `compositional_likelihood_loss`."""

    log_partition: jax.Array
    """Log of the moving average u of mean importance weights, a scalar."""
    steps: jax.Array
    """Steps taken, int32."""


@typed
def compositional_likelihood_init() -> CompositionalState:
    """Return the state before the first step, which sets the average to its own estimate."""
    return CompositionalState(jnp.zeros(()), jnp.zeros((), jnp.int32))


@typed
def compositional_likelihood_loss(
    state: CompositionalState,
    log_p_data: Float[AnyArray, " n"],
    log_p_noise: Float[AnyArray, " m"],
    log_q_noise: Float[AnyArray, " m"],
    *,
    inner_rate: Scalar = 0.1,
) -> tuple[Float[jax.Array, " n"], CompositionalState]:
    """Negative log-likelihood of unnormalised densities, the partition function averaged over time.

    Log Z is a function of an expectation, so that few noise points bias its gradient; here

        u <- (1 - inner_rate) u + inner_rate (1/m) sum_j w_j,    w_j = p0(y_j) / q(y_j),
        value_i = -log p0(x_i) + log u,
        gradient_i = -grad log p0(x_i) + (1/m) sum_j (w_j / u) grad log p0(y_j).

    `inner_rate` 1, which the first step takes, is the plug-in estimate. A smaller one pays where
    the effective sample size is low and Z moves slowly: the scale of p0 should not drift, so give
    the model no free additive constant. The paper averages the gradients too, by
    `optax.ema(1 - momentum_rate)` before the step; Adam does as much.

    Args:
        state: of `compositional_likelihood_init`, or what the last step gave; it carries no
            gradient.
        log_p_data: log p0(x_i) of data, (n,).
        log_p_noise: log p0(y_j) of noise, (m,); best evaluated with the data in one pass.
        log_q_noise: log q(y_j), (m,).
        inner_rate: in (0, 1].

    Returns the values (n,) and the new state. O(n + m).

    Jiang, Qin, Wu, Chen, Yang and Zhang ("MECO"), ICML 2023, arXiv 2306.07485.

    >>> import jax.numpy as jnp
    >>> state = compositional_likelihood_init()
    >>> data, noise = jnp.array([0.0, -1.0]), jnp.zeros(4)
    >>> value, state = compositional_likelihood_loss(state, data, noise, noise + 1.0)
    >>> print(value, state.log_partition)
    [-1.  0.] -1.0
    """
    log_p_data, log_p_noise = widen(log_p_data), widen(log_p_noise)
    log_weights = lax.stop_gradient(log_p_noise - widen(log_q_noise))
    now = log_partition_importance(log_weights, jnp.zeros_like(log_weights))
    rate = jnp.asarray(inner_rate, now.dtype)
    # log(1 - rate) is -inf at rate 1, where the past has no part.
    average = jnp.logaddexp(jnp.log1p(-rate) + state.log_partition, jnp.log(rate) + now)
    average = lax.stop_gradient(jnp.where(state.steps == 0, now, average))
    # Zero in value; its gradient is that of log Z.
    surrogate = jnp.mean(jnp.exp(log_weights - average) * log_p_noise)
    log_partition = average + surrogate - lax.stop_gradient(surrogate)
    new_state = CompositionalState(average.astype(state.log_partition.dtype), state.steps + 1)
    return log_partition - log_p_data, new_state


@typed
def noise_contrastive_loss(
    log_ratio_data: Float[AnyArray, " n"],
    log_ratio_noise: Float[AnyArray, " m"],
    *,
    noise_ratio: Scalar = 1.0,
    kind: Literal["logistic", "exponential"] = "logistic",
) -> tuple[Float[jax.Array, " n"], Float[jax.Array, " m"]]:
    """Noise-contrastive estimation: telling data from noise by the log ratio of their densities.

    With h = log p - log q - log nu, nu noise points for each of the data:
    "logistic": softplus(-h) for data, softplus(h) for noise, the log-loss of a classifier;
    "exponential": exp(-h / 2), exp(h / 2), whose landscape is kinder where p and q are far apart.
    The objective is the mean over data + nu times the mean over noise; at its minimum p is the
    density of the data, normalised.

    `log_ratio_data` log p(x_i) - log q(x_i) (n,) and `log_ratio_noise` log p(y_j) - log q(y_j)
    (m,), with log p = log p0 - log_z, log_z a parameter to be learned, or any model of the ratio
    itself; `noise_ratio` is nu > 0; `kind` is static. Returns the terms of the data (n,) and of the
    noise (m,). O(n + m).

    Gutmann and Hyvarinen, JMLR 13 (2012); the exponential kind: Liu, Rosenfeld, Ravikumar and
    Risteski, ICLR 2022, arXiv 2110.11271.

    >>> import jax.numpy as jnp
    >>> data, noise = noise_contrastive_loss(jnp.array([0.0, 9.0]), jnp.array([0.0]))
    >>> print(data.round(4), noise.round(4))
    [6.931e-01 1.000e-04] [0.6931]
    """
    log_nu = jnp.log(noise_ratio)
    data, noise = widen(log_ratio_data), widen(log_ratio_noise)
    data, noise = data - log_nu.astype(data.dtype), noise - log_nu.astype(noise.dtype)
    if kind == "logistic":
        return jax.nn.softplus(-data), jax.nn.softplus(noise)
    return jnp.exp(-data / 2), jnp.exp(noise / 2)
