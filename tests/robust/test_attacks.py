import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from lossbench.robust import pgd_attack

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
X = RNG.uniform(0.1, 0.9, size=(5, 2, 3)).astype(np.float32)
W = RNG.normal(size=(2, 3)).astype(np.float32)


def linear(x):
    return jnp.sum(x * W, axis=(1, 2))


def flat(x):
    return np.asarray(x).reshape(len(x), -1)


def test_linear_objective_in_the_linf_ball():
    worst = pgd_attack(KEY, linear, X, epsilon=0.2)
    np.testing.assert_allclose(worst, X + 0.2 * np.sign(W), atol=1e-6)
    boxed = pgd_attack(KEY, linear, X, epsilon=0.2, bounds=(0.0, 1.0))
    np.testing.assert_allclose(boxed, np.clip(X + 0.2 * np.sign(W), 0, 1), atol=1e-6)


def test_linear_objective_in_the_l2_ball():
    worst = pgd_attack(KEY, linear, X, epsilon=0.2, norm="l2", num_steps=100, step_size=0.1)
    np.testing.assert_allclose(worst, X + 0.2 * W / np.linalg.norm(W), atol=1e-4)


def largest_in_ball_and_box(x: np.ndarray) -> float:
    def negative(z: np.ndarray) -> float:
        return float(-z @ W.ravel())

    ball = scipy.optimize.NonlinearConstraint(lambda z: np.sum((z - x) ** 2), 0.0, 0.49)
    box = scipy.optimize.Bounds(np.zeros(x.size), np.ones(x.size))
    found = scipy.optimize.minimize(negative, x, method="SLSQP", bounds=box, constraints=ball)
    return -float(found.fun)


def test_linear_objective_in_the_l2_ball_and_the_box():
    """Against scipy: a loose projection (ball, then box) stops short of the optimum."""
    boxed = pgd_attack(
        KEY, linear, X, epsilon=0.7, norm="l2", bounds=(0, 1), num_steps=300, step_size=0.05
    )
    for x, ours in zip(flat(X).astype(float), flat(boxed), strict=True):
        np.testing.assert_allclose(ours @ W.ravel(), largest_in_ball_and_box(x), rtol=1e-3)
        assert np.linalg.norm(ours - x) <= 0.7 + 1e-5
        assert ours.min() >= 0
        assert ours.max() <= 1


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_start_is_uniform_in_the_ball(norm):
    # Without a step and with an objective that prefers anything to x, the start itself returns.
    drawn = pgd_attack(
        KEY,
        lambda x: jnp.any(x != 0, axis=1).astype(x.dtype),
        np.zeros((4000, 2), np.float32),
        epsilon=0.5,
        norm=norm,
        num_steps=1,
        step_size=0.0,
    )
    start = np.asarray(drawn)
    size = np.abs(start).max(axis=1) if norm == "linf" else np.linalg.norm(start, axis=1)
    # Uniform on the ball of dimension 2: (size / epsilon)^2 is uniform on [0, 1].
    assert size.max() <= 0.5 + 1e-6
    quantiles = np.quantile((size / 0.5) ** 2, [0.1, 0.5, 0.9])
    np.testing.assert_allclose(quantiles, [0.1, 0.5, 0.9], atol=0.03)
    np.testing.assert_allclose(start.mean(axis=0), 0, atol=0.02)


def test_keeps_the_best_point_of_each_example():
    # The first example already stands on the peak, which every step overshoots.
    x = jnp.array([[0.0], [0.3]])
    worst = pgd_attack(KEY, lambda x: -jnp.abs(x[:, 0]), x, epsilon=0.1, step_size=0.1, num_steps=3)
    np.testing.assert_allclose(worst, [[0.0], [0.2]], atol=1e-6)


def test_more_restarts_find_more():
    def bumpy(x):
        return jnp.sin(9 * x).sum(axis=1) + jnp.cos(23 * x[:, 0] * x[:, 1])

    x = RNG.normal(size=(50, 3)).astype(np.float32)

    def best(restarts):
        attack = jax.jit(
            lambda x: bumpy(
                pgd_attack(KEY, bumpy, x, epsilon=1.0, num_steps=5, num_restarts=restarts)
            )
        )
        return np.asarray(attack(x))

    one, many = best(1), best(10)
    assert np.all(one >= bumpy(x))
    assert many.mean() > one.mean()


def test_no_gradient_and_no_record_of_the_loop():
    def attacked(w):
        worst = pgd_attack(
            KEY, lambda x: jnp.tanh(x.reshape(5, -1)) @ w, X, epsilon=0.1, num_steps=7
        )
        return jnp.sum(worst), worst

    w = jnp.asarray(W).ravel()
    (_, worst), gradient = jax.value_and_grad(attacked, has_aux=True)(w)
    assert not np.array_equal(worst, X)
    np.testing.assert_array_equal(gradient, 0)
    # A recorded loop would stack residuals of each of its 7 steps.
    forward = jax.make_jaxpr(lambda w: jax.vjp(lambda w: attacked(w)[0], w)[0])(w)
    assert "[7," not in str(forward)


def test_traced_options_and_keys():
    attack = jax.jit(
        jax.vmap(
            lambda key, epsilon: pgd_attack(
                key, linear, X, epsilon=epsilon, step_size=epsilon / 2, bounds=(0.0, 1.0)
            )
        )
    )
    worst = attack(jax.random.split(KEY, 2), jnp.array([0.0, 0.1]))
    np.testing.assert_allclose(worst[0], X, atol=1e-7)
    np.testing.assert_allclose(worst[1], np.clip(X + 0.1 * np.sign(W), 0, 1), atol=1e-6)
    raw = pgd_attack(jax.random.PRNGKey(0), linear, X.astype(jnp.bfloat16), epsilon=0.1)
    assert raw.dtype == jnp.float32


def test_wrong_objective():
    with pytest.raises(TypeError, match=r"objective must return shape \(5,\)"):
        pgd_attack(KEY, lambda x: x, X, epsilon=0.1)
    with pytest.raises(TypeError, match="norm"):
        pgd_attack(KEY, linear, X, epsilon=0.1, norm="l1")  # type: ignore[arg-type]
