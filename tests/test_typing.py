import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import lossbench
from lossbench._typing import AnyArray, Float, Integer, PRNGKey, Scalar, check, typed


@typed
def scaled(
    x: Float[AnyArray, "n d"], labels: Integer[AnyArray, " n"], *, margin: Scalar = 0.5
) -> Float[jax.Array, " n"]:
    return jnp.sum(jnp.asarray(x), 1) * margin + 0 * jnp.asarray(labels)


@typed
def draw(key: PRNGKey) -> Float[jax.Array, ""]:
    return jax.random.uniform(key)


X, LABELS = np.ones((3, 2), np.float32), np.arange(3)


@pytest.mark.parametrize("x", [X, jnp.asarray(X), jnp.asarray(X, jnp.bfloat16), X.astype(float)])
@pytest.mark.parametrize(
    "margin", [1, 1.0, np.float32(1), np.float64(1), jnp.asarray(1.0), jnp.bfloat16(1), np.int32(1)]
)
def test_accepts_arrays_and_numbers(x, margin):
    np.testing.assert_allclose(np.asarray(scaled(x, LABELS, margin=margin), float), 2)


def test_accepts_tracers():
    def total(x, margin):
        return scaled(x, LABELS, margin=margin).sum()

    assert jax.jit(total)(X, 2.0) == 12
    np.testing.assert_array_equal(jax.grad(total)(X, 2.0), 2 * X)
    assert jax.grad(total, 1)(X, 2.0) == 6
    np.testing.assert_array_equal(jax.vmap(total, (None, 0))(X, jnp.arange(3.0)), [0, 6, 12])
    assert jax.jvp(lambda m: total(X, m), (1.0,), (1.0,))[1] == 6
    mesh = jax.make_mesh((1,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.P("rows")
    mapped = jax.shard_map(scaled, mesh=mesh, in_specs=(rows, rows), out_specs=rows)
    np.testing.assert_array_equal(jax.jit(mapped)(X, LABELS), [1, 1, 1])
    slope = jax.grad(lambda x: mapped(x, LABELS).sum())(jnp.asarray(X))
    np.testing.assert_array_equal(slope, X / 2)


def test_accepts_both_kinds_of_key():
    raw = jax.random.PRNGKey(0)
    assert draw(raw) == draw(np.asarray(raw)) == draw(jax.random.key(0))
    assert jax.jit(draw)(raw) == draw(raw)
    with pytest.raises(TypeError, match="key"):
        draw(jax.random.split(jax.random.key(0)))


@pytest.mark.parametrize(
    ("args", "kwargs", "words"),
    [
        ((X[0], LABELS), {}, ["scaled", "x", "f32[2]", '"n d"']),
        ((X.astype(int), LABELS), {}, ["scaled", "x", "i64[3,2]", "Float"]),
        ((X, np.arange(4)), {}, ["scaled", "labels", "i64[4]", '" n"', "n=3"]),
        ((X, LABELS.astype(float)), {}, ["scaled", "labels", "f64[3]", "Integer"]),
        ((X, LABELS), {"margin": np.ones(1)}, ["scaled", "margin", "f64[1]"]),
        ((X, LABELS), {"margin": "wide"}, ["scaled", "margin", "wide"]),
        (([[1.0]], LABELS), {}, ["scaled", "x", "[[1.0]]"]),
    ],
)
def test_mismatch_names_function_argument_what_came_and_what_was_expected(args, kwargs, words):
    with pytest.raises(TypeError) as caught:
        scaled(*args, **kwargs)
    for word in words:
        assert word.strip('"') in str(caught.value)


def test_mismatch_is_reported_at_trace_time():
    with pytest.raises(TypeError, match="labels"):
        jax.eval_shape(jax.jit(scaled), jnp.ones((3, 2)), jnp.arange(4))


def positive_log(x):
    check(lambda: x > 0, "x must be positive, got {x}", x=jnp.min(x))
    return jnp.log(x)


def in_scan(x):
    return lax.scan(lambda carry, row: (carry, positive_log(row)), 0, x)[1]


@pytest.mark.parametrize(
    "wrapped",
    [
        positive_log,
        jax.jit(positive_log),
        jax.vmap(positive_log),
        jax.grad(lambda x: positive_log(x).sum()),
        jax.jit(jax.vmap(jax.grad(positive_log))),
        in_scan,
        lambda x: lax.cond(x[0] > 0, positive_log, jnp.exp, x),
        jax.remat(positive_log),
        jax.grad(jax.remat(lambda x: positive_log(x).sum())),
    ],
    ids=["eager", "jit", "vmap", "grad", "jit vmap grad", "scan", "cond", "remat", "grad remat"],
)
def test_checked_reports_through_transformations(wrapped):
    run = lossbench.checked(wrapped)
    good, bad = jnp.array([1.0, 2.0]), jnp.array([1.0, -2.0])
    np.testing.assert_array_equal(run(good), jax.jit(wrapped)(good))
    with pytest.raises(ValueError, match=r"x must be positive, got -2\.0"):
        run(bad)
    assert np.all(np.isfinite(run(good)))  # an error does not stick
    wrapped(bad)  # nor do checks outside


def test_checks_cost_nothing_when_off():
    def bare(x):
        return jnp.log(x)

    def unreachable():
        raise AssertionError("the predicate was computed")

    def guarded(x):
        check(unreachable, "never")
        return jnp.log(x)

    assert str(jax.make_jaxpr(guarded)(1.0)) == str(jax.make_jaxpr(bare)(1.0))
    with pytest.raises(AssertionError, match="the predicate was computed"):
        lossbench.checked(guarded)(1.0)


def test_turning_checks_on_keeps_the_compiled_functions():
    traces = 0

    @jax.jit
    def count(x):
        nonlocal traces
        traces += 1
        return positive_log(x)

    x = jnp.array([1.0])
    count(x)
    run = lossbench.checked(count)
    run(x)
    after = traces
    run(x)
    count(x)
    assert traces == after
