from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from lossbench._math import masked_logsumexp, masked_max, masked_mean

ORACLES: dict[Any, Any] = {
    masked_mean: np.mean,
    masked_max: np.max,
    masked_logsumexp: scipy.special.logsumexp,
}
EMPTY = {masked_mean: 0.0, masked_max: -np.inf, masked_logsumexp: -np.inf}
functions = pytest.mark.parametrize("fn", ORACLES)
VALUES = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
WHERE = np.random.default_rng(1).random((5, 4)) < 0.6
WHERE[2] = False


@functions
def test_masked_entries_count_for_nothing(fn):
    @jax.jit
    def everything(values):
        def by_row(values):
            return fn(values, WHERE, 1)

        results = by_row(values), fn(values, WHERE, 0), fn(values, WHERE)
        return results, jax.jacrev(by_row)(values), jax.jacfwd(by_row)(values)

    for garbage in (np.nan, np.inf, -np.inf):
        (rows, columns, whole), slopes, forward = everything(np.where(WHERE, VALUES, garbage))
        for i in range(5):
            expected = ORACLES[fn](VALUES[i][WHERE[i]]) if WHERE[i].any() else EMPTY[fn]
            np.testing.assert_allclose(rows[i], expected, rtol=1e-6)
        for j in range(4):
            expected = ORACLES[fn](VALUES[:, j][WHERE[:, j]])
            np.testing.assert_allclose(columns[j], expected, rtol=1e-6)
        np.testing.assert_allclose(whole, ORACLES[fn](VALUES[WHERE]), rtol=1e-6)
        assert np.all(np.isfinite(slopes))
        assert not np.any(np.asarray(slopes)[:, ~WHERE])
        np.testing.assert_allclose(forward, slopes, atol=1e-7)


@functions
def test_no_mask_takes_all(fn):
    np.testing.assert_allclose(fn(VALUES), ORACLES[fn](VALUES), rtol=1e-6)
    np.testing.assert_array_equal(fn(VALUES, None, 1), fn(VALUES, np.full(VALUES.shape, True), 1))
    assert fn(np.zeros((0, 3), np.float32), axis=0).tolist() == [EMPTY[fn]] * 3


def test_derivatives():
    values, where = jnp.array([1.0, 3.0, 2.0, 9.0]), jnp.array([True, True, True, False])
    np.testing.assert_allclose(jax.grad(masked_mean)(values, where), [1 / 3, 1 / 3, 1 / 3, 0])
    np.testing.assert_allclose(jax.grad(masked_max)(values, where), [0, 1, 0, 0])
    np.testing.assert_allclose(
        jax.grad(masked_logsumexp)(values, where),
        [*scipy.special.softmax([1.0, 3.0, 2.0]), 0],
        rtol=1e-6,
    )


@functions
def test_undefined_entries_stay_undefined(fn):
    assert np.isnan(fn(np.array([1, np.nan], np.float32)))


def test_logsumexp_of_minus_infinities():
    values = jnp.array([-jnp.inf, -jnp.inf])
    value, slope = jax.value_and_grad(masked_logsumexp)(values)
    assert value == -np.inf
    assert slope.tolist() == [0, 0]
    assert masked_logsumexp(jnp.array([-jnp.inf, 2.0])) == 2
    assert masked_logsumexp(jnp.array([1e4, 1e4])) == np.float32(1e4 + np.log(2))


@functions
def test_sixteen_bits_and_broadcast_mask(fn):
    values = jnp.full((4096, 2), 100, jnp.float16)
    got = fn(values, jnp.array([True, False]))
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, ORACLES[fn](np.full(4096, 100.0)), rtol=1e-6)
