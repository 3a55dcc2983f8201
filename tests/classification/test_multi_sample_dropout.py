import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lossbench
from lossbench.classification import (
    flip_second_half,
    multi_sample_dropout_loss,
    random_pad_pool,
)

rng = np.random.default_rng(0)
FEATURES = jnp.asarray(rng.normal(size=(5, 6)), jnp.float32)
LABELS = jnp.array([0, 1, 2, 0, 1])
WEIGHTS = jnp.asarray(rng.normal(size=(6, 3)), jnp.float32)
CROSS_ENTROPY = optax.losses.softmax_cross_entropy_with_integer_labels


def loss(key, weights=WEIGHTS, features=FEATURES, **options):
    return multi_sample_dropout_loss(
        key, lambda h, key: h @ weights, features, LABELS, loss_fn=CROSS_ENTROPY, **options
    )


def test_the_mean_over_a_loop_of_samples():
    key, expected = jax.random.key(0), []
    for sample_key in jax.random.split(key, 3):
        mask = jax.random.bernoulli(jax.random.split(sample_key, 3)[0], 0.7, (5, 6))
        logits = np.asarray(mask * FEATURES / 0.7 @ WEIGHTS, np.float64)
        log_z = np.log(np.exp(logits).sum(1))
        expected.append(log_z - logits[np.arange(5), LABELS])
    found = loss(key, num_samples=3, rate=0.3)
    np.testing.assert_allclose(found, np.mean(expected, 0), rtol=1e-5)


@pytest.mark.parametrize("chunk_size", [1, 2, 3, 8])
def test_chunks_change_nothing(chunk_size):
    key = jax.random.key(1)

    def value(weights, chunk):
        return jnp.sum(loss(key, weights, num_samples=4, chunk_size=chunk))

    for found, expected in zip(
        jax.value_and_grad(value)(WEIGHTS, chunk_size),
        jax.value_and_grad(value)(WEIGHTS, None),
        strict=True,
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_without_dropout_it_is_the_loss():
    np.testing.assert_allclose(
        loss(jax.random.key(0), rate=0.0), CROSS_ENTROPY(FEATURES @ WEIGHTS, LABELS), rtol=1e-6
    )


def test_squared_loss_of_a_linear_head_in_closed_form():
    """E (y - w (m h))^2 = (y - w h)^2 + rate / (1 - rate) sum_j w_j^2 h_j^2."""
    w, y, rate = WEIGHTS[:, 0], jnp.arange(5.0), 0.4

    @jax.jit
    def many(key):
        return multi_sample_dropout_loss(
            key,
            lambda h, key: h @ w,
            FEATURES,
            y,
            loss_fn=lambda prediction, y: (y - prediction) ** 2,
            num_samples=20_000,
            rate=rate,
        )

    runs = np.stack([many(jax.random.key(i)) for i in range(5)])
    h = np.asarray(FEATURES, np.float64)
    expected = (y - h @ w) ** 2 + rate / (1 - rate) * (h**2 @ np.asarray(w) ** 2)
    error = runs.std(0, ddof=1) / 5**0.5
    assert np.all(np.abs(runs.mean(0) - expected) < 8.6 * error)


def test_the_gradients_covariance_falls_by_the_number_of_samples():
    @functools.partial(jax.jit, static_argnums=1)
    def gradients(keys, num_samples):
        slope = jax.grad(lambda w, key: jnp.mean(loss(key, w, num_samples=num_samples)))
        return jax.vmap(slope, (None, 0))(WEIGHTS, keys)

    keys = jax.random.split(jax.random.key(0), 4000)
    single, eight = gradients(keys, 1), gradients(keys, 8)
    ratio = float(eight.var(0).sum() / single.var(0).sum())
    assert abs(ratio * 8 - 1) < 0.1
    np.testing.assert_allclose(eight.mean(0), single.mean(0), atol=0.02)


def test_diversify_sees_every_sample():
    def shift(features, index, key):
        return features + index

    found = multi_sample_dropout_loss(
        jax.random.key(0),
        lambda h, key: h[:, 0],
        jnp.zeros((5, 6)),
        LABELS,
        loss_fn=lambda prediction, labels: prediction,
        num_samples=4,
        rate=0.0,
        diversify=shift,
    )
    np.testing.assert_allclose(found, 1.5)


def test_flip_and_pool():
    maps = rng.uniform(size=(2, 5, 4, 3)).astype(np.float32)
    for index in range(4):
        expected = maps[:, :, ::-1] if index >= 2 else maps
        np.testing.assert_array_equal(
            flip_second_half(maps, jnp.array(index), num_samples=4), expected
        )
    pools = set()
    for above in range(2):
        for left in range(2):
            padded = np.pad(maps, ((0, 0), (above, 1 - above), (left, 1 - left), (0, 0)))
            pooled = np.stack(
                [
                    [padded[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].max((1, 2)) for j in range(2)]
                    for i in range(3)
                ]
            )
            pools.add(np.moveaxis(pooled, 2, 0).tobytes())
    found = {np.asarray(random_pad_pool(jax.random.key(i), maps)).tobytes() for i in range(30)}
    assert found == pools


def test_rates_out_of_range_are_reported():
    with pytest.raises(ValueError, match="rate must lie in"):
        lossbench.checked(functools.partial(loss, rate=1.0))(jax.random.key(0))
