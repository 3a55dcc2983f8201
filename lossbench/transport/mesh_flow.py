"""Deformation of a mesh by a flow, and whether it stayed an embedding.

Le et al., "Diffeomorphic Mesh Deformation via Efficient Optimal Transport for Cortical Surface
Reconstruction", ICLR 2024, arXiv 2305.17555.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax

from lossbench._math import map_row_blocks, widen
from lossbench._typing import AnyArray, Float, Integer, Scalar, typed
from lossbench.transport.mesh import face_normals


@typed
def integrate_flow(
    velocity_fn: Callable[..., Any],
    params: Any,
    points: Float[AnyArray, "n d"],
    *,
    num_steps: int = 10,
    horizon: Scalar = 1.0,
    method: Literal["euler", "midpoint", "rk4"] = "euler",
    reverse: bool = False,
) -> Float[jax.Array, "n d"]:
    """Points moved along a velocity field: the solution of dx/dt = v(t, x) at the horizon.

    `num_steps` equal steps of the explicit Euler, midpoint or Runge-Kutta method, of order 1, 2 and
    4. The exact flow of a Lipschitz field is a diffeomorphism, so a mesh keeps its topology; an
    Euler step of length h is one-to-one where h times the Lipschitz constant is below 1. `reverse`
    integrates from the horizon back to 0.

    `velocity_fn(params, t, x)`: (n, d) -> (n, d), t a scalar; `points` (n, d); the counts, `method`
    and `reverse` are static. Returns (n, d). Each step is computed again in the backward pass:
    memory O(num_steps n d).

    Le et al., ICLR 2024, arXiv 2305.17555.

    >>> import jax.numpy as jnp
    >>> grow = lambda rate, t, x: rate * x
    >>> moved = integrate_flow(grow, 1.0, jnp.ones((1, 1)), method="rk4")
    >>> print(f"{moved[0, 0]:.4f}")
    2.7183
    """
    points = widen(points)
    horizon = jnp.asarray(horizon, points.dtype)
    h = (-horizon if reverse else horizon) / num_steps
    start = horizon if reverse else jnp.zeros_like(horizon)

    def velocity(t: jax.Array, x: jax.Array) -> jax.Array:
        return velocity_fn(params, t, x)

    # Inside a loop XLA cannot undo the recomputation, so the barriers against it are not needed.
    @partial(jax.checkpoint, prevent_cse=False)
    def step(x: jax.Array, i: jax.Array) -> tuple[jax.Array, None]:
        t = start + i * h
        first = velocity(t, x)
        if method == "euler":
            return x + h * first, None
        second = velocity(t + h / 2, x + h / 2 * first)
        if method == "midpoint":
            return x + h * second, None
        third = velocity(t + h / 2, x + h / 2 * second)
        fourth = velocity(t + h, x + h * third)
        return x + h / 6 * (first + 2 * second + 2 * third + fourth), None

    moved, _ = lax.scan(step, points, jnp.arange(num_steps))
    return moved


@typed
def flipped_face_fraction(
    vertices: Float[AnyArray, "v 3"],
    reference: Float[AnyArray, "v 3"],
    faces: Integer[AnyArray, "f 3"],
) -> Float[jax.Array, ""]:
    """Share of faces whose normal has turned by more than a right angle from the reference's.

    `vertices` and `reference` (v, 3) of the same mesh, `faces` (f, 3) in [0, v). Returns a scalar
    in [0, 1], without gradient.

    >>> import jax.numpy as jnp
    >>> vertices = jnp.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]])
    >>> print(flipped_face_fraction(-vertices[:, [1, 0, 2]], vertices, jnp.array([[0, 1, 2]])))
    1.0
    """
    cosines = jnp.sum(face_normals(vertices, faces) * face_normals(reference, faces), axis=1)
    return jnp.mean((cosines < 0).astype(cosines.dtype))


def _dot(a: jax.Array, b: jax.Array) -> jax.Array:
    # Written out, as XLA of jaxlib 0.10.2 gets sums over broadcast products wrong on CPU, when
    # there are more than 2^15 of them (github.com/jax-ml/jax/issues/39103).
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _pierces(origin: jax.Array, end: jax.Array, triangles: jax.Array) -> jax.Array:
    """Moller and Trumbore's test of segments from (3, ...) against triangles (corner, 3, ...)."""
    a, b, c = triangles
    along, u_side, v_side, offset = end - origin, b - a, c - a, origin - a
    normal = jnp.cross(along, v_side, axis=0)
    volume = _dot(u_side, normal)
    # In one plane, and far apart, all of the ratios below are rounding over rounding.
    length, u_length, v_length, distance = (
        jnp.sqrt(_dot(side, side)) for side in (along, u_side, v_side, offset)
    )
    size = length * v_length * (u_length + distance)
    parallel = jnp.abs(volume) <= 100 * jnp.finfo(volume.dtype).eps * size
    scale = 1 / jnp.where(parallel, 1, volume)
    turned = jnp.cross(offset, u_side, axis=0)
    u = _dot(offset, normal) * scale
    v = _dot(along, turned) * scale
    t = _dot(v_side, turned) * scale
    return ~parallel & (u >= 0) & (v >= 0) & (u + v <= 1) & (t >= 0) & (t <= 1)


@partial(jax.jit, static_argnames=("chunk_size",))
def _intersecting(vertices: jax.Array, faces: jax.Array, chunk_size: int) -> jax.Array:
    """Whether each face crosses another that it shares no vertex with (f,)."""

    def corners(faces: jax.Array) -> jax.Array:
        return jnp.transpose(vertices[faces], (1, 2, 0))

    theirs = corners(faces)[:, :, None]

    def block(own: jax.Array) -> jax.Array:
        mine = corners(own)[..., None]
        apart = jnp.all(own[:, None, :, None] != faces[:, None, :], axis=(2, 3))
        crossed = jnp.zeros_like(apart)
        for i in range(3):
            j = (i + 1) % 3
            crossed |= _pierces(mine[i], mine[j], theirs) | _pierces(theirs[i], theirs[j], mine)
        return jnp.any(crossed & apart, axis=1)

    return map_row_blocks(block, faces, chunk_size=chunk_size)


@typed
def self_intersection_fraction(
    vertices: Float[AnyArray, "v 3"], faces: Integer[AnyArray, "f 3"], *, chunk_size: int = 64
) -> Float[jax.Array, ""]:
    """Share of faces that cross another face of the mesh: 0 for an embedded surface.

    Two faces cross where an edge of one pierces the other; faces that share a vertex are left out,
    and so are edges that lie in the other's plane.

    `vertices` (v, 3), `faces` (f, 3) in [0, v); `chunk_size` (static) rows of pairs are held at a
    time. Returns a scalar in [0, 1], without gradient. O(f^2).

    Moller and Trumbore, "Fast, Minimum Storage Ray-Triangle Intersection", 1997, for the test.

    >>> import jax.numpy as jnp
    >>> flat = jnp.array([[0.0, 0, 0], [2, 0, 0], [0, 2, 0]])
    >>> upright = jnp.array([[0.5, 0.5, -1], [0.5, 0.5, 1], [3, 3, 0]])
    >>> faces = jnp.array([[0, 1, 2], [3, 4, 5]])
    >>> print(self_intersection_fraction(jnp.concatenate([flat, upright]), faces))
    1.0
    """
    vertices = lax.stop_gradient(widen(vertices))
    return jnp.mean(_intersecting(vertices, jnp.asarray(faces), chunk_size).astype(vertices.dtype))
