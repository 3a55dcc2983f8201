"""Against closed forms of the bound, loops over the blocks, and the blocks' known optimum."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lossbench
from lossbench.score import (
    noprop_block_errors,
    noprop_denoise,
    noprop_init,
    noprop_loss,
    noprop_posterior_coefficients,
    noprop_update,
)

KEY = jax.random.key(0)
N, K, CLASSES, STEPS = 5, 3, 3, 4
ALPHA_BAR = jnp.array([1e-3, 0.2, 0.5, 0.8, 0.95])
EMBEDDINGS = jnp.array([[1.0, 0.0, 0.5], [0.0, 1.0, 0.0], [-1.0, 0.0, 1.0]])
LABELS = jnp.array([0, 1, 2, 1, 0])
TARGETS = EMBEDDINGS[LABELS]
X = jax.random.normal(KEY, (N, 2))
PARAMS = {
    "z": 0.3 * jax.random.normal(jax.random.key(1), (STEPS, K, K)),
    "x": 0.3 * jax.random.normal(jax.random.key(2), (STEPS, 2, K)),
}


def block(params, z, x):
    return jnp.tanh(z @ params["z"] + x @ params["x"])


def sure(z):
    return 1e3 * jax.nn.one_hot(LABELS, CLASSES)


def prior_divergence(alpha_bar):
    """KL of q(z_0 | y) from standard normal noise, coordinate by coordinate."""
    mean, variance = np.sqrt(alpha_bar) * np.asarray(TARGETS, np.float64), 1 - alpha_bar
    return np.sum((variance + mean**2 - 1 - np.log(variance)) / 2, axis=1)


def test_no_error_depends_on_another_blocks_parameters():
    def errors(params):
        return noprop_block_errors(KEY, block, params, TARGETS, X, alpha_bar=ALPHA_BAR).mean(1)

    for jacobian in jax.tree.leaves(jax.jacobian(errors)(PARAMS)):
        size = np.abs(jacobian).sum(axis=(2, 3))
        np.testing.assert_array_equal(size[~np.eye(STEPS, dtype=bool)], 0)
        assert np.all(np.diag(size) > 0)


def test_errors_are_taken_at_the_level_before():
    """A block that hands z on shows it: its mean and variance are those of q(z_(t-1) | y)."""
    targets = jnp.broadcast_to(EMBEDDINGS[0], (50_000, K))
    nothing, seen = jnp.zeros((len(targets), 1)), jnp.zeros((STEPS, 1))

    def moments(weights):
        def hand_on(params, z, x):
            return targets + weights * z

        errors = noprop_block_errors(KEY, hand_on, seen, targets, nothing, alpha_bar=ALPHA_BAR)
        return errors.mean(1)

    level = np.asarray(ALPHA_BAR[:-1])
    for i in range(K):
        square = level * float(EMBEDDINGS[0, i]) ** 2 + 1 - level
        np.testing.assert_allclose(moments(jnp.eye(K)[i]), square, rtol=0.03)


def test_with_perfect_blocks_and_a_sure_readout_the_divergence_is_left():
    loss = noprop_loss(
        KEY, lambda p, z, x: TARGETS, sure, PARAMS, EMBEDDINGS, X, LABELS, alpha_bar=ALPHA_BAR
    )
    np.testing.assert_allclose(loss, prior_divergence(1e-3), rtol=1e-3, atol=1e-6)


def constant(params, z, x):
    return jnp.broadcast_to(params, z.shape)


GUESSES = jax.random.normal(jax.random.key(3), (STEPS, K))


def block_divergences():
    """KL of q(z_t | z_(t-1), y) from the model's, of each block (T, n), by conditioning."""
    alpha_bar = np.asarray(ALPHA_BAR, np.float64)
    before, after = alpha_bar[:-1], alpha_bar[1:]
    alpha = before / after
    variance = 1 / (1 / (1 - after) + alpha / (1 - alpha))
    slope = variance * np.sqrt(after) / (1 - after)  # of the mean by u
    apart = np.asarray(TARGETS)[None] - np.asarray(GUESSES)[:, None]
    return (slope**2 / variance / 2)[:, None] * np.sum(apart**2, axis=2)


