import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from lossbench._math import argsort, sort, sort_and_argsort

HARD = [3, -0.0, 0.0, np.nan, -np.inf, 2, -np.nan, 2, np.inf, -1e-40, 1e-40, -5, 0.0, -5, 1, -0.0]
WEIGHTS = jnp.arange(1.0, 7.0)
X = jnp.array([[0.3, -1.2, 0.3, 2.5, -0.7, 0.1], [1.0, 5.0, -2.0, 0.0, 4.0, -9.0]])


def check_against_jnp(x, axis=-1):
    values, permutation = sort_and_argsort(x, axis)
    expected = jnp.argsort(x, axis, stable=True)
    np.testing.assert_array_equal(permutation, expected)
    assert permutation.dtype == expected.dtype
    np.testing.assert_array_equal(argsort(x, axis), expected)
    for got in (values, sort(x, axis)):
        assert got.dtype == jnp.asarray(x).dtype
        reference = jnp.sort(x, axis)
        # Subnormal numbers come out as zeros.
        np.testing.assert_allclose(
            np.asarray(got, np.float64), np.asarray(reference, np.float64), rtol=0, atol=1e-39
        )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_equals_jnp_on_hard_values(dtype):
    with jax.enable_x64(dtype == "float64"):
        check_against_jnp(jnp.asarray(np.array(HARD), dtype))
        rng = np.random.default_rng(0)
        x = rng.normal(size=(3, 4, 500)).round(2)
        x.flat[rng.integers(0, x.size, 200)] = np.nan
        for axis in (0, 1, -1):
            check_against_jnp(jnp.asarray(x, dtype), axis)
        magnitudes = 10.0 ** rng.uniform(-30, 30, 1000) * rng.choice([-1, 1], 1000)
        with np.errstate(over="ignore"):  # float16 takes most of them for inf or 0
            check_against_jnp(jnp.asarray(magnitudes.astype(jnp.dtype(dtype))))


def test_neighbouring_doubles_sort_by_their_low_words():
    with jax.enable_x64(True):
        x = np.random.default_rng(0).permutation(1000) * np.spacing(1.0)
        for values in (1 + x, -1 - x, x):
            assert len(np.unique(values)) == 1000
            np.testing.assert_array_equal(argsort(values), np.argsort(values, kind="stable"))
            np.testing.assert_array_equal(sort(values), np.sort(values))


@pytest.mark.parametrize("n", [0, 1, 2**16, 2**16 + 1])
def test_row_lengths_about_the_packing_limit(n):
    x = jnp.asarray(np.random.default_rng(0).normal(size=n), jnp.bfloat16)
    check_against_jnp(x)


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, bool])
def test_other_dtypes_go_to_jnp(dtype):
    check_against_jnp(np.array([3, 1, 2, 1], dtype))


def test_sixteen_bit_results_inside_an_x64_session():
    with jax.enable_x64(True):
        check_against_jnp(jnp.asarray(np.array(HARD), jnp.bfloat16))
        check_against_jnp(jnp.asarray(np.array(HARD), jnp.float32))
        got = jax.jit(sort)(X)
    assert jax.jit(sort)(X).dtype == got.dtype == jnp.float32


def objective(sort):
    return lambda x: jnp.sum(jnp.sin(sort(x)) * WEIGHTS)


@pytest.mark.parametrize("ours", [sort, lambda x: sort_and_argsort(x)[0]])
@pytest.mark.parametrize("transform", [jax.grad, jax.jacfwd, jax.hessian, jax.jacrev])
def test_derivatives(ours, transform):
    # Oracle: with the permutation known, sorting is linear.
    order = np.argsort(np.asarray(X[0]), kind="stable")
    got = jax.jit(transform(objective(ours)))(X[0])
    expected = jax.jit(transform(objective(lambda x: x[order])))(X[0])
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_derivative_along_a_leading_axis():
    def total(sort):
        return lambda x: jnp.sum(jnp.sin(sort(x)) * jnp.array([[1.0], [2.0]]))

    order = np.argsort(np.asarray(X), 0, kind="stable")
    got = jax.grad(total(lambda x: sort(x, 0)))(X)
    expected = jax.grad(total(lambda x: jnp.take_along_axis(x, order, 0)))(X)
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_permutation_has_no_derivative():
    np.testing.assert_array_equal(jax.grad(lambda x: x[argsort(x)][0])(X[1]), [0, 0, 0, 0, 0, 1])


