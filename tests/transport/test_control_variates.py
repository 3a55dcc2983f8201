import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from lossbench.transport import (
    control_variate_mean,
    control_variate_sliced_wasserstein,
    gaussian_control_variate,
    projected_wasserstein,
    sample_projections,
    sliced_wasserstein,
)

KEY = jax.random.key(0)
rng = np.random.default_rng(0)
X = rng.normal(size=(20, 3)).astype(np.float32)
Y = (rng.normal(size=(30, 3)) * [1, 2, 0.5] + [1, 0, 0]).astype(np.float32)
A, B = (rng.dirichlet(np.ones(n)).astype(np.float32) for n in (20, 30))
THETA = sample_projections(KEY, 40, 3)
SHIFT = np.float32([1, -2, 0.5])
distance = functools.partial(control_variate_sliced_wasserstein, root=False)


def test_controls_against_the_moments_of_the_clouds():
    values, mean = gaussian_control_variate(X, Y, THETA, bound="both", x_weights=A, y_weights=B)
    shift = A @ X - B @ Y
    spread = np.cov(X.T, aweights=A, ddof=0) + np.cov(Y.T, aweights=B, ddof=0)
    expected = np.stack([(THETA @ shift) ** 2, np.sum(THETA @ spread * THETA, 1)], 1)
    np.testing.assert_allclose(values, expected, rtol=1e-4)
    np.testing.assert_allclose(mean, [shift @ shift / 3, np.trace(spread) / 3], rtol=1e-5)
    upper, upper_mean = gaussian_control_variate(
        X, Y, THETA, bound="upper", x_weights=A, y_weights=B
    )
    np.testing.assert_allclose(upper[:, 0], expected.sum(1), rtol=1e-4)
    np.testing.assert_allclose(upper_mean[0], mean.sum(), rtol=1e-5)


def test_every_cost_lies_between_the_bounds():
    weights = {"x_weights": A, "y_weights": B}
    costs = projected_wasserstein(X, Y, THETA, **weights)
    lower, _ = gaussian_control_variate(X, Y, THETA, bound="lower", **weights)
    upper, _ = gaussian_control_variate(X, Y, THETA, bound="upper", **weights)
    assert np.all(lower[:, 0] <= costs * (1 + 1e-5))
    assert np.all(costs <= upper[:, 0] * (1 + 1e-5))


def test_centred_coefficients_are_those_of_the_regression():
    controls, mean = rng.normal(size=(30, 3)), np.array([0.1, 0, -0.2])
    values = controls @ [1, -2, 0.5] + 0.3 * rng.normal(size=30)
    fitted = LinearRegression().fit(controls, values)
    with jax.enable_x64(True):
        estimate = control_variate_mean(values, controls, mean)
    np.testing.assert_allclose(estimate.coefficient, fitted.coef_, rtol=1e-10)
    np.testing.assert_allclose(estimate.value, fitted.predict(mean[None])[0], rtol=1e-10)
    residual = values - fitted.predict(controls)
    error = np.sqrt(np.sum(residual**2) / (30 - 4) / 30)
    np.testing.assert_allclose(estimate.standard_error, error, rtol=1e-10)


def test_plugin_and_leave_one_out_by_their_definitions():
    controls, mean = rng.normal(size=12) + 0.5, 0.4
    values = 2 * controls + 0.1 * rng.normal(size=12)
    excess = controls - mean
    gamma = np.mean((values - values.mean()) * excess) / np.mean(excess**2)
    others = [np.delete(np.arange(12), i) for i in range(12)]
    apart = [np.cov(values[o], excess[o])[0, 1] / np.var(excess[o], ddof=1) for o in others]
    with jax.enable_x64(True):
        args = values, controls[:, None], np.array([mean])
        plugin = control_variate_mean(*args, coefficient="plugin")
        loo = control_variate_mean(*args, coefficient="leave_one_out")
    np.testing.assert_allclose(plugin.coefficient[0], gamma, rtol=1e-10)
    np.testing.assert_allclose(plugin.value, np.mean(values - gamma * excess), rtol=1e-10)
    np.testing.assert_allclose(loo.coefficient[0], np.mean(apart), rtol=1e-10)
    np.testing.assert_allclose(loo.value, np.mean(values - np.array(apart) * excess), rtol=1e-10)


def test_a_translation_is_estimated_exactly():
    # W(theta) = <theta, b>^2, the lower control itself; only its regression leaves nothing over.
    for count in (2, 5):
        got = distance(KEY, X, X + SHIFT, num_projections=count, coefficient="centred")
        np.testing.assert_allclose(got, SHIFT @ SHIFT / 3, rtol=1e-4)
    theta = sample_projections(KEY, 5, 3)
    controls = np.asarray(theta @ SHIFT, np.float64) ** 2
    excess = controls.mean() - SHIFT @ SHIFT / 3
    residual = excess**3 / (controls.var() + excess**2)
    got = distance(KEY, X, X + SHIFT, num_projections=5)
    np.testing.assert_allclose(got - SHIFT @ SHIFT / 3, residual, rtol=1e-2)


