"""Against closed forms: Gaussian data, whose consistency function is known, and a point mass."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from lossbench.score import (
    adaptive_teacher_decay,
    consistency_distillation_loss,
    consistency_output,
    consistency_sample,
    consistency_scalings,
    consistency_training_loss,
    doubling_num_scales,
    fourier_noise_embedding,
    lognormal_index_probabilities,
    pseudo_huber,
    sample_adjacent_levels,
    square_root_num_scales,
)

KEY = jax.random.key(0)
SIGMA_MIN, SIGMA_MAX, RHO = 0.002, 80.0, 7.0
MEAN, VARIANCE = 0.3, 0.25


def grid(num_scales, rho=RHO):
    """The grid in numpy's float64."""
    fraction = np.linspace(0, 1, num_scales)
    low, high = SIGMA_MIN ** (1 / rho), SIGMA_MAX ** (1 / rho)
    return (low + fraction * (high - low)) ** rho


def squared(a, b):
    return jnp.sum(jnp.square(a - b), axis=1)


def gaussian_flow(x, sigma):
    """The exact consistency function of N(MEAN, VARIANCE I)."""
    shrink = jnp.sqrt((VARIANCE + SIGMA_MIN**2) / (VARIANCE + sigma**2))
    return MEAN + (x - MEAN) * shrink[:, None]


def gaussian_denoised(x, sigma):
    square = sigma[:, None] ** 2
    return (VARIANCE * x + square * MEAN) / (VARIANCE + square)


def gaussian_data(num):
    return MEAN + VARIANCE**0.5 * jax.random.normal(KEY, (num, 2), jnp.float64)


# Parameterisation


def test_scalings_are_the_papers():
    sigma = np.array([0.002, 0.1, 1.0, 80.0])
    data = 0.7
    expected = (
        data**2 / ((sigma - SIGMA_MIN) ** 2 + data**2),
        data * (sigma - SIGMA_MIN) / np.sqrt(sigma**2 + data**2),
        1 / np.sqrt(sigma**2 + data**2),
        np.log(sigma) / 4,
    )
    got = consistency_scalings(sigma.astype(np.float32), sigma_data=data)
    for mine, theirs in zip(got, expected, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-7)


def test_at_the_least_noise_the_output_is_the_input_for_any_network():
    x = jax.random.normal(KEY, (4, 2, 3))
    sigma = jnp.full(4, SIGMA_MIN)

    def output(scale):
        return consistency_output(lambda x, level: scale * jnp.exp(x) + 7, x, sigma)

    np.testing.assert_array_equal(output(3.0), x)
    np.testing.assert_array_equal(jax.jacobian(output)(3.0), 0)


def test_output_is_skip_and_network():
    x = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)
    sigma = np.array([0.01, 0.5, 5.0], np.float32)
    skip, out, scale, level = (
        np.asarray(c)[:, None] for c in consistency_scalings(sigma, sigma_data=0.4)
    )
    got = consistency_output(lambda x, level: jnp.sin(x) + level[:, None], x, sigma, sigma_data=0.4)
    np.testing.assert_allclose(got, skip * x + out * (np.sin(scale * x) + level), rtol=1e-5)


# Metric


@pytest.mark.parametrize("c", [None, 0.03, 10.0])
def test_pseudo_huber_is_the_formula_in_float64(c):
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(2, 5, 3, 4)).astype(np.float32)
    y[0] = x[0] + 1e-6  # near: the textbook subtraction would leave no digit of it
    huber = 0.00054 * math.sqrt(12) if c is None else c
    total = np.sum(np.square(x.astype(np.float64) - y), axis=(1, 2))
    expected = total / (np.sqrt(total + huber**2) + huber)
    np.testing.assert_allclose(pseudo_huber(x, y, c=c), expected, rtol=1e-5)
    np.testing.assert_allclose(expected[1:], np.sqrt(total + huber**2)[1:] - huber, rtol=1e-9)


def test_pseudo_huber_between_its_limits():
    x, y = jax.random.normal(KEY, (2, 5, 3))
    norm = jnp.linalg.norm(x - y, axis=1)
    np.testing.assert_allclose(pseudo_huber(x, y, c=0.0), norm, rtol=1e-6)
    np.testing.assert_allclose(2e3 * pseudo_huber(x, y, c=1e3), norm**2, rtol=1e-4)
    np.testing.assert_array_equal(pseudo_huber(x, x, c=0.0), 0)


