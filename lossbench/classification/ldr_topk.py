"""The label-distributionally robust loss over capped weights, which looks at the top k classes.

Zhu, Ying and Yang, "A Unified DRO View of Multi-class Loss Functions with top-N Consistency", 2021,
arXiv 2112.14869v1. The maximisation over {p in the simplex: p_j <= 1/k} is solved exactly.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.special import xlogy

from lossbench._math import masked_logsumexp, widen
from lossbench._typing import AnyArray, Float, Integer, check, typed
from lossbench.classification.ldr import Margin, Normalization, Temperature, gaps_of_logits


def _capped(scaled: jax.Array, k: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Which weights stay under the cap 1/k (n, K), their mass (n, 1) and their logsumexp (n, 1)."""
    num_classes = scaled.shape[1]
    fixed = lax.stop_gradient(scaled)
    top = lax.top_k(fixed, k)[0]
    # The rest, without a copy of the row: what is below the k-th value and what ties with it.
    last = top[:, -1:]
    tied = jnp.sum(fixed == last, axis=1, keepdims=True) - jnp.sum(
        top == last, axis=1, keepdims=True
    )
    rest = jnp.logaddexp(
        masked_logsumexp(fixed, fixed < last, axis=1)[:, None],
        jnp.log(tied.astype(last.dtype)) + last,
    )
    # sums[:, m]: logsumexp of all but the m largest; mass[m]: what they share if m are capped.
    sums = lax.cumlogsumexp(jnp.concatenate([top, rest], axis=1), axis=1, reverse=True)[:, :k]
    mass = jnp.log1p(-jnp.arange(k, dtype=scaled.dtype) / k)
    fits = mass + top <= sums - jnp.log(k).astype(scaled.dtype)
    # Capping k - 1 always fits, whatever rounding says.
    m = jnp.argmax(fits.at[:, -1].set(True), axis=1)[:, None]
    normalizer = jnp.take_along_axis(sums, m, axis=1) - mass[m]
    # Differentiable from here on: the set of the capped is locally constant.
    free = fixed - normalizer <= -jnp.log(k).astype(scaled.dtype)
    capped = num_classes - jnp.sum(free, axis=1, keepdims=True)
    free_mass = jnp.maximum(1 - capped.astype(scaled.dtype) / k, 0)
    normalizer = masked_logsumexp(scaled, free, axis=1)[:, None]
    return free, free_mass, jnp.where(jnp.any(free, axis=1, keepdims=True), normalizer, 0)


def _shifted(gaps: jax.Array, temperature: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The gaps less the row's largest, over the temperature, and that largest: exact at the top."""
    largest = lax.stop_gradient(jnp.max(gaps, axis=1, keepdims=True))
    return (gaps - largest) / temperature, largest


def _column(temperature: Temperature, gaps: jax.Array, k: int) -> jax.Array:
    if not 1 <= k <= gaps.shape[1]:
        raise ValueError(f"k must lie in [1, {gaps.shape[1]}], got {k}")
    temperature = jnp.asarray(temperature, gaps.dtype)
    check(lambda: temperature > 0, "temperature must be positive")
    return jnp.reshape(temperature, (-1, 1))


@typed
def capped_entropic_weights(
    gaps: Float[AnyArray, "n num_classes"], *, k: int, temperature: Temperature = 1.0
) -> Float[jax.Array, "n num_classes"]:
    """Class weights at which `ldr_topk_kl_loss` attains its maximum.

    argmax_p sum_j p_j a_j - temperature KL(p, uniform) over the simplex with p_j <= 1/k, that is
    p_j = min(1/k, c exp(a_j / temperature)) with the c that makes their sum 1.

    `gaps` (n, num_classes), see `score_gaps`; `k` in [1, num_classes], static, else ValueError;
    `temperature` > 0, one or one an example (n,). Returns (n, num_classes). The k largest gaps by
    `jax.lax.top_k` and O(n num_classes) besides.

    Zhu, Ying and Yang, 2021, arXiv 2112.14869v1.

    >>> import jax.numpy as jnp
    >>> gaps = jnp.log(jnp.array([[1.0, 3.0, 12.0]]))
    >>> print(capped_entropic_weights(gaps, k=2).round(4))
    [[0.125 0.375 0.5  ]]
    """
    gaps = widen(gaps)
    scaled, _ = _shifted(gaps, _column(temperature, gaps, k))
    free, mass, normalizer = _capped(scaled, k)
    return jnp.where(free, mass * jnp.exp(jnp.where(free, scaled - normalizer, 0)), 1 / k)


@typed
def ldr_topk_kl_loss(
    logits: Float[AnyArray, "n num_classes"],
    labels: Integer[AnyArray, " n"],
    *,
    k: int,
    temperature: Temperature = 1.0,
    margin: Margin = 0.1,
    normalize: Normalization = "softplus_mean",
) -> Float[jax.Array, " n"]:
    """LDR-KL loss of each example with no class weight above 1/k.

    max_p sum_j p_j a_j - temperature KL(p, uniform) over the simplex with p_j <= 1/k, with
    a = `score_gaps` of `normalize_scores`. k = 1 is `ldr_kl_loss`; temperature -> 0 gives the mean
    of the k largest gaps, a top-k hinge; k = num_classes gives `symmetric_limit_loss`. The gradient
    by the scores is `capped_entropic_weights` - onehot(y).

    `logits` (n, num_classes); `labels` (n,) in [0, num_classes); `k` in [1, num_classes], static,
    else ValueError; `temperature` > 0, one or one an example (n,); `margin` a number or a matrix
    (num_classes, num_classes), row y for label y. Returns (n,). The k largest gaps by
    `jax.lax.top_k` and O(n num_classes) besides.

    Zhu, Ying and Yang, 2021, arXiv 2112.14869v1.

    >>> import jax.numpy as jnp
    >>> logits, labels = jnp.array([[0.0, 2.0, 4.0]]), jnp.array([0])
    >>> print(ldr_topk_kl_loss(logits, labels, k=3, margin=0.0, normalize=None))
    [2.]
    """
    gaps = gaps_of_logits(logits, labels, margin, normalize)
    column = _column(temperature, gaps, k)
    scaled, largest = _shifted(gaps, column)
    free, mass, normalizer = _capped(scaled, k)
    num_classes = gaps.shape[1]
    capped = jnp.sum(jnp.where(free, 0, gaps), axis=1, keepdims=True) / k
    entropy = (1 - mass) * jnp.log(num_classes / k) + xlogy(mass, num_classes * mass)
    value = capped + mass * (largest + column * normalizer) - column * entropy
    return value[:, 0]
