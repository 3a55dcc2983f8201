import itertools

import jax
import jax.numpy as jnp
import numpy as np
import ot
import pytest

from lossbench.transport import (
    sparse_simplex_projection,
    topk_relu_conjugate,
    topk_simplex_conjugate,
)
from lossbench.transport.sparse_conjugates import leading_entries

GAMMA = 0.7


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    return rng.normal(size=(5, 6)), rng.uniform(0.3, 2, 5)


def brute_force(scores, mass, k):
    """Maximum and maximiser over every support: on each, tau by bisection."""
    best = -np.inf, None
    for support in itertools.combinations(range(len(scores)), k):
        s = scores[list(support)]
        low, high = s.min() - GAMMA * mass, s.max()
        for _ in range(200):
            middle = (low + high) / 2
            heavy = np.maximum(s - middle, 0).sum() > GAMMA * mass
            low, high = (middle, high) if heavy else (low, middle)
        t = np.zeros(len(scores))
        t[list(support)] = np.maximum(s - low, 0) / GAMMA
        value = scores @ t - GAMMA / 2 * t @ t
        if value > best[0]:
            best = value, t
    return best


@pytest.mark.parametrize("k", [1, 2, 4, 6])
def test_simplex_conjugate_is_brute_force(rows, k):
    scores, mass = rows
    with jax.enable_x64(True):

        def total(scores, mass):
            return topk_simplex_conjugate(scores, mass, k=k, gamma=GAMMA).sum()

        value = topk_simplex_conjugate(scores, mass, k=k, gamma=GAMMA)
        by_scores, by_mass = jax.grad(total, (0, 1))(scores, mass)
        plan = sparse_simplex_projection(scores / GAMMA, mass, k=k)
    for i in range(5):
        expected, t = brute_force(scores[i], mass[i], k)
        np.testing.assert_allclose(value[i], expected, rtol=1e-12)
        np.testing.assert_allclose(by_scores[i], t, atol=1e-12)
        np.testing.assert_allclose(plan[i], t, atol=1e-12)
        step = 1e-6
        slope = (
            brute_force(scores[i], mass[i] + step, k)[0]
            - brute_force(scores[i], mass[i] - step, k)[0]
        ) / (2 * step)
        np.testing.assert_allclose(by_mass[i], slope, atol=1e-8)


@pytest.mark.parametrize("k", [1, 3, 6])
def test_relu_conjugate_is_its_definition(rows, k):
    scores, _ = rows
    top = -np.sort(-scores, axis=1)[:, :k]
    with jax.enable_x64(True):
        value, gradient = jax.vmap(
            jax.value_and_grad(lambda s: topk_relu_conjugate(s[None], k=k, gamma=GAMMA)[0])
        )(jnp.asarray(scores))
    np.testing.assert_allclose(value, (np.maximum(top, 0) ** 2).sum(1) / (2 * GAMMA), rtol=1e-12)
    kept = scores >= top[:, -1:]
    np.testing.assert_allclose(gradient, kept * np.maximum(scores, 0) / GAMMA, atol=1e-12)


def test_largest_over_masses_is_the_unconstrained_conjugate(rows):
    scores = np.abs(rows[0])
    masses = np.linspace(0, 20, 4001)
    with jax.enable_x64(True):
        unconstrained = topk_relu_conjugate(scores, k=2, gamma=GAMMA)
        by_mass = [
            topk_simplex_conjugate(np.tile(s, (len(masses), 1)), masses, k=2, gamma=GAMMA).max()
            for s in scores
        ]
    np.testing.assert_allclose(by_mass, unconstrained, rtol=1e-5)


@pytest.mark.parametrize("k", [1, 3])
def test_projection_is_pots(rows, k):
    scores = rows[0]
    with jax.enable_x64(True):
        ours = sparse_simplex_projection(scores, np.ones(5), k=k)
    theirs = ot.utils.projection_sparse_simplex(scores.copy(), k, axis=1)
    np.testing.assert_allclose(ours, theirs, atol=1e-12)


def test_derivative_of_the_projection_is_the_deviation_from_the_mean(rows):
    scores, mass = rows
    direction = np.random.default_rng(1).normal(size=scores.shape)
    with jax.enable_x64(True):
        plan, change = jax.jvp(
            lambda v: sparse_simplex_projection(v, mass, k=3),
            (jnp.asarray(scores),),
            (jnp.asarray(direction),),
        )
    for t, d, c in zip(np.asarray(plan), direction, change, strict=True):
        on = t > 0
        np.testing.assert_allclose(c, np.where(on, d - d[on].mean(), 0), atol=1e-12)


def test_small_masses_do_not_drown_in_large_scores():
    scores = 1e3 + np.random.default_rng(0).normal(size=(4, 50)).astype(np.float32)
    plan = sparse_simplex_projection(scores, np.full(4, 1e-6, np.float32), k=5)
    np.testing.assert_allclose(plan.sum(1), 1e-6, rtol=1e-5)
    empty = sparse_simplex_projection(scores, np.zeros(4, np.float32), k=5)
    np.testing.assert_array_equal(empty, 0)


@pytest.mark.parametrize("ties", [False, True])
def test_leading_entries_in_float64_are_those_of_a_sort(ties):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20, 60))
    if ties:  # equal in float32 but not in float64
        x[:, :30] = 5 + 1e-12 * rng.normal(size=(20, 30))
    with jax.enable_x64(True):
        values, where = leading_entries(jnp.asarray(x), 7)
    order = np.argsort(-x, axis=1, kind="stable")[:, :7]
    np.testing.assert_array_equal(where, order)
    np.testing.assert_array_equal(values, np.take_along_axis(x, order, 1))


def test_k_must_be_positive(rows):
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        topk_relu_conjugate(rows[0], k=0)