def in_while(x):
    return lax.while_loop(lambda s: s[0] < 1, lambda s: (s[0] + 1, sort(s[1])), (0, x))[1]


def in_shard_map(x):
    mesh = jax.make_mesh((1,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.P("rows")
    return jax.shard_map(sort, mesh=mesh, in_specs=rows, out_specs=rows)(x)


WRAPPED = {
    "vmap": jax.vmap(sort),
    "nested vmap": lambda x: jax.vmap(jax.vmap(sort))(x[None])[0],
    "scan": lambda x: lax.scan(lambda carry, row: (carry, sort(row)), 0, x)[1],
    "map": lambda x: lax.map(sort, x),
    "while": in_while,
    "cond": lambda x: lax.cond(x[0, 0] > -9, sort, lambda x: x, x),
    "remat": jax.remat(sort),
    "shard_map": in_shard_map,
}


@pytest.mark.parametrize("name", WRAPPED)
def test_inside_transformations(name):
    wrapped = WRAPPED[name]
    tangent = jnp.cos(X)
    order = np.argsort(np.asarray(X), kind="stable")

    value, slope = jax.jit(lambda x: jax.jvp(wrapped, (x,), (tangent,)))(X)
    np.testing.assert_array_equal(value, np.sort(X))
    np.testing.assert_array_equal(slope, np.take_along_axis(np.asarray(tangent), order, 1))
    if name != "while":  # which has no reverse mode
        got = jax.jit(jax.grad(lambda x: jnp.sum(wrapped(x) * WEIGHTS)))(X)
        expected = np.zeros(X.shape)
        np.put_along_axis(expected, order, np.asarray(WEIGHTS)[None], 1)
        np.testing.assert_array_equal(got, expected)


LARGE = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8192)).round(3), jnp.float32)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
def test_large_arrays_sort_on_the_host_as_small_ones_do(dtype):
    with jax.enable_x64(dtype == "float64"):
        hard = np.random.default_rng(0).choice(HARD, size=(3, 8192))
        check_against_jnp(jnp.asarray(hard, dtype))
        check_against_jnp(jnp.asarray(LARGE, dtype))


@pytest.mark.parametrize("name", ["vmap", "scan", "remat", "shard_map"])
def test_large_arrays_inside_transformations(name):
    weights = jnp.cos(jnp.arange(LARGE.shape[1]))
    before = np.array(LARGE)
    value, slope = jax.jit(jax.value_and_grad(lambda x: jnp.sum(WRAPPED[name](x) * weights)))(LARGE)
    expected = np.zeros(LARGE.shape)
    np.put_along_axis(expected, np.argsort(before, -1, kind="stable"), np.asarray(weights), -1)
    np.testing.assert_allclose(value, np.sum(np.sort(before) * np.asarray(weights)), rtol=1e-4)
    np.testing.assert_allclose(slope, expected, rtol=1e-6)
    np.testing.assert_array_equal(LARGE, before)  # sorted in place, but not the caller's


def test_accelerators_sort_with_xla():
    """Elsewhere than on CPU the integer image must not be used."""

    def platform_sorts(platform):
        text = jax.jit(sort).trace(X).lower(lowering_platforms=(platform,)).as_text()
        return "bitcast_convert" in text

    assert platform_sorts("cpu")
    assert not platform_sorts("cuda")
    assert not platform_sorts("tpu")
