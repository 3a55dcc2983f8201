"""Label-distributionally robust losses: the worst case over weights on the score gaps.

Zhu, Ying and Yang, "Label Distributionally Robust Losses for Multi-class Classification:
Consistency, Robustness and Adaptivity", ICML 2023, arXiv 2112.14869.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from lossbench._math import widen
from lossbench._typing import AnyArray, Float, Integer, Scalar, check, typed
from lossbench.classification._common import check_labels, take_label

Normalization = Literal["softplus_mean", "l1_mean"] | None
Margin = Scalar | Float[AnyArray, "k k"]
Temperature = Scalar | Float[AnyArray, " n"]


@typed
def normalize_scores(
    logits: Float[AnyArray, "n k"], *, mode: Normalization = "softplus_mean"
) -> Float[jax.Array, "n k"]:
    """Scores of unit mean size, so that no loss shrinks merely by scaling the logits.

    "softplus_mean": softplus(o) / mean_k softplus(o), which are positive and sum to k; "l1_mean":
    o / mean_k |o_k|, which keeps the sign and ignores the scale, and is 0, without gradient, where
    all logits are 0; None: the logits. `mode` is static. O(n k).

    Zhu, Ying and Yang, ICML 2023, arXiv 2112.14869.

    >>> import jax.numpy as jnp
    >>> print(normalize_scores(jnp.array([[1.0, -3.0]]), mode="l1_mean"))
    [[ 0.5 -1.5]]
    """
    logits = widen(logits)
    if mode is None:
        return logits
    if mode == "softplus_mean":
        # Through the logarithm, which survives where softplus underflows.
        return logits.shape[1] * jax.nn.softmax(_log_softplus(logits), axis=1)
    # Dividing by the largest first leaves the result and its gradient as they are, at any scale.
    largest = lax.stop_gradient(jnp.max(jnp.abs(logits), axis=1, keepdims=True))
    zero = largest == 0
    logits = logits / jnp.where(zero, 1, largest)
    size = jnp.mean(jnp.abs(logits), axis=1, keepdims=True)
    return jnp.where(zero, 0, logits / jnp.where(zero, 1, size))


def _log_softplus(x: jax.Array) -> jax.Array:
    low = x < -15
    # log log(1 + e^x) = x - e^x / 2 + O(e^2x)
    tail = jnp.where(low, x, 0)
    body = jnp.where(low, 0, x)
    return jnp.where(low, tail - jnp.exp(tail) / 2, jnp.log(jax.nn.softplus(body)))


@typed
def score_gaps(
    scores: Float[AnyArray, "n k"], labels: Integer[AnyArray, " n"], *, margin: Margin = 0.1
) -> Float[jax.Array, "n k"]:
    """Gap of every class's score over the label's, plus a margin.

    a_j = f_j - f_y + margin for j != y and a_y = 0. `margin` may be a matrix (k, k) of costs whose
    row y gives the margins when y is the label.

    `scores` (n, k); `labels` (n,) in [0, k). Returns (n, k). O(n k).

    Zhu, Ying and Yang, ICML 2023, arXiv 2112.14869.

    >>> import jax.numpy as jnp
    >>> print(score_gaps(jnp.array([[1.0, 3.0]]), jnp.array([0]), margin=0.5))
    [[0.  2.5]]
    """
    scores, labels = widen(scores), jnp.asarray(labels)
    check_labels(labels, scores.shape[1])
    margin = jnp.asarray(margin, scores.dtype)
    margin = margin[labels] if margin.ndim else margin
    others = jnp.arange(scores.shape[1]) != labels[:, None]
    return scores - take_label(scores, labels)[:, None] + jnp.where(others, margin, 0)


def gaps_of_logits(
    logits: AnyArray, labels: AnyArray, margin: Margin, normalize: Normalization
) -> jax.Array:
    """The gaps that all losses of the paper are functions of: (n, k)."""
    return score_gaps(normalize_scores(logits, mode=normalize), labels, margin=margin)


def ldr_kl_value(gaps: jax.Array, temperature: Temperature) -> jax.Array:
    """temperature * log mean exp(gaps / temperature) along the rows: (n,)."""
    temperature = jnp.asarray(temperature, gaps.dtype)
    check(lambda: temperature > 0, "temperature must be positive")
    scaled = jax.nn.logsumexp(gaps / jnp.reshape(temperature, (-1, 1)), axis=1)
    return temperature * (scaled - jnp.log(gaps.shape[1]).astype(gaps.dtype))


@typed
def ldr_kl_loss(
    logits: Float[AnyArray, "n k"],
    labels: Integer[AnyArray, " n"],
    *,
    temperature: Temperature = 1.0,
    margin: Margin = 0.1,
    normalize: Normalization = "softplus_mean",
) -> Float[jax.Array, " n"]:
    """LDR-KL loss of each example: entropic worst case over class weights of the score gaps.

    max_p sum_j p_j a_j - temperature KL(p, uniform) = temperature log mean_j exp(a_j / temperature)
    with a = `score_gaps` of `normalize_scores`. Temperature -> 0 gives `crammer_singer_loss`, 1
    (without margin and normalisation) cross-entropy less log k, infinity `symmetric_limit_loss`.
    The gradient by the scores is p - onehot(y), never larger than 1.

    `logits` (n, k); `labels` (n,) in [0, k); `temperature` > 0, one or one an example (n,);
    `margin` a number or a matrix (k, k), row y for label y. Returns (n,). O(n k).

    Zhu, Ying and Yang, ICML 2023, arXiv 2112.14869.

    >>> import jax.numpy as jnp
    >>> logits, labels = jnp.log(jnp.array([[0.25, 0.75]])), jnp.array([0])
    >>> print(ldr_kl_loss(logits, labels, margin=0.0, normalize=None) + jnp.log(2) - jnp.log(4))
    [0.]
    """
    return ldr_kl_value(gaps_of_logits(logits, labels, margin, normalize), temperature)


@typed
def ldr_kl_weights(
    gaps: Float[AnyArray, "n k"], *, temperature: Temperature = 1.0
) -> Float[jax.Array, "n k"]:
    """Class weights at which the LDR-KL loss attains its maximum: softmax(gaps / temperature).

    `gaps` (n, k), see `score_gaps`; `temperature` > 0, one or one an example (n,). Returns (n, k).

    Zhu, Ying and Yang, ICML 2023, arXiv 2112.14869.

    >>> import jax.numpy as jnp
    >>> print(ldr_kl_weights(jnp.array([[0.0, jnp.log(3.0)]])).round(4))
    [[0.25 0.75]]
    """
    gaps = widen(gaps)
    temperature = jnp.asarray(temperature, gaps.dtype)
    check(lambda: temperature > 0, "temperature must be positive")
    return jax.nn.softmax(gaps / jnp.reshape(temperature, (-1, 1)), axis=1)


@typed
def symmetric_limit_loss(
    logits: Float[AnyArray, "n k"],
    labels: Integer[AnyArray, " n"],
    *,
    margin: Margin = 0.1,
    normalize: Normalization = "softplus_mean",
) -> Float[jax.Array, " n"]:
    """LDR-KL loss at infinite temperature: the mean score gap of each example.

    mean_j a_j with a = `score_gaps` of `normalize_scores`. Its sum over the labels is
    (k - 1) margin whatever the scores, so symmetric label noise does not move its minimiser. It is
    linear in the scores, hence bounded only by their normalisation.

    `logits` (n, k); `labels` (n,) in [0, k); `margin` a number or a matrix (k, k), row y for
    label y. Returns (n,). O(n k).

    Zhu, Ying and Yang, ICML 2023, arXiv 2112.14869.

    >>> import jax.numpy as jnp
    >>> print(symmetric_limit_loss(jnp.array([[0.0, 2.0]]), jnp.array([0]), normalize=None))
    [1.05]
    """
    return jnp.mean(gaps_of_logits(logits, labels, margin, normalize), axis=1)


@typed
def crammer_singer_loss(
    logits: Float[AnyArray, "n k"],
    labels: Integer[AnyArray, " n"],
    *,
    margin: Margin = 1.0,
    normalize: Normalization = None,
) -> Float[jax.Array, " n"]:
    """Multi-class hinge loss of each example, the LDR-KL loss at temperature 0.

    max_j a_j = max(0, margin + max_{j != y} f_j - f_y) with f = `normalize_scores` of the logits.

    `logits` (n, k); `labels` (n,) in [0, k); `margin` a number or a matrix (k, k), row y for
    label y. Returns (n,). O(n k).

    Crammer and Singer, "On the Algorithmic Implementation of Multiclass Kernel-based Vector
    Machines", JMLR 2001; Zhu, Ying and Yang, ICML 2023, arXiv 2112.14869.

    >>> import jax.numpy as jnp
    >>> print(crammer_singer_loss(jnp.array([[2.0, 1.5, 0.0]]), jnp.array([0])))
    [0.5]
    """
    return jnp.max(gaps_of_logits(logits, labels, margin, normalize), axis=1)