@pytest.mark.parametrize("c", [0.0, 0.01])
def test_pseudo_hubers_gradient_is_short_and_finite_where_points_meet(c):
    x = jax.random.normal(KEY, (5, 3))
    y = x.at[1:].add(jnp.array([[1e-3], [0.1], [10.0], [1e3]]))
    gradient = jax.grad(lambda x: pseudo_huber(x, y, c=c).sum())(x)
    assert np.all(np.linalg.norm(gradient, axis=1) < 1 + 1e-6)
    np.testing.assert_array_equal(gradient[0], 0)


# Losses


def test_training_loss_is_the_loop_over_rows():
    x = jax.random.normal(KEY, (4, 2))
    lower, upper = jnp.array([0.1, 0.2, 1.0, 3.0]), jnp.array([0.2, 0.5, 1.5, 9.0])
    seen = []

    def student(x, sigma):
        seen.append((x, sigma))
        return jnp.tanh(x) / sigma[:, None]

    loss = consistency_training_loss(KEY, student, x, lower, upper)
    by_level = {float(sigma[0]): np.asarray(points, np.float64) for points, sigma in seen}
    for i, (low, high) in enumerate(zip(lower, upper, strict=True)):
        below, above = by_level[float(lower[0])][i], by_level[float(upper[0])][i]
        # One noise serves both levels.
        np.testing.assert_allclose(
            (below - x[i]) / float(low), (above - x[i]) / float(high), rtol=1e-3
        )
        gap = np.sum((np.tanh(above) / float(high) - np.tanh(below) / float(low)) ** 2)
        c = 0.00054 * math.sqrt(2)
        expected = (math.sqrt(gap + c**2) - c) / float(high - low)
        np.testing.assert_allclose(loss[i], expected, rtol=1e-4)


def test_losses_with_the_exact_flow_vanish_at_their_orders():
    """Squared: (gap^2)^2 by an Euler step, (gap^3)^2 by Heun's, gap^2 from one sample's slope."""
    with jax.enable_x64(True):
        x, level = gaussian_data(200), jnp.full(200, 1.0)

        @jax.jit
        def losses(gap):
            distil = functools.partial(
                consistency_distillation_loss,
                KEY,
                gaussian_flow,
                gaussian_denoised,
                x,
                level - gap,
                level,
                metric=squared,
            )
            train = consistency_training_loss(
                KEY, gaussian_flow, x, level - gap, level, metric=squared, weighting="uniform"
            )
            return jnp.array([distil(method="euler").mean(), distil().mean(), train.mean()])

        ratio = np.log2(losses(0.02) / losses(0.01))
    np.testing.assert_allclose(ratio, [4, 6, 2], atol=0.15)


def test_distillation_with_the_exact_flow_is_a_minimum():
    with jax.enable_x64(True):
        x = gaussian_data(2000)
        lower, upper = sample_adjacent_levels(KEY, len(x), num_scales=160)

        def loss(scale):
            def student(x, sigma):
                # Right at sigma_min at any scale, as the boundary condition asks.
                bend = (scale - 1) * (sigma - SIGMA_MIN) / (sigma + 1)
                return gaussian_flow(x, sigma) * (1 + bend[:, None])

            return consistency_distillation_loss(
                KEY, student, gaussian_denoised, x, lower, upper, metric=squared
            ).mean()

        values = [float(loss(scale)) for scale in (0.9, 1.0, 1.1)]
    assert values[1] < 1e-2 * min(values[0], values[2])


def point_mass_family(theta):
    """f_theta(x, s) = (s_min / s) x + (1 - s_min / s) theta: exact for theta = the mass's place."""

    def fn(x, sigma):
        share = SIGMA_MIN / sigma[:, None]
        return share * x + (1 - share) * theta

    return fn


