"""Smooth adversarial comp-sum losses: a clean loss plus the drift of the margins under attack.

Mao, Mohri and Zhong, ICML 2023, arXiv 2304.07288.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lossbench._math import safe_norm, widen
from lossbench._typing import AnyArray, Float, Integer, PRNGKey, Scalar, typed
from lossbench.classification._common import check_labels, take_label
from lossbench.classification.comp_sum import comp_sum_loss, comp_sum_phi
from lossbench.robust import pgd_attack


def _drift(scores: AnyArray, scores_adv: AnyArray, labels: AnyArray) -> jax.Array:
    """Change of the score differences h_y - h_k; the entry k = y is 0. (n, k)."""
    change = widen(scores_adv) - widen(scores)
    return take_label(change, labels)[:, None] - change


@typed
def margin_drift(
    scores: Float[AnyArray, "n k"],
    scores_adv: Float[AnyArray, "n k"],
    labels: Integer[AnyArray, " n"],
) -> Float[jax.Array, " n"]:
    """How far an attack moves the vector of score differences of each example.

    || D_y(x') - D_y(x) ||_2 with D_y = (h_y - h_k)_{k != y}.

    `scores`, `scores_adv` (n, k): h at x and at x'; `labels` (n,) in [0, k). Returns (n,), with
    gradient 0 where nothing moved. O(n k).

    Mao, Mohri and Zhong, ICML 2023, arXiv 2304.07288.

    >>> import jax.numpy as jnp
    >>> print(margin_drift(jnp.zeros((1, 3)), jnp.array([[0.0, 3.0, 4.0]]), jnp.array([0])))
    [5.]
    """
    check_labels(labels, scores.shape[1])
    return safe_norm(_drift(scores, scores_adv, labels))


@typed
def smooth_adversarial_comp_sum_loss(
    scores: Float[AnyArray, "n k"],
    scores_adv: Float[AnyArray, "n k"],
    labels: Integer[AnyArray, " n"],
    *,
    tau: Scalar = 1.0,
    rho: Scalar = 1.0,
    nu: Scalar = 1.0,
) -> Float[jax.Array, " n"]:
    """Clean comp-sum loss plus `nu` times the drift of the margins, of each example.

    l_tau(scores / rho, y) + nu margin_drift(scores, scores_adv, y). With x' the maximiser of the
    drift and nu >= sqrt(k - 1) / rho it bounds `adversarial_comp_sum_margin_loss` from above; in
    training nu trades clean for robust accuracy.

    `scores`, `scores_adv` (n, k): h at x and at x'; `labels` (n,) in [0, k); `rho` > 0. Returns
    (n,). O(n k).

    Mao, Mohri and Zhong, ICML 2023, arXiv 2304.07288.

    >>> import jax.numpy as jnp
    >>> scores, moved = jnp.zeros((1, 3)), jnp.array([[0.0, 3.0, 4.0]])
    >>> loss = smooth_adversarial_comp_sum_loss(scores, moved, jnp.array([0]), tau=0.0)
    >>> print(f"{loss[0]:.3f}")
    7.000
    """
    clean = widen(scores)
    smooth = comp_sum_loss(clean / jnp.asarray(rho, clean.dtype), labels, tau=tau)
    return smooth + jnp.asarray(nu, clean.dtype) * margin_drift(scores, scores_adv, labels)


@typed
def adversarial_comp_sum_margin_loss(
    scores_adv: Float[AnyArray, "n k"],
    labels: Integer[AnyArray, " n"],
    *,
    tau: Scalar = 1.0,
    rho: Scalar = 1.0,
) -> Float[jax.Array, " n"]:
    """Comp-sum loss of the ramp of the margins at the attacked point, of each example.

    Phi_tau(sum_{k != y} min(max(0, 1 - (h_y - h_k) / rho), 1)); its supremum over x' is the
    non-convex loss that `smooth_adversarial_comp_sum_loss` bounds, and it is at least Phi_tau(1)
    where x' is misclassified.

    `scores_adv` (n, k): h at x'; `labels` (n,) in [0, k); `rho` > 0. Returns (n,). O(n k).

    Mao, Mohri and Zhong, ICML 2023, arXiv 2304.07288.

    >>> import jax.numpy as jnp
    >>> scores = jnp.array([[1.0, 0.5, 3.0, -9.0]])
    >>> print(adversarial_comp_sum_margin_loss(scores, jnp.array([0]), tau=0.0))
    [1.5]
    """
    scores_adv = widen(scores_adv)
    check_labels(labels, scores_adv.shape[1])
    margins = take_label(scores_adv, labels)[:, None] - scores_adv
    ramp = jnp.clip(1 - margins / jnp.asarray(rho, margins.dtype), 0, 1)
    others = jnp.arange(ramp.shape[1]) != jnp.asarray(labels)[:, None]
    return comp_sum_phi(jnp.sum(ramp, axis=1, where=others), tau=tau)


@typed
def drift_attack(
    key: PRNGKey,
    score_fn: Callable[..., Any],
    x: Float[AnyArray, "n ..."],
    labels: Integer[AnyArray, " n"],
    *,
    epsilon: Scalar,
    **attack: Any,
) -> Float[jax.Array, "n ..."]:
    """Points within `epsilon` of `x` at which the margins have drifted furthest.

    Projected gradient ascent on the square of `margin_drift`, from a random start: at x itself the
    drift has no direction.

    `score_fn`: (n, ...) -> (n, k); `labels` (n,) in [0, k); `attack`: the options of `pgd_attack`.
    Returns the shape of `x`, without gradient.

    Mao, Mohri and Zhong, ICML 2023, arXiv 2304.07288.

    >>> import jax, jax.numpy as jnp
    >>> x, labels = jnp.zeros((1, 2)), jnp.array([0])
    >>> moved = drift_attack(jax.random.key(0), lambda x: x, x, labels, epsilon=0.1)
    >>> print(jnp.abs(moved))
    [[0.1 0.1]]
    """
    x = jnp.asarray(x)
    scores = score_fn(x)
    check_labels(labels, scores.shape[1])

    def squared_drift(moved: jax.Array) -> jax.Array:
        return jnp.sum(jnp.square(_drift(scores, score_fn(moved), labels)), axis=1)

    return pgd_attack(key, squared_drift, x, epsilon=epsilon, **attack)


@typed
def adv_comp_sum_objective(
    key: PRNGKey,
    score_fn: Callable[..., Any],
    x: Float[AnyArray, "n ..."],
    labels: Integer[AnyArray, " n"],
    *,
    epsilon: Scalar,
    tau: Scalar = 1.0,
    rho: Scalar = 1.0,
    nu: Scalar = 1.0,
    **attack: Any,
) -> Float[jax.Array, " n"]:
    """Training loss of the ADV-COMP-SUM algorithm for each example.

    The `smooth_adversarial_comp_sum_loss` at x' = `drift_attack` of the current `score_fn`. The
    gradient holds x' fixed and flows through both h(x) and h(x'). The paper adds weight decay.

    `score_fn`: (n, ...) -> (n, k); `labels` (n,) in [0, k); `attack`: the options of `pgd_attack`.
    Returns (n,). It costs num_steps + 2 forward and backward passes: call it inside `jax.jit`.

    Mao, Mohri and Zhong, ICML 2023, arXiv 2304.07288.

    >>> import jax, jax.numpy as jnp
    >>> x, labels = jnp.zeros((1, 2)), jnp.array([0])
    >>> loss = adv_comp_sum_objective(jax.random.key(0), lambda x: x, x, labels, epsilon=0.1)
    >>> bool(loss[0] >= jnp.log(2))
    True
    """
    moved = drift_attack(key, score_fn, x, labels, epsilon=epsilon, **attack)
    return smooth_adversarial_comp_sum_loss(
        score_fn(jnp.asarray(x)), score_fn(moved), labels, tau=tau, rho=rho, nu=nu
    )