def test_a_cloud_against_a_point_is_estimated_exactly():
    # All couplings cost the same: W is the upper control.
    point = np.float32([[1, 2, 3]])
    got = distance(
        KEY, X, point, bound="upper", num_projections=3, coefficient="centred", x_weights=A
    )
    np.testing.assert_allclose(got, A @ np.sum((X - point) ** 2, 1) / 3, rtol=1e-4)


def test_leave_one_out_has_no_bias():
    reference = np.mean(
        projected_wasserstein(X, Y, sample_projections(KEY, 20_000, 3, method="spiral"))
    )
    draw = functools.partial(distance, num_projections=10, coefficient="leave_one_out")
    draws = jax.jit(jax.vmap(lambda key: draw(key, X, Y)))(jax.random.split(KEY, 1000))
    assert abs(np.mean(draws) - reference) < 4 * np.std(draws) / np.sqrt(1000)


@pytest.mark.parametrize("bound", ["lower", "upper", "both"])
def test_the_variance_falls_by_what_the_regression_explains(bound):
    directions = sample_projections(KEY, 20_000, 3)
    draw = functools.partial(distance, num_projections=200, coefficient="centred", bound=bound)
    draw = jax.jit(jax.vmap(draw, (0, None, None)))
    explained = []
    # The lower control knows of the means alone, and says next to nothing where they are near.
    for y in (Y, Y + np.float32([1, 0, 0])):
        costs = np.asarray(projected_wasserstein(X, y, directions))
        controls, _ = gaussian_control_variate(X, y, directions, bound=bound)
        share = LinearRegression().fit(controls, costs).score(controls, costs)
        draws = draw(jax.random.split(KEY, 500), X, y)
        expected = np.sqrt((1 - share) * np.var(costs) / 200)
        np.testing.assert_allclose(np.std(draws), expected, rtol=0.12)
        explained.append(share)
    assert min(explained) > (0 if bound == "lower" else 0.7)
    assert explained[1] > 0.8


def test_whole_frames_leave_nothing_to_correct():
    found = [
        distance(KEY, X, Y, bound=b, num_projections=6, method="orthogonal")
        for b in ("lower", "upper", "both")
    ]
    plain = sliced_wasserstein(KEY, X, Y, num_projections=6, method="orthogonal", root=False)
    np.testing.assert_allclose(found, plain, rtol=1e-4)


def test_a_frozen_coefficient_changes_the_gradient_only():
    def loss(x, differentiate):
        return distance(KEY, x, Y, num_projections=8, differentiate_coefficient=differentiate)

    flowing, frozen = (jax.value_and_grad(loss)(X, flag) for flag in (True, False))
    assert flowing[0] == frozen[0]
    assert not np.allclose(flowing[1], frozen[1])
    theta = sample_projections(KEY, 8, 3)
    costs = projected_wasserstein(X, Y, theta)
    gamma = control_variate_mean(
        costs, *gaussian_control_variate(X, Y, theta), coefficient="plugin"
    ).coefficient

    def by_hand(x):
        controls, mean = gaussian_control_variate(x, Y, theta)
        corrected = jnp.mean(projected_wasserstein(x, Y, theta) - gamma * controls[:, 0])
        return corrected + gamma[0] * mean[0]

    np.testing.assert_allclose(frozen[1], jax.grad(by_hand)(X), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("bound", ["lower", "upper", "both"])
def test_equal_clouds_one_direction_and_one_dimension_stay_finite(bound):
    options = {"bound": bound, "coefficient": "centred"}
    for x, y, count in ((X, X, 4), (X, Y, 1), (X[:, :1], Y[:, :1], 4), (X[:1], X[:1], 4)):
        loss = functools.partial(
            control_variate_sliced_wasserstein, KEY, num_projections=count, **options
        )
        value, slope = jax.value_and_grad(loss)(x, y)
        assert np.isfinite(value)
        assert np.isfinite(slope).all()
    one = sliced_wasserstein(KEY, X, Y, num_projections=1)
    got = control_variate_sliced_wasserstein(KEY, X, Y, num_projections=1, **options)
    np.testing.assert_allclose(got, one, rtol=1e-5)
    np.testing.assert_allclose(
        distance(KEY, X[:, :1], Y[:, :1], **options),
        sliced_wasserstein(KEY, X[:, :1], Y[:, :1], root=False),
        rtol=1e-4,
    )
