import itertools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import ot
import pytest
from ot import smooth

from lossbench.transport import sparse_ot, sparse_ot_dual, sparse_ot_semi_dual

GAMMA = 0.5


@pytest.fixture(scope="module")
def problem():
    """Cost of unequal clouds, scaled to maximum 1, and uneven masses."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(12, 2)), rng.normal(size=(9, 2)) + 1
    cost = ((x[:, None] - y) ** 2).sum(-1)
    return cost / cost.max(), rng.dirichlet(np.full(12, 5.0)), rng.dirichlet(np.full(9, 5.0))


def pot_plan(problem, k):
    cost, a, b = problem
    kind = {"reg_type": "l2"} if k is None else {"reg_type": "sparsity_constrained", "max_nz": k}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it hands scipy an option of old
        plan, log = smooth.smooth_ot_semi_dual(
            a, b, cost, GAMMA, stopThr=1e-14, numItermax=5000, log=True, **kind
        )
    assert log["res"].success
    return plan, -log["res"].fun


@pytest.mark.parametrize("method", ["lbfgs", "newton"])
@pytest.mark.parametrize("k", [None, 6])
def test_plan_and_value_are_pots(problem, k, method):
    with jax.enable_x64(True):
        out = sparse_ot(*problem, k=k, gamma=GAMMA, method=method, tolerance=1e-9)
        assert out.converged
        plan, value = pot_plan(problem, k)
        np.testing.assert_allclose(out.matrix, plan, atol=1e-6)
        np.testing.assert_allclose(out.value, value, rtol=1e-8)
        # Strong duality: a feasible sparse plan attains the dual value, so it is optimal.
        primal = np.sum(out.matrix * problem[0]) + GAMMA / 2 * np.sum(out.matrix**2)
        np.testing.assert_allclose(primal, out.value, rtol=1e-8)
        dual = sparse_ot_dual(out.alpha, out.beta, *problem, k=k, gamma=GAMMA)
        np.testing.assert_allclose(dual, out.value, rtol=1e-9)
        assert jnp.sum(out.matrix > 0, axis=0).max() <= (k or 12)


@pytest.mark.parametrize("k", [2, 12])
def test_duals_are_pots(problem, k):
    cost, a, b = problem
    rng = np.random.default_rng(1)
    alpha, beta = rng.normal(size=12) / 2, rng.normal(size=9) / 2
    # Its sparse form fails at k = n, where it is the quadratic one.
    regularizer = smooth.SquaredL2(GAMMA) if k == 12 else smooth.SparsityConstrained(k, GAMMA)
    with jax.enable_x64(True):
        value, gradient = jax.value_and_grad(sparse_ot_semi_dual)(
            jnp.asarray(alpha), *problem, k=k, gamma=GAMMA
        )
        expected, slope = smooth.semi_dual_obj_grad(alpha, a, b, cost, regularizer)
        np.testing.assert_allclose(value, expected, rtol=1e-12)
        np.testing.assert_allclose(gradient, slope, atol=1e-12)
        value, gradient = jax.value_and_grad(sparse_ot_dual, (0, 1))(
            jnp.asarray(alpha), jnp.asarray(beta), *problem, k=k, gamma=GAMMA
        )
        expected, *slopes = smooth.dual_obj_grad(alpha, beta, a, b, cost, regularizer)
        np.testing.assert_allclose(value, expected, rtol=1e-12)
        np.testing.assert_allclose(gradient[0], slopes[0], atol=1e-12)
        np.testing.assert_allclose(gradient[1], slopes[1], atol=1e-12)


def test_k_1_is_the_unregularised_semi_dual(problem):
    cost, a, b = problem
    exact, log = ot.emd2(a, b, cost, log=True)
    with jax.enable_x64(True):
        value = sparse_ot_semi_dual(log["u"], *problem, k=1, gamma=GAMMA)
    np.testing.assert_allclose(float(value) - GAMMA / 2 * np.sum(b**2), exact, rtol=1e-10)


def sparse_optimum(cost, a, b, k):
    """The non-convex problem, by projecting -cost / gamma on the couplings of every support."""
    n, m = cost.shape
    best = np.inf
    columns = [c for size in range(1, k + 1) for c in itertools.combinations(range(n), size)]
    for supports in itertools.product(columns, repeat=m):
        free = np.zeros((n, m), bool)
        for j, support in enumerate(supports):
            free[list(support), j] = True
        row, column = np.nonzero(free)
        sums = np.concatenate([row == np.arange(n)[:, None], column == np.arange(m)[:, None]])
        wanted, c = np.concatenate([a, b]), cost[free]
        plan = -c / GAMMA + np.linalg.pinv(sums) @ (wanted + sums @ c / GAMMA)
        if np.allclose(sums @ plan, wanted) and plan.min() >= 0:
            best = min(best, c @ plan + GAMMA / 2 * plan @ plan)
    return best


def test_dual_bounds_the_sparse_problem_and_is_tight_where_rows_are_right():
    tight = 0
    for seed in range(4):
        rng = np.random.default_rng(seed)
        cost = rng.uniform(size=(3, 3)) ** 2
        a, b = rng.dirichlet(np.full(3, 5.0)), rng.dirichlet(np.full(3, 5.0))
        with jax.enable_x64(True):
            out = sparse_ot(cost, a, b, k=2, gamma=GAMMA, tolerance=1e-9)
        optimum, value = sparse_optimum(cost, a, b, 2), float(out.value)
        assert value <= optimum + 1e-9
        if out.converged:
            tight += 1
            np.testing.assert_allclose(value, optimum, rtol=1e-6)
    assert tight >= 2


def test_every_iterate_is_sparse_with_exact_columns(problem):
    with jax.enable_x64(True):
        out = sparse_ot(*problem, k=2, gamma=GAMMA, max_iterations=3, tolerance=1e-9)
        assert not out.converged
        assert out.iterations == 3
        matrix = np.asarray(out.matrix)
        np.testing.assert_allclose(matrix.sum(0), problem[2], rtol=1e-12)
        assert (matrix > 0).sum(0).max() <= 2
        error = np.abs(matrix.sum(1) - problem[1]).sum()
        np.testing.assert_allclose(out.marginal_error, error, rtol=1e-9)


def test_derivatives_are_those_of_the_whole_solution(problem):
    weights = jnp.cos(jnp.arange(12 * 9.0)).reshape(12, 9)
    rng = np.random.default_rng(2)

    with jax.enable_x64(True):
        point = tuple(jnp.asarray(x) for x in (*problem, GAMMA))
        direction = [rng.normal(size=np.shape(x)) for x in point]
        for i in (1, 2):  # the masses stay equal
            direction[i] -= direction[i].mean()
        direction = tuple(map(jnp.asarray, direction))

        @jax.jit
        def solved(cost, a, b, gamma):
            out = sparse_ot(cost, a, b, k=6, gamma=gamma, method="newton", tolerance=1e-13)
            return jnp.stack([jnp.sum(weights * out.matrix), jnp.sum(jnp.sin(out.alpha))])

        step = 1e-6
        ahead, behind = (
            solved(*jax.tree.map(lambda x, d, s=s: x + s * d, point, direction))
            for s in (step, -step)
        )
        expected = (ahead - behind) / (2 * step)
        _, forward = jax.jvp(solved, point, direction)
        np.testing.assert_allclose(forward, expected, rtol=1e-6)
        _, pull = jax.vjp(solved, *point)
        for i, cotangent in enumerate(jnp.eye(2)):
            reverse = sum(jnp.vdot(g, d) for g, d in zip(pull(cotangent), direction, strict=True))
            np.testing.assert_allclose(reverse, expected[i], rtol=1e-6)


def test_derivative_at_a_plan_that_is_an_assignment_is_finite():
    cost = 1 - jnp.eye(4)
    out, change = jax.jvp(
        lambda c: sparse_ot(c, gamma=0.1, method="newton", tolerance=1e-5).values,
        (cost,),
        (jnp.ones((4, 4)).at[0, 1].set(-1.0),),
    )
    np.testing.assert_allclose(out, np.eye(4) / 4, atol=1e-6)
    np.testing.assert_allclose(change, 0, atol=1e-6)


def test_sources_without_mass_and_vmap(problem):
    cost, a, b = (np.float32(x) for x in problem)
    empty = a.copy()
    empty[3] = 0
    masses = np.stack([a, empty / empty.sum()])

    def solve(a):
        out = sparse_ot(cost, a, b, gamma=GAMMA, method="newton", tolerance=1e-5)
        return out.matrix, out.converged

    plans, converged = jax.jit(jax.vmap(solve))(masses)
    assert converged.all()
    np.testing.assert_allclose(plans[1, 3], 0, atol=1e-6)
    np.testing.assert_allclose(plans.sum(2), masses, atol=2e-5)
