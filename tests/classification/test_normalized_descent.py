import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC

import lossbench
from lossbench.classification import (
    logistic_descent_step,
    normalize_by_logistic_weight,
    normalized_logistic_weights,
    separate,
)

solve = jax.jit(separate, static_argnames=("normalize", "max_iterations"))


def separable(seed, n=20, d=3, gap=0.3):
    rng = np.random.default_rng(seed)
    normal = rng.normal(size=d)
    normal /= np.linalg.norm(normal)
    x = rng.normal(size=(n, d))
    labels = (x @ normal > 0).astype(int)
    return x + gap * (2 * labels - 1)[:, None] * normal, labels


def radius_over_margin(x, labels):
    """R / m: the largest norm over the margin of the best hyperplane through 0, from an SVM."""
    signed = (2 * labels - 1)[:, None] * x
    both, sides = np.concatenate([signed, -signed]), np.repeat([1, 0], len(x))
    normal = SVC(C=1e8, kernel="linear", tol=1e-8).fit(both, sides).coef_[0]
    return np.linalg.norm(x, axis=1).max() / ((signed @ normal).min() / np.linalg.norm(normal))


def logistic_loss(weights, x, labels):
    return optax.losses.sigmoid_binary_cross_entropy(x @ weights, labels).mean()


def test_step_is_gradient_descent():
    x, labels = separable(0)
    rate = 0.7
    with jax.enable_x64(True):
        weights = jnp.asarray(np.random.default_rng(1).normal(size=3))
        gradient = jax.grad(logistic_loss)(weights, x, labels)
        share = jnp.mean(jax.nn.sigmoid(-(2 * labels - 1) * (x @ weights)))
        step = functools.partial(logistic_descent_step, weights / rate, x, labels, step_size=rate)
        np.testing.assert_allclose(
            rate * step(normalize=False), weights - rate * gradient, rtol=1e-12
        )
        np.testing.assert_allclose(rate * step(), weights - rate * gradient / share, rtol=1e-12)

        optimizer = optax.chain(normalize_by_logistic_weight(), optax.sgd(rate))
        margins = (2 * labels - 1) * (x @ weights)
        updates, _ = optimizer.update(gradient, optimizer.init(weights), weights, margins=margins)
        np.testing.assert_allclose(weights + updates, rate * step(), rtol=1e-12)


def perceptron(direction, x, labels, normalize):
    """One step of the batch perceptron, an example at a time; ties count half."""
    pull, total = np.zeros_like(direction), 0.0
    for row, sign in zip(x, 2 * labels - 1, strict=True):
        margin = sign * row @ direction
        weight = 1.0 if margin < 0 else 0.5 if margin == 0 else 0.0
        pull, total = pull + weight * sign * row, total + weight
    return direction + pull / (max(total, 1e-300) if normalize else len(x))


@pytest.mark.parametrize("normalize", [True, False])
def test_the_limit_of_large_steps_is_the_perceptron(normalize):
    x, labels = separable(2)
    step = jax.jit(logistic_descent_step, static_argnames="normalize")
    with jax.enable_x64(True):
        expected, large = np.zeros(3), np.zeros(3)
        for _ in range(6):
            infinite = step(expected, x, labels, step_size=np.inf, normalize=normalize)
            expected = perceptron(expected, x, labels, normalize)
            np.testing.assert_allclose(infinite, expected, rtol=1e-12)
            signed = (2 * labels - 1) * (x @ large)
            if np.all(signed > 0):
                break
            large = np.asarray(step(large, x, labels, step_size=1e9, normalize=normalize))
            np.testing.assert_allclose(large, expected, rtol=1e-6)


def test_separated_data_no_longer_move_the_perceptron():
    x, labels = separable(3)
    direction = solve(x, labels).direction
    for normalize in (True, False):
        step = logistic_descent_step(direction, x, labels, step_size=jnp.inf, normalize=normalize)
        np.testing.assert_array_equal(step, direction)


