"""Deliberately broken functions: each is caught by the check that is named for it."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from examination import examine
from kinds import Example, Keyed, Stateful

from lossbench._math import masked_mean, pairwise_euclidean, widen
from lossbench._typing import AnyArray, Bool, Float, Integer, Scalar, typed

X = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
LABELS = np.array([0, 1, 2, 0, 1, 2])
WHOLE = Example((X,), rows=(0,))
TRACED = Example((X,), rows=(0,), traced={"margin": (0.5, 0.7)})


@typed
def sound(
    x: Float[AnyArray, "n d"],
    labels: Integer[AnyArray, " n"],
    *,
    margin: Scalar = 0.5,
    where: Bool[AnyArray, " n"] | None = None,
) -> Float[jax.Array, " n"]:
    """Mean distance of each row to those of its label, over the margin: nothing wrong with it."""
    x, labels = widen(x), jnp.asarray(labels)
    where = jnp.ones(len(x), bool) if where is None else jnp.asarray(where)
    distances = pairwise_euclidean(jnp.where(where[:, None], x, 0))
    same = (labels[:, None] == labels) & where & where[:, None] & ~jnp.eye(len(x), dtype=bool)
    return masked_mean(distances, same, 1) * jnp.asarray(margin, x.dtype)


SOUND = Example((X, LABELS), rows=(0, 1), traced={"margin": (0.5, 0.7)})


def nan_on_duplicate_rows(x: Float[AnyArray, "n d"], *, where: Bool[AnyArray, " n"]):
    x = jnp.where(where[:, None], x, 0)
    off = where & where[:, None] & ~jnp.eye(len(x), dtype=bool)
    squared = jnp.sum((x[:, None] - x) ** 2, -1) + jnp.eye(len(x))
    return jnp.sum(jnp.where(off, jnp.sqrt(squared), 0), 1)


def leaks_padding(x, *, where):
    return jnp.where(where, jnp.sum((x - jnp.mean(jnp.nan_to_num(x), 0)) ** 2, 1), 0)


def gradient_reaches_padding(x, *, where):
    return jnp.where(where, jnp.sqrt(jnp.sum(x**2, 1)), 0)


def coupled_without_mask(x):
    return jnp.sum((x - jnp.mean(x, 0)) ** 2, 1)


@functools.partial(jax.jit, static_argnames="margin")
def _static(x, margin):
    return jnp.sum(x, 1) * margin


def recompiles_for_each_margin(x, *, margin):
    return _static(x, margin=float(margin))


def ignores_its_margin(x, *, margin):
    return jnp.sum(x, 1) + 0 * margin


@jax.custom_batching.custom_vmap
def _first_member(x):
    return jnp.sum(x, 1)


@_first_member.def_vmap
def _(axis_size, _, x):
    return jnp.broadcast_to(jnp.sum(x[0], 1), (axis_size, x.shape[1])), True


def ignores_the_axis_of_vmap(x):
    return _first_member(x) + jnp.sum(x**2, 1) * 0


@jax.custom_jvp
def _square(x):
    return x**2


_square.defjvp(lambda primals, tangents: (primals[0] ** 2, 1.99 * primals[0] * tangents[0]))


def wrong_gradient(x):
    return jnp.sum(_square(x), 1)


def wrong_margin_gradient(x, *, margin):
    return jnp.sum(x, 1) * _square(jnp.asarray(margin, x.dtype))


def accepts_any_shape(x):
    return jnp.sum(x, -1)


@typed
def accepts_any_dtype(x: AnyArray):
    return jnp.sum(widen(x), 1)


def names_no_argument(x):
    if x.ndim != 2:
        raise TypeError("bad input")
    return jnp.sum(x, 1)


def reduced(x):
    return jnp.mean(x)


def sums_in_bfloat16(x):
    # By a loop: under jit XLA would keep a plain sum in float32.
    start = jnp.zeros(len(x), x.dtype)
    total, _ = jax.lax.scan(lambda carry, column: (carry + column, None), start, x.T)
    return total.astype(jnp.float32)


def stays_in_bfloat16(x):
    return jnp.sum(x, 1)


def eager_differs(x):
    return jnp.sum(x, 1) * (1.0 if isinstance(x, jax.core.Tracer) else 1.01)


def depends_on_position(x):
    return jnp.sum(x, 1) * (1 + jnp.arange(len(x)))


def scalar_depends_on_order(x):
    return jnp.sum(x * jnp.arange(len(x))[:, None])


def weak_result(x, *, margin):
    return jnp.sum(x, 1) * margin


def overflows(x):
    return jnp.log(jnp.sum(jnp.exp(x), 1))


BROKEN = [
    (nan_on_duplicate_rows, WHOLE, "hostile"),
    (leaks_padding, WHOLE, "padding"),
    (gradient_reaches_padding, WHOLE, "padding"),
    (coupled_without_mask, WHOLE, "padding"),
    (recompiles_for_each_margin, TRACED, "one_trace"),
    (ignores_its_margin, TRACED, "one_trace"),
    (ignores_the_axis_of_vmap, WHOLE, "vmap"),
    (wrong_gradient, WHOLE, "gradient"),
    (wrong_margin_gradient, TRACED, "gradient"),
    (accepts_any_shape, WHOLE, "wrong_shape"),
    (names_no_argument, WHOLE, "wrong_shape"),
    (accepts_any_dtype, WHOLE, "wrong_dtype"),
    (reduced, WHOLE, "result"),
    (stays_in_bfloat16, WHOLE, "bfloat16"),
    (sums_in_bfloat16, WHOLE, "bfloat16"),
    (eager_differs, WHOLE, "eager"),
    (depends_on_position, WHOLE, "permutation"),
    (scalar_depends_on_order, Example((X,), rows=(0,), result="scalar"), "permutation"),
    (weak_result, TRACED, "weak_types"),
    (overflows, WHOLE, "hostile"),
]


@pytest.mark.parametrize(
    ("fn", "example", "check"), BROKEN, ids=lambda v: getattr(v, "__name__", v)
)
def test_fault_is_caught(fn, example, check):
    assert examine(fn, example, (check,))[check] is not None


def test_sound_function_passes():
    assert not {k: v for k, v in examine(sound, SOUND).items() if v}


class Running(NamedTuple):
    mean: jax.Array


def init():
    return Running(jnp.zeros(4))


def update(state, x):
    mean = 0.9 * state.mean + 0.1 * jnp.mean(x, 0)
    return jnp.sum((x - mean) ** 2, 1), Running(mean)


def update_to_other_dtype(state, x):
    value, state = update(state, x)
    return value, Running(state.mean.astype(jnp.bfloat16))


hidden = iter(range(100))


def update_with_hidden_state(state, x):
    return update(state, x * next(hidden))


BATCHES = ((X,), (2 * X,), (X[::-1],), (3 * X,))


@pytest.mark.parametrize(
    ("broken", "check"), [(update_to_other_dtype, "state"), (update_with_hidden_state, "eager")]
)
def test_faulty_state_is_caught(broken, check):
    assert examine(broken, Stateful(init, broken, BATCHES), (check,))[check] is not None


def test_sound_state_passes():
    assert not {k: v for k, v in examine(update, Stateful(init, update, BATCHES)).items() if v}


def draw(key, x):
    return x + jax.random.normal(key, x.shape)


def ignores_its_key(key, x):
    return x


def reads_numpys_generator(key, x):
    return draw(key, x) + np.random.default_rng().normal()


def takes_new_keys_only(key, x):
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        raise TypeError("key must come from jax.random.key")
    return draw(key, x)


@pytest.mark.parametrize(
    ("broken", "check"),
    [
        (ignores_its_key, "same_key"),
        (reads_numpys_generator, "eager"),
        (takes_new_keys_only, "key_styles"),
    ],
)
def test_faulty_randomness_is_caught(broken, check):
    assert examine(broken, Keyed((X,)), (check,))[check] is not None


def test_sound_randomness_passes():
    assert not {k: v for k, v in examine(draw, Keyed((X,))).items() if v}
