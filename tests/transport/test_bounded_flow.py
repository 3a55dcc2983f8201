from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from lossbench.transport import (
    bounded_flow_init,
    bounded_flow_log_density,
    bounded_flow_sample,
)

LOW, HIGH = np.array([-1.0, 0.0], np.float32), np.array([1.0, 3.0], np.float32)
log_density = jax.jit(bounded_flow_log_density)


def scrambled(key, dim=2):
    """Parameters off the identity, near enough that no mass lies beyond float64's Gaussian."""
    params = bounded_flow_init(key, dim=dim)
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    moved = [
        x + 0.03 * jax.random.normal(k, x.shape, x.dtype) for x, k in zip(leaves, keys, strict=True)
    ]
    return jax.tree.unflatten(tree, moved)


@pytest.fixture(scope="module")
def params():
    return scrambled(jax.random.key(3))


def test_starts_uniform():
    points = np.random.default_rng(0).uniform(LOW, HIGH, (50, 2)).astype(np.float32)
    start = bounded_flow_init(jax.random.key(0), dim=2)
    density = np.exp(log_density(start, points, LOW, HIGH))
    np.testing.assert_allclose(density, 1 / (6 * 1.01**2), rtol=1e-5)


@pytest.mark.parametrize("dim", [1, 2])
def test_integrates_to_one_on_the_enlarged_box(dim):
    # Over Gaussian coordinates, as the density may have poles at the enlarged walls.
    axis = np.linspace(-7.5, 7.5, 151)
    z = np.stack(np.meshgrid(*[axis] * dim, indexing="ij"), -1).reshape(-1, dim)
    low, sides = LOW[:dim] - 0.005 * (HIGH - LOW)[:dim], 1.01 * (HIGH - LOW)[:dim]
    with jax.enable_x64(True):
        params = jax.tree.map(
            lambda x: x.astype(jnp.float64), scrambled(jax.random.key(3), dim=dim)
        )
        points = low + sides * stats.norm.cdf(z)
        density = np.exp(bounded_flow_log_density(params, points, LOW[:dim], HIGH[:dim]))
    volume = np.prod(sides) * np.exp(stats.norm.logpdf(z).sum(1)) * 0.1**dim
    np.testing.assert_allclose(np.sum(density * volume), 1, rtol=1e-4)
    start = np.exp(-np.log(sides).sum())
    assert np.std(density[np.all(np.abs(z) < 1, axis=1)]) > 0.05 * start


def test_draws_follow_the_density(params):
    points = np.asarray(
        bounded_flow_sample(jax.random.key(1), params, LOW, HIGH, num_points=20_000)
    )
    assert np.all((points >= LOW) & (points <= HIGH))
    fine = 40
    cells = [
        low + (high - low) * (np.arange(8 * fine) + 0.5) / (8 * fine)
        for low, high in zip(LOW, HIGH, strict=True)
    ]
    grid = np.stack(np.meshgrid(*cells, indexing="ij"), -1).reshape(-1, 2).astype(np.float32)
    density = np.exp(log_density(params, grid, LOW, HIGH)).reshape(8, fine, 8, fine)
    expected = density.sum((1, 3)).ravel()
    counts, _, _ = np.histogram2d(*points.T, bins=8, range=list(zip(LOW, HIGH, strict=True)))
    expected = 20_000 * expected / expected.sum()
    kept = expected > 20
    statistic = np.sum((counts.ravel() - expected)[kept] ** 2 / expected[kept])
    assert statistic < stats.chi2(kept.sum() - 1).ppf(0.9999)


def test_log_determinant_is_that_of_the_jacobian():
    from lossbench.transport import bounded_flow

    with jax.enable_x64(True):
        params = jax.tree.map(lambda x: x.astype(jnp.float64), scrambled(jax.random.key(5), dim=3))
        low, high = jnp.zeros(3), jnp.ones(3)
        corner, sides = bounded_flow._box(low, high, 0.005, jnp.float64)

        def draw(noise, monkey=None):
            z, _ = jax.lax.scan(
                lambda z, layer: (_invert(bounded_flow, z, layer), None),
                noise[None],
                (params, bounded_flow._passive(params)),
                reverse=True,
            )
            return (corner + sides * jax.scipy.special.ndtr(z))[0]

        noise = jnp.array([0.3, -0.4, 0.1])
        point, jacobian = draw(noise), jax.jacfwd(draw)(noise)
        expected = stats.norm.logpdf(noise).sum() - np.linalg.slogdet(jacobian)[1]
        value = bounded_flow_log_density(params, point[None], low, high)
    np.testing.assert_allclose(value[0], expected, rtol=1e-10)


def _invert(module, z, layer):
    parameters, passive = layer
    scale, shift = module._coupling(parameters, passive, z, 0.6)
    return (z - shift) / scale * jnp.exp(-parameters.log_scale) - parameters.bias


def test_walls_and_beyond(params):
    points = np.array([[-1.0, 0.0], [1.0, 3.0], [1.2, 1.0], [0.0, -9.0]], np.float32)
    value = log_density(params, points, LOW, HIGH)
    assert np.all(np.isfinite(value[:2]))
    np.testing.assert_array_equal(value[2:], -np.inf)
    slope = jax.grad(lambda p: partial(log_density, lower=LOW, upper=HIGH)(params, p)[:2].sum())(
        points
    )
    assert np.all(np.isfinite(slope))
