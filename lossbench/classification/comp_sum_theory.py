"""What is known about the comp-sum losses: their best conditional risk and consistency bounds.

Mao, Mohri and Zhong, ICML 2023, arXiv 2304.07288. A loss is H-consistent when a small excess of
the surrogate risk over the best in the class H bounds the excess of the zero-one risk.
"""

import jax
import jax.numpy as jnp
from jax import lax

from lossbench._math import safe_sqrt, widen
from lossbench._typing import AnyArray, Float, Scalar, check, typed
from lossbench.classification._common import check_distributions, deformed_log
from lossbench.classification.comp_sum import comp_sum_from_nll, comp_sum_phi


def _sharpness(tau: jax.Array) -> jax.Array:
    """1 / (2 - tau), the power that sharpens the posterior; finite from tau = 2 on."""
    return 1 / jnp.maximum(2 - tau, jnp.finfo(tau.dtype).eps)


def _log_minimizer(probs: jax.Array, tau: jax.Array) -> jax.Array:
    # An impossible class gets the smallest normal number: its logarithm must stay finite.
    log_probs = jnp.log(jnp.maximum(probs, jnp.finfo(probs.dtype).tiny))
    return jax.nn.log_softmax(_sharpness(tau) * log_probs, axis=-1)


@typed
def comp_sum_conditional_risk(
    logits: Float[AnyArray, "n k"], probs: Float[AnyArray, "n k"], *, tau: Scalar = 1.0
) -> Float[jax.Array, " n"]:
    """Expected comp-sum loss of each example under a distribution of its label.

    sum_y probs_y l_tau(logits, y): the loss for soft labels, and the conditional risk at a point
    when `probs` is the true p(y | x).

    `logits` (n, k); `probs` (n, k), rows that sum to 1; `tau` >= 0. Returns (n,). O(n k).

    Mao, Mohri and Zhong, ICML 2023, arXiv 2304.07288.

    >>> import jax.numpy as jnp
    >>> print(comp_sum_conditional_risk(jnp.zeros((1, 2)), jnp.array([[0.3, 0.7]]), tau=2.0))
    [0.5]
    """
    probs = widen(probs)
    check_distributions(probs, "probs")
    nll = -jax.nn.log_softmax(widen(logits), axis=-1)
    return jnp.sum(probs * comp_sum_from_nll(nll, tau=tau), axis=-1)


@typed
def comp_sum_conditional_minimizer(
    probs: Float[AnyArray, "n k"], *, tau: Scalar
) -> Float[jax.Array, "n k"]:
    """Softmax probabilities that minimise the expected comp-sum loss of each example.

    s_y proportional to probs_y^(1 / (2 - tau)) for tau < 2: the posterior flattened for tau < 1 and
    sharpened for tau > 1. From tau = 2 on it is the one-hot vector of the most probable class (the
    first of equals), which finite logits only approach.

    `probs` (n, k), rows that sum to 1; `tau` >= 0. Returns (n, k). O(n k).

    Mao, Mohri and Zhong, ICML 2023, arXiv 2304.07288.

    >>> import jax.numpy as jnp
    >>> print(comp_sum_conditional_minimizer(jnp.array([[0.2, 0.8]]), tau=0.0).round(4))
    [[0.3333 0.6667]]
    """
    probs = widen(probs)
    check_distributions(probs, "probs")
    tau = jnp.asarray(tau, probs.dtype)
    mode = jax.nn.one_hot(jnp.argmax(probs, axis=-1), probs.shape[-1], dtype=probs.dtype)
    return jnp.where(tau < 2, jnp.exp(_log_minimizer(probs, tau)), mode)


@typed
def comp_sum_conditional_minimum(
    probs: Float[AnyArray, "n k"], *, tau: Scalar
) -> Float[jax.Array, " n"]:
    """Least expected comp-sum loss of each example, over all scores.

    ((sum_y probs_y^r)^(1/r) - 1) / (1 - tau), r = 1 / (2 - tau), for tau < 2: the entropy of
    `probs` at tau = 1. (1 - max_y probs_y) / (tau - 1) for tau >= 2.

    `probs` (n, k), rows that sum to 1; `tau` >= 0. Returns (n,). O(n k).

    Mao, Mohri and Zhong, ICML 2023, arXiv 2304.07288.

    >>> import jax.numpy as jnp
    >>> print(f"{comp_sum_conditional_minimum(jnp.array([[0.2, 0.8]]), tau=0.0)[0]:.3f}")
    0.800
    """
    probs = widen(probs)
    check_distributions(probs, "probs")
    tau = jnp.asarray(tau, probs.dtype)
    # The risk at the minimiser: unlike the closed form it has no 0 / 0 at tau = 1.
    nll = -_log_minimizer(probs, tau)
    smooth = jnp.sum(probs * deformed_log(nll, tau), axis=-1)
    return jnp.where(tau < 2, smooth, (1 - jnp.max(probs, axis=-1)) / jnp.maximum(tau - 1, 1))


