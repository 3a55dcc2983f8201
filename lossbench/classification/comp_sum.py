"""Comp-sum losses: one scalar tau leads from the sum-exponential loss to the absolute error.

Mao, Mohri and Zhong, "Cross-Entropy Loss Functions: Theoretical Analysis and Applications",
ICML 2023, arXiv 2304.07288. Cross-entropy itself, tau = 1, is optax's.
"""

import jax
import jax.numpy as jnp

from lossbench._math import widen
from lossbench._typing import AnyArray, Float, Integer, Scalar, check, typed
from lossbench.classification._common import bounded_exp, deformed_log, label_nll


def _check_tau(tau: Scalar) -> None:
    check(lambda: jnp.asarray(tau) >= 0, "tau must be at least 0, got {tau}", tau=jnp.asarray(tau))


@typed
def comp_sum_from_nll(nll: Float[AnyArray, "*shape"], *, tau: Scalar) -> Float[jax.Array, "*shape"]:
    """Comp-sum loss as a function of the negative log-likelihood, of any shape.

    ((1 / p)^(1 - tau) - 1) / (1 - tau) with nll = -log p, and nll itself at tau = 1. So
    `comp_sum_from_nll(token_nll, tau=1.5)` makes a language model's loss a comp-sum loss.

    For tau < 1 it continues linearly in the nll where (1 - tau) nll > 30, with the value and the
    slope (1e13) that it has there: float32 would overflow soon after.

    >>> import jax.numpy as jnp
    >>> print(comp_sum_from_nll(jnp.log(jnp.array([1.0, 2.0, 4.0])), tau=2.0))
    [0.   0.5  0.75]
    """
    _check_tau(tau)
    return deformed_log(nll, tau)


@typed
def comp_sum_loss(
    logits: Float[AnyArray, "n k"], labels: Integer[AnyArray, " n"], *, tau: Scalar = 1.0
) -> Float[jax.Array, " n"]:
    """Comp-sum loss of each example.

    (p_y^(tau - 1) - 1) / (1 - tau) with p = softmax(logits); -log p_y at tau = 1. Its gradient is
    the cross-entropy's times p_y^(tau - 1): tau < 1 pushes on hard examples, tau > 1 ignores them,
    which makes it robust to label noise and slow to start. tau = 0 is the sum-exponential loss, 1
    cross-entropy, 1 + q generalised cross-entropy, 2 the mean absolute error. The loss lies in
    [0, 1 / (tau - 1)] for tau > 1; for tau < 1 see `comp_sum_from_nll`, and clip the gradients.
    For labels that are distributions see `comp_sum_conditional_risk`.

    `logits` (n, k); `labels` (n,) in [0, k); `tau` >= 0. Returns (n,). O(n k).

    Mao, Mohri and Zhong, ICML 2023, arXiv 2304.07288.

    >>> import jax.numpy as jnp
    >>> logits = jnp.log(jnp.array([[0.25, 0.75]]))
    >>> print(comp_sum_loss(logits, jnp.array([0]), tau=2.0))
    [0.75]
    """
    return comp_sum_from_nll(label_nll(logits, labels), tau=tau)


@typed
def sum_exponential_loss(
    logits: Float[AnyArray, "n k"], labels: Integer[AnyArray, " n"]
) -> Float[jax.Array, " n"]:
    """Sum-exponential loss of each example, the comp-sum loss at tau = 0.

    sum_{j != y} exp(logits_j - logits_y) = 1 / p_y - 1. It is linear in -log p_y beyond 30 and its
    gradient there is 1e13: clip gradients when training with it.

    `logits` (n, k); `labels` (n,) in [0, k). Returns (n,). O(n k).

    Weston and Watkins, 1999; Mao, Mohri and Zhong, ICML 2023, arXiv 2304.07288.

    >>> import jax.numpy as jnp
    >>> print(sum_exponential_loss(jnp.zeros((1, 3)), jnp.array([0])).round(4))
    [2.]
    """
    return comp_sum_loss(logits, labels, tau=0.0)


