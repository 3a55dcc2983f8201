import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lossbench.train import Run, sweep

ROWS, WIDTH, STEPS, BATCH = 23, 3, 17, 4


def member(h, key):
    """Ridge regression on a member's own noisy targets."""
    data_key, noise_key = jax.random.split(key)
    x = jax.random.normal(data_key, (ROWS, WIDTH))
    y = x.sum(1) + 0.1 * jax.random.normal(noise_key, (ROWS,))

    def loss_fn(w, state, batch, key):
        error = batch["x"] @ w - batch["y"]
        return (error**2).mean() + h["ridge"] * (w**2).sum(), (state + 1, {"largest": error.max()})

    def evaluate(w, state):
        return {"error": ((x @ w - y) ** 2).mean(), "steps": state}

    return Run(
        loss_fn, jnp.zeros(WIDTH), optax.adam(h["rate"]), {"x": x, "y": y}, jnp.int32(0), evaluate
    )


H = {"rate": jnp.array([0.01, 0.1, 0.3]), "ridge": jnp.array([0.0, 0.1, 1.0])}


@pytest.mark.parametrize("vectorize", [False, True])
def test_smoke(vectorize):
    out = sweep(
        member, H, key=jax.random.key(0), steps=STEPS, batch_size=BATCH, vectorize=vectorize
    )
    print(jax.tree.map(np.shape, out))
    assert (out.diverged == -1).all()
    print(out.history["evaluate"])
    chunked = sweep(
        member,
        H,
        key=jax.random.key(0),
        steps=STEPS,
        batch_size=BATCH,
        vectorize=vectorize,
        chunk_size=2,
    )
    jax.tree.map(np.testing.assert_array_equal, out, chunked)
