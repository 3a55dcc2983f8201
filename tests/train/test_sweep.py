import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lossbench.train import Run, fit, sweep

ROWS, WIDTH = 23, 3
SETTINGS = {"steps": 17, "batch_size": 4, "log_every": 7}
H = {"rate": jnp.array([0.01, 0.1, 0.3]), "ridge": jnp.array([0.0, 0.1, 1.0])}
KEYS = jax.random.split(jax.random.key(0), 3)
TRACES = []


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


def fits():
    for i in range(3):
        yield fit(*member(jax.tree.map(lambda x, i=i: x[i], H), KEYS[i]), key=KEYS[i], **SETTINGS)


@pytest.fixture(scope="module")
def singles():
    stacked = jax.tree.map(lambda *x: np.stack(x), *fits())
    return stacked._asdict()


@pytest.fixture(scope="module")
def swept():
    return sweep(member, H, keys=KEYS, vectorize=False, **SETTINGS)


def test_each_member_is_its_own_fit_bit_by_bit(swept, singles):
    assert (swept.diverged == -1).all()
    together = {name: x for name, x in swept._asdict().items() if name != "diverged"}
    jax.tree.map(np.testing.assert_array_equal, together, singles)


def test_vectorized_members_are_their_own_fits_to_rounding(singles):
    swept = sweep(member, H, keys=KEYS, vectorize=True, **SETTINGS)._asdict()
    assert (swept.pop("diverged") == -1).all()
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), swept, singles
    )


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
    np.testing.assert_array_equal(np.isnan(out.history["evaluate"]["w"]), [[1, 1], [0, 0]])


FAULTS = {
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
