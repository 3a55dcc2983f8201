"""Label-distributionally robust loss with a temperature that adapts to each example.

Zhu, Ying and Yang, ICML 2023, arXiv 2112.14869. The temperature is maximised over as well:

    phi(t) = t log mean exp(a / t) - alpha log(K) / (2 lambda0) (t - lambda0)^2.

phi'(t) has the sign of T(t) - t, T(t) = lambda0 (1 - KL(softmax(a / t), uniform) / (alpha log K)),
and T increases, so t <- T(t) climbs phi monotonically to the next root.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from lossbench._math import widen
from lossbench._typing import AnyArray, Float, Integer, Scalar, check, typed
from lossbench.classification.ldr import (
    Margin,
    Normalization,
    gaps_of_logits,
    ldr_kl_value,
    normalize_scores,
    score_gaps,
)


def _value(
    temperature: jax.Array, gaps: jax.Array, lambda0: jax.Array, alpha: jax.Array
) -> jax.Array:
    """phi at a temperature an example (n,)."""
    stiffness = alpha * jnp.log(gaps.shape[1]).astype(gaps.dtype) / lambda0
    return ldr_kl_value(gaps, temperature) - stiffness / 2 * (temperature - lambda0) ** 2


def _fixed_point(log_weights: jax.Array, lambda0: jax.Array, alpha: jax.Array) -> jax.Array:
    """T, from the logarithm of the class weights (n, k)."""
    log_k = jnp.log(log_weights.shape[1]).astype(log_weights.dtype)
    divergence = jnp.sum(jnp.exp(log_weights) * (log_weights + log_k), axis=1)
    return lambda0 * (1 - jnp.clip(divergence / log_k, 0, 1) / alpha)


def _parameters(lambda0: Scalar, alpha: Scalar, dtype: jnp.dtype) -> tuple[jax.Array, jax.Array]:
    lambda0, alpha = jnp.asarray(lambda0, dtype), jnp.asarray(alpha, dtype)
    check(lambda: lambda0 > 0, "lambda0 must be positive, got {value}", value=lambda0)
    check(lambda: alpha > 1, "alpha must exceed 1, got {value}", value=alpha)
    return lambda0, alpha


@partial(jax.jit, static_argnames=("num_starts", "num_iters"))
def _maximizer(
    gaps: jax.Array, lambda0: jax.Array, alpha: jax.Array, num_starts: int, num_iters: int
) -> jax.Array:
    value = partial(_value, gaps=gaps, lambda0=lambda0, alpha=alpha)

    # One start at a time: the gaps are read, never copied.
    def keep_better(i: int, best: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        temperature = jnp.full_like(best[0], lambda0 * (1 - i / (alpha * max(num_starts - 1, 1))))
        candidate = value(temperature)
        better = candidate > best[1]
        return jnp.where(better, temperature, best[0]), jnp.where(better, candidate, best[1])

    def climb(_: int, temperature: jax.Array) -> jax.Array:
        return _fixed_point(jax.nn.log_softmax(gaps / temperature[:, None], axis=1), lambda0, alpha)

    start = jnp.full_like(gaps[:, 0], lambda0)
    best, _ = lax.fori_loop(1, num_starts, keep_better, (start, value(start)))
    return lax.fori_loop(0, num_iters, climb, best)


@typed
def aldr_kl_temperature(
    gaps: Float[AnyArray, "n k"],
    *,
    lambda0: Scalar = 10.0,
    alpha: Scalar = 2.0,
    num_starts: int = 8,
    num_iters: int = 40,
) -> Float[jax.Array, " n"]:
    """Temperature at which the ALDR-KL loss of each example attains its maximum.

    argmax_t t log mean_j exp(a_j / t) - alpha log(k) / (2 lambda0) (t - lambda0)^2, which lies in
    [lambda0 (1 - 1/alpha), lambda0]: near lambda0 where the classes are level, low where one stands
    out. It is the best of `num_starts` points of that interval, improved by `num_iters` steps of a
    monotone fixed-point iteration, and carries no gradient.

    `gaps` (n, k), k >= 2, see `score_gaps`; `lambda0` > 0; `alpha` > 1; the counts are static.
    Returns (n,). O((num_starts + num_iters) n k).

    Zhu, Ying and Yang, ICML 2023, arXiv 2112.14869.

    >>> import jax.numpy as jnp
    >>> gaps = jnp.array([[0.0, 0.0, 0.0], [0.0, 99.0, 0.0]])
    >>> print(aldr_kl_temperature(gaps, lambda0=1.0))
    [1.  0.5]
    """
    gaps = lax.stop_gradient(widen(gaps))
    lambda0, alpha = _parameters(lambda0, alpha, gaps.dtype)
    return _maximizer(
        gaps, lax.stop_gradient(lambda0), lax.stop_gradient(alpha), num_starts, num_iters
    )


@typed
def aldr_kl_loss(
    logits: Float[AnyArray, "n k"],
    labels: Integer[AnyArray, " n"],
    *,
    lambda0: Scalar = 10.0,
    alpha: Scalar = 2.0,
    margin: Margin = 0.1,
    normalize: Normalization = "l1_mean",
    num_starts: int = 8,
    num_iters: int = 40,
) -> Float[jax.Array, " n"]:
    """ALDR-KL loss of each example: worst case over class weights and over the temperature.

    max_t t log mean_j exp(a_j / t) - alpha log(k) / (2 lambda0) (t - lambda0)^2 with
    a = `score_gaps` of `normalize_scores` and t found by `aldr_kl_temperature`. By the envelope
    theorem its gradient is that at the fixed temperature, softmax(a / t) - onehot(y) by the scores;
    second derivatives hold the temperature fixed as well. alpha -> infinity gives `ldr_kl_loss` at
    lambda0.

    `logits` (n, k), k >= 2; `labels` (n,) in [0, k); `lambda0` > 0; `alpha` > 1; `margin` a number
    or a matrix (k, k), row y for label y; the counts are static. Returns (n,).
    O((num_starts + num_iters) n k); `aldr_kl_update` spreads the iteration over the epochs.

    Zhu, Ying and Yang, ICML 2023, arXiv 2112.14869.

    >>> import jax.numpy as jnp
    >>> print(aldr_kl_loss(jnp.zeros((1, 4)), jnp.array([0]), margin=0.0))
    [0.]
    """
    gaps = gaps_of_logits(logits, labels, margin, normalize)
    temperature = aldr_kl_temperature(
        gaps, lambda0=lambda0, alpha=alpha, num_starts=num_starts, num_iters=num_iters
    )
    return _value(temperature, gaps, *_parameters(lambda0, alpha, gaps.dtype))


class AldrKlState(NamedTuple):
    """Temperature (N,) of every training example at its last visit."""

    temperature: jax.Array


@typed
def aldr_kl_init(num_examples: int, *, lambda0: Scalar = 10.0) -> AldrKlState:
    """State of the running ALDR-KL loss: every temperature at `lambda0`, in float32.

    >>> print(aldr_kl_init(3, lambda0=2.0).temperature)
    [2. 2. 2.]
    """
    return AldrKlState(jnp.full((num_examples,), jnp.asarray(lambda0, jnp.float32)))


@typed
def aldr_kl_update(
    state: AldrKlState,
    logits: Float[AnyArray, "n k"],
    labels: Integer[AnyArray, " n"],
    index: Integer[AnyArray, " n"],
    *,
    lambda0: Scalar = 10.0,
    alpha: Scalar = 2.0,
    margin: Margin = 0.1,
    normalize: Normalization = "l1_mean",
    smoothing: Scalar = 1e-5,
) -> tuple[Float[jax.Array, " n"], AldrKlState]:
    """ALDR-KL losses of a batch at running temperatures, and the state after the visit.

    One step of the fixed-point iteration an example and visit, from the temperature of its last
    visit and, as in the authors' code, with the weights of the scores without margin, so that the
    temperature does not depend on the label: p = softmax(f / t) + smoothing, normalised, and
    t <- lambda0 (1 - KL(p, uniform) / (alpha log k)). The loss is `aldr_kl_loss`'s at that t, never
    above the exact one. No gradient flows into the state.

    `logits` (n, k), k >= 2; `labels` (n,) in [0, k); `index` (n,): the examples' positions in the
    data, distinct within a batch; give padding rows an index >= N, and the state ignores them.
    Use the `lambda0` of `aldr_kl_init`. Returns losses (n,) and the state. O(n k).

    Zhu, Ying and Yang, ICML 2023, arXiv 2112.14869.

    >>> import jax.numpy as jnp
    >>> logits, labels, index = jnp.array([[9.0, 0.0]]), jnp.array([0]), jnp.array([2])
    >>> state = aldr_kl_init(3, lambda0=0.1)
    >>> losses, state = aldr_kl_update(state, logits, labels, index, lambda0=0.1)
    >>> print(state.temperature.round(3))
    [0.1  0.1  0.05]
    """
    scores = normalize_scores(logits, mode=normalize)
    lambda0, alpha = _parameters(lambda0, alpha, scores.dtype)
    before = state.temperature.at[index].get(mode="clip").astype(scores.dtype)
    weights = jax.nn.softmax(lax.stop_gradient(scores) / before[:, None], axis=1)
    weights += jnp.asarray(smoothing, scores.dtype)
    log_weights = jnp.log(weights / jnp.sum(weights, axis=1, keepdims=True))
    after = lax.stop_gradient(_fixed_point(log_weights, lambda0, alpha))
    losses = _value(after, score_gaps(scores, labels, margin=margin), lambda0, alpha)
    stored = state.temperature.at[index].set(after.astype(state.temperature.dtype), mode="drop")
    return losses, AldrKlState(stored)
