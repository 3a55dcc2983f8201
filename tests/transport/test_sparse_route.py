import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from lossbench.transport import sparse_ot, sparse_ot_route

CROWDED = jnp.array([2.0, 0.0, 0.0, 0.0])


@pytest.fixture
def similarity():
    logits = np.random.default_rng(0).normal(size=(32, 4)) + CROWDED
    return jax.nn.softmax(logits)


def test_experts_take_their_capacity_and_the_weights_are_the_similarities(similarity):
    weights = np.asarray(sparse_ot_route(similarity, k=8))
    np.testing.assert_array_equal((weights > 0).sum(0), 8)
    np.testing.assert_array_equal(weights, np.where(weights > 0, similarity, 0))


def test_long_routing_covers_the_tokens_that_the_plan_covers(similarity):
    routed = sparse_ot_route(similarity, k=8, steps=3000, gamma=0.02)
    one_each = jnp.ones(32)
    out = sparse_ot(-similarity, one_each, jnp.full(4, 8.0), k=8, gamma=0.02, tolerance=1e-3)
    np.testing.assert_array_equal(np.sum(routed > 0, 1) > 0, np.sum(out.matrix, 1) > 0)
    greedy = sparse_ot_route(similarity, k=8, steps=0)
    assert np.sum(routed.sum(1) == 0) < np.sum(greedy.sum(1) == 0)


def test_one_choice_a_token_is_the_best_balanced_assignment(similarity):
    weights = np.asarray(sparse_ot_route(similarity, k=1, choose="experts", steps=300))
    seats = np.repeat(np.asarray(similarity), 8, axis=1)
    best = seats[linear_sum_assignment(seats, maximize=True)].sum()
    np.testing.assert_array_equal((weights > 0).sum(0), 8)
    np.testing.assert_array_equal((weights > 0).sum(1), 1)
    np.testing.assert_allclose(weights.sum(), best, rtol=1e-6)


def test_tokens_choose_the_experts_of_the_plan(similarity):
    """Of k experts a token chooses, the plan may leave one without mass: counts are not even."""
    weights = sparse_ot_route(similarity, k=2, choose="experts", steps=300, gamma=0.05)
    loads, one_each = jnp.full(4, 8.0), jnp.ones(32)
    out = sparse_ot(-similarity.T, loads, one_each, k=2, gamma=0.05, tolerance=1e-3)
    assert out.converged
    np.testing.assert_array_equal(np.sum(weights > 0, 1), 2)
    assert np.all((weights > 0)[out.matrix.T > 0])


def test_absent_tokens_are_never_taken(similarity):
    there = np.arange(32) < 20
    garbage = jnp.where(there[:, None], similarity, jnp.nan)
    for choose, k in (("tokens", 5), ("experts", 1)):
        weights = sparse_ot_route(garbage, k=k, choose=choose, where=there)
        short = sparse_ot_route(similarity[:20], k=k, choose=choose)
        np.testing.assert_allclose(weights[:20], short)
        np.testing.assert_array_equal(weights[20:], 0)
