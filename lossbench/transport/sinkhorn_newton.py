"""Entropic optimal transport by Newton's method, where Sinkhorn's sweeps would take too long."""

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from ott.geometry import geometry, pointcloud
from ott.problems.linear import linear_problem
from ott.solvers.linear import sinkhorn

from lossbench._typing import AnyArray, Float, Scalar, check, typed
from lossbench.transport._newton import Newton, newton
from lossbench.transport._schur import solve_marginals
from lossbench.transport._sparse_newton import sparse_newton
from lossbench.transport._strips import Dense, Streamed

Method = Literal["exact", "sparse", "safeguarded"]


@typed
def sinkhorn_newton(
    problem: linear_problem.LinearProblem | geometry.Geometry,
    *,
    tolerance: Scalar | None = None,
    max_iterations: int = 300,
    init: Float[AnyArray, " m"] | None = None,
    method: Method = "exact",
    density: float = 2.0,
) -> sinkhorn.SinkhornOutput:
    r"""Solve entropic transport as `ott.solvers.linear.sinkhorn.solve` does, by Newton steps.

    `min_P <P, C> + epsilon KL(P | a b^T)` over couplings of `a` and `b`. Sinkhorn needs a number
    of sweeps, each `n m` exponentials, that grows without bound as epsilon falls. Here the dual in
    g alone, with f eliminated exactly, is maximised by Newton steps along a sequence of falling
    epsilons, each started where the last two point. The kernel is formed a few times in all;
    directions come from conjugate gradients that only multiply it (in float32 until float32 no
    longer tells). Four step lengths and a Sinkhorn sweep are tried together and the best is taken,
    so no step is worse than Sinkhorn's, and nothing that is not finite is ever accepted.

    Args:
      problem: a balanced `LinearProblem`, or a geometry (uniform marginals). Points of zero mass
        are allowed; their potential is -inf, as in ott. A `PointCloud` with `batch_size` is
        streamed: no more than `batch_size x m` of the kernel lives at once, and each conjugate
        gradient iteration then costs `n m` exponentials. (ott 0.6's own operations on such a
        geometry do not run under jax 0.10, so give its epsilon and scale as numbers.)
      tolerance: L1 error of the marginals at which to stop, relative to the mass; None is 1e-9 in
        float64 and 1e-6 in float32. It is measured on the kernel in hand. In float32 the
        potentials themselves are rounded, which adds about `1e-7 max|C| / epsilon`; only float64
        (`jax.enable_x64`) reaches 1e-8 when epsilon is small.
      max_iterations: Newton steps at most, over all epsilons (static).
      init: a potential g to start from, at the final epsilon; None follows epsilon down from
        a twentieth of the spread of the costs.
      method: `exact` (the default, and by measurement the fastest), or a method of the literature
        on the whole dual with a sparse Hessian: `sparse` keeps the `density * max(n, m)` largest
        entries of the plan (Tang et al.; converges linearly where they do not carry the mass),
        `safeguarded` drops entries below a threshold that vanishes with the gradient, and shifts
        the Hessian by it (SSNS). Both start with 20 sweeps of Sinkhorn (static).
      density: kept entries a row, for `sparse` (static).

    Returns:
      ott's `SinkhornOutput`: potentials, `matrix`, `apply`, `reg_ot_cost`, ... `errors` holds the
      error after each outer step, -1 where none was made; `converged` says whether the tolerance
      was met. Potentials carry the implicit derivatives, by forward and reverse mode, by whatever
      the cost, the points, epsilon and the marginals depend on; `reg_ot_cost` those of the
      envelope theorem.

    Raises:
      TypeError: where `problem` is neither of the two.
      ValueError: where the problem is unbalanced, or `init` does not fit it.

    Costs `n m` memory (twice, once in float32), a handful of exponentials and some tens to
    hundreds of products an entry.

    Source: the sparse method is Tang, Shavlovsky, Rahmanian, Tardini, Thekumparampil, Xiao and
    Ying, "Accelerating Sinkhorn Algorithm with Sparse Newton Iterations", ICLR 2024,
    arXiv 2401.12253; the safeguarded one Tang and Qiu, "Safe and Sparse Newton Method for
    Entropic-Regularized Optimal Transport", NeurIPS 2024. The exact method replaces their sparse
    factorisation by matrix-free conjugate gradients on the Schur complement.

    >>> import jax.numpy as jnp
    >>> from ott.geometry import geometry
    >>> cost = jnp.array([[0.0, 1.0], [1.0, 0.0]])
    >>> output = sinkhorn_newton(geometry.Geometry(cost, epsilon=0.5))
    >>> print(output.matrix.round(2))
    [[0.44 0.06]
     [0.06 0.44]]
    """
    if isinstance(problem, geometry.Geometry):
        problem = linear_problem.LinearProblem(problem)
    if not problem.is_balanced:
        raise ValueError(
            f"sinkhorn_newton solves balanced problems, got tau_a={problem.tau_a}, "
            f"tau_b={problem.tau_b}; use ott.solvers.linear.sinkhorn for unbalanced ones"
        )
    geom, a, b = problem.geom, problem.a, problem.b
    if init is not None and init.shape != b.shape:
        raise ValueError(f"init must have the shape of b, {b.shape}, got {init.shape}")
    dtype = jnp.promote_types(geom.dtype, jnp.float32)
    check(lambda: (a >= 0).all() & (b >= 0).all(), "marginals must not be negative")
    check(
        lambda: jnp.abs(a.sum() - b.sum()) <= 1e-4 * b.sum(),
        "marginals must have equal mass, got {a} and {b}",
        a=lambda: a.sum(),
        b=lambda: b.sum(),
    )
    if tolerance is None:
        tolerance = 1e-9 if dtype == jnp.float64 else 1e-6
    operator: Dense | Streamed
    if isinstance(geom, pointcloud.PointCloud) and geom.batch_size is not None:
        scale = jnp.asarray(geom.inv_scale_cost, dtype)
        operator = Streamed(
            geom.x.astype(dtype), geom.y.astype(dtype), scale, geom.cost_fn, geom.batch_size
        )
    else:
        operator = Dense(geom.cost_matrix.astype(dtype))
    a, b, epsilon = a.astype(dtype), b.astype(dtype), jnp.asarray(geom.epsilon, dtype)
    tolerance = jnp.asarray(tolerance, dtype) * b.sum()
    solution = _solve(
        operator,
        a,
        b,
        epsilon,
        lax.stop_gradient(tolerance),
        None if init is None else lax.stop_gradient(jnp.asarray(init, dtype)),
        max_iterations,
        method,
        density,
    )
    return sinkhorn.SinkhornOutput(
        potentials=(solution.f, solution.g),
        errors=solution.errors,
        reg_ot_cost=_regularized_cost(operator, solution.f, solution.g, a, b, epsilon),
        ot_prob=problem,
        threshold=tolerance,
        converged=solution.converged,
        inner_iterations=1,
    )


