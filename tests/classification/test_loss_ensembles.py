import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
import scipy.stats

import lossbench
from lossbench.classification import ensloss, ensloss_derivatives, inverse_box_cox

KEY = jax.random.key(0)


@pytest.mark.parametrize("exponent", [-0.5, -1e-9, 0.0, 1e-4, 0.03, 0.5, 1.0])
def test_inverse_box_cox_is_scipys(exponent):
    z = np.linspace(-0.9, 1.9, 57)
    with jax.enable_x64(True):
        value = inverse_box_cox(z, exponent=exponent)
    np.testing.assert_allclose(value, scipy.special.inv_boxcox(z, exponent), rtol=1e-12)


def test_inverse_box_cox_beyond_its_support():
    np.testing.assert_array_equal(inverse_box_cox(jnp.array([-3.0, -2.0]), exponent=0.5), 0)
    np.testing.assert_array_equal(inverse_box_cox(jnp.array([2.0, 3.0]), exponent=-0.5), jnp.inf)
    # By the exponent at 0: d/dc exp(log(1 + c z) / c) = -e^z z^2 / 2.
    with jax.enable_x64(True):
        slope = jax.grad(lambda c: inverse_box_cox(jnp.array(1.5), exponent=c))(0.0)
    np.testing.assert_allclose(slope, -np.exp(1.5) * 1.5**2 / 2, rtol=1e-12)


def is_calibrated(margins, derivatives):
    """Negative, and no smaller at a larger margin: a convex loss with these slopes exists."""
    order = np.argsort(margins, kind="stable")
    return np.all(derivatives < 0) and np.all(np.diff(derivatives[order]) >= 0)


@pytest.mark.parametrize("exponent", [-0.5, 0.0, 0.5, 1.0])
def test_derivatives_are_those_of_a_calibrated_loss(exponent):
    margins = 3 * np.random.default_rng(0).normal(size=(1000, 12)).astype(np.float32)
    draw = functools.partial(ensloss_derivatives, exponent=exponent)
    derivatives = np.asarray(jax.jit(jax.vmap(draw))(jax.random.split(KEY, 1000), margins))
    assert all(is_calibrated(s, g) for s, g in zip(margins, derivatives, strict=True))
    assert derivatives.min() >= -1 - 2e-6
    assert len(np.unique(derivatives)) > 100


def by_hand(normals, margins):
    """The official `ensLoss.forward`, step by step."""
    drawn = np.maximum(np.sort(-np.exp(normals)), -1.0)
    derivatives = np.empty_like(margins)
    for rank, i in enumerate(np.argsort(margins)):
        derivatives[i] = drawn[rank]
    derivatives[margins > 1] /= margins[margins > 1]
    return derivatives - 1e-6


def test_derivatives_and_gradient_are_the_official_ones():
    rng = np.random.default_rng(1)
    logits, labels = 2 * rng.normal(size=40), rng.integers(0, 2, 40)
    margins = np.where(labels == 1, logits, -logits)
    with jax.enable_x64(True):
        expected = by_hand(np.asarray(jax.random.normal(KEY, (40,), jnp.float64)), margins)
        np.testing.assert_allclose(ensloss_derivatives(KEY, margins), expected, rtol=1e-12)
        loss = functools.partial(ensloss, KEY, labels=labels)
        gradient = jax.grad(lambda z: loss(z).mean())(logits)
        second = jax.jvp(jax.grad(lambda z: loss(z).mean()), (logits,), (logits,))[1]
        np.testing.assert_allclose(loss(logits), expected * margins, rtol=1e-12)
    np.testing.assert_allclose(gradient, expected * np.where(labels == 1, 1, -1) / 40, rtol=1e-12)
    np.testing.assert_array_equal(second, 0)


def test_a_permuted_batch_permutes_the_derivatives():
    rng = np.random.default_rng(2)
    margins, order = rng.normal(size=30).astype(np.float32), rng.permutation(30)
    np.testing.assert_array_equal(
        ensloss_derivatives(KEY, margins[order]), ensloss_derivatives(KEY, margins)[order]
    )


def test_distribution():
    # Half the draws are clipped; E min(e^z, 1) = 1/2 + e^(1/2) Phi(-1).
    size = -ensloss_derivatives(KEY, jnp.zeros(1_000_000), floor=0.0)
    np.testing.assert_allclose(jnp.mean(size == 1), 0.5, atol=3e-3)
    np.testing.assert_allclose(size.mean(), 0.5 + np.exp(0.5) * scipy.stats.norm.cdf(-1), rtol=2e-3)


def test_hinge_is_the_limit_of_a_tight_clip():
    logits, labels = jnp.array([0.5, -2.0, 0.9, -0.3]), jnp.array([1, 1, 0, 0])
    gradient = jax.grad(lambda z: ensloss(KEY, z, labels, clip=1e-3, floor=0.0).sum())(logits)
    hinge = jax.grad(lambda z: optax.losses.hinge_loss(z, 2.0 * labels - 1).sum())(logits)
    np.testing.assert_allclose(gradient / 1e-3, hinge, rtol=1e-5)


def test_masked_rows_are_not_ranked():
    margins = jnp.array([0.5, -1.0, 2.0, 0.1])
    where = jnp.array([True, True, True, True, False, False])
    padded = jnp.concatenate([margins, jnp.array([-50.0, jnp.nan])])
    derivatives = ensloss_derivatives(KEY, padded, where=where)
    np.testing.assert_array_equal(derivatives[4:], 0)
    assert is_calibrated(np.asarray(margins), np.asarray(derivatives[:4]))
    # Whatever stands there: only how many are masked could matter, and it does not.
    other = ensloss_derivatives(KEY, padded.at[4].set(7.0), where=where)
    np.testing.assert_array_equal(other, derivatives)
    short = ensloss_derivatives(KEY, margins)
    np.testing.assert_allclose(derivatives[:4], short, rtol=1e-6)
    labels = jnp.array([1, 1, 1, 1, 5, -2])
    gradient = jax.grad(lambda z: ensloss(KEY, z, labels, where=where).sum())(padded)
    np.testing.assert_allclose(gradient, derivatives, rtol=1e-6)


def test_direction_of_a_linear_model_is_bayes():
    n, mean = 100_000, jnp.array([1.0, 0.5])
    draw, flip, train = jax.random.split(KEY, 3)
    labels = jax.random.bernoulli(flip, 0.5, (n,)).astype(int)
    x = jax.random.normal(draw, (n, 2)) + (2 * labels - 1)[:, None] * mean

    def step(weights, key):
        gradient = jax.grad(lambda w: ensloss(key, x @ w, labels).mean())(weights)
        return weights - 0.5 * gradient, None

    weights, _ = jax.jit(lambda w: jax.lax.scan(step, w, jax.random.split(train, 100)))(
        jnp.array([0.0, 1.0])
    )
    cosine = weights @ mean / jnp.linalg.norm(weights) / jnp.linalg.norm(mean)
    assert np.degrees(np.arccos(min(float(cosine), 1))) < 3


def test_values_are_checked():
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 2\), got -1"):
        lossbench.checked(ensloss)(KEY, jnp.zeros(2), jnp.array([-1, 1]))
