from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lossbench.train import Run, fit, sweep

ROWS, WIDTH = 23, 3
SETTINGS: dict[str, Any] = {"steps": 17, "batch_size": 4, "log_every": 7}
H = {"rate": jnp.array([0.01, 0.1, 0.3]), "ridge": jnp.array([0.0, 0.1, 1.0])}
KEYS = jax.random.split(jax.random.key(0), 3)
TRACES: list[int] = []


def member(h, key):
    """Ridge regression on a member's own data, with the rates of loss and optimiser together."""
    TRACES.append(1)
    x_key, noise_key = jax.random.split(key)
    x = jax.random.normal(x_key, (ROWS, WIDTH))
    y = x.sum(1) + 0.1 * jax.random.normal(noise_key, (ROWS,))

    def loss_fn(w, state, batch, key):
        error = batch["x"] @ w - batch["y"]
        return (error**2).mean() + h["ridge"] * (w**2).sum(), (state + 1, {"largest": error.max()})

    def evaluate(w, state):
        return {"error": ((x @ w - y) ** 2).mean()}

    return Run(
        loss_fn, jnp.zeros(WIDTH), optax.adam(h["rate"]), {"x": x, "y": y}, jnp.int32(0), evaluate
    )


def shared_member(h, key):
    """One set of data for all, numpy arrays that the function closes over."""
    x = np.linspace(-1, 1, ROWS * WIDTH, dtype=np.float32).reshape(ROWS, WIDTH)

    def loss_fn(w, state, batch, key):
        noise = jax.random.normal(key, batch["x"].shape)
        return (((batch["x"] + noise) @ w - 1) ** 2).mean(), (state, {})

    params = jax.random.normal(key, (WIDTH,))
    return Run(loss_fn, params, optax.adam(h["rate"]), {"x": x}, None, lambda w, state: {"w": w[0]})


def fits(member):
    """Train the last two members alone."""
    results = []
    for i, key in [(1, KEYS[1]), (2, KEYS[2])]:
        run = member(jax.tree.map(lambda x, i=i: x[i], H), key)
        results.append(fit(*run, key=key, **SETTINGS))
    return jax.tree.map(lambda *x: np.stack(x), *results)._asdict()


def compare(swept, singles, **tolerance):
    swept = swept._asdict()
    assert (swept.pop("diverged") == -1).all()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[1:], b, **tolerance), swept, singles)


@pytest.fixture(scope="module")
def swept():
    return sweep(member, H, keys=KEYS, vectorize=False, **SETTINGS)


def test_each_member_is_its_own_fit_bit_by_bit():
    swept = sweep(shared_member, H, keys=KEYS, vectorize=False, **SETTINGS)
    compare(swept, fits(shared_member), rtol=0)


def test_members_are_their_own_fits_to_rounding_either_way(swept):
    # Not bit by bit: outside jit, XLA sees the hyper-parameters as constants and folds them.
    singles = fits(member)
    vectorized = sweep(member, H, keys=KEYS, vectorize=True, **SETTINGS)
    compare(swept, singles, rtol=2e-5, atol=1e-6)
    compare(vectorized, singles, rtol=2e-5, atol=1e-6)


def test_a_padded_chunk_changes_nothing_and_compiles_once(swept):
    before = len(TRACES)
    chunked = sweep(member, H, keys=KEYS, vectorize=False, chunk_size=2, **SETTINGS)
    assert len(TRACES) == before + 1
    jax.tree.map(np.testing.assert_array_equal, chunked, swept)


def test_a_second_sweep_traces_nothing(swept):
    before = len(TRACES)
    others = sweep(member, H, key=jax.random.key(7), vectorize=False, **SETTINGS)
    assert len(TRACES) == before
    assert not np.array_equal(others.params, swept.params)


@pytest.mark.parametrize("vectorize", [False, True])
def test_only_the_member_that_diverges_freezes(vectorize):
    def fragile(h, key):
        def loss_fn(w, state, batch, key):
            return jnp.where(state == h["dies"], jnp.nan, 1.0) * w**2, (state + 1, {})

        def evaluate(w, state):
            return {"w": w}

        return Run(
            loss_fn, jnp.ones(()), optax.sgd(0.25), {"x": jnp.ones(4)}, jnp.int32(0), evaluate
        )

    dies = np.array([3, 99])
    settings = {"steps": 8, "batch_size": 4, "log_every": 4, "vectorize": vectorize}
    out = sweep(fragile, {"dies": dies}, key=jax.random.key(0), **settings)
    np.testing.assert_array_equal(out.diverged, [3, -1])
    np.testing.assert_array_equal(out.state, [3, 8])
    np.testing.assert_allclose(out.params, 0.5 ** np.array([3, 8]), rtol=1e-6)
    np.testing.assert_array_equal(
        np.isnan(out.history["train"]["loss"]), [np.arange(8) >= 3, np.zeros(8)]
    )
    kept = 0.5 ** np.array([[3, 3], [4, 8]])
    np.testing.assert_allclose(out.history["evaluate"]["w"], kept, rtol=1e-6)


FAULTS: dict[str, Any] = {
    "either key or keys": {"keys": None},
    "keys has 2 members, hyperparameters 3": {"keys": KEYS[:2]},
    r"leading axis, got \['hyperparameters'\]\['a'\]: 3, \['hyperparameters'\]\['b'\]: 2": {
        "hyperparameters": {"a": np.ones(3), "b": np.ones(2)}
    },
    "chunk_size must be at least 1, got 0": {"chunk_size": 0},
    "member must return a lossbench.train.Run, got tuple": {"member": lambda h, key: (h, key)},
    "batch_size 24 exceeds the 23 examples": {"batch_size": 24},
    "data must be a dict of arrays, got function": {
        "member": lambda h, key: Run(len, 0.0, optax.sgd(h["rate"]), lambda start: iter(()))
    },
}


@pytest.mark.parametrize("message", FAULTS)
def test_faults_are_named(message):
    arguments = {"member": member, "hyperparameters": H, "keys": KEYS, **SETTINGS}
    with pytest.raises((TypeError, ValueError), match=message):
        sweep(**{**arguments, **FAULTS[message]})
