"""Sinkhorn-Newton against POT, ott, closed forms and finite differences, all in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import ot
import pytest
from ott.geometry import costs, geometry, pointcloud
from ott.problems.linear import linear_problem
from ott.solvers.linear import sinkhorn
from scipy.optimize import linear_sum_assignment

import lossbench
from lossbench.transport import sinkhorn_newton

METHODS = ["exact", "sparse", "safeguarded"]
N, M = 9, 7


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def problem(seed=0, n=N, m=M):
    generator = np.random.default_rng(seed)
    x, y = generator.normal(size=(n, 2)), generator.normal(size=(m, 2)) + 0.5
    cost = np.square(x[:, None] - y).sum(-1)
    a, b = generator.gamma(2.0, size=n), generator.gamma(2.0, size=m)
    return cost / cost.max(), a / a.sum(), b / b.sum()


@functools.partial(jax.jit, static_argnames=("method", "density", "max_iterations", "warm"))
def solve(
    cost, a, b, epsilon, init=None, *, method="exact", density=2.0, max_iterations=300, warm=False
):
    geom = geometry.Geometry(cost, epsilon=epsilon)
    output = sinkhorn_newton(
        linear_problem.LinearProblem(geom, a, b),
        tolerance=1e-10,
        init=init,
        method=method,
        density=density,
        max_iterations=max_iterations,
    )
    return output.f, output.g, output.matrix, output.reg_ot_cost, output.errors, output.converged


def marginal_error(plan, a, b):
    return np.abs(plan.sum(1) - a).sum() + np.abs(plan.sum(0) - b).sum()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("epsilon", [1.0, 1e-2, 1e-3])
def test_plan_equals_that_of_pot(method, epsilon):
    cost, a, b = problem()
    density = 7.0 if method == "sparse" else 2.0  # all entries: exact Newton steps on the dual
    _, _, plan, _, errors, converged = solve(cost, a, b, epsilon, method=method, density=density)
    expected = ot.sinkhorn(
        a, b, cost, epsilon, method="sinkhorn_log", stopThr=1e-12, numItermax=200_000
    )
    assert converged
    assert marginal_error(plan, a, b) < 1e-9
    np.testing.assert_allclose(plan, expected, atol=1e-8)
    made = np.asarray(errors)[np.asarray(errors) >= 0]
    assert made[-1] < 1e-10
    assert (np.asarray(errors)[len(made) :] == -1).all()


def test_output_equals_that_of_ott():
    cost, a, b = problem(1)
    linear = linear_problem.LinearProblem(geometry.Geometry(jnp.asarray(cost), epsilon=0.02), a, b)
    ours = sinkhorn_newton(linear)
    theirs = jax.jit(sinkhorn.Sinkhorn(threshold=1e-12, max_iterations=20_000))(linear)
    assert isinstance(ours, sinkhorn.SinkhornOutput)
    for name in ("reg_ot_cost", "ent_reg_cost", "primal_cost", "matrix"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), atol=1e-8)
    vector = jnp.arange(M, dtype=float)
    np.testing.assert_allclose(ours.apply(vector, axis=1), theirs.apply(vector, axis=1), atol=1e-8)
    np.testing.assert_allclose(ours.f - ours.f[0], theirs.f - theirs.f[0], atol=1e-8)


@pytest.mark.parametrize("method", METHODS)
def test_two_points_have_a_closed_form(method):
    cost, epsilon = np.array([[0, 0.3], [0.3, 0]]), 0.1
    a = np.full(2, 0.5)
    *_, plan, _, _, _ = solve(cost, a, a, epsilon, method=method)
    np.testing.assert_allclose(plan[0, 0], 0.5 / (1 + np.exp(-0.3 / epsilon)), atol=1e-10)


def test_separable_cost_gives_the_product():
    _, a, b = problem()
    cost = np.linspace(0, 1, N)[:, None] + np.linspace(0, 2, M)
    *_, plan, _, _, _ = solve(cost, a, b, 1e-3)
    np.testing.assert_allclose(plan, a[:, None] * b, atol=1e-12)


def test_small_epsilon_is_the_assignment():
    cost = np.random.default_rng(3).random((N, N))
    a = np.full(N, 1 / N)
    *_, plan, _, _, converged = solve(cost, a, a, 1e-5)
    rows, columns = linear_sum_assignment(cost)
    assert converged
    assert (np.asarray(plan).argmax(1) == columns[rows.argsort()]).all()
    np.testing.assert_allclose((plan * cost).sum(), cost[rows, columns].mean(), atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_points_of_zero_mass_take_no_part(method):
    cost, a, b = problem(2)
    a[2], b[0], b[3] = 0, 0, 0
    a, b = a / a.sum(), b / b.sum()
    f, g, plan, value, _, converged = solve(cost, a, b, 1e-2, method=method, density=7.0)
    kept_a, kept_b = a > 0, b > 0
    expected = ot.sinkhorn(
        a[kept_a],
        b[kept_b],
        cost[np.ix_(kept_a, kept_b)],
        1e-2,
        method="sinkhorn_log",
        stopThr=1e-12,
        numItermax=100_000,
    )
    assert converged
    assert np.isfinite(value)
    assert (np.isneginf(f) == ~kept_a).all()
    assert (np.isneginf(g) == ~kept_b).all()
    np.testing.assert_allclose(np.asarray(plan)[np.ix_(kept_a, kept_b)], expected, atol=1e-8)


@pytest.mark.parametrize("scale", [1e-3, 1e6])
def test_scale_of_cost_and_mass_do_not_matter(scale):
    cost, a, b = problem(4)
    *_, plan, _, _, converged = solve(scale * cost, 5 * a, 5 * b, scale * 1e-3)
    *_, expected, _, _, _ = solve(cost, a, b, 1e-3)
    assert converged
    np.testing.assert_allclose(plan / 5, expected, atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_starts_anywhere(method):
    cost, a, b = problem(5)
    init = 50 * 1e-2 * np.random.default_rng(0).normal(size=M)
    *_, plan, _, errors, converged = solve(cost, a, b, 1e-2, init, method=method, density=7.0)
    *_, expected, _, _, _ = solve(cost, a, b, 1e-2)
    assert converged
    assert np.isfinite(errors).all()
    np.testing.assert_allclose(plan, expected, atol=1e-8)


def test_a_warm_start_at_the_solution_takes_no_stages():
    cost, a, b = problem(6)
    _, g, _, _, cold, _ = solve(cost, a, b, 1e-3)
    *_, warm, converged = solve(cost, a, b, 1e-3, g)
    assert converged
    assert (np.asarray(warm) >= 0).sum() <= 1 < (np.asarray(cold) >= 0).sum()


def test_streamed_points_give_what_the_matrix_gives():
    generator = np.random.default_rng(7)
    x, y = generator.normal(size=(N, 3)), generator.normal(size=(M, 3))
    _, a, b = problem(7)

    @functools.partial(jax.jit, static_argnames="batch_size")
    def value_and_gradient(x, y, a, batch_size):
        def value(x, y, a):
            geom = pointcloud.PointCloud(
                x, y, costs.PNormP(1.5), epsilon=0.05, scale_cost=3.0, batch_size=batch_size
            )
            output = sinkhorn_newton(linear_problem.LinearProblem(geom, a, b), tolerance=1e-12)
            return output.g[0] - output.g[1] + output.reg_ot_cost, output.f

        return jax.value_and_grad(value, argnums=(0, 1, 2), has_aux=True)(x, y, a)

    (dense, f), dense_gradients = value_and_gradient(x, y, a, None)
    (streamed, streamed_f), streamed_gradients = value_and_gradient(x, y, a, 4)
    np.testing.assert_allclose(streamed, dense, rtol=1e-9)
    np.testing.assert_allclose(streamed_f, f, atol=1e-9)
    for ours, expected in zip(streamed_gradients, dense_gradients, strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-7)


def scalar_of_potentials(method="exact"):
    """A smooth function of the potentials that the gauge leaves unchanged."""

    def value(cost, a, b, epsilon):
        geom = geometry.Geometry(cost, epsilon=epsilon)
        a, b = a / a.sum(), b / b.sum()
        output = sinkhorn_newton(
            linear_problem.LinearProblem(geom, a, b), tolerance=1e-13, method=method
        )
        f = output.f - output.f.mean()
        return jnp.sin(3 * f).sum() + jnp.square(output.matrix).sum() + output.reg_ot_cost

    return value


@pytest.mark.parametrize("method", ["exact", "safeguarded"])
def test_implicit_derivatives_equal_finite_differences(method):
    cost, a, b = problem(8)
    arguments = (jnp.asarray(cost), jnp.asarray(a), jnp.asarray(b), jnp.asarray(0.03))
    value = jax.jit(scalar_of_potentials(method))
    gradients = jax.jit(jax.grad(scalar_of_potentials(method), argnums=(0, 1, 2, 3)))(*arguments)
    generator = np.random.default_rng(0)
    for position, gradient in enumerate(gradients):
        direction = generator.normal(size=np.shape(gradient))
        if position in (1, 2):
            direction *= arguments[position]
        h = 1e-5

        def moved(step, position=position, direction=direction):
            changed = list(arguments)
            changed[position] = changed[position] + step * direction
            return value(*changed)

        expected = (moved(h) - moved(-h)) / (2 * h)
        np.testing.assert_allclose((gradient * direction).sum(), expected, rtol=1e-6, atol=1e-8)


def test_forward_mode_equals_reverse_mode():
    cost, a, b = problem(8)
    arguments = (jnp.asarray(cost), jnp.asarray(a), jnp.asarray(b), jnp.asarray(0.03))
    tangents = (*map(jnp.asarray, problem(9)), jnp.asarray(0.5))
    value = scalar_of_potentials()
    gradients = jax.jit(jax.grad(value, argnums=(0, 1, 2, 3)))(*arguments)
    _, forward = jax.jit(lambda p, t: jax.jvp(value, p, t))(arguments, tangents)
    reverse = sum((g * t).sum() for g, t in zip(gradients, tangents, strict=True))
    np.testing.assert_allclose(forward, reverse, rtol=1e-8)


@pytest.mark.filterwarnings("ignore:.NormalCG:DeprecationWarning")  # what ott's own solver calls
def test_gradients_equal_those_of_ott():
    generator = np.random.default_rng(10)
    x, y = generator.normal(size=(N, 2)), generator.normal(size=(M, 2))

    def value(solver, x, y):
        output = solver(linear_problem.LinearProblem(pointcloud.PointCloud(x, y, epsilon=0.1)))
        return output.reg_ot_cost + jnp.square(output.matrix).sum()

    ours = jax.jit(jax.grad(lambda x, y: value(sinkhorn_newton, x, y), argnums=(0, 1)))(x, y)
    solver = sinkhorn.Sinkhorn(threshold=1e-12, max_iterations=20_000)
    theirs = jax.jit(jax.grad(lambda x, y: value(solver, x, y), argnums=(0, 1)))(x, y)
    for gradient, expected in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(gradient, expected, atol=1e-6)


def test_gradient_is_finite_at_zero_mass():
    cost, a, b = problem(11)
    a[0], b[1] = 0, 0
    gradients = jax.jit(jax.grad(scalar_of_zero_mass, argnums=(0, 3)))(
        jnp.asarray(cost), a / a.sum(), b / b.sum(), jnp.asarray(0.03)
    )
    assert all(np.isfinite(gradient).all() for gradient in gradients)
    assert (gradients[0][0] == 0).all()


def scalar_of_zero_mass(cost, a, b, epsilon):
    geom = geometry.Geometry(cost, epsilon=epsilon)
    output = sinkhorn_newton(linear_problem.LinearProblem(geom, a, b))
    return jnp.square(jnp.where(b > 0, output.g, 0)).sum() + output.reg_ot_cost


def test_vmap_equals_the_loop():
    batch = [problem(seed) for seed in range(3)]
    cost, a, b = (jnp.stack([jnp.asarray(p[i]) for p in batch]) for i in range(3))
    epsilons = jnp.array([1e-1, 1e-2, 1e-3])
    plans = jax.vmap(lambda *args: solve(*args)[2])(cost, a, b, epsilons)
    for index, plan in enumerate(plans):
        expected = solve(cost[index], a[index], b[index], epsilons[index])[2]
        np.testing.assert_allclose(plan, expected, atol=1e-9)


def test_float32_reaches_its_own_tolerance():
    cost, a, b = problem(12)
    *_, plan, _, _, _ = solve(cost, a, b, 1e-2)
    with jax.enable_x64(False):
        geom = geometry.Geometry(jnp.asarray(cost, jnp.float32), epsilon=1e-2)
        linear = linear_problem.LinearProblem(
            geom, jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32)
        )
        output = sinkhorn_newton(linear)
        assert output.converged
        assert output.f.dtype == jnp.float32
        np.testing.assert_allclose(output.matrix, plan, atol=1e-6)


def test_too_few_iterations_are_reported():
    cost, a, b = problem(13)
    *_, errors, converged = solve(cost, a, b, 1e-4, max_iterations=2)
    assert not converged
    assert np.isfinite(errors).all()


def test_unbalanced_and_streamed_sparse_problems_are_refused():
    cost, a, b = problem()
    geom = geometry.Geometry(jnp.asarray(cost), epsilon=0.1)
    with pytest.raises(ValueError, match=r"tau_a=0\.5"):
        sinkhorn_newton(linear_problem.LinearProblem(geom, a, b, tau_a=0.5))
    with pytest.raises(ValueError, match="init must have the shape of b"):
        sinkhorn_newton(linear_problem.LinearProblem(geom, a, b), init=jnp.zeros(3))
    cloud = pointcloud.PointCloud(jnp.ones((4, 2)), jnp.ones((4, 2)), epsilon=0.1, batch_size=2)
    with pytest.raises(ValueError, match="without batch_size"):
        sinkhorn_newton(cloud, method="sparse")
    with pytest.raises(TypeError, match="problem"):
        sinkhorn_newton(jnp.asarray(cost))


def test_unequal_masses_are_reported_under_checked():
    cost, a, b = problem()
    geom = geometry.Geometry(jnp.asarray(cost), epsilon=0.1)
    run = lossbench.checked(
        lambda a, b: sinkhorn_newton(linear_problem.LinearProblem(geom, a, b)).f
    )
    with pytest.raises(ValueError, match="equal mass"):
        run(jnp.asarray(2 * a), jnp.asarray(b))
