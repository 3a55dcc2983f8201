"""The label-distributionally robust loss over capped weights, which looks at the top k classes.

Zhu, Ying and Yang, "A Unified DRO View of Multi-class Loss Functions with top-N Consistency", 2021,
arXiv 2112.14869v1. The maximisation over {p in the simplex: p_j <= 1/k} is solved exactly.
"""

import jax
import jax.numpy as jnp
from jax import lax

from lossbench._math import widen
from lossbench._typing import AnyArray, Float, Integer, check, typed
from lossbench.classification.ldr import Margin, Normalization, Temperature, gaps_of_logits


def _largest_free(gaps: jax.Array, temperature: jax.Array, k: int) -> jax.Array:
    """The largest gap of each row whose weight stays under the cap: (n, 1), without gradient.

    With the gaps in descending order and the m largest capped, the rest share 1 - m/k in proportion
    to exp(a / t). The next one keeps under 1/k if and only if x_m >= k - m, where
    x_m = sum_{j > m} exp((a_j - a_{m+1}) / t) = 1 + exp((a_{m+2} - a_{m+1}) / t) x_{m+1}.
    """
    gaps, temperature = lax.stop_gradient((gaps, temperature))
    top = lax.top_k(gaps, k)[0]
    # The k - 1 larger ones count 1 each, so no copy of the row without them is needed.
    last = jnp.sum(jnp.exp(jnp.minimum(gaps - top[:, -1:], 0) / temperature), axis=1) - (k - 1)
    factors = jnp.exp((top[:, 1:] - top[:, :-1]) / temperature)

    def compose(
        inner: tuple[jax.Array, jax.Array], outer: tuple[jax.Array, jax.Array]
    ) -> tuple[jax.Array, jax.Array]:
        return outer[0] * inner[0], outer[1] + outer[0] * inner[1]

    steps = (
        jnp.pad(factors, ((0, 0), (0, 1))),
        jnp.ones_like(top).at[:, -1].set(last),
    )
    _, x = lax.associative_scan(compose, steps, reverse=True, axis=1)
    # x_{k-1} >= 1 always, but for rounding.
    fits = (x >= k - jnp.arange(k)).at[:, -1].set(True)
    return jnp.take_along_axis(top, jnp.argmax(fits, axis=1)[:, None], axis=1)


def _solve(
    gaps: jax.Array, temperature: Temperature, k: int
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array]:
    """What the maximising weights consist of.

    Which are free (n, K); of the free: their mass, their largest gap, exp((gap - largest) / t),
    (n, K), and the temperature as a column.
    """
    if not 1 <= k <= gaps.shape[1]:
        raise ValueError(f"k must lie in [1, {gaps.shape[1]}], got {k}")
    temperature = jnp.asarray(temperature, gaps.dtype)
    check(lambda: temperature > 0, "temperature must be positive")
    column = jnp.reshape(temperature, (-1, 1))
    largest = _largest_free(gaps, column, k)
    # Differentiable in all that follows: the set of the free is locally constant.
    free = gaps <= largest
    mass = 1 - jnp.sum(~free, axis=1, keepdims=True).astype(gaps.dtype) / k
    shares = jnp.where(free, jnp.exp(jnp.where(free, gaps - largest, 0) / column), 0)
    return free, mass, largest, shares, column


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
    free, mass, _, shares, _ = _solve(widen(gaps), temperature, k)
    return jnp.where(free, mass * shares / jnp.sum(shares, axis=1, keepdims=True), 1 / k)


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
    free, mass, largest, shares, column = _solve(gaps, temperature, k)
    num_classes = gaps.shape[1]
    capped = jnp.sum(jnp.where(free, 0, gaps), axis=1, keepdims=True) / k
    log_partition = jnp.log(jnp.sum(shares, axis=1, keepdims=True) / (num_classes * mass))
    value = capped - column * (1 - mass) * jnp.log(num_classes / k)
    return (value + mass * (largest + column * log_partition))[:, 0]
