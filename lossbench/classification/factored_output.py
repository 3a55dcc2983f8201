"""An output layer for spherical losses whose exact training does not see the number of classes.

The k x d weights are kept as W = V U + 1 omega^T. A step of gradient descent on any loss of the
spherical family changes W by a multiple of itself from the right, a multiple of 1 and the labels'
rows: U, omega and a few rows of V. Vincent, de Brebisson and Bouthillier, "Efficient Exact Gradient
Update for training Deep Networks with Very Large Sparse Targets", NeurIPS 2015, arXiv 1412.7091.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from lossbench._math import widen
from lossbench._typing import AnyArray, Float, Integer, Scalar, typed
from lossbench.classification._common import check_labels
from lossbench.classification.spherical import LossFromStatistics, SphericalStatistics

_product = partial(jnp.matmul, precision=lax.Precision.HIGHEST)


class FactoredOutput(NamedTuple):
    """Output weights W = rows @ mixing + shift of k classes on d features, and their moments."""

    rows: jax.Array
    """V (k, d)."""
    mixing: jax.Array
    """U (d, d)."""
    unmixing: jax.Array
    """The inverse of U, transposed (d, d)."""
    shift: jax.Array
    """omega (d,), added to every row."""
    gram: jax.Array
    """W^T W (d, d)."""
    row_sum: jax.Array
    """W^T 1 (d,)."""
    steps: jax.Array
    """Steps since U was the identity ()."""


@typed
def factored_output_init(weights: Float[AnyArray, "k d"]) -> FactoredOutput:
    """Return the state of an output layer with `weights` (k, d). O(k d^2).

    >>> import jax.numpy as jnp
    >>> factored_output_init(jnp.ones((5, 2))).gram.shape
    (2, 2)
    """
    weights = widen(weights)
    identity = jnp.eye(weights.shape[1], dtype=weights.dtype)
    return FactoredOutput(
        rows=weights,
        mixing=identity,
        unmixing=jnp.copy(identity),  # no buffer twice, so that the state may be donated
        shift=jnp.zeros_like(weights[0]),
        gram=_product(weights.T, weights),
        row_sum=jnp.sum(weights, axis=0),
        steps=jnp.zeros((), jnp.int32),
    )


@typed
def factored_output_weights(state: FactoredOutput) -> Float[jax.Array, "k d"]:
    """Return the weights W (k, d) that the state stands for, for evaluation. O(k d^2).

    >>> import jax.numpy as jnp
    >>> print(factored_output_weights(factored_output_init(jnp.ones((2, 1)))))
    [[1.]
     [1.]]
    """
    return _product(state.rows, state.mixing) + state.shift


def _label_rows(state: FactoredOutput, labels: AnyArray) -> jax.Array:
    """The rows of W at the labels (m, d)."""
    return _product(state.rows[jnp.asarray(labels)], state.mixing) + state.shift


@typed
def factored_output_statistics(
    state: FactoredOutput, hidden: Float[AnyArray, "m d"], labels: Integer[AnyArray, " m"]
) -> SphericalStatistics:
    """Return the statistics of the outputs W h of m examples, without the outputs. O(m d^2).

    >>> import jax.numpy as jnp
    >>> state = factored_output_init(jnp.array([[1.0], [2.0], [-1.0]]))
    >>> statistics = factored_output_statistics(state, jnp.array([[1.0]]), jnp.array([1]))
    >>> print(statistics.target, statistics.sum_squares, statistics.total)
    [2.] [6.] [2.]
    """
    hidden = widen(hidden)
    check_labels(labels, len(state.rows))
    return SphericalStatistics(
        jnp.sum(_label_rows(state, labels) * hidden, axis=1),
        jnp.sum(_product(hidden, state.gram) * hidden, axis=1),
        _product(hidden, state.row_sum),
    )


@typed
def factored_output_step(
    state: FactoredOutput,
    hidden: Float[AnyArray, "m d"],
    labels: Integer[AnyArray, " m"],
    *,
    loss_from_statistics: LossFromStatistics,
    learning_rate: Scalar,
) -> tuple[Float[jax.Array, " m"], Float[jax.Array, "m d"], FactoredOutput]:
    """One exact step of gradient descent on the sum of a batch's losses, for any number of classes.

    The same as the dense step W - learning_rate sum_i (dL_i / do_i) h_i^T in exact arithmetic.

    `state` of `factored_output_init`; `hidden` (m, d), the layer's inputs; `labels` (m,);
    `loss_from_statistics(target, sum_squares, total, num_classes=k)`: a loss of the spherical
    family, such as `z_loss_from_statistics`.
    Returns the losses (m,), their gradients by `hidden` (m, d), to be pulled back through the
    network, and the new state. O(m d^2 + m^2 d + m^3 + d^3); only the labels' rows of V are
    written: donate the state to jit, else copying V costs O(k d).

    Call `factored_output_refresh` every hundred steps or so. learning_rate 2 dL/d(sum of squares)
    |h|^2 must stay below 1, or U loses its inverse.

    Vincent, de Brebisson and Bouthillier, NeurIPS 2015, arXiv 1412.7091.

    >>> import jax.numpy as jnp
    >>> from lossbench.classification import z_loss_from_statistics
    >>> state = factored_output_init(jnp.array([[1.0], [2.0], [-1.0]]))
    >>> losses, gradient, state = factored_output_step(
    ...     state, jnp.array([[1.0]]), jnp.array([1]),
    ...     loss_from_statistics=z_loss_from_statistics, learning_rate=0.1)
    >>> print(losses.round(4), gradient.shape)
    [0.2952] (1, 1)
    """
    hidden, labels = widen(hidden), jnp.asarray(labels)
    statistics = factored_output_statistics(state, hidden, labels)
    num_classes, rate = len(state.rows), jnp.asarray(learning_rate, hidden.dtype)

    def losses_of(*statistics: jax.Array) -> tuple[jax.Array, jax.Array]:
        losses = loss_from_statistics(*statistics, num_classes=num_classes)
        return jnp.sum(losses), losses

    slopes, losses = jax.grad(losses_of, (0, 1, 2), has_aux=True)(*statistics)
    # The gradient by the outputs is alpha e_label + beta outputs + kappa 1.
    alpha, beta, kappa = slopes[0], 2 * slopes[1], slopes[2]

    gram, row_sum, shift = state.gram, state.row_sum, state.shift
    pulled = alpha[:, None] * _label_rows(state, labels)
    grad_hidden = kappa[:, None] * row_sum + beta[:, None] * _product(hidden, gram) + pulled

    # W <- W (I - rate H^T diag(beta) H) - rate 1 rho^T - rate sum_i alpha_i e_label h_i^T.
    identity = jnp.eye(hidden.shape[1], dtype=hidden.dtype)
    weighted = beta[:, None] * hidden
    shrink = identity - rate * _product(hidden.T, weighted)
    rho = _product(hidden.T, kappa)
    # Woodbury: the inverse of `shrink` by a system of the batch's size.
    inner = jnp.eye(len(hidden), dtype=hidden.dtype) - rate * _product(hidden, weighted.T)
    inverse = identity + rate * _product(weighted.T, jnp.linalg.solve(inner, hidden))

    mixing = _product(state.mixing, shrink)
    unmixing = _product(state.unmixing, inverse.T)
    targets = alpha[:, None] * hidden
    rows = state.rows.at[labels].add(-rate * _product(targets, unmixing.T))

    shrunk_sum = _product(shrink, row_sum)
    target_sum = jnp.sum(targets, axis=0)
    crossed = jnp.outer(shrunk_sum, rho)
    moved = _product(shrink, _product(pulled.T, hidden))
    mixed = jnp.outer(rho, target_sum)
    same = labels[:, None] == labels
    grouped = _product(targets.T, _product(same.astype(hidden.dtype), targets))
    new_gram = (
        _product(shrink, _product(gram, shrink))
        - rate * (crossed + crossed.T)
        + jnp.square(rate) * num_classes * jnp.outer(rho, rho)
        - rate * (moved + moved.T)
        + jnp.square(rate) * (mixed + mixed.T + grouped)
    )
    new_state = FactoredOutput(
        rows=rows,
        mixing=mixing,
        unmixing=unmixing,
        shift=_product(shrink, shift) - rate * rho,
        # Symmetric in exact arithmetic; rounding must not accumulate in the other part.
        gram=(new_gram + new_gram.T) / 2,
        row_sum=shrunk_sum - rate * num_classes * rho - rate * target_sum,
        steps=state.steps + 1,
    )
    return losses, grad_hidden, new_state


@typed
def factored_output_refresh(state: FactoredOutput) -> FactoredOutput:
    """Return the same weights with U = I, omega = 0 and the moments computed anew. O(k d^2).

    U loses its condition as steps shrink directions, and the moments gather rounding errors: call
    it every hundred steps or so, or when |U U^-1 - I| exceeds 1e-3.

    >>> import jax.numpy as jnp
    >>> print(factored_output_refresh(factored_output_init(jnp.ones((3, 1)))).gram)
    [[3.]]
    """
    return factored_output_init(factored_output_weights(state))
