"""Losses of the spherical family: they see an example's outputs only through three numbers.

Those are the label's output, the sum of the squares and the sum of all outputs. Hence an output
layer can be trained exactly at a cost that does not grow with the number of classes, see
`factored_output_step`. De Brebisson and Vincent, "An Exploration of Softmax Alternatives Belonging
to the Spherical Loss Family", ICLR 2016, arXiv 1511.05042, and "The Z-loss: a shift and scale
invariant classification loss belonging to the Spherical Family", 2016, arXiv 1604.08859.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lossbench._math import safe_sqrt, widen
from lossbench._typing import AnyArray, Float, Integer, Scalar, typed
from lossbench.classification._common import check_labels, take_label


class SphericalStatistics(NamedTuple):
    """What a spherical loss sees of n examples' outputs over k classes."""

    target: jax.Array
    """The label's output (n,)."""
    sum_squares: jax.Array
    """The sum of the squared outputs (n,)."""
    total: jax.Array
    """The sum of the outputs (n,)."""


LossFromStatistics = Callable[..., jax.Array]
"""(target, sum_squares, total, num_classes=k) -> losses (n,)"""


@typed
def spherical_statistics(
    logits: Float[AnyArray, "n k"], labels: Integer[AnyArray, " n"]
) -> SphericalStatistics:
    """Return what the losses of the spherical family need of `logits` (n, k) and `labels` (n,).

    >>> import jax.numpy as jnp
    >>> statistics = spherical_statistics(jnp.array([[1.0, 2.0, -1.0]]), jnp.array([1]))
    >>> print(statistics.target, statistics.sum_squares, statistics.total)
    [2.] [6.] [2.]
    """
    logits = widen(logits)
    check_labels(labels, logits.shape[1])
    return SphericalStatistics(
        take_label(logits, labels),
        jnp.sum(jnp.square(logits), axis=1),
        jnp.sum(logits, axis=1),
    )


def _z_loss(score: jax.Array, sharpness: Scalar, location: Scalar) -> jax.Array:
    sharpness = jnp.asarray(sharpness, score.dtype)
    return jax.nn.softplus(sharpness * (location - score)) / sharpness


@typed
def z_loss_from_statistics(
    target: Float[AnyArray, " n"],
    sum_squares: Float[AnyArray, " n"],
    total: Float[AnyArray, " n"],
    *,
    num_classes: int,
    sharpness: Scalar = 1.0,
    location: Scalar = 0.0,
) -> Float[jax.Array, " n"]:
    """`z_loss` of statistics, whose variance sum_squares / k - mean^2 cancels if |mean| is large.

    `target`, `sum_squares`, `total` (n,) of `spherical_statistics`. Returns (n,). The label's score
    is 0 where the variance is.

    >>> import jax.numpy as jnp
    >>> statistics = spherical_statistics(jnp.array([[1.0, 2.0, -1.0]]), jnp.array([1]))
    >>> print(z_loss_from_statistics(*statistics, num_classes=3).round(4))
    [0.2952]
    """
    target, sum_squares, total = map(widen, (target, sum_squares, total))
    mean = total / num_classes
    variance = sum_squares / num_classes - jnp.square(mean)
    deviation = safe_sqrt(jnp.maximum(variance, 0))
    flat = deviation == 0
    score = jnp.where(flat, 0, (target - mean) / jnp.where(flat, 1, deviation))
    return _z_loss(score, sharpness, location)


@typed
def z_loss(
    logits: Float[AnyArray, "n k"],
    labels: Integer[AnyArray, " n"],
    *,
    sharpness: Scalar = 1.0,
    location: Scalar = 0.0,
) -> Float[jax.Array, " n"]:
    """Softplus of the label's standard score among the outputs: shift and scale of them are free.

    log(1 + exp(sharpness (location - z))) / sharpness, z = (logit of the label - mean) / standard
    deviation over the classes (of the population). The score lies in +-sqrt(k - 1); a `location`
    near the score that the k-th best output has aims at the top k. At equal logits z is 0, with
    gradient 0; with two classes z is +-1 and the gradient always 0.

    `logits` (n, k); `labels` (n,) in [0, k); `sharpness` > 0. Returns (n,). O(k) an example.

    De Brebisson and Vincent, 2016, arXiv 1604.08859.

    >>> import jax.numpy as jnp
    >>> logits = jnp.array([[1.0, 2.0, -1.0], [10.0, 20.0, -10.0]])
    >>> print(z_loss(logits, jnp.array([1, 1])).round(4))
    [0.2952 0.2952]
    """
    logits = widen(logits)
    check_labels(labels, logits.shape[1])
    # The mean is taken off first: no cancellation, whatever the shift.
    centred = logits - jnp.mean(logits, axis=1, keepdims=True)
    scale = jnp.max(jnp.abs(jax.lax.stop_gradient(centred)), axis=1, keepdims=True)
    flat = scale == 0
    # Neither do squares overflow or vanish: the score does not depend on the scale.
    centred = centred / jnp.where(flat, 1, scale)
    deviation = safe_sqrt(jnp.mean(jnp.square(centred), axis=1, keepdims=True))
    score = jnp.where(flat, 0, centred / jnp.where(flat, 1, deviation))
    return _z_loss(take_label(score, labels), sharpness, location)


