"""The direction, or the law of directions, along which two clouds differ most."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from lossbench._math import normalize
from lossbench._typing import AnyArray, Float, PRNGKey, Scalar, typed
from lossbench.transport._common import present, root_of, weighted_mean
from lossbench.transport.projections import sample_projections
from lossbench.transport.sliced import projected_wasserstein
from lossbench.transport.von_mises_fisher import vmf_sliced_wasserstein


def _ascend(
    objective: Callable[[jax.Array, jax.Array], jax.Array],
    starts: jax.Array,
    keys: jax.Array,
    step_size: Scalar,
) -> jax.Array:
    """The best of `starts` (s, d) after an ascent on the sphere, a step a key."""

    def step(points: jax.Array, key: jax.Array) -> tuple[jax.Array, None]:
        # In relation to the gradient itself the tangent has no units, and ends at a maximum.
        slopes = normalize(jax.vmap(jax.grad(objective), (0, None))(points, key))
        tangents = slopes - jnp.sum(slopes * points, axis=1, keepdims=True) * points
        return normalize(points + step_size * tangents), None

    points, _ = lax.scan(step, starts, keys)
    return points[jnp.argmax(jax.vmap(objective, (0, None))(points, keys[-1]))]


def _starts(
    key: PRNGKey,
    x: AnyArray,
    y: AnyArray,
    x_weights: AnyArray | None,
    y_weights: AnyArray | None,
    count: int,
) -> jax.Array:
    """The difference of the means, which shifted clouds differ along, and random directions."""
    x, y = present(x, x_weights), present(y, y_weights)
    starts = sample_projections(key, count, x.shape[1]).astype(x.dtype)
    shift = normalize(weighted_mean(x, x_weights) - weighted_mean(y, y_weights))
    return jnp.where(jnp.any(shift != 0), starts.at[0].set(shift), starts)


@partial(jax.jit, static_argnames=("num_steps", "num_starts", "p"))
def _max_direction(
    key: PRNGKey,
    x: AnyArray,
    y: AnyArray,
    x_weights: AnyArray | None,
    y_weights: AnyArray | None,
    step_size: Scalar,
    num_steps: int,
    num_starts: int,
    p: float,
) -> jax.Array:
    def cost(direction: jax.Array, _: jax.Array) -> jax.Array:
        return projected_wasserstein(
            x, y, direction[None], p=p, x_weights=x_weights, y_weights=y_weights
        )[0]

    start_key, key = jax.random.split(key)
    starts = _starts(start_key, x, y, x_weights, y_weights, num_starts)
    return _ascend(cost, starts, jax.random.split(key, num_steps), step_size)


@typed
def max_sliced_wasserstein(
    key: PRNGKey,
    x: Float[AnyArray, "n d"],
    y: Float[AnyArray, "m d"],
    *,
    p: float = 2.0,
    num_steps: int = 50,
    num_starts: int = 4,
    step_size: Scalar = 0.5,
    x_weights: Float[AnyArray, " n"] | None = None,
    y_weights: Float[AnyArray, " m"] | None = None,
    root: bool = True,
) -> Float[jax.Array, ""]:
    """Max-sliced Wasserstein distance: the cost along the worst direction.

    max_theta W_p(<theta, x>, <theta, y>), by `num_steps` steps of ascent on the sphere from the
    difference of the means and `num_starts` - 1 random directions; a lower bound where that ends in
    a local maximum. The direction is constant to differentiation, as the envelope theorem
    has it at the maximum.

    `x` (n, d), `y` (m, d); a step adds `step_size` times the tangential part of the gradient over
    the gradient's norm, so that at 1 it is nearly a power iteration; all else as in
    `sliced_wasserstein`; `p`, the counts and `root` are static. Returns a scalar.
    O(num_starts num_steps) costs on the line.

    Deshpande et al., "Max-Sliced Wasserstein Distance and its use for GANs", CVPR 2019, arXiv
    1904.05877.

    >>> x = jax.random.normal(jax.random.key(1), (50, 3))
    >>> shift = jax.numpy.array([3.0, 0.0, 4.0])
    >>> print(max_sliced_wasserstein(jax.random.key(0), x, x + shift).round(2))
    5.0
    """
    # Stopped at the entrance: else the ascent would be differentiated, to be dropped afterwards.
    fixed = lax.stop_gradient((x, y, x_weights, y_weights, step_size))
    direction = _max_direction(key, *fixed, num_steps, num_starts, p)
    power = projected_wasserstein(
        x, y, direction[None], p=p, x_weights=x_weights, y_weights=y_weights
    )[0]
    return root_of(power, p) if root else power


@partial(jax.jit, static_argnames=("num_projections", "num_steps", "p"))
def _vmf_location(
    key: PRNGKey,
    x: AnyArray,
    y: AnyArray,
    x_weights: AnyArray | None,
    y_weights: AnyArray | None,
    kappa: Scalar,
    step_size: Scalar,
    num_projections: int,
    num_steps: int,
    p: float,
) -> jax.Array:
    def cost(loc: jax.Array, key: jax.Array) -> jax.Array:
        return vmf_sliced_wasserstein(
            key,
            x,
            y,
            normalize(loc),
            kappa=kappa,
            num_projections=num_projections,
            p=p,
            x_weights=x_weights,
            y_weights=y_weights,
            root=False,
        )

    start_key, key = jax.random.split(key)
    starts = _starts(start_key, x, y, x_weights, y_weights, 1)
    return _ascend(cost, starts, jax.random.split(key, num_steps), step_size)


@typed
def distributional_sliced_wasserstein(
    key: PRNGKey,
    x: Float[AnyArray, "n d"],
    y: Float[AnyArray, "m d"],
    *,
    kappa: Scalar = 1.0,
    num_projections: int = 100,
    num_steps: int = 50,
    step_size: Scalar = 0.5,
    p: float = 2.0,
    x_weights: Float[AnyArray, " n"] | None = None,
    y_weights: Float[AnyArray, " m"] | None = None,
    root: bool = True,
) -> Float[jax.Array, ""]:
    """Distributional sliced Wasserstein distance: over directions about the worst location.

    max_loc (E_theta W_p^p(<theta, x>, <theta, y>))^(1/p), theta ~ vMF(loc, kappa): between sliced
    (kappa 0) and max-sliced Wasserstein (kappa -> infinity), and unlike the latter 0 for equal
    measures only wherever the ascent may end. The location comes from `num_steps` steps of ascent
    with fresh directions, starting at the difference of the means, and is constant to
    differentiation; the value is taken over directions of its own.

    `kappa` >= 0; all else as in `max_sliced_wasserstein` and `vmf_sliced_wasserstein`. Returns a
    scalar. O(num_steps num_projections) costs on the line.

    Nguyen, Ho, Pham and Bui, "Distributional Sliced-Wasserstein and Applications to Generative
    Modeling", ICLR 2021, arXiv 2002.07367; Nguyen, Nguyen and Ho, ICML 2023, arXiv 2301.04791.

    >>> x = jax.random.normal(jax.random.key(1), (50, 3))
    >>> shift = jax.numpy.array([3.0, 0.0, 4.0])
    >>> distance = distributional_sliced_wasserstein(jax.random.key(0), x, x + shift, kappa=1e4)
    >>> print(distance.round(1))
    5.0
    """
    ascent_key, key = jax.random.split(key)
    fixed = lax.stop_gradient((x, y, x_weights, y_weights, kappa, step_size))
    loc = _vmf_location(ascent_key, *fixed, num_projections, num_steps, p)
    return vmf_sliced_wasserstein(
        key,
        x,
        y,
        loc,
        kappa=kappa,
        num_projections=num_projections,
        p=p,
        x_weights=x_weights,
        y_weights=y_weights,
        root=root,
    )
