from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.metrics.pairwise import cosine_distances

from lossbench._math import pairwise_cosine, pairwise_euclidean, pairwise_squared_euclidean

METRICS: dict[Any, Any] = {
    pairwise_squared_euclidean: "sqeuclidean",
    pairwise_euclidean: "euclidean",
    pairwise_cosine: "cosine",
}
functions = pytest.mark.parametrize("fn", METRICS)
rng = np.random.default_rng(0)
X = rng.normal(size=(6, 4)).astype(np.float32)
Y = rng.normal(size=(5, 4)).astype(np.float32)


@functions
def test_distances_agree_with_scipy(fn):
    np.testing.assert_allclose(fn(X, Y), cdist(X, Y, METRICS[fn]), rtol=2e-6)
    within = fn(X)
    np.testing.assert_allclose(within, cdist(X, X, METRICS[fn]), rtol=2e-6, atol=1e-7)
    assert not np.any(np.diag(within))


@functions
@pytest.mark.parametrize("gap", [1e-1, 1e-3])
def test_small_distances_keep_their_digits(fn, gap):
    base = rng.normal(size=(1, 64)).astype(np.float32)
    x = base + gap * rng.normal(size=(20, 64)).astype(np.float32)
    y = x[::-1] + np.float32(gap) * rng.normal(size=(20, 64)).astype(np.float32)
    far = np.concatenate([y, 30 * rng.normal(size=(3, 64)).astype(np.float32)])
    expected = cdist(x.astype(np.float64), far.astype(np.float64), METRICS[fn])
    # Normalising rounds each coordinate, which shows in small angles.
    rtol = 1e-5 if fn is not pairwise_cosine else 1e-7 / gap + 1e-5
    np.testing.assert_allclose(fn(x, far), expected, rtol=rtol)


@functions
def test_product_form_is_as_accurate_as_it_says(fn):
    """Pairs just above the threshold, where the product form is still used."""
    y = np.eye(8, dtype=np.float32)
    x = y + np.float32(0.16) * rng.normal(size=(8, 8)).astype(np.float32) / np.sqrt(8)
    expected = cdist(x.astype(np.float64), y.astype(np.float64), METRICS[fn])
    np.testing.assert_allclose(fn(x, y), expected, rtol=3e-5)


@functions
def test_coinciding_rows_are_at_distance_zero_with_zero_slope(fn):
    x = jnp.asarray(100 * rng.normal(size=(3, 257)), jnp.float32)
    x = jnp.concatenate([x, x[:1], x[:1]])
    for distances, slope in (
        jax.jit(lambda x: (fn(x), jax.grad(lambda x: fn(x)[jnp.array([0, 4]), 3].sum())(x)))(x),
        jax.jit(lambda x: (fn(x, x), jax.grad(lambda y: jnp.trace(fn(x, y)))(x)))(x),
    ):
        assert not np.any(np.diag(distances))
        assert distances[0, 3] == distances[3, 4] == distances[4, 0] == 0
        # u - v is formed after the products, so to the rounding of the coordinates.
        rounding = 2 * np.finfo(np.float32).eps * np.max(np.abs(x))
        bound = rounding if fn is pairwise_squared_euclidean else 0
        np.testing.assert_allclose(slope, 0, atol=bound)


@functions
def test_gradients_agree_with_the_broadcast_form(fn):
    def slow(x, y):
        if fn is pairwise_cosine:
            x = x / jnp.linalg.norm(x, axis=1, keepdims=True)
            y = y / jnp.linalg.norm(y, axis=1, keepdims=True)
            return 1 - x @ y.T
        squared = jnp.square(x[:, None] - y).sum(-1)
        return squared if fn is pairwise_squared_euclidean else jnp.sqrt(squared)

    with jax.enable_x64(True):
        x, y = jnp.asarray(X, jnp.float64), jnp.asarray(Y, jnp.float64)

        def derivatives(distances):
            def objective(x, y):
                return jnp.sin(distances(x, y)).sum()

            return [t(objective, (0, 1))(x, y) for t in (jax.grad, jax.jacfwd, jax.hessian)]

        got, expected = (jax.jit(derivatives, static_argnums=0)(f) for f in (fn, slow))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-9), got, expected)
        off = 1 - np.eye(6)
        got = jax.jit(jax.grad(lambda x: (jnp.sin(fn(x)) * off).sum()))(x)
        shifted = jax.grad(lambda x: (jnp.sin(slow(x, x + 1e-12)) * off).sum())
        expected = jax.jit(shifted)(x)
        np.testing.assert_allclose(got, expected, atol=1e-9)
        assert fn(x).dtype == jnp.float64


@pytest.mark.parametrize("scale", [1e30, 1e-30])
def test_euclidean_and_cosine_at_extreme_scales(scale):
    for fn, factor in ((pairwise_euclidean, scale), (pairwise_cosine, 1)):
        value, slope = jax.value_and_grad(lambda x, fn=fn: fn(x, Y * scale).sum())(X * scale)
        expected, unit = jax.value_and_grad(lambda x, fn=fn: fn(x, Y).sum())(X)
        np.testing.assert_allclose(value, expected * factor, rtol=1e-5)
        np.testing.assert_allclose(slope * scale / factor, unit, rtol=1e-3, atol=1e-5)


def test_zero_rows_under_the_cosine():
    x = np.concatenate([X, np.zeros((2, 4), np.float32)])
    np.testing.assert_allclose(pairwise_cosine(x, Y), cosine_distances(x, Y), atol=1e-6)
    np.testing.assert_allclose(pairwise_cosine(x), cosine_distances(x), atol=1e-6)
    slope = jax.grad(lambda x: pairwise_cosine(x).sum())(x)
    assert np.all(np.isfinite(slope))
    assert not np.any(slope[-2:])


@functions
def test_no_three_dimensional_array_is_held(fn):
    x = jax.ShapeDtypeStruct((128, 64), jnp.float32)
    compiled = jax.jit(jax.grad(lambda x: jnp.sin(fn(x)).sum())).lower(x).compile()
    memory = compiled.memory_analysis()
    assert memory is not None
    assert memory.temp_size_in_bytes < 128 * 128 * 4 * 16


@functions
def test_transformations_and_sixteen_bits(fn):
    stacked = np.stack([X, 2 * X, X[::-1]])
    np.testing.assert_allclose(
        jax.jit(jax.vmap(fn))(stacked), [fn(x) for x in stacked], rtol=1e-5, atol=1e-6
    )
    x = jnp.asarray(X, jnp.bfloat16)
    assert fn(x).dtype == jnp.float32
    np.testing.assert_allclose(fn(x), fn(x.astype(jnp.float32)), rtol=1e-6)
    assert jax.grad(lambda x: fn(x).sum())(x).dtype == jnp.bfloat16
    slope = jax.jit(jax.grad(jax.remat(lambda x: fn(x).sum())))(X)
    np.testing.assert_allclose(slope, jax.grad(lambda x: fn(x).sum())(X), rtol=1e-4, atol=1e-5)
