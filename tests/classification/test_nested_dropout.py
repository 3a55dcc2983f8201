import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lossbench
from lossbench.classification import (
    co_teaching_losses,
    expected_nested_loss,
    forget_schedule,
    nested_dropout,
    select_width,
    small_loss_mask,
    truncation_law,
)

rng = np.random.default_rng(0)
FEATURES, WEIGHTS = rng.normal(size=(7, 5)), rng.normal(size=(5, 3))
LABELS = rng.integers(0, 3, 7)
LAW = np.array([0.1, 0.4, 0.2, 0.0, 0.3])


def losses_by_width():
    """Cross-entropy of the head on the first k features, in numpy: (d, n)."""
    found = []
    for k in range(1, 6):
        logits = FEATURES[:, :k] @ WEIGHTS[:k]
        found.append(np.log(np.exp(logits).sum(1)) - logits[np.arange(7), LABELS])
    return np.array(found)


def test_the_law_of_widths():
    k = np.arange(1, 301)
    weights = np.exp(-(((k - 2.0) / 100.0) ** 2))
    with jax.enable_x64(True):
        found = truncation_law(300, mean=2.0, scale=100.0)
    np.testing.assert_allclose(found, weights / weights.sum(), rtol=1e-5)
    # Far narrower than the features: the tail underflows, the sum does not.
    np.testing.assert_allclose(truncation_law(4000, scale=10.0).sum(), 1, rtol=1e-6)


@pytest.mark.parametrize("per_example", [False, True])
def test_widths_are_drawn_by_the_law(per_example):
    kept = jax.jit(
        jax.vmap(lambda key: nested_dropout(key, jnp.ones((6, 5)), LAW, per_example=per_example))
    )(jax.random.split(jax.random.key(0), 4000))
    kept = np.asarray(kept)
    widths = kept.sum(2).astype(int)
    # A row is ones and then zeros.
    np.testing.assert_array_equal(kept, np.arange(5) < widths[..., None])
    shares = np.bincount(widths[:, 0], minlength=6)[1:] / 4000
    assert np.all(np.abs(shares - LAW) < 4 * np.sqrt(LAW * (1 - LAW) / 4000) + 1e-9)
    assert np.all(widths == widths[:, :1]) != per_example


def test_expected_loss_is_the_mean_over_widths():
    with jax.enable_x64(True):
        found = expected_nested_loss(FEATURES, WEIGHTS, LABELS, LAW)
    np.testing.assert_allclose(found, LAW @ losses_by_width(), rtol=1e-12)
    keys = jax.random.split(jax.random.key(1), 20_000)

    @jax.jit
    @jax.vmap
    def drawn(key):
        logits = nested_dropout(key, FEATURES.astype(np.float32), LAW) @ WEIGHTS
        return jax.nn.logsumexp(logits, axis=1) - logits[jnp.arange(7), LABELS]

    sample = np.asarray(drawn(keys))
    error = sample.std(0) / len(keys) ** 0.5
    assert np.all(np.abs(sample.mean(0) - np.asarray(found)) < 5 * error + 1e-5)


def test_width_is_chosen_by_accuracy_and_the_narrower_one_on_a_tie():
    accuracies = [np.mean((FEATURES[:, :k] @ WEIGHTS[:k]).argmax(1) == LABELS) for k in range(1, 6)]
    choice = select_width(FEATURES, WEIGHTS, LABELS)
    np.testing.assert_allclose(choice.accuracies, accuracies, rtol=1e-6)
    assert int(choice.width) == 1 + int(np.argmax(accuracies))
    # Features of no weight: every width is as good, so the first is taken.
    assert int(select_width(FEATURES, 0 * WEIGHTS, LABELS).width) == 1


@pytest.mark.parametrize("rate", [0.0, 0.2, 0.3, 0.5, 1.0])
def test_small_losses_are_kept(rate):
    losses = rng.permutation(10).astype(np.float32)
    kept = np.asarray(jax.jit(small_loss_mask)(losses, rate))
    np.testing.assert_array_equal(kept, losses < round(10 * (1 - rate)))
    order = rng.permutation(10)
    np.testing.assert_array_equal(small_loss_mask(losses[order], rate), kept[order])


def test_equal_losses_still_keep_the_count():
    assert int(small_loss_mask(jnp.ones(8), 0.25).sum()) == 6


def test_forgetting_grows_to_its_rate():
    expected = np.concatenate([np.linspace(0, 0.4, 10), [0.4, 0.4]])
    found = [forget_schedule(step, forget_rate=0.4, gradual_steps=10) for step in range(12)]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert float(forget_schedule(0, forget_rate=0.4, gradual_steps=0)) == pytest.approx(0.4)


def test_co_teaching_crosses_the_selections_and_stops_their_gradients():
    a, b = jnp.array([1.0, 5.0, 2.0, 0.5]), jnp.array([4.0, 1.0, 9.0, 2.0])

    def total(a, b):
        kept = co_teaching_losses(10 * a, 10 * b, a, b, forget_rate=0.5)
        return kept[0].sum() + 2 * kept[1].sum(), kept

    grads, kept = jax.grad(total, (0, 1), has_aux=True)(a, b)
    np.testing.assert_allclose(kept[0], [0, 50, 0, 5])  # b trusts the second and the fourth
    np.testing.assert_allclose(kept[1], [40, 0, 0, 20])  # a trusts the first and the fourth
    np.testing.assert_allclose(grads[0], [0, 10, 0, 10])
    np.testing.assert_allclose(grads[1], [20, 0, 0, 20])


def test_rates_out_of_range_are_reported():
    with pytest.raises(ValueError, match="forget_rate must lie in"):
        lossbench.checked(small_loss_mask)(jnp.ones(3), jnp.array(1.5))