@typed
def taylor_softmax_from_statistics(
    target: Float[AnyArray, " n"],
    sum_squares: Float[AnyArray, " n"],
    total: Float[AnyArray, " n"],
    *,
    num_classes: int,
) -> Float[jax.Array, " n"]:
    """`taylor_softmax_loss` of `spherical_statistics`, (n,) each. Returns (n,).

    >>> import jax.numpy as jnp
    >>> statistics = spherical_statistics(jnp.zeros((1, 4)), jnp.array([1]))
    >>> print(taylor_softmax_from_statistics(*statistics, num_classes=4).round(4))
    [1.3863]
    """
    target, sum_squares, total = map(widen, (target, sum_squares, total))
    return jnp.log(num_classes + total + sum_squares / 2) - jnp.log1p(
        target + jnp.square(target) / 2
    )


@typed
def taylor_softmax_loss(
    logits: Float[AnyArray, "n k"], labels: Integer[AnyArray, " n"]
) -> Float[jax.Array, " n"]:
    """Negative log-likelihood with the exponential's second-order Taylor series in softmax.

    log(sum_j (1 + o_j + o_j^2 / 2)) - log(1 + o_label + o_label^2 / 2); each term is at least 1/2.
    `logits` (n, k); `labels` (n,) in [0, k). Returns (n,). O(k) an example.

    Vincent, de Brebisson and Bouthillier, NeurIPS 2015, arXiv 1412.7091.

    >>> import jax.numpy as jnp
    >>> print(taylor_softmax_loss(jnp.zeros((1, 4)), jnp.array([1])).round(4))
    [1.3863]
    """
    return taylor_softmax_from_statistics(
        *spherical_statistics(logits, labels), num_classes=logits.shape[1]
    )


@typed
def spherical_softmax_from_statistics(
    target: Float[AnyArray, " n"],
    sum_squares: Float[AnyArray, " n"],
    total: Float[AnyArray, " n"],
    *,
    num_classes: int,
    epsilon: Scalar = 1e-2,
) -> Float[jax.Array, " n"]:
    """`spherical_softmax_loss` of `spherical_statistics`, (n,) each. Returns (n,).

    >>> import jax.numpy as jnp
    >>> statistics = spherical_statistics(jnp.zeros((1, 4)), jnp.array([1]))
    >>> print(spherical_softmax_from_statistics(*statistics, num_classes=4).round(4))
    [1.3863]
    """
    target, sum_squares = widen(target), widen(sum_squares)
    total_weight = sum_squares + num_classes * epsilon
    return jnp.log(total_weight) - jnp.log(jnp.square(target) + epsilon)


@typed
def spherical_softmax_loss(
    logits: Float[AnyArray, "n k"],
    labels: Integer[AnyArray, " n"],
    *,
    epsilon: Scalar = 1e-2,
) -> Float[jax.Array, " n"]:
    """Negative log-likelihood with o^2 + epsilon in the exponential's place: blind to signs.

    log(sum_j (o_j^2 + epsilon)) - log(o_label^2 + epsilon). `logits` (n, k); `labels` (n,) in
    [0, k); `epsilon` > 0. Returns (n,). O(k) an example.

    De Brebisson and Vincent, ICLR 2016, arXiv 1511.05042.

    >>> import jax.numpy as jnp
    >>> print(spherical_softmax_loss(jnp.zeros((1, 4)), jnp.array([1])).round(4))
    [1.3863]
    """
    return spherical_softmax_from_statistics(
        *spherical_statistics(logits, labels), num_classes=logits.shape[1], epsilon=epsilon
    )


@typed
def spherical_squared_error_from_statistics(
    target: Float[AnyArray, " n"],
    sum_squares: Float[AnyArray, " n"],
    total: Float[AnyArray, " n"],
    *,
    num_classes: int,
) -> Float[jax.Array, " n"]:
    """Squared distance of the outputs to the label's unit vector, which `total` has no part in.

    Returns (n,).

    >>> import jax.numpy as jnp
    >>> statistics = spherical_statistics(jnp.array([[1.0, 2.0, -1.0]]), jnp.array([1]))
    >>> print(spherical_squared_error_from_statistics(*statistics, num_classes=3))
    [3.]
    """
    return widen(sum_squares) - 2 * widen(target) + 1
