import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lossbench.score import (
    InputConvexParams,
    annealed_proximal_matching_loss,
    input_convex_init,
    input_convex_potential,
    proximal_matching_loss,
    proximal_matching_width,
    proximal_operator,
)

rng = np.random.default_rng(0)
KEY = jax.random.key(0)


def by_loops(params, x, sharpness, strong_convexity):
    """The network's formula, one layer after the other in numpy."""

    def activation(t):
        return np.log1p(np.exp(sharpness * t)) / sharpness

    inputs, hidden, biases, output_hidden, output_input = map(np.asarray, params)
    z = activation(x @ inputs[0] + biases[0])
    for w, h, b in zip(hidden, inputs[1:], biases[1:], strict=True):
        z = activation(z @ w + x @ h + b)
    value = z @ output_hidden + x @ output_input
    return value + strong_convexity * np.sum(x**2, axis=1) / 2


@pytest.mark.parametrize("scheme", ["clipped", "exponential"])
def test_potential_is_the_papers_network_and_convex(scheme):
    params = input_convex_init(KEY, in_dim=3, hidden=16, layers=3, scheme=scheme)
    x = np.float32(rng.normal(size=(200, 3)))

    @jax.jit
    def potential(x):
        return input_convex_potential(params, x, sharpness=5.0, strong_convexity=0.2)

    np.testing.assert_allclose(potential(x), by_loops(params, x, 5.0, 0.2), rtol=2e-5, atol=2e-5)
    ends = 2 * x[:100], 2 * x[100:]
    chord = (potential(ends[0]) + potential(ends[1])) / 2
    middle = potential((ends[0] + ends[1]) / 2)
    # Strong convexity leaves at least a / 8 |difference|^2 between them.
    assert np.all(chord - middle > 0.2 / 8 * np.sum((ends[0] - ends[1]) ** 2, axis=1) - 1e-4)

    jacobians = jax.jit(jax.vmap(jax.jacfwd(lambda x: proximal_operator(potential, x[None])[0])))(x)
    np.testing.assert_allclose(jacobians, jacobians.mT, atol=1e-5)
    assert np.linalg.eigvalsh(jacobians).min() > 0.2 - 1e-5


def test_exponential_weights_follow_their_law():
    params = input_convex_init(KEY, in_dim=2, scheme="exponential", log_mean=-3.0, log_std=0.2)
    logs = np.log(params.hidden_weights).ravel()
    np.testing.assert_allclose([logs.mean(), logs.std()], [-3, 0.2], atol=0.01)


def test_the_mask_keeps_the_network_convex_in_training():
    params = input_convex_init(KEY, in_dim=2, hidden=8, layers=2)
    mask = InputConvexParams.nonnegative()
    optimizer = optax.chain(optax.sgd(1.0), optax.masked(optax.keep_params_nonnegative(), mask))
    gradient = jax.tree.map(jnp.ones_like, params)
    updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    moved = optax.apply_updates(params, updates)
    for name, old, new in zip(params._fields, params, moved, strict=True):
        constrained = name in ("hidden_weights", "output_hidden")
        expected = np.maximum(old - 1, 0) if constrained else old - 1
        np.testing.assert_allclose(new, expected, atol=1e-6)


def test_proximal_operator_is_the_soft_threshold():
    y = np.float32(rng.normal(size=(20, 3)) * 2)

    def soft(y):
        return jnp.sum(jnp.square(jnp.maximum(jnp.abs(y) - 0.7, 0)), axis=1) / 2

    expected = np.sign(y) * np.maximum(np.abs(y) - 0.7, 0)
    np.testing.assert_allclose(proximal_operator(soft, y), expected, atol=1e-6)


def test_proximal_matching_is_squared_error_when_wide_and_counts_misses_when_narrow():
    prediction, target = rng.normal(size=(2, 5, 2, 3))
    squares = np.sum((prediction - target) ** 2, axis=(1, 2))
    loss = proximal_matching_loss(np.float32(prediction), np.float32(target), gamma=1.3)
    np.testing.assert_allclose(loss, 1 - np.exp(-squares / 1.3**2), rtol=1e-5)
    wide = proximal_matching_loss(np.float32(prediction), np.float32(target), gamma=1e4)
    np.testing.assert_allclose(1e8 * wide, squares, rtol=1e-5)
    target[0] = prediction[0]
    narrow = proximal_matching_loss(np.float32(prediction), np.float32(target), gamma=1e-3)
    np.testing.assert_array_equal(narrow, [0, 1, 1, 1, 1])


@pytest.mark.parametrize(("gamma", "expected"), [(20.0, "mean"), (0.05, "mode")])
def test_minimiser_is_the_mean_when_wide_and_the_mode_when_narrow(gamma, expected):
    """Against a skew posterior, Gamma(2, 1): mean 2, mode 1."""
    x = np.linspace(0, 20, 4001)[:, None]
    density = x[:, 0] * np.exp(-x[:, 0])
    guesses = np.linspace(0.5, 3, 251)

    def risk(guess):
        return density @ proximal_matching_loss(guess + 0 * x, x, gamma=gamma)

    with jax.enable_x64(True):
        risks = jax.jit(jax.vmap(risk))(guesses)
    best = guesses[np.argmin(risks)]
    np.testing.assert_allclose(best, {"mean": 2, "mode": 1}[expected], atol=0.02)


def test_widths_halve_from_stage_to_stage():
    steps = np.array([0, 99, 100, 124, 125, 150, 175, 199, 500])
    widths = [
        proximal_matching_width(step, dim=4, pretrain_steps=100, total_steps=200) for step in steps
    ]
    stages = np.array([0, 0, 0, 0, 1, 2, 3, 3, 3])
    np.testing.assert_allclose(widths, 2 * 0.08 * 2.0 ** (3 - stages), rtol=1e-6)


def test_annealed_loss_is_absolute_first_and_matching_then():
    prediction, target = np.float32(rng.normal(size=(2, 5, 4)))
    options = {"pretrain_steps": 10, "total_steps": 20, "num_stages": 2, "width_min": 0.5}
    loss = jax.jit(
        lambda step: annealed_proximal_matching_loss(prediction, target, step, **options)
    )
    np.testing.assert_allclose(loss(9), np.abs(prediction - target).mean(1), rtol=1e-6)
    squares = np.sum((prediction - target) ** 2, axis=1)
    for step, gamma in ((10, 2.0), (15, 1.0)):
        np.testing.assert_allclose(loss(step), 1 - np.exp(-squares / gamma**2), rtol=1e-5)
