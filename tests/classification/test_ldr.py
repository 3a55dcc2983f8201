from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize

import lossbench
from lossbench.classification import (
    crammer_singer_loss,
    ldr_kl_loss,
    ldr_kl_weights,
    normalize_scores,
    score_gaps,
    symmetric_limit_loss,
)

N, K = 6, 5


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    return 2 * rng.normal(size=(N, K)), rng.integers(0, K, N)


def gaps_by_hand(scores, labels, margin):
    return np.array(
        [
            [0 if j == y else f[j] - f[y] + margin for j in range(K)]
            for f, y in zip(scores, labels, strict=True)
        ]
    )


def softplus_mean(logits):
    positive = np.log1p(np.exp(logits))
    return positive / positive.mean(axis=1, keepdims=True)


def test_normalizations(batch):
    logits, _ = batch
    with jax.enable_x64(True):
        np.testing.assert_allclose(
            normalize_scores(logits, mode="softplus_mean"), softplus_mean(logits), rtol=1e-12
        )
        np.testing.assert_allclose(
            normalize_scores(logits, mode="l1_mean"),
            logits / np.abs(logits).mean(axis=1, keepdims=True),
            rtol=1e-12,
        )
        np.testing.assert_array_equal(normalize_scores(logits, mode=None), logits)


def test_normalizations_at_the_edge():
    """Where softplus underflows its ratios are those of exponentials; l1 ignores any scale."""
    far = jnp.array([[-1e4, -1e4 + 1, -2e4], [1e4, -1e4, 0.0]])
    softmax = np.array([1, np.e, 0]) / (1 + np.e)
    first, second = normalize_scores(far)
    np.testing.assert_allclose(first, 3 * softmax, rtol=1e-3)
    np.testing.assert_allclose(second, [3, 0, 3 * np.log(2) / 1e4], rtol=1e-3)
    rows = jnp.array([[1.0, -3.0, 2.0]]) * jnp.array([[1e30], [1e-30], [0.0]])
    scores = normalize_scores(rows, mode="l1_mean")
    np.testing.assert_allclose(scores, np.array([[0.5, -1.5, 1.0]] * 2 + [[0, 0, 0]]), rtol=1e-6)
    for mode in ("softplus_mean", "l1_mean"):
        for values in (far, rows):
            gradient = jax.grad(lambda x, mode=mode: jnp.sum(normalize_scores(x, mode=mode)[:, 0]))(
                values
            )
            assert jnp.all(jnp.isfinite(gradient))


def test_l1_gradient_is_exact():
    # o_0 / mean |o| at (1, -3): (2 / 4, 2 * 1 / 16), and 1e20 times larger at 1e-20 the scale.
    gradient = jax.grad(lambda x: normalize_scores(x, mode="l1_mean")[0, 0])
    expected = np.array([[0.5 - 2 / 16, 2 / 16]])
    np.testing.assert_allclose(gradient(jnp.array([[1.0, -3.0]])), expected, rtol=1e-6)
    np.testing.assert_allclose(gradient(jnp.array([[1e-20, -3e-20]])), expected * 1e20, rtol=1e-6)


def test_gaps_by_loop(batch):
    scores, labels = batch
    costs = np.random.default_rng(1).uniform(size=(K, K))
    with jax.enable_x64(True):
        np.testing.assert_allclose(
            score_gaps(scores, labels, margin=0.3), gaps_by_hand(scores, labels, 0.3), rtol=1e-12
        )
        sensitive = score_gaps(scores, labels, margin=costs)
    for i, y in enumerate(labels):
        for j in range(K):
            expected = 0 if j == y else scores[i, j] - scores[i, y] + costs[y, j]
            assert sensitive[i, j] == pytest.approx(expected, rel=1e-12)


def test_loss_is_the_maximum_over_weights():
    gaps = np.array([0.0, 1.3, -0.4])
    temperature = 0.7

    def negative(p):
        return temperature * np.sum(p * np.log(3 * p)) - p @ gaps

    found = scipy.optimize.minimize(
        negative,
        np.full(3, 1 / 3),
        bounds=scipy.optimize.Bounds(1e-9, 1),
        constraints=scipy.optimize.LinearConstraint(np.ones(3), 1, 1),
        tol=1e-12,
    )
    with jax.enable_x64(True):
        loss = ldr_kl_loss(
            gaps[None], np.array([0]), temperature=temperature, margin=0.0, normalize=None
        )
        weights = ldr_kl_weights(gaps[None], temperature=temperature)
    np.testing.assert_allclose(loss, [-found.fun], rtol=1e-9)
    np.testing.assert_allclose(weights[0], found.x, atol=1e-5)


def test_authors_form(batch):
    """The reference code's LDRLoss_V1, as numpy: lambda log mean exp of normalised gaps."""
    logits, labels = batch
    for temperature, margin in [(1.0, 2.0), (0.1, 0.1), (10.0, 0.1)]:
        gaps = gaps_by_hand(softplus_mean(logits), labels, margin)
        expected = temperature * np.log(np.mean(np.exp(gaps / temperature), axis=1))
        with jax.enable_x64(True):
            loss = jax.jit(ldr_kl_loss)(logits, labels, temperature=temperature, margin=margin)
        np.testing.assert_allclose(loss, expected, rtol=1e-10)


