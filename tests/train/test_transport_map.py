import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lossbench.train import fit_transport_map

rng = np.random.default_rng(0)
SOURCE = rng.normal(size=(64, 2)).astype(np.float32)
TARGET = (SOURCE[rng.permutation(64)] * np.float32([2.0, 0.5]) + 1).astype(np.float32)


def apply(params, x):
    return x @ params["matrix"] + params["shift"]


def start(angle):
    c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return {"matrix": jnp.array([[c, -s], [s, c]]), "shift": jnp.zeros(2)}


@pytest.mark.parametrize("gap_weight", [1.0, optax.constant_schedule(1.0)])
def test_linear_map_between_gaussians_becomes_the_optimal_one(gap_weight):
    result = fit_transport_map(
        apply,
        start(1.0),
        SOURCE,
        TARGET,
        key=jax.random.key(0),
        steps=150,
        batch_size=64,
        optimizer=optax.adam(0.05),
        gap_weight=gap_weight,
        max_iterations=100,
        progress=False,
    )
    assert int(result.state) == 150
    # Entropy shrinks the map a little.
    np.testing.assert_allclose(result.params["matrix"], np.diag([2.0, 0.5]), atol=0.25)
    np.testing.assert_allclose(result.params["shift"], 1, atol=0.1)
    losses = result.history["train"]["loss"]
    assert losses[-1] < losses[0] / 3


def test_batches_must_fit_the_target():
    with pytest.raises(ValueError, match="batch_size 32 exceeds the 10 points of target"):
        fit_transport_map(
            apply, start(0.0), SOURCE, TARGET[:10], key=jax.random.key(0), batch_size=32
        )