@pytest.mark.parametrize("gap", [0.02, 0.01])
def test_only_without_an_averaged_teacher_has_the_gradient_a_limit(gap):
    """On a point mass: closed forms of the paper's reason to drop the teacher's average."""
    xi, theta, average, sigma = 0.4, 0.9, 0.7, 0.5

    with jax.enable_x64(True):

        def slope(teacher):
            def loss(theta):
                return consistency_training_loss(
                    KEY,
                    point_mass_family(theta),
                    jnp.full((3, 1), xi, jnp.float64),
                    jnp.full(3, sigma - gap),
                    jnp.full(3, sigma),
                    teacher_fn=teacher,
                    metric=squared,
                ).mean()

            return float(jax.grad(loss)(jnp.float64(theta)))

        shared = slope(None)
        averaged = slope(point_mass_family(average))
    share = SIGMA_MIN / sigma
    exact = 2 * (1 - share) * (SIGMA_MIN / (sigma * (sigma - gap))) * (theta - xi)
    np.testing.assert_allclose(shared, exact, rtol=1e-9)
    diverging = 2 * (1 - share) ** 2 * (theta - average) / gap
    np.testing.assert_allclose(averaged, diverging, rtol=0.02)


def test_the_teacher_is_held_fixed_and_the_student_by_default():
    x = jax.random.normal(KEY, (4, 2))
    lower, upper = jnp.full(4, 0.5), jnp.full(4, 1.0)

    def model(theta):
        return lambda x, sigma: theta * x / sigma[:, None]

    def loss(theta, other=None):
        teacher = None if other is None else model(other)
        return consistency_training_loss(
            KEY, model(theta), x, lower, upper, teacher_fn=teacher
        ).sum()

    np.testing.assert_array_equal(loss(2.0), loss(2.0, 2.0))
    np.testing.assert_array_equal(jax.grad(loss)(2.0), jax.grad(loss)(2.0, 2.0))
    assert jax.grad(loss, 1)(2.0, 1.0) == 0
    step = 1e-2
    by_hand = (loss(2.0 + step, 2.0) - loss(2.0 - step, 2.0)) / (2 * step)
    np.testing.assert_allclose(jax.grad(loss)(2.0), by_hand, rtol=1e-3)


def test_levels_weigh_the_metric_by_the_gap():
    x = jax.random.normal(KEY, (4, 2))
    lower, upper = jnp.array([0.1, 0.2, 1.0, 3.0]), jnp.array([0.2, 0.5, 1.5, 9.0])
    plain, weighted = (
        consistency_training_loss(
            KEY, lambda x, sigma: jnp.tanh(x), x, lower, upper, weighting=weighting
        )
        for weighting in ("uniform", "inverse_gap")
    )
    np.testing.assert_allclose(weighted * (upper - lower), plain, rtol=1e-5)


# Sampling


@pytest.mark.parametrize("sigmas", [(80.0,), (80.0, 0.8), (80.0, 5.0, 0.8, 0.1)])
def test_samples_of_the_exact_flow_have_the_chains_moments(sigmas):
    num = 40_000
    x = sigmas[0] * jax.random.normal(KEY, (num, 1))
    out = consistency_sample(jax.random.key(1), gaussian_flow, x, jnp.array(sigmas))
    # The maps are affine, so the mean and the variance have a recursion.
    mean, variance = 0.0, sigmas[0] ** 2
    for i, sigma in enumerate(sigmas):
        if i:
            variance += sigma**2 - SIGMA_MIN**2
        shrink = (VARIANCE + SIGMA_MIN**2) / (VARIANCE + sigma**2)
        mean, variance = MEAN + (mean - MEAN) * math.sqrt(shrink), variance * shrink
    np.testing.assert_allclose(out.mean(), mean, atol=4 * math.sqrt(variance / num))
    np.testing.assert_allclose(out.var(), variance, rtol=4 * math.sqrt(2 / num))


# Levels and schedules


@pytest.mark.parametrize("law", ["lognormal", "uniform"])
@pytest.mark.parametrize("num_scales", [2, 11, 1281])
def test_levels_are_adjacent_on_the_grid(law, num_scales):
    lower, upper = sample_adjacent_levels(KEY, 2000, num_scales=num_scales, law=law)
    sigmas = grid(num_scales)
    index = np.abs(sigmas[:-1] - np.asarray(lower)[:, None]).argmin(1)
    np.testing.assert_allclose(lower, sigmas[index], rtol=1e-5)
    np.testing.assert_allclose(upper, sigmas[index + 1], rtol=1e-5)
    # The weight 1 / gap takes the difference of near numbers.
    np.testing.assert_allclose(upper - lower, np.diff(sigmas)[index], rtol=3e-4)