def test_special_temperatures(batch):
    logits, labels = batch
    plain: dict[str, Any] = {"margin": 0.0, "normalize": None}
    with jax.enable_x64(True):
        cross_entropy = optax.losses.softmax_cross_entropy_with_integer_labels
        temperatures = np.linspace(0.2, 3, N)
        np.testing.assert_allclose(
            ldr_kl_loss(logits, labels, **plain) + np.log(K),
            cross_entropy(jnp.asarray(logits), labels),
            rtol=1e-10,
        )
        np.testing.assert_allclose(
            ldr_kl_loss(logits, labels, temperature=temperatures, **plain),
            temperatures
            * (cross_entropy(jnp.asarray(logits) / temperatures[:, None], labels) - np.log(K)),
            rtol=1e-10,
        )
        worst = crammer_singer_loss(logits, labels, margin=0.4)
        cold = ldr_kl_loss(logits, labels, temperature=1e-3, margin=0.4, normalize=None)
        assert np.all((worst - cold >= 0) & (worst - cold <= 1e-3 * np.log(K) + 1e-12))
        mean = symmetric_limit_loss(logits, labels)
        np.testing.assert_allclose(ldr_kl_loss(logits, labels, temperature=1e6), mean, atol=1e-5)
        by_temperature = [
            ldr_kl_loss(logits, labels, temperature=t, normalize=None) for t in (0.1, 1.0, 10.0)
        ]
        assert np.all(np.diff(np.stack(by_temperature), axis=0) < 0)


def test_limits_by_hand(batch):
    logits, labels = batch
    hinge = [max(0, 1 + max(np.delete(f, y)) - f[y]) for f, y in zip(logits, labels, strict=True)]
    with jax.enable_x64(True):
        np.testing.assert_allclose(crammer_singer_loss(logits, labels), hinge, rtol=1e-12)
        np.testing.assert_allclose(
            symmetric_limit_loss(logits, labels, margin=0.3, normalize=None),
            gaps_by_hand(logits, labels, 0.3).mean(axis=1),
            rtol=1e-12,
        )
        for mode in ("softplus_mean", "l1_mean", None):
            losses = [
                symmetric_limit_loss(logits, np.full(N, y), margin=0.3, normalize=mode)
                for y in range(K)
            ]
            np.testing.assert_allclose(np.sum(losses, axis=0), (K - 1) * 0.3, rtol=1e-10)


def test_gradient_is_weights_less_label(batch):
    logits, labels = batch
    with jax.enable_x64(True):
        gradient = jax.grad(
            lambda f: ldr_kl_loss(f, labels, temperature=0.3, margin=0.5, normalize=None).sum()
        )(logits)
    p = np.exp(gaps_by_hand(logits, labels, 0.5) / 0.3)
    p /= p.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(gradient, p - np.eye(K)[labels], atol=1e-12)


def test_invariances(batch):
    logits, labels = batch
    with jax.enable_x64(True):
        np.testing.assert_allclose(
            ldr_kl_loss(logits + 7.0, labels, normalize=None),
            ldr_kl_loss(logits, labels, normalize=None),
            rtol=1e-12,
        )
        np.testing.assert_allclose(
            ldr_kl_loss(logits * 7.0, labels, normalize="l1_mean"),
            ldr_kl_loss(logits, labels, normalize="l1_mean"),
            rtol=1e-12,
        )


def population_softmax(q, ratio):
    """Solve s (E - (E - 1) s) = c q with sum s = 1, E = exp(margin / temperature), for s."""

    def share(c):
        return 2 * c * q / (ratio + np.sqrt(ratio**2 - 4 * (ratio - 1) * c * q))

    # The root exists up to the discriminant's zero; at E = 1 the equation is linear.
    top = ratio**2 / (4 * (ratio - 1) * q.max()) if ratio > 1 else 2.0
    c = scipy.optimize.brentq(lambda c: share(c).sum() - 1, 0, top, xtol=1e-15)
    return share(c)


@pytest.mark.parametrize("margin", [0.0, 0.1])
@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_population_minimiser_keeps_the_order_of_all_classes(margin, temperature):
    rng = np.random.default_rng(4)
    for q in rng.dirichlet(np.ones(K), 5):
        if margin and q.max() > 0.45:
            continue  # The minimiser lies on the other branch of the quadratic.
        s = population_softmax(q, np.exp(margin / temperature))
        if margin == 0:
            np.testing.assert_allclose(s, q, rtol=1e-9)
        assert np.array_equal(np.argsort(s), np.argsort(q))
        with jax.enable_x64(True):

            def risk(f, q=q):
                losses = ldr_kl_loss(
                    jnp.broadcast_to(f, (K, K)),
                    np.arange(K),
                    temperature=temperature,
                    margin=margin,
                    normalize=None,
                )
                return q @ losses

            gradient = jax.jit(jax.grad(risk))(temperature * np.log(s))
        np.testing.assert_allclose(gradient, 0, atol=1e-9)


def test_values_and_types_are_checked(batch):
    logits, labels = batch
    with pytest.raises(ValueError, match="temperature must be positive"):
        lossbench.checked(
            lambda t: ldr_kl_loss(jnp.zeros((2, 3)), jnp.zeros(2, int), temperature=t)
        )(0.0)
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 3\), got 3"):
        lossbench.checked(score_gaps)(jnp.zeros((2, 3)), jnp.array([0, 3]))
    with pytest.raises(TypeError, match="normalize"):
        ldr_kl_loss(logits, labels, normalize="max")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="margin"):
        ldr_kl_loss(logits, labels, margin=np.zeros((K, K + 1)))