def test_at_eta_one_the_loss_is_the_sum_of_divergences():
    loss = noprop_loss(
        KEY, constant, sure, GUESSES, EMBEDDINGS, X, LABELS, alpha_bar=ALPHA_BAR, eta=1.0
    )
    expected = prior_divergence(1e-3) + block_divergences().sum(0)
    np.testing.assert_allclose(loss, expected, rtol=1e-4)


def test_one_blocks_term_has_the_sum_as_its_mean():
    def loss(key):
        return noprop_loss(
            key,
            constant,
            sure,
            GUESSES,
            EMBEDDINGS,
            X,
            LABELS,
            alpha_bar=ALPHA_BAR,
            eta=1.0,
            one_block=True,
        )

    values = np.asarray(jax.vmap(loss)(jax.random.split(KEY, 200))) - prior_divergence(1e-3)
    terms = STEPS * block_divergences()
    which = np.abs(values[:, None] - terms).sum(2).argmin(1)
    np.testing.assert_allclose(values, terms[which], rtol=2e-4)
    assert np.all(np.bincount(which, minlength=STEPS) > 30)


def test_the_readouts_term_is_its_cross_entropy_at_the_last_level():
    """At alpha_bar_T = 1 the readout sees the embedding itself."""
    alpha_bar = ALPHA_BAR.at[-1].set(1 - 1e-7)

    def readout(z):
        return 2 * z

    loss = noprop_loss(
        KEY,
        lambda p, z, x: TARGETS,
        readout,
        PARAMS,
        EMBEDDINGS,
        X,
        LABELS,
        alpha_bar=alpha_bar,
    )
    logits = 2 * np.asarray(TARGETS, np.float64)
    entropy = np.log(np.exp(logits).sum(1)) - logits[np.arange(N), LABELS]
    np.testing.assert_allclose(loss, entropy + prior_divergence(1e-3), rtol=5e-3)


def test_the_cap_bounds_the_last_blocks_weight():
    def loss(cap):
        return noprop_loss(
            KEY,
            constant,
            sure,
            GUESSES,
            EMBEDDINGS,
            X,
            LABELS,
            alpha_bar=ALPHA_BAR,
            eta=1.0,
            snr_cap=cap,
        )

    # SNR_3 = 4: capped there, the last block counts nothing.
    expected = prior_divergence(1e-3) + block_divergences()[:-1].sum(0)
    np.testing.assert_allclose(loss(4.0), expected, rtol=1e-4)
    np.testing.assert_allclose(loss(100.0), loss(None))


def test_learned_embeddings_receive_a_gradient_from_every_term():
    def loss(embeddings, eta):
        return noprop_loss(
            KEY,
            block,
            lambda z: z @ embeddings.T,
            PARAMS,
            embeddings,
            X,
            LABELS,
            alpha_bar=ALPHA_BAR,
            eta=eta,
        ).mean()

    without, with_blocks = jax.grad(loss)(EMBEDDINGS, 0.0), jax.grad(loss)(EMBEDDINGS, 1.0)
    assert np.all(np.any(without != 0, axis=1))
    assert np.all(np.any(with_blocks != without, axis=1))


def test_labels_out_of_range_are_reported():
    checked = lossbench.checked(
        lambda labels: noprop_loss(
            KEY, block, sure, PARAMS, EMBEDDINGS, X, labels, alpha_bar=ALPHA_BAR
        )
    )
    checked(LABELS)
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 3\)"):
        checked(LABELS + 1)


# Prediction