def test_iterations_stay_below_the_bounds():
    seeds = range(60)
    sets = [separable(seed) for seed in seeds]
    x, labels = (jnp.asarray(np.stack(part)) for part in zip(*sets, strict=True))
    ratio = np.array([radius_over_margin(*each) for each in sets])
    margin = np.linalg.norm(np.asarray(x), axis=2).max(1) / ratio
    n = x.shape[1]
    run = jax.jit(
        jax.vmap(
            lambda x, labels, rate, normalize: separate(
                x, labels, step_size=rate, normalize=normalize, max_iterations=100_000
            ),
            in_axes=(0, 0, None, None),
        ),
        static_argnums=3,
    )
    for rate in (0.1, 1.0, 10.0, 1e3, 1e6, np.inf):
        result = run(x, labels, rate, True)
        assert np.all(result.separated)
        bound = ratio**2 + 2 * np.log(2 * n) / (rate * margin**2)
        assert np.all(result.iterations <= bound)
    plain = run(x, labels, np.inf, False)
    assert np.all(plain.separated)
    assert np.all(plain.iterations <= 2 * n * ratio**2)
    signs = 2 * np.asarray(labels) - 1
    assert np.all(signs * np.einsum("snd,sd->sn", x, plain.direction) > 0)


def test_hard_instance_takes_plain_descent_a_number_of_steps_proportional_to_n():
    # n - 1 copies of (1, 0) and one (-1, 1/2): each step lifts the last margin by 1.25 / n.
    counts = {}
    for n in (10, 100, 1000):
        x = np.repeat([[1.0, 0.0]], n, 0)
        x[-1] = [-1.0, 0.5]
        labels = np.ones(n, int)
        plain = solve(x.astype(np.float32), labels, normalize=False)
        assert plain.separated
        counts[n] = int(plain.iterations)
        assert abs(counts[n] - n / 2.5) < 3
        assert solve(x.astype(np.float32), labels).iterations <= 21.25
    assert counts[1000] > 9 * counts[100]


def test_overlapping_classes_end_at_the_limit():
    x, labels = separable(4)
    result = solve(np.concatenate([x, x[:1]]), np.append(labels, 1 - labels[0]), max_iterations=50)
    assert not result.separated
    assert result.iterations == 50


def test_long_descent_is_logistic_regression():
    x, labels = separable(5, n=60)
    labels = np.where(np.arange(60) % 5 == 0, 1 - labels, labels)
    expected = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10).fit(x, labels).coef_[0]
    step = jax.jit(functools.partial(logistic_descent_step, step_size=1.0, normalize=False))
    with jax.enable_x64(True):
        weights = jax.lax.fori_loop(0, 3000, lambda _, w: step(w, x, labels), jnp.zeros(3))
    np.testing.assert_allclose(weights, expected, rtol=1e-5)


def test_weights_where_every_sigmoid_underflows():
    margins = jnp.array([1e6, 1e6 + 1, 2e6])
    expected = [1 / (1 + np.exp(-1)), np.exp(-1) / (1 + np.exp(-1)), 0]
    np.testing.assert_allclose(normalized_logistic_weights(margins), expected, rtol=1e-6)
    moderate = np.random.default_rng(0).normal(size=9)
    sigmoid = 1 / (1 + np.exp(moderate))
    with jax.enable_x64(True):
        np.testing.assert_allclose(
            normalized_logistic_weights(moderate), sigmoid / sigmoid.sum(), rtol=1e-12
        )


def test_normalising_does_not_divide_by_nothing():
    gradient = {"a": jnp.ones(2, jnp.bfloat16)}
    transformation = normalize_by_logistic_weight()
    state = transformation.init(gradient)
    updates, _ = transformation.update(gradient, state, margins=jnp.full(3, 1e4))
    np.testing.assert_array_equal(updates["a"], 1)
    assert updates["a"].dtype == jnp.bfloat16
    # Two of four wrong by far: the mean weight is a half.
    updates, _ = transformation.update(gradient, state, margins=jnp.array([-1e4, 1e4, -1e4, 1e4]))
    np.testing.assert_array_equal(updates["a"], 2)


def test_values_are_checked():
    x, labels = jnp.ones((2, 1)), jnp.array([1, 1])
    with pytest.raises(ValueError, match="step_size must be positive, got 0"):
        lossbench.checked(lambda rate: separate(x, labels, step_size=rate))(0.0)
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 2\), got -1"):
        lossbench.checked(separate)(x, jnp.array([1, -1]))
