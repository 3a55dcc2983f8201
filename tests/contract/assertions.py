"""Assertions on pytrees that say what they were about."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def is_float(x: Any) -> bool:
    return hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.floating)


def is_integer(x: Any) -> bool:
    return hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.integer)


def assert_close(got: Any, expected: Any, what: str, rtol: float = 1e-5) -> None:
    """Compare pytrees, leaf by leaf, relative to the largest entry of the leaf."""

    def compare(a: Any, b: Any) -> None:
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        scale = max(1e-30, float(np.max(np.abs(b), initial=0)))
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * scale, err_msg=what)

    jax.tree.map(compare, got, expected)


def assert_finite(tree: Any, what: str) -> None:
    for leaf in jax.tree.leaves(tree):
        if not is_integer(leaf):
            assert np.all(np.isfinite(np.asarray(leaf, np.float64))), f"not finite: {what}"


def assert_identical(got: Any, expected: Any, what: str) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b, err_msg=what), got, expected)