def test_path_without_noise_is_the_loop():
    z = jax.random.normal(jax.random.key(4), (N, K))
    path = noprop_denoise(KEY, block, PARAMS, z, X, alpha_bar=ALPHA_BAR, stochastic=False)
    a, b, _ = noprop_posterior_coefficients(ALPHA_BAR)
    expected = [np.asarray(z)]
    for t in range(STEPS):
        hidden = expected[-1] @ PARAMS["z"][t] + X @ PARAMS["x"][t]
        expected.append(a[t] * np.tanh(hidden) + b[t] * expected[-1])
    np.testing.assert_allclose(path, np.stack(expected), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("start", [0.0, 3.0])
def test_perfect_blocks_lead_to_the_last_levels_law(start):
    num = 40_000
    targets = jnp.broadcast_to(EMBEDDINGS[2], (num, K))
    alpha_bar = jnp.linspace(1e-4, 0.9, 11)
    z = start + jax.random.normal(jax.random.key(5), (num, K))
    params = jnp.zeros((10, 1))
    path = noprop_denoise(KEY, lambda p, z, x: targets, params, z, targets, alpha_bar=alpha_bar)
    assert path.shape == (11, num, K)
    # What is left of a wrong start is sqrt(alpha_bar_0 / alpha_bar_T) (1 - alpha_bar_T) of it.
    np.testing.assert_allclose(path[-1].mean(0), 0.9**0.5 * EMBEDDINGS[2], atol=0.01)
    np.testing.assert_allclose(path[-1].std(0), 0.1**0.5, rtol=0.02)


# Training


@pytest.mark.parametrize("blocks_at_once", [None, 1, 3])
def test_update_is_the_loop_over_blocks_with_an_optimiser_each(blocks_at_once):
    """Clipping by the norm and Adam's scale would tell whether the blocks share anything."""
    optimizer = optax.chain(optax.clip_by_global_norm(0.5), optax.adamw(0.1, weight_decay=0.01))
    state = noprop_init(optimizer, PARAMS)
    keys = jax.random.split(KEY, 2)

    @jax.jit
    def update(key, state):
        return noprop_update(
            key,
            state,
            optimizer,
            block,
            TARGETS,
            X,
            alpha_bar=ALPHA_BAR,
            blocks_at_once=blocks_at_once,
        )

    values = []
    for key in keys:
        value, state = update(key, state)
        values.append(value)

    def error(params, key, t):
        whole = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (STEPS, *leaf.shape)), params)
        return noprop_block_errors(key, block, whole, TARGETS, X, alpha_bar=ALPHA_BAR)[t].mean()

    gradient = jax.jit(jax.value_and_grad(error), static_argnums=2)
    for t in range(STEPS):
        params = jax.tree.map(lambda leaf, t=t: leaf[t], PARAMS)
        own = optimizer.init(params)
        for key, value in zip(keys, values, strict=True):
            expected, slope = gradient(params, key, t)
            np.testing.assert_allclose(value[t], expected, rtol=1e-5)
            updates, own = optimizer.update(slope, own, params)
            params = optax.apply_updates(params, updates)
        for name, leaf in params.items():
            np.testing.assert_allclose(state.params[name][t], leaf, rtol=1e-4, atol=1e-5)


def test_blocks_learn_the_posterior_mean():
    """Two one-hot classes, no input: E[u | z] = softmax(sqrt(alpha_bar) z / (1 - alpha_bar))."""
    alpha_bar = jnp.array([0.1, 0.3, 0.5, 0.6])
    targets = jnp.eye(2)[jnp.arange(1024) % 2]
    optimizer = optax.adam(optax.cosine_decay_schedule(0.1, 400))

    @jax.jit
    def train(state):
        def step(state, key):
            errors, state = noprop_update(
                key,
                state,
                optimizer,
                lambda params, z, x: jax.nn.softmax(params * z),
                targets,
                targets,
                alpha_bar=alpha_bar,
            )
            return state, errors

        return jax.lax.scan(step, state, jax.random.split(KEY, 400))[0]

    state = train(noprop_init(optimizer, jnp.zeros(3)))
    before = alpha_bar[:-1]
    np.testing.assert_allclose(state.params, jnp.sqrt(before) / (1 - before), rtol=0.05)
