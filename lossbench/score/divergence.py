"""Divergence of a vector field, exact or from random probes."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lossbench._math import widen
from lossbench._math.autodiff import Probe, draw_probes, map_tangents, row_dot
from lossbench._typing import AnyArray, Float, PRNGKey, typed


@typed
def energy_score(
    energy_fn: Callable[..., jax.Array], x: Float[AnyArray, "n *d"], *args: Any
) -> Float[jax.Array, "n *d"]:
    """Score of the density exp(-energy), -d energy / dx; `partial` makes a score function of it.

    `energy_fn(x, *args)`: (n, *d) -> (n,), each row by itself; `args` are handed on, such as times.
    Returns (n, *d). One gradient.

    >>> import jax.numpy as jnp
    >>> print(energy_score(lambda x: jnp.sum(x**2, axis=1), jnp.array([[1.0, 2.0]])))
    [[-2. -4.]]
    """
    return -jax.grad(lambda x: jnp.sum(energy_fn(x, *args)))(widen(x))


@typed
def divergence(
    field_fn: Callable[[jax.Array], jax.Array], x: Float[AnyArray, "n d"]
) -> Float[jax.Array, " n"]:
    """Divergence sum_k d f_k / d x_k of a field at each row, exactly.

    `field_fn`: (n, d) -> (n, d), each row by itself; `x` (n, d). Returns (n,). d tangent passes,
    64 at a time; no Jacobian is held.

    >>> import jax.numpy as jnp
    >>> print(divergence(lambda x: x**2, jnp.array([[1.0, 2.0]])))
    [6.]
    """
    return jnp.sum(map_tangents(field_fn, widen(x), lambda axis, tangent: tangent[:, axis]), axis=0)


@typed
def hutchinson_divergence(
    key: PRNGKey,
    field_fn: Callable[[jax.Array], jax.Array],
    x: Float[AnyArray, "n *d"],
    *,
    num_probes: int = 1,
    probe: Probe = "rademacher",
) -> Float[jax.Array, " n"]:
    """Unbiased estimate of the divergence: the mean over probes v of v^T J v.

    `field_fn`: (n, *d) -> (n, *d), each row by itself; `x` (n, *d); `num_probes` and `probe` (E v
    v^T = I for each) are static. Returns (n,). One pass and `num_probes` tangent passes.

    >>> import jax, jax.numpy as jnp
    >>> print(hutchinson_divergence(jax.random.key(0), lambda x: 3 * x, jnp.ones((1, 2))))
    [6.]
    """
    x = widen(x)
    probes = draw_probes(key, probe, num_probes, x)
    along = jax.vmap(lambda v: row_dot(v, jax.jvp(field_fn, (x,), (v,))[1]))
    return jnp.mean(along(probes), axis=0)
