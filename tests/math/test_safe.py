import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossbench._math import normalize, power_of_two_scale, safe_log, safe_norm, safe_sqrt, widen


@pytest.mark.parametrize(
    ("safe", "plain", "at_zero"), [(safe_sqrt, np.sqrt, 0.0), (safe_log, np.log, -np.inf)]
)
def test_elementary_function_agrees_and_is_flat_at_zero(safe, plain, at_zero):
    x = np.array([1e-30, 0.25, 1.0, 7.0, 1e30], np.float32)
    np.testing.assert_allclose(safe(x), plain(x), rtol=1e-6)
    assert safe(0.0) == at_zero
    assert np.isnan(safe(-1.0))
    assert np.isnan(safe(jnp.nan))
    for derivative in (jax.grad(safe), jax.jacfwd(safe), jax.grad(jax.grad(safe))):
        assert jax.jit(derivative)(0.0) == 0
    np.testing.assert_allclose(jax.grad(safe_sqrt)(4.0), 0.25)
    np.testing.assert_allclose(jax.grad(safe_log)(4.0), 0.25)


def test_sqrt_of_a_subnormal_number_has_a_finite_derivative():
    assert np.isfinite(jax.jit(jax.grad(safe_sqrt))(1e-40))


@pytest.mark.parametrize("scale", [1.0, 1e30, 1e-30, 3e37])
def test_norm_and_its_derivatives_at_every_scale(scale):
    x = np.array([[3.0, -4.0, 0.0], [1.0, 2.0, 2.0]], np.float32)
    norms, slopes = jax.jit(jax.vmap(jax.value_and_grad(safe_norm)))(x * scale)
    np.testing.assert_allclose(norms, np.float32(scale) * np.array([5, 3]), rtol=2e-7)
    np.testing.assert_allclose(slopes, x / np.array([[5], [3]]), rtol=1e-6)
    forward = jax.jit(jax.vmap(jax.jacfwd(safe_norm)))(x * scale)
    np.testing.assert_allclose(forward, slopes, rtol=1e-6)


@pytest.mark.parametrize(
    ("axis", "keepdims"), [(0, False), (-1, True), ((0, 2), False), (None, False), (None, True)]
)
def test_norm_takes_the_axes_of_numpy(axis, keepdims):
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    expected = np.sqrt(np.sum(x.astype(np.float64) ** 2, axis=axis, keepdims=keepdims))
    got = jax.jit(safe_norm, static_argnums=(1, 2))(x, axis, keepdims)
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_norm_of_infinite_and_undefined_vectors():
    got = safe_norm(np.array([[np.inf, 1], [np.nan, 1], [3e38, 1]], np.float32))
    np.testing.assert_array_equal(got, np.array([np.inf, np.nan, 3e38], np.float32))


def test_second_derivative_of_the_norm():
    hessian = jax.jit(jax.hessian(safe_norm))
    unit = np.array([1, 2, 2]) / 3
    expected = (np.eye(3) - np.outer(unit, unit)) / 3
    np.testing.assert_allclose(hessian(3 * unit), expected, atol=1e-6)
    for derivative in (hessian, jax.jit(jax.grad(safe_norm)), jax.jit(jax.jacfwd(safe_norm))):
        assert not np.any(derivative(np.zeros(3)))


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_sixteen_bits_are_reduced_in_float32(dtype):
    x = jnp.full((4096,), 300, dtype)  # its square overflows float16, its sum both
    assert safe_norm(x).dtype == jnp.float32
    np.testing.assert_allclose(safe_norm(x), 300 * 64, rtol=1e-6)
    assert jax.grad(safe_norm)(x).dtype == dtype
    np.testing.assert_allclose(normalize(x), 1 / 64, rtol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 1e30, 1e-30])
def test_normalize_and_its_jacobian(scale):
    x = jnp.array([2.0, -1.0, 2.0])
    unit = np.array([2, -1, 2]) / 3
    np.testing.assert_allclose(normalize(x * scale), unit, rtol=1e-6)
    jacobian = (np.eye(3) - np.outer(unit, unit)) / 3
    for transform in (jax.jacrev, jax.jacfwd):
        got = jax.jit(transform(normalize))(x * scale) * scale
        np.testing.assert_allclose(got, jacobian, atol=1e-6)


def test_normalize_leaves_zero_rows_at_zero():
    x = jnp.array([[0.0, 0.0], [3.0, 4.0]])
    np.testing.assert_allclose(normalize(x), np.array([[0, 0], [0.6, 0.8]]), rtol=1e-6)
    jacobian = jax.jit(jax.jacrev(normalize))(x)
    assert not np.any(jacobian[0])
    assert np.any(jacobian[1])
    assert np.all(np.isfinite(jax.jit(jax.hessian(normalize))(x)))


def test_scale_is_a_power_of_two():
    x = jnp.array([[0.0], [1.0], [5.0], [-3e38], [2e-38], [jnp.inf], [jnp.nan]])
    got = power_of_two_scale(x, -1)[:, 0]
    np.testing.assert_array_equal(got, np.ldexp(1.0, [-1, 0, 2, 96, -96, 0, 0]))


def test_widen():
    assert widen(1).dtype == widen(jnp.bfloat16(1)).dtype == jnp.float32
    with jax.enable_x64(True):
        assert widen(np.float64(1)).dtype == jnp.float64
        assert widen(np.float32(1)).dtype == jnp.float32
