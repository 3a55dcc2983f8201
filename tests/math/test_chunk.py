import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossbench._math import map_row_blocks

X = jax.random.normal(jax.random.key(0), (10, 3))


def kernel_sums(x, *, chunk_size):
    """Row sums of a kernel over all pairs, with their labels: n x n unless chunked."""

    def block(rows, index):
        return {"sum": jnp.exp(-jnp.square(rows @ x.T)).sum(1), "index": index}

    return map_row_blocks(block, x, jnp.arange(len(x)), chunk_size=chunk_size)


@pytest.mark.parametrize("chunk_size", [1, 3, 5, 10, None])
def test_blocks_concatenate_to_the_whole(chunk_size):
    def total(x, chunk_size):
        out = kernel_sums(x, chunk_size=chunk_size)
        return (out["sum"] * (1 + out["index"])).sum(), out

    run = jax.jit(jax.value_and_grad(total, has_aux=True), static_argnums=1)
    (_, out), slope = run(X, chunk_size)
    x = np.asarray(X, np.float64)
    gram = x @ x.T
    weights = np.exp(-(gram**2))
    np.testing.assert_allclose(out["sum"], weights.sum(1), rtol=1e-5)
    np.testing.assert_array_equal(out["index"], np.arange(10))
    order = 1 + np.arange(10)
    inner = -2 * gram * weights * (order[:, None] + order)
    np.testing.assert_allclose(slope, inner @ x, rtol=1e-4, atol=1e-4)


def test_padding_reaches_neither_value_nor_gradient():
    x = jnp.arange(1.0, 6.0)

    def total(x, power):
        # The derivative in `power` is infinite at a row of zeros.
        return map_row_blocks(lambda rows: rows**power, x, chunk_size=2).sum()

    value, slopes = jax.value_and_grad(total, (0, 1))(x, -0.5)
    np.testing.assert_allclose(value, np.sum(np.arange(1, 6) ** -0.5), rtol=1e-6)
    np.testing.assert_allclose(slopes[0], -0.5 * np.arange(1, 6) ** -1.5, rtol=1e-6)
    expected = np.sum(np.arange(1, 6) ** -0.5 * np.log(np.arange(1, 6)))
    np.testing.assert_allclose(slopes[1], expected, rtol=1e-6)


def test_backward_pass_holds_one_block():
    n, chunk_size = 512, 32
    x = jax.ShapeDtypeStruct((n, 8), jnp.float32)

    def memory(chunk_size):
        def loss(x):
            return jnp.log(kernel_sums(x, chunk_size=chunk_size)["sum"]).sum()

        compiled = jax.jit(jax.grad(loss)).lower(x).compile()
        analysis = compiled.memory_analysis()
        assert analysis is not None
        return analysis.temp_size_in_bytes

    square = n * n * 4
    assert memory(None) >= square
    assert memory(chunk_size) < square / 2


def test_forward_mode_and_second_derivatives():
    def derivatives(x, chunk_size):
        def total(x):
            return kernel_sums(x, chunk_size=chunk_size)["sum"].sum()

        return jax.jacfwd(total)(x), jax.hessian(total)(x)

    run = jax.jit(derivatives, static_argnums=1)
    for chunked, whole in zip(run(X[:5], 2), run(X[:5], None), strict=True):
        np.testing.assert_allclose(chunked, whole, rtol=1e-4, atol=1e-5)


def test_chunk_size_must_be_positive():
    with pytest.raises(ValueError, match="chunk_size must be at least 1, got 0"):
        map_row_blocks(jnp.sin, X, chunk_size=0)
