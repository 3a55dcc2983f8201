"""The search for the potential of sparsity-constrained transport: its semi-dual, two ascents.

Liu, Puigcerver and Blondel, "Sparsity-Constrained Optimal Transport", ICLR 2023, arXiv 2209.15466.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.scipy.linalg import cho_factor, cho_solve

from lossbench.transport.sparse_conjugates import leading_entries, scatter_rows, simplex_conjugate

Method = Literal["lbfgs", "newton"]


class Problem(NamedTuple):
    """What the semi-dual depends on, with the cost's columns as rows: the top k are along them."""

    cost: jax.Array
    a: jax.Array
    b: jax.Array
    gamma: jax.Array


class Columns(NamedTuple):
    """The columns of the plan at a potential."""

    values: jax.Array
    rows: jax.Array | None
    tau: jax.Array
    conjugate: jax.Array


class Point(NamedTuple):
    """The semi-dual at a potential, with its gradient, what the rows of the plan lack."""

    value: jax.Array
    gradient: jax.Array
    columns: Columns


def columns_at(alpha: jax.Array, problem: Problem, k: int | None) -> Columns:
    """Each column is a maximiser of the conjugate, at the potential less its costs."""
    leading, rows = leading_entries(alpha - problem.cost, k)
    conjugate, tau, values = simplex_conjugate(leading, problem.b, problem.gamma)
    return Columns(values, rows, tau, conjugate)


def semi_dual(alpha: jax.Array, problem: Problem, k: int | None) -> Point:
    """<alpha, a> less the conjugates of the columns."""
    columns = columns_at(alpha, problem, k)
    value = jnp.vdot(alpha, problem.a) - jnp.sum(columns.conjugate)
    if columns.rows is None:
        # A product with ones is several times faster on CPU than a sum over the first axis.
        sums = jnp.ones_like(problem.b) @ columns.values
    else:
        sums = jnp.zeros_like(alpha).at[columns.rows].add(columns.values, mode="promise_in_bounds")
    return Point(value, problem.a - sums, columns)


def support_of(columns: Columns, n: int) -> jax.Array:
    """1 where the plan is positive, 0 elsewhere: (m, n)."""
    positive = (columns.values > 0).astype(columns.values.dtype)
    return scatter_rows(positive, columns.rows, n)


def laplacian(support: jax.Array) -> jax.Array:
    """Minus gamma times the semi-dual's second derivative, (n, n).

    The Laplacian of the graph in which the sources of a column are all joined, by 1 / their number.
    """
    size = jnp.maximum(jnp.sum(support, axis=1, keepdims=True), 1)
    return jnp.diag(jnp.ones(len(support), support.dtype) @ support) - support.T @ (support / size)


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _loss(alpha: jax.Array, problem: Problem, k: int | None) -> jax.Array:
    """The negative semi-dual, whose gradient comes with its value."""
    return -semi_dual(alpha, problem, k).value


@_loss.defjvp
def _loss_jvp(
    k: int | None, primals: tuple[jax.Array, Problem], tangents: tuple[jax.Array, Problem]
) -> tuple[jax.Array, jax.Array]:
    point = semi_dual(*primals, k)
    return -point.value, -jnp.vdot(point.gradient, tangents[0])


class _Search(NamedTuple):
    """Where a solver stands."""

    alpha: jax.Array
    error: jax.Array
    steps: jax.Array
    moved: jax.Array


def _goes_on(search: _Search, tolerance: jax.Array, max_iterations: jax.Array) -> jax.Array:
    return (search.error > tolerance) & (search.steps < max_iterations) & search.moved


def _start(alpha: jax.Array, problem: Problem, k: int | None) -> _Search:
    error = jnp.sum(jnp.abs(semi_dual(alpha, problem, k).gradient))
    return _Search(alpha, error, jnp.int32(0), jnp.bool_(True))