@pytest.mark.parametrize("law", ["lognormal", "uniform"])
def test_levels_follow_their_law(law):
    num, sigmas = 200_000, grid(11)
    lower, _ = sample_adjacent_levels(KEY, num, num_scales=11, law=law)
    counts = np.bincount(np.abs(sigmas[:-1] - np.asarray(lower)[:, None]).argmin(1), minlength=10)
    if law == "uniform":
        expected = np.full(10, 0.1)
    else:
        expected = np.diff(stats.lognorm(2.0, scale=math.exp(-1.1)).cdf(sigmas))
        expected /= expected.sum()
    assert stats.chisquare(counts, num * expected).pvalue > 1e-3


def test_a_growing_grid_does_not_compile_anew():
    traces = 0

    @jax.jit
    def draw(num_scales):
        nonlocal traces
        traces += 1
        return sample_adjacent_levels(KEY, 3, num_scales=num_scales)

    coarse, fine = draw(11), draw(1281)
    assert traces == 1
    assert np.all(coarse[1] - coarse[0] > fine[1] - fine[0])


def test_probabilities_are_the_lognormal_laws():
    sigmas = grid(1281)
    expected = np.diff(stats.lognorm(2.0, scale=math.exp(-1.1)).cdf(sigmas))
    got = lognormal_index_probabilities(sigmas.astype(np.float32))
    np.testing.assert_allclose(got, expected / expected.sum(), rtol=1e-3)
    with jax.enable_x64(True):
        np.testing.assert_allclose(
            lognormal_index_probabilities(sigmas), expected / expected.sum(), rtol=1e-9
        )
        flat = lognormal_index_probabilities(sigmas, log_sigma_std=1e4)
    np.testing.assert_allclose(flat, np.diff(np.log(sigmas)) / np.log(4e4), rtol=1e-6)


def test_doubling_stages_are_the_papers():
    total = 400_000
    stage = math.floor(total / (math.log2(1280 // 10) + 1))
    steps = np.array([0, stage - 1, stage, 2 * stage, 7 * stage - 1, 7 * stage, total, 9 * total])
    assert stage == 50_000
    assert doubling_num_scales(steps, total).tolist() == [11, 11, 21, 41, 641, 1281, 1281, 1281]


@pytest.mark.parametrize(("total", "first", "last"), [(3000, 10, 1280), (97, 3, 50), (5, 10, 1280)])
def test_doubling_is_the_loop(total, first, last):
    stage = max(math.floor(total / (math.log2(last // first) + 1)), 1)
    expected = [min(first * 2 ** (step // stage), last) + 1 for step in range(total)]
    got = doubling_num_scales(np.arange(total), total, first=first, last=last)
    assert got.tolist() == expected


def test_square_root_rule_is_the_loop():
    total, first, last = 1000, 2, 150
    expected = [
        max(
            math.ceil(math.sqrt(k / total * ((last + 1) ** 2 - first**2) + first**2) - 1),
            1,
        )
        + 1
        for k in range(total + 1)
    ]
    assert square_root_num_scales(np.arange(total + 1), total).tolist() == expected


def test_teacher_decay_rises_with_the_grid():
    num_scales = np.array([2, 3, 19, 151])
    expected = np.exp(2 * np.log(0.9) / (num_scales - 1))
    np.testing.assert_allclose(adaptive_teacher_decay(num_scales), expected, rtol=1e-6)


def test_fourier_embedding_of_a_single_frequency():
    level, frequency = np.array([0.3, -1.0]), np.array([0.5, 2.0])
    angle = 2 * np.pi * 16 * np.outer(level, frequency)
    got = fourier_noise_embedding(
        level.astype(np.float32), frequency.astype(np.float32), scale=16.0
    )
    np.testing.assert_allclose(got, np.hstack([np.sin(angle), np.cos(angle)]), atol=2e-5)