def _excess_of_ties(beta: jax.Array, tau: jax.Array) -> jax.Array:
    """Excess risk of tied scores over the best for two classes, times 2^(tau - 1), tau < 2.

    With probabilities (1 +- beta) / 2 the best softmax is (1 +- theta) / 2, theta = tanh(y). As
    l(1/2) - l(s) = 2^(1 - tau) log_q(2 s) with q = 2 - tau, this is the mean of log_q(1 +- theta),
    singular at no tau.
    """
    below_one = 1 - jnp.finfo(beta.dtype).epsneg
    y = _sharpness(tau) * jnp.arctanh(jnp.minimum(beta, below_one))
    small = y < 0.5

    # At beta = 1 theta is 1 as well, and the worse class has no mass.
    theta = jnp.minimum(jnp.tanh(jnp.where(small, 1, y)), below_one)
    theta = jnp.where(beta < 1, theta, below_one)
    better = (1 + beta) / 2 * deformed_log(jnp.log1p(theta), 2 - tau)
    worse = (1 - beta) / 2 * deformed_log(jnp.log1p(-theta), 2 - tau)

    # The same sum with (1 +- theta)^s = exp(s (a +- y)), s = tau - 1, paired so that what remains
    # is quadratic in beta: above, terms linear in it cancel.
    s, y = tau - 1, jnp.where(small, y, 0)
    a = jnp.log1p(-(jnp.tanh(y) ** 2)) / 2

    def sinh_ratio(x: jax.Array) -> jax.Array:
        """sinh(s x) / s."""
        return jnp.exp(-s * x) * deformed_log(2 * x, 2 - tau) / 2

    even = deformed_log(a, 2 - tau) * jnp.cosh(s * y) + 2 * s * sinh_ratio(y / 2) ** 2
    odd = jnp.exp(s * a) * sinh_ratio(y)
    return jnp.where(small, even + beta * odd, better + worse)


@typed
def h_consistency_transform(
    beta: Float[AnyArray, "*shape"], *, tau: Scalar, num_classes: Scalar
) -> Float[jax.Array, "*shape"]:
    """Least excess of the comp-sum risk that a zero-one excess `beta` in [0, 1] costs.

    T(b) = m^(1 - tau) (1 - g) / (1 - tau), g = (((1 + b)^r + (1 - b)^r) / 2)^(1/r),
    r = 1 / (2 - tau), m = 2 for tau < 1 and `num_classes` above; the limit at tau = 1 is
    ((1 + b) log(1 + b) + (1 - b) log(1 - b)) / 2; b / ((tau - 1) m^(tau - 1)) for tau >= 2. It is
    convex with T(0) = 0, and tight for two classes and tau <= 2.

    Returns the shape of `beta`.

    Mao, Mohri and Zhong, ICML 2023, arXiv 2304.07288.

    >>> import jax.numpy as jnp
    >>> print(f"{h_consistency_transform(jnp.array(0.6), tau=0.0, num_classes=10):.3f}")
    0.200
    """
    beta = widen(beta)
    check(lambda: (beta >= 0) & (beta <= 1), "beta must lie in [0, 1]")
    tau, num_classes = jnp.asarray(tau, beta.dtype), jnp.asarray(num_classes, beta.dtype)
    factor = jnp.where(tau < 1, 2, num_classes) ** (1 - tau)
    linear = beta / jnp.maximum(tau - 1, 1)
    return factor * jnp.where(tau < 2, _excess_of_ties(beta, tau), linear)


@typed
def h_consistency_bound(
    surrogate_regret: Float[AnyArray, "*shape"], *, tau: Scalar, num_classes: Scalar
) -> Float[jax.Array, "*shape"]:
    """Largest zero-one excess that a given excess of the comp-sum risk allows.

    The inverse of `h_consistency_transform`, at most 1. For a symmetric and complete class H of
    scores, zero-one regret <= bound(surrogate regret + its minimizability gap) - zero-one gap.

    Returns the shape of `surrogate_regret` (>= 0), by 60 bisections; its derivatives are those of
    the inverse function, 0 where the bound is 1 and, by convention, at 0.

    Mao, Mohri and Zhong, ICML 2023, arXiv 2304.07288.

    >>> import jax.numpy as jnp
    >>> print(f"{h_consistency_bound(jnp.array(0.2), tau=0.0, num_classes=10):.3f}")
    0.600
    """
    regret = widen(surrogate_regret)
    check(lambda: regret >= 0, "surrogate_regret must be at least 0")
    tau, num_classes = jnp.asarray(tau, regret.dtype), jnp.asarray(num_classes, regret.dtype)
    return _invert(regret, tau, num_classes)


