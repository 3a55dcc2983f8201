"""Logistic regression on separable data: large steps, normalised gradients, the perceptron between.

Tyurin, "From Logistic Regression to the Perceptron Algorithm: Exploring Gradient Descent with Large
Step Sizes", AAAI 2025, arXiv 2412.08424. With margins z_i the logistic gradient weighs example i by
sigmoid(-z_i). As the step grows that becomes 1 for wrong examples and 0 for right ones: gradient
descent turns into the batch perceptron. Dividing by the mean weight rids it of a factor n.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from lossbench._math import masked_mean, widen
from lossbench._typing import AnyArray, Bool, Float, Integer, Scalar, check, typed
from lossbench.classification._common import label_signs


@typed
def normalized_logistic_weights(
    margins: Float[AnyArray, " n"], *, where: Bool[AnyArray, " n"] | None = None
) -> Float[jax.Array, " n"]:
    """Weights of the examples in the normalised logistic gradient: they sum to 1.

    sigmoid(-z_i) / sum_j sigmoid(-z_j) with margins z, exact where every sigmoid underflows. Minus
    the weights are the cotangents of the margins that give the normalised gradient of any model.

    `margins` (n,), the score times the sign of the label, finite; rows outside `where` get 0.
    Returns (n,). O(n).

    Tyurin, AAAI 2025, arXiv 2412.08424.

    >>> import jax.numpy as jnp
    >>> print(normalized_logistic_weights(jnp.array([1e6, 1e6, 2e6])))
    [0.5 0.5 0. ]
    """
    margins = widen(margins)
    if where is None:
        return jax.nn.softmax(jax.nn.log_sigmoid(-margins))
    # A softmax without any unmasked row would be 0 / 0.
    kept = jnp.asarray(where) | ~jnp.any(where)
    log_weights = jax.nn.log_sigmoid(-jnp.where(where, margins, 0))
    return jnp.where(where, jax.nn.softmax(jnp.where(kept, log_weights, -jnp.inf)), 0)


def normalize_by_logistic_weight() -> optax.GradientTransformationExtraArgs:
    """Divide the gradient of a mean logistic loss by the mean logistic weight of its examples.

    `update(gradients, state, params, margins=z)` returns gradients / mean sigmoid(-z_i). `margins`
    (n,) are the scores times the signs of the labels in the batch that gave the gradients; for
    softmax cross-entropy they are log p_y - log(1 - p_y). Chain it with `optax.sgd`: once the data
    are separated the loss then falls exponentially. It has no state.

    A gradient that has underflowed stays 0: beyond margins of 88 in float32, use
    `normalized_logistic_weights` as cotangents. With mini-batches a batch that is right throughout
    moves the parameters as far as any other.

    Tyurin, AAAI 2025, arXiv 2412.08424.

    >>> import jax.numpy as jnp
    >>> import optax
    >>> optimizer = optax.chain(normalize_by_logistic_weight(), optax.sgd(0.1))
    >>> params = jnp.zeros(2)
    >>> gradient, margins = jnp.array([1.0, -2.0]), jnp.zeros(5)
    >>> print(optimizer.update(gradient, optimizer.init(params), params, margins=margins)[0])
    [-0.2  0.4]
    """

    def update(
        updates: Any, state: Any, params: Any = None, *, margins: AnyArray, **_: Any
    ) -> tuple[Any, Any]:
        mean = masked_mean(jax.nn.sigmoid(-widen(margins)))
        scale = jnp.where(mean > 0, 1 / jnp.where(mean > 0, mean, 1), 1)
        return jax.tree.map(lambda g: (g * scale).astype(g.dtype), updates), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


def _signed(features: AnyArray, labels: AnyArray) -> jax.Array:
    """Features times the signs of their labels: their scores are the margins."""
    features = widen(features)
    return label_signs(labels, features.dtype)[:, None] * features


def _step(
    direction: jax.Array,
    margins: jax.Array,
    signed: jax.Array,
    step_size: jax.Array,
    normalize: bool,
) -> jax.Array:
    # A tie weighs 1/2 at every step size, the infinite one too.
    tied = margins == 0
    scaled = jnp.where(tied, 0, step_size * jnp.where(tied, 1, margins))
    if not normalize:
        return direction + jax.nn.sigmoid(-scaled) @ signed / len(signed)
    log_weights = jax.nn.log_sigmoid(-scaled)
    # At infinite steps separated examples weigh nothing at all.
    moving = jnp.any(log_weights > -jnp.inf)
    weights = jax.nn.softmax(jnp.where(moving, log_weights, 0))
    return direction + jnp.where(moving, weights, 0) @ signed


@typed
def logistic_descent_step(
    direction: Float[AnyArray, " d"],
    features: Float[AnyArray, "n d"],
    labels: Integer[AnyArray, " n"],
    *,
    step_size: Scalar,
    normalize: bool = True,
) -> Float[jax.Array, " d"]:
    """One step of (normalised) gradient descent on the logistic loss, in units of the step size.

    direction + sum_i w_i y_i x_i with y in {-1, +1} and w_i = sigmoid(-step_size * margin_i) / n,
    or, with `normalize` (static), over their sum; margin_i = y_i <x_i, direction>. The weights of
    the linear model are step_size * direction, so that step_size = inf is a step like any other: of
    the batch perceptron, or of its normalised form, the mean of y_i x_i over the wrong examples
    (ties count half).

    `direction` (d,), at first zeros; `features` (n, d), with a column of ones for a bias; `labels`
    (n,) in {0, 1}; `step_size` > 0. Returns (d,). O(n d).

    Tyurin, AAAI 2025, arXiv 2412.08424.

    >>> import jax.numpy as jnp
    >>> features, labels = jnp.array([[1.0, 0.0], [-1.0, 0.5]]), jnp.array([1, 1])
    >>> step = lambda x: logistic_descent_step(x, features, labels, step_size=jnp.inf)
    >>> print(step(jnp.zeros(2)), step(jnp.array([1.0, 0.0])))
    [0.   0.25] [0.  0.5]
    """
    direction, signed = widen(direction), _signed(features, labels)
    step_size = jnp.asarray(step_size, signed.dtype)
    check(lambda: step_size > 0, "step_size must be positive, got {value}", value=step_size)
    return _step(direction, signed @ direction, signed, step_size, normalize)


class SeparationResult(NamedTuple):
    """What `separate` returns.

    Attributes:
        direction: (d,), which separates the classes if `separated`.
        iterations: (), the steps taken.
        separated: (), whether every margin is positive.
    """

    direction: jax.Array
    iterations: jax.Array
    separated: jax.Array


@typed
def separate(
    features: Float[AnyArray, "n d"],
    labels: Integer[AnyArray, " n"],
    *,
    step_size: Scalar = jnp.inf,
    normalize: bool = True,
    max_iterations: int = 10_000,
) -> SeparationResult:
    """Hyperplane through 0 that separates two classes, by (normalised) logistic descent from zero.

    With R the largest norm of a feature vector and m the margin of the best hyperplane, the
    normalised form takes at most R^2 / m^2 + 2 log(2n) / (step_size m^2) steps, the plain one at
    infinite step size up to 2n R^2 / m^2.

    `features` (n, d), with a column of ones for a bias; `labels` (n,) in {0, 1}; `step_size` > 0,
    infinite for the perceptron. Where no hyperplane separates, it ends after `max_iterations`.
    `normalize` is static. Returns `SeparationResult`, without gradient. O(n d) an iteration.

    Tyurin, AAAI 2025, arXiv 2412.08424.

    >>> import jax.numpy as jnp
    >>> features, labels = jnp.array([[1.0, 0.0], [-1.0, 0.5]]), jnp.array([1, 1])
    >>> result = separate(features, labels)
    >>> print(result.direction, result.iterations, result.separated)
    [1.   2.25] 10 True
    """
    signed = lax.stop_gradient(_signed(features, labels))
    step_size = lax.stop_gradient(jnp.asarray(step_size, signed.dtype))
    check(lambda: step_size > 0, "step_size must be positive, got {value}", value=step_size)
    limit = jnp.asarray(max_iterations)
    Carry = tuple[jax.Array, jax.Array, jax.Array]

    def wrong(carry: Carry) -> jax.Array:
        _, margins, count = carry
        return ~jnp.all(margins > 0) & (count < limit)

    def advance(carry: Carry) -> Carry:
        direction, margins, count = carry
        direction = _step(direction, margins, signed, step_size, normalize)
        return direction, signed @ direction, count + 1

    start = (jnp.zeros_like(signed[0]), jnp.zeros_like(signed[:, 0]), jnp.zeros_like(limit))
    direction, margins, count = lax.while_loop(wrong, advance, start)
    return SeparationResult(direction, count, jnp.all(margins > 0))
