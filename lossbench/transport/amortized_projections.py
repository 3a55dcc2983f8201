"""Locations of directions that a network predicts, instead of an ascent for each pair of clouds."""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax

from lossbench._typing import AnyArray, Float, PRNGKey, Scalar, typed
from lossbench.transport.von_mises_fisher import vmf_sliced_wasserstein


@typed
def amortized_sliced_wasserstein(
    key: PRNGKey,
    apply: Callable[..., Any],
    params: Any,
    x: Float[AnyArray, "n d"],
    y: Float[AnyArray, "m d"],
    *,
    kappa: Scalar = 1.0,
    num_projections: int = 100,
    p: float = 2.0,
) -> Float[jax.Array, ""]:
    """Sliced Wasserstein over directions about a predicted location, for both players at once.

    E_theta W_p^p(<theta, x>, <theta, y>), theta ~ vMF(apply(params, x, y), kappa): the power, as a
    loss. Its gradient by the clouds holds the location fixed. Its gradient by `params` is
    *reversed* and holds the clouds fixed, so that one minimiser of both moves the clouds together
    and the location to where they differ; give the two parts their own optimisers by
    `optax.partition`. A batch of pairs is a vmap.

    `x` (n, d), `y` (m, d); `apply(params, x, y) -> (d,)`, of norm 1, best blind to the order of
    the points; all else as in `vmf_sliced_wasserstein`. Returns a scalar.

    Nguyen, Nguyen and Ho, "Self-Attention Amortized Distributional Projection Optimization for
    Sliced Wasserstein Point-Cloud Reconstruction", ICML 2023, arXiv 2301.04791.

    >>> import jax.numpy as jnp
    >>> def apply(params, x, y):
    ...     return params / jnp.linalg.norm(params)
    >>> x = jax.random.normal(jax.random.key(1), (50, 3))
    >>> moved = x + jnp.array([2.0, 0.0, 0.0])
    >>> slope = jax.grad(amortized_sliced_wasserstein, 2)(
    ...     jax.random.key(0), apply, jnp.array([0.6, 0.8, 0.0]), x, moved, kappa=100.0)
    >>> print(slope[0] < 0 < slope[1])  # descent turns the location to the shift
    True
    """
    loc = apply(params, lax.stop_gradient(x), lax.stop_gradient(y))
    if getattr(loc, "shape", None) != x.shape[1:]:
        raise TypeError(
            f"apply must return a location of shape {x.shape[1:]}, got {getattr(loc, 'shape', loc)}"
        )
    reversed_loc = 2 * lax.stop_gradient(loc) - loc
    return vmf_sliced_wasserstein(
        key, x, y, reversed_loc, kappa=kappa, num_projections=num_projections, p=p, root=False
    )
