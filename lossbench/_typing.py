"""Array aliases, `@typed` (the signature is the check) and value checks, free when off."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax
import numpy as np
from beartype import beartype
from jax.experimental import checkify
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Integer, Key, Real, UInt32, jaxtyped

import lossbench

__all__ = [
    "AnyArray",
    "Bool",
    "Float",
    "Integer",
    "PRNGKey",
    "Real",
    "Scalar",
    "check",
    "checked",
    "typed",
]

P = ParamSpec("P")
T = TypeVar("T")

AnyArray = jax.Array | np.ndarray
"""A jax array, a tracer or a numpy array."""

Scalar = Real[ArrayLike, ""]
"""A Python or numpy number, a 0-d array or a tracer of one."""

PRNGKey = Key[jax.Array, ""] | UInt32[AnyArray, "2"]
"""One random key, new-style (`jax.random.key`) or raw (`jax.random.PRNGKey`)."""


def typed(fn: Callable[P, T]) -> Callable[P, T]:
    """Check shapes and dtypes of `fn`'s arguments and result against its annotations.

    The check runs in Python, so it costs nothing inside jit once traced. A mismatch raises a
    `TypeError` that names the function, the argument, what came and what was expected.
    """
    return jaxtyped(typechecker=beartype)(fn)


def check(predicate: Callable[[], Bool[AnyArray, "..."]], message: str, **values: Any) -> None:
    """Report `message` where `predicate()` is false, but only inside `lossbench.checked`.

    `message` is a format string over `values`, which may be functions too. Outside `checked`
    neither the predicate nor such a value is computed.
    """
    if lossbench._checking.value:
        given = {name: value() if callable(value) else value for name, value in values.items()}
        checkify.check(jax.numpy.all(predicate()), message, **given)


def checked(fn: Callable[P, T]) -> Callable[P, T]:
    """Return `fn` with value checks on: labels out of range, probabilities that do not sum to one.

    Put it outermost, around `jit`, `vmap` and `grad`; static arguments must be closed over.
    A failed check raises a `ValueError` (checkify's) after the computation.

    >>> import jax.numpy as jnp
    >>> import lossbench
    >>> from lossbench.classification import comp_sum_loss
    >>> lossbench.checked(comp_sum_loss)(jnp.zeros((1, 3)), jnp.array([7]))
    Traceback (most recent call last):
        ...
    jax._src.checkify.JaxRuntimeError: labels must lie in [0, 3), got 7 (`check` failed)
    """
    # Built once: rebuilding the checkified function at each call costs a fresh trace.
    functional = jax.jit(checkify.checkify(fn))

    @functools.wraps(fn)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        with lossbench._checking(True):
            error, value = functional(*args, **kwargs)
        error.throw()
        return value

    return run
