"""The semi-dual of entropic transport at a potential: marginals, Hessian, linear systems.

With f eliminated by the exact row-wise softmin, v = g / epsilon is the only variable. The negative
Hessian S = diag(c) - P^T diag(1/a) P is the Laplacian of a graph over the columns, and the Schur
complement of the system that potentials and their derivatives satisfy.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from lossbench.transport._strips import Dense, Streamed, Sweep


class Point(NamedTuple):
    """An iterate v, and what the kernel says of it."""

    v: jax.Array
    u: jax.Array
    columns: jax.Array
    error: jax.Array


def evaluate(sweep: Sweep, v: jax.Array, a: jax.Array, b: jax.Array) -> Point:
    """Evaluate candidates `v`, `(l, m)`, for the price of two products."""

    def fn(kernel: jax.Array, _: jax.Array, a: jax.Array) -> Any:
        rows = lax.dot_general(jnp.exp(v), kernel, (((1,), (1,)), ((), ())), precision="highest")
        u = jnp.log(a) - jnp.log(rows)
        return (u,), (jnp.matmul(jnp.exp(u), kernel, precision="highest"),)

    (u,), (sums,) = sweep(fn, a.astype(v.dtype))
    columns = jnp.exp(v) * sums
    return Point(v, u, columns, jnp.abs(b - columns).sum(-1))


def evaluate_one(sweep: Sweep, v: jax.Array, a: jax.Array, b: jax.Array) -> Point:
    """Evaluate one `v`, `(m,)`."""
    return jax.tree.map(lambda array: array[0], evaluate(sweep, v[None], a, b))


def conjugate_gradients(
    operator: Callable[[jax.Array], jax.Array],
    diagonal: jax.Array,
    rhs: jax.Array,
    *,
    tolerance: jax.Array,
    max_iterations: int,
) -> tuple[jax.Array, jax.Array]:
    """Solve `operator(x) = rhs` to a residual of `tolerance` times the first one, in L1."""
    target = tolerance * jnp.abs(rhs).sum()

    def cond(carry: Any) -> jax.Array:
        _, residual, _, _, step = carry
        return (jnp.abs(residual).sum() > target) & (step < max_iterations)

    def body(carry: Any) -> Any:
        x, residual, direction, inner, step = carry
        image = operator(direction)
        length = inner / (direction @ image)
        x, residual = x + length * direction, residual - length * image
        scaled = residual / diagonal
        new_inner = residual @ scaled
        return x, residual, scaled + new_inner / inner * direction, new_inner, step + 1

    scaled = rhs / diagonal
    start = (jnp.zeros_like(rhs), rhs, scaled, rhs @ scaled, jnp.asarray(0))
    x, _, _, _, steps = lax.while_loop(cond, body, start)
    return x, steps


def schur_operator(
    sweep: Sweep, v: jax.Array, weights: jax.Array, columns: jax.Array, shift: jax.Array
) -> tuple[Callable[[jax.Array], jax.Array], jax.Array]:
    """Return q -> (S + shift diag(columns)) q and its diagonal; `weights` are e^(2u) / a."""
    scale = jnp.exp(v)

    def square(kernel: jax.Array, _: jax.Array, weights: jax.Array) -> Any:
        # Reduced as it is formed: a product with the stored squares takes four times as long.
        return (), ((weights[:, None] * kernel * kernel).sum(0),)

    _, (squares,) = sweep(square, weights)
    # sum_i P_ij (1 - P_ij / a_i), which may be as small as rounding lets it be.
    smallest = 10 * jnp.finfo(v.dtype).eps * columns
    diagonal = jnp.maximum(columns - scale**2 * squares, smallest) + shift * columns
    diagonal = jnp.where(columns > 0, diagonal, 1)

    def operator(q: jax.Array) -> jax.Array:
        def product(kernel: jax.Array, _: jax.Array, weights: jax.Array) -> Any:
            image = jnp.matmul(kernel, scale * q, precision="highest")
            return (), (jnp.matmul(weights * image, kernel, precision="highest"),)

        _, (image,) = sweep(product, weights)
        return (1 + shift) * columns * q - scale * image

    return operator, diagonal


def solve_marginals(
    operator: Dense | Streamed,
    a: jax.Array,
    b: jax.Array,
    g: jax.Array,
    epsilon: jax.Array,
    row_rhs: jax.Array,
    column_rhs: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Solve [diag(a) P; P^T diag(c)] (p; q) = (row_rhs; column_rhs) at the potential g.

    Linear in the right-hand sides, forward and backward. What changes the mass of one side only
    has no solution; its part along the gauge (1, -1) is dropped, and q is orthogonal to c.
    """
    sweep = operator.sweep(g, epsilon, b.dtype)
    zero = jnp.zeros_like(b)
    point = evaluate_one(sweep, zero, a, b)
    scale, columns = jnp.exp(point.u), point.columns
    safe_a = jnp.where(a > 0, a, 1)
    weights = jnp.where(a > 0, scale**2 / safe_a, 0)
    matrix, diagonal = schur_operator(sweep, zero, weights, columns, jnp.zeros((), b.dtype))

    def solve(_: Any, rhs: jax.Array) -> jax.Array:
        rhs = rhs - columns * (rhs.sum() / columns.sum())
        accuracy = jnp.asarray(jnp.finfo(b.dtype).eps ** 0.75, b.dtype)
        q, _ = conjugate_gradients(matrix, diagonal, rhs, tolerance=accuracy, max_iterations=3000)
        return q - (columns @ q) / columns.sum()

    def to_columns(p: jax.Array) -> jax.Array:
        def product(kernel: jax.Array, _: jax.Array, p: jax.Array) -> Any:
            return (), (jnp.matmul(p, kernel, precision="highest"),)

        return sweep(product, scale * p)[1][0]

    def to_rows(q: jax.Array) -> jax.Array:
        def product(kernel: jax.Array, _: jax.Array) -> Any:
            return (jnp.matmul(kernel, q, precision="highest"),), ()

        return scale * sweep(product)[0][0]

    row_rhs = jnp.where(a > 0, row_rhs, 0) / safe_a
    rhs = jnp.where(b > 0, column_rhs - to_columns(row_rhs), 0)
    q = lax.custom_linear_solve(matrix, rhs, solve, symmetric=True)
    return row_rhs - to_rows(q) / safe_a, q
