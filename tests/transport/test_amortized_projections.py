import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lossbench.transport import amortized_sliced_wasserstein, vmf_sliced_wasserstein

KEY = jax.random.key(0)
rng = np.random.default_rng(0)
X, Y = (rng.normal(size=(n, 3)).astype(np.float32) for n in (12, 15))
PARAMS = np.float32(rng.normal(size=(3, 3)))


def apply(params, x, y):
    direction = params @ (x.mean(0) - y.mean(0))
    return direction / jnp.linalg.norm(direction)


def test_value_and_the_gradients_of_both_players():
    def loss(params, x, y):
        return amortized_sliced_wasserstein(KEY, apply, params, x, y, kappa=2.0, num_projections=8)

    def plain(loc, x, y):
        return vmf_sliced_wasserstein(KEY, x, y, loc, kappa=2.0, num_projections=8, root=False)

    value, (by_params, by_x, by_y) = jax.value_and_grad(loss, (0, 1, 2))(PARAMS, X, Y)
    loc, pullback = jax.vjp(lambda params: apply(params, X, Y), PARAMS)
    expected, (by_loc, *by_clouds) = jax.value_and_grad(plain, (0, 1, 2))(loc, X, Y)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(by_params, -pullback(by_loc)[0], rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(by_x, by_clouds[0], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(by_y, by_clouds[1], rtol=1e-4, atol=1e-6)


def test_descent_by_the_parameters_climbs_to_the_worst_location():
    shift = np.float32([0, 0, 3])

    def location(params, x, y):
        return params / jnp.linalg.norm(params)

    def loss(params, key):
        return amortized_sliced_wasserstein(
            key, location, params, X, X + shift, kappa=10.0, num_projections=16
        )

    optimizer = optax.adam(0.05)

    def step(carry, key):
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params, key), state)
        return (optax.apply_updates(params, updates), state), None

    start = jnp.array([1.0, 0.3, 0.2])
    (params, _), _ = jax.jit(lambda keys: jax.lax.scan(step, (start, optimizer.init(start)), keys))(
        jax.random.split(KEY, 150)
    )
    assert abs(location(params, X, X)[2]) > 0.98


def test_a_location_of_another_shape_is_refused():
    with pytest.raises(TypeError, match=r"location of shape \(3,\), got \(2,\)"):
        amortized_sliced_wasserstein(KEY, lambda params, x, y: jnp.ones(2), PARAMS, X, Y)
