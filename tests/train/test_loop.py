from functools import partial

import jax
import numpy as np
import pytest
from scipy import stats

from lossbench.train.loop import chunk_indices, permutation

KEY = jax.random.key(0)


@pytest.mark.parametrize("rows", [1, 2, 64, 1797])
def test_a_permutation_holds_each_row_once(rows):
    order = permutation(KEY, rows)
    assert order.dtype == np.int32
    np.testing.assert_array_equal(np.sort(order), np.arange(rows))


def test_all_orders_are_equally_likely():
    orders = jax.vmap(partial(permutation, rows=3))(jax.random.split(KEY, 6000))
    _, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(counts) == 6
    assert stats.chisquare(counts).pvalue > 0.01


@pytest.mark.parametrize("rows", [7, 8, 40])
def test_a_chunk_is_the_same_piece_of_the_order_wherever_it_starts(rows):
    whole = chunk_indices(KEY, rows, 4, 0, 30)
    piece = jax.jit(partial(chunk_indices, KEY, rows, 4, length=5))
    for start in range(25):
        np.testing.assert_array_equal(piece(start), whole[start : start + 5])