@jax.jit
def _invert(regret: jax.Array, tau: jax.Array, num_classes: jax.Array) -> jax.Array:
    most = h_consistency_transform(jnp.ones((), regret.dtype), tau=tau, num_classes=num_classes)
    inside = (regret > 0) & (regret < most)
    target = jnp.where(inside, regret, most / 2)
    closed = h_consistency_bound_closed(target, tau=tau, num_classes=num_classes)

    def excess(beta: jax.Array) -> jax.Array:
        return h_consistency_transform(beta, tau=tau, num_classes=num_classes) - target

    def bisect(function: object, start: jax.Array) -> jax.Array:
        def halve(_: int, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            low, high = ends
            middle = (low + high) / 2
            above = excess(middle) > 0
            return jnp.where(above, low, middle), jnp.where(above, middle, high)

        # From the closed bound, so that a tiny root is found to relative precision.
        low, high = lax.fori_loop(0, 60, halve, (jnp.zeros_like(start), start))
        return (low + high) / 2

    root = lax.custom_root(
        excess,
        lax.stop_gradient(jnp.minimum(1, 2 * closed)),
        bisect,
        # The problem is elementwise: its Jacobian is a diagonal.
        lambda linear, y: y / linear(jnp.ones_like(y)),
    )
    return jnp.where(inside, root, jnp.where(regret > 0, 1, 0))


@typed
def h_consistency_bound_closed(
    surrogate_regret: Float[AnyArray, "*shape"], *, tau: Scalar, num_classes: Scalar
) -> Float[jax.Array, "*shape"]:
    """Closed upper bound of `h_consistency_bound`, at most 1.

    sqrt(2^tau (2 - tau) t) for tau < 1, sqrt(2 k^(tau - 1) t) for 1 <= tau < 2 and
    (tau - 1) k^(tau - 1) t from 2 on, with t the regret and k = `num_classes`.

    Returns the shape of `surrogate_regret` (>= 0).

    Mao, Mohri and Zhong, ICML 2023, arXiv 2304.07288.

    >>> import jax.numpy as jnp
    >>> print(f"{h_consistency_bound_closed(jnp.array(0.08), tau=1.0, num_classes=10):.3f}")
    0.400
    """
    regret = widen(surrogate_regret)
    check(lambda: regret >= 0, "surrogate_regret must be at least 0")
    tau, num_classes = jnp.asarray(tau, regret.dtype), jnp.asarray(num_classes, regret.dtype)
    power = num_classes ** (tau - 1)
    square = jnp.where(tau < 1, 2**tau * (2 - tau), 2 * power) * regret
    bound = jnp.where(tau < 2, safe_sqrt(jnp.maximum(square, 0)), (tau - 1) * power * regret)
    return jnp.minimum(bound, 1)


@typed
def minimizability_gap(
    best_in_class_risk: Scalar,
    probs: Float[AnyArray, "n k"],
    weights: Float[AnyArray, " n"],
    *,
    tau: Scalar,
) -> Float[jax.Array, ""]:
    """How far the best risk in the class lies above the mean of the pointwise best risks.

    best_in_class_risk - sum_i weights_i C*(probs_i), with C* the `comp_sum_conditional_minimum`:
    0 for the class of all functions.

    `probs` (n, k): p(y | x_i); `weights` (n,): the mass of x_i, summing to 1. Returns a scalar.

    Mao, Mohri and Zhong, ICML 2023, arXiv 2304.07288.

    >>> import jax.numpy as jnp
    >>> probs, weights = jnp.array([[0.5, 0.5], [1.0, 0.0]]), jnp.array([0.5, 0.5])
    >>> print(minimizability_gap(1.0, probs, weights, tau=2.0))
    0.75
    """
    weights = widen(weights)
    check_distributions(weights, "weights")
    attainable = jnp.sum(weights * comp_sum_conditional_minimum(probs, tau=tau))
    return jnp.asarray(best_in_class_risk, attainable.dtype) - attainable


@typed
def minimizability_gap_bound(
    best_sum_exp_risk: Scalar,
    probs: Float[AnyArray, "n k"],
    weights: Float[AnyArray, " n"],
    *,
    tau: Scalar,
) -> Float[jax.Array, ""]:
    """Upper bound of `minimizability_gap` at any tau, from the class's best sum-exponential risk.

    Phi_tau(best_sum_exp_risk) - sum_i weights_i C*(probs_i), by concavity of `comp_sum_phi`.

    `probs` (n, k): p(y | x_i); `weights` (n,): the mass of x_i, summing to 1. Returns a scalar.

    Mao, Mohri and Zhong, ICML 2023, arXiv 2304.07288.

    >>> import jax.numpy as jnp
    >>> probs, weights = jnp.array([[0.5, 0.5], [1.0, 0.0]]), jnp.array([0.5, 0.5])
    >>> print(minimizability_gap_bound(1.0, probs, weights, tau=2.0))
    0.25
    """
    risk = widen(jnp.asarray(best_sum_exp_risk, widen(probs).dtype))
    return minimizability_gap(comp_sum_phi(risk, tau=tau), probs, weights, tau=tau)
