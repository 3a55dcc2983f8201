"""Distributions in the plane, of about unit scale: what densities are tried on."""

import jax
import jax.numpy as jnp

from lossbench._typing import Float, PRNGKey, Scalar, typed


@typed
def sample_rings(
    key: PRNGKey, num: int, *, num_rings: int = 3, noise: Scalar = 0.05
) -> Float[jax.Array, "n 2"]:
    """Points (num, 2) on concentric circles of equal mass, with normal noise along the radius.

    The radii are evenly spaced up to 1.5. `num` and `num_rings` are static.

    >>> import jax
    >>> sample_rings(jax.random.key(0), 5).shape
    (5, 2)
    """
    ring_key, angle_key, noise_key = jax.random.split(key, 3)
    ring = jax.random.randint(ring_key, (num,), 1, num_rings + 1)
    radius = 1.5 * ring / num_rings + noise * jax.random.normal(noise_key, (num,))
    angle = jax.random.uniform(angle_key, (num,), maxval=2 * jnp.pi)
    return jnp.stack([radius * jnp.cos(angle), radius * jnp.sin(angle)], axis=1)


@typed
def sample_moons(key: PRNGKey, num: int, *, noise: Scalar = 0.1) -> Float[jax.Array, "n 2"]:
    """Points (num, 2) on two interleaved half circles of radius 1, with normal noise.

    Centred at the origin. `num` is static.

    >>> import jax
    >>> sample_moons(jax.random.key(0), 5).shape
    (5, 2)
    """
    side_key, angle_key, noise_key = jax.random.split(key, 3)
    upper = jax.random.bernoulli(side_key, shape=(num,))
    angle = jax.random.uniform(angle_key, (num,), maxval=jnp.pi)
    arc = jnp.stack([jnp.cos(angle) - 0.5, jnp.sin(angle) - 0.25], axis=1)
    points = jnp.where(upper[:, None], arc, -arc)
    return points + noise * jax.random.normal(noise_key, (num, 2))


@typed
def sample_checkerboard(
    key: PRNGKey, num: int, *, squares: int = 4, side: Scalar = 1.0
) -> Float[jax.Array, "n 2"]:
    """Points (num, 2), uniform on every other square of a board around the origin.

    `squares` a side, each `side` wide. `num` and `squares` are static.

    >>> import jax
    >>> sample_checkerboard(jax.random.key(0), 5).shape
    (5, 2)
    """
    square_key, place_key = jax.random.split(key)
    filled = jnp.array([(i, j) for i in range(squares) for j in range(squares) if (i + j) % 2 == 0])
    corner = filled[jax.random.randint(square_key, (num,), 0, len(filled))]
    place = jax.random.uniform(place_key, (num, 2))
    return jnp.asarray(side) * (corner + place - squares / 2)