def _regularized_cost(
    operator: Dense | Streamed,
    f: jax.Array,
    g: jax.Array,
    a: jax.Array,
    b: jax.Array,
    epsilon: jax.Array,
) -> jax.Array:
    """Return the dual value, ott's `reg_ot_cost`; by the envelope theorem f and g stay fixed."""
    f, g = lax.stop_gradient((f, g))
    plan_rows, _ = operator.marginals(f, g, epsilon)
    value = epsilon * (a.sum() * b.sum() - plan_rows.sum())
    for potential, weights in ((f, a), (g, b)):
        there = weights > 0
        excess = jnp.where(there, potential, 0) - epsilon * jnp.log(jnp.where(there, weights, 1))
        value += jnp.where(there, weights * excess, 0).sum()
    return value


@functools.partial(jax.custom_jvp, nondiff_argnums=(6, 7, 8))
def _solution(
    operator: Dense | Streamed,
    a: jax.Array,
    b: jax.Array,
    epsilon: jax.Array,
    tolerance: jax.Array,
    init: jax.Array | None,
    max_iterations: int,
    method: Method,
    density: float,
) -> Newton:
    if method == "exact":
        return newton(
            operator,
            a,
            b,
            epsilon,
            tolerance=tolerance,
            max_iterations=max_iterations,
            init=init,
        )
    if isinstance(operator, Streamed):
        raise ValueError(f"method={method!r} holds the plan: give a geometry without batch_size")
    return sparse_newton(
        operator.cost,
        a,
        b,
        epsilon,
        tolerance=tolerance,
        max_iterations=max_iterations,
        init=init,
        density=density if method == "sparse" else None,
    )


@_solution.defjvp
def _solution_jvp(
    max_iterations: int, method: Method, density: float, primals: Any, tangents: Any
) -> tuple[Newton, Newton]:
    """Differentiate P 1 = a and P^T 1 = b, as functions of (f, g) and of all the rest."""
    operator, a, b, epsilon, _, _ = primals
    operator_dot, a_dot, b_dot, epsilon_dot, _, _ = tangents
    solution = _solution(*primals, max_iterations, method, density)
    f, g = solution.f, solution.g
    _, (rows_dot, columns_dot) = jax.jvp(
        lambda operator, epsilon: operator.marginals(f, g, epsilon),
        (operator, epsilon),
        (operator_dot, epsilon_dot),
    )
    f_dot, g_dot = solve_marginals(
        operator, a, b, g, epsilon, epsilon * (a_dot - rows_dot), epsilon * (b_dot - columns_dot)
    )
    counts = (solution.iterations, solution.products, solution.converged)
    none: Any = [np.zeros(count.shape, jax.dtypes.float0) for count in counts]
    tangent = Newton(
        f_dot,
        g_dot,
        jnp.zeros_like(solution.errors),
        *none,
    )
    return solution, tangent


_solve = jax.jit(_solution, static_argnums=(6, 7, 8))