@typed
def generalized_cross_entropy_loss(
    logits: Float[AnyArray, "n k"], labels: Integer[AnyArray, " n"], *, q: Scalar = 0.7
) -> Float[jax.Array, " n"]:
    """Generalised cross-entropy of each example, the comp-sum loss at tau = 1 + q.

    (1 - p_y^q) / q with p = softmax(logits): from cross-entropy (q = 0) to the mean absolute error
    (q = 1).

    `logits` (n, k); `labels` (n,) in [0, k); `q` >= 0. Returns (n,). O(n k).

    Zhang and Sabuncu, "Generalized Cross Entropy Loss for Training Deep Neural Networks with Noisy
    Labels", NeurIPS 2018, arXiv 1805.07836.

    >>> import jax.numpy as jnp
    >>> logits = jnp.log(jnp.array([[0.25, 0.75]]))
    >>> print(generalized_cross_entropy_loss(logits, jnp.array([0]), q=0.5))
    [1.]
    """
    return comp_sum_loss(logits, labels, tau=1 + q)


@typed
def mean_absolute_error_loss(
    logits: Float[AnyArray, "n k"], labels: Integer[AnyArray, " n"]
) -> Float[jax.Array, " n"]:
    """Mean absolute error of the softmax of each example, the comp-sum loss at tau = 2.

    1 - p_y, half of the l1 distance between p = softmax(logits) and the one-hot label. Its sum over
    labels is constant, so symmetric label noise does not move its minimiser.

    `logits` (n, k); `labels` (n,) in [0, k). Returns (n,). O(n k).

    Ghosh, Kumar and Sastry, "Robust Loss Functions under Label Noise for Deep Neural Networks",
    AAAI 2017, arXiv 1712.09482.

    >>> import jax.numpy as jnp
    >>> print(mean_absolute_error_loss(jnp.zeros((1, 4)), jnp.array([0])))
    [0.75]
    """
    return comp_sum_loss(logits, labels, tau=2.0)


@typed
def comp_sum_gradient_weight(
    logits: Float[AnyArray, "n k"], labels: Integer[AnyArray, " n"], *, tau: Scalar
) -> Float[jax.Array, " n"]:
    """Factor by which tau re-weights each example's cross-entropy gradient.

    p_y^(tau - 1) with p = softmax(logits), at most e^30: the gradient of `comp_sum_loss` is this
    times (p - onehot(y)).

    `logits` (n, k); `labels` (n,) in [0, k); `tau` >= 0. Returns (n,). O(n k).

    Mao, Mohri and Zhong, ICML 2023, arXiv 2304.07288.

    >>> import jax.numpy as jnp
    >>> print(comp_sum_gradient_weight(jnp.zeros((1, 4)), jnp.array([0]), tau=1.5))
    [0.5]
    """
    _check_tau(tau)
    nll = label_nll(logits, labels)
    return bounded_exp((1 - jnp.asarray(tau, nll.dtype)) * nll)


@typed
def comp_sum_phi(u: Float[AnyArray, "*shape"], *, tau: Scalar) -> Float[jax.Array, "*shape"]:
    """The outer function of the comp-sum losses, on u >= 0.

    Phi(u) = ((1 + u)^(1 - tau) - 1) / (1 - tau), log(1 + u) at tau = 1: increasing, concave and
    1-Lipschitz. `comp_sum_loss` is Phi(sum_{j != y} exp(logits_j - logits_y)). Its derivative,
    (1 + u)^(-tau), is `jax.grad`'s. Far out it continues as `comp_sum_from_nll` does.

    Mao, Mohri and Zhong, ICML 2023, arXiv 2304.07288.

    >>> import jax.numpy as jnp
    >>> print(comp_sum_phi(jnp.array([0.0, 1.0, 3.0]), tau=0.0).round(4))
    [0. 1. 3.]
    """
    return comp_sum_from_nll(jnp.log1p(widen(u)), tau=tau)