def _lbfgs(
    alpha: jax.Array,
    problem: Problem,
    k: int | None,
    tolerance: jax.Array,
    max_iterations: jax.Array,
) -> _Search:
    optimizer = optax.lbfgs()

    def loss(alpha: jax.Array) -> jax.Array:
        return _loss(alpha, problem, k)

    value_and_grad = optax.value_and_grad_from_state(loss)

    def step(carry: tuple[_Search, optax.OptState]) -> tuple[_Search, optax.OptState]:
        search, state = carry
        value, grad = value_and_grad(search.alpha, state=state)
        updates, state = optimizer.update(
            grad, state, search.alpha, value=value, grad=grad, value_fn=loss
        )
        alpha = search.alpha + updates
        error = jnp.sum(jnp.abs(optax.tree.get(state, "grad")))
        return _Search(alpha, error, search.steps + 1, jnp.any(alpha != search.alpha)), state

    begin = _start(alpha, problem, k), optimizer.init(alpha)
    return lax.while_loop(lambda carry: _goes_on(carry[0], tolerance, max_iterations), step, begin)[
        0
    ]


def _newton(
    alpha: jax.Array,
    problem: Problem,
    k: int | None,
    tolerance: jax.Array,
    max_iterations: jax.Array,
) -> _Search:
    n, gamma, total = len(alpha), problem.gamma, jnp.sum(problem.b)
    eps = jnp.finfo(alpha.dtype).eps

    def step(search: _Search) -> _Search:
        point = semi_dual(search.alpha, problem, k)
        damping = 1e-2 * jnp.minimum(search.error / total, 0.1)
        matrix = laplacian(support_of(point.columns, n)) + damping * jnp.eye(n, dtype=alpha.dtype)
        direction = gamma * cho_solve(cho_factor(matrix), point.gradient)
        slope = jnp.vdot(direction, point.gradient)

        def attempt(size: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
            new = semi_dual(search.alpha + size * direction, problem, k)
            return size, new.value, new.gradient

        def enough(size: jax.Array, value: jax.Array, gradient: jax.Array) -> jax.Array:
            armijo = value >= point.value + 1e-4 * size * slope
            # Near the optimum the value drowns in rounding, the slope does not.
            level = value >= point.value - 10 * eps * jnp.abs(point.value)
            return armijo | (level & (jnp.abs(jnp.vdot(direction, gradient)) <= 0.9 * slope))

        trial = lax.while_loop(
            lambda trial: ~enough(*trial) & (trial[0] > 1e-6),
            lambda trial: attempt(trial[0] / 2),
            attempt(jnp.ones_like(total)),
        )
        good, (size, _, gradient) = enough(*trial), trial
        return _Search(
            jnp.where(good, search.alpha + size * direction, search.alpha),
            jnp.where(good, jnp.sum(jnp.abs(gradient)), search.error),
            search.steps + 1,
            good,
        )

    return lax.while_loop(
        lambda search: _goes_on(search, tolerance, max_iterations), step, _start(alpha, problem, k)
    )


def _anneal(solver: Callable[..., _Search], alpha: jax.Array, problem: Problem) -> jax.Array:
    """Potential of the quadratically regularised problem, roughly, by way of larger gammas.

    At the first of them the plan is spread out; each is a tenth of the one before.
    """
    total, gamma = jnp.sum(problem.b), problem.gamma
    spread = jnp.mean(problem.cost - jnp.min(problem.cost, axis=1, keepdims=True))
    largest = spread * len(problem.b) / jnp.maximum(total, jnp.finfo(total.dtype).tiny)

    def stage(carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        alpha, now = carry
        now = jnp.maximum(now / 10, gamma)
        search = solver(alpha, problem._replace(gamma=now), None, 0.1 * total, jnp.int32(100))
        return search.alpha, now

    start = alpha, 10 * jnp.maximum(largest, gamma)
    return lax.while_loop(lambda carry: carry[1] > gamma, stage, start)[0]


@partial(jax.jit, static_argnums=(4, 5))
def search_potential(
    problem: Problem,
    init: jax.Array | None,
    tolerance: jax.Array,
    max_iterations: jax.Array,
    k: int | None,
    method: Method,
) -> tuple[jax.Array, jax.Array]:
    """Maximise the semi-dual: the potential, with mean 0, and the steps it took."""
    solver = {"lbfgs": _lbfgs, "newton": _newton}[method]
    start = _anneal(solver, jnp.zeros_like(problem.a), problem) if init is None else init
    search = solver(start, problem, k, tolerance, max_iterations)
    return search.alpha - jnp.mean(search.alpha), search.steps
