from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lossbench.train import DataEnded, Diverged, Run, fit

ROWS, WIDTH, STEPS, BATCH = 23, 3, 17, 4
KEY = jax.random.key(5)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(ROWS, WIDTH)).astype(np.float32)
Y = (X @ np.array([1.0, -2.0, 0.5]) + 0.3).astype(np.float32)
DATA = {"x": X, "y": Y}
PARAMS = {"w": jnp.zeros(WIDTH), "b": jnp.zeros(())}
STATE = {
    "visits": jnp.zeros(ROWS, jnp.int32),
    "seen": jnp.zeros((STEPS, BATCH), jnp.int32),
    "step": 0,
}
ADAM = optax.adam(0.1)


def squared_error(params, x, y):
    return ((x @ params["w"] + params["b"] - y) ** 2).mean()


def loss_fn(params, state, batch, key):
    """Squared error; the state records which examples came, the metrics a draw from the key."""
    loss = squared_error(params, batch["x"], batch["y"])
    state = {
        "visits": state["visits"].at[batch["index"]].add(1),
        "seen": state["seen"].at[state["step"]].set(batch["index"]),
        "step": state["step"] + 1,
    }
    return loss, (
        state,
        {"draw": jax.random.uniform(key), "good": loss < 1, "count": state["step"]},
    )


def evaluate(params, state):
    return {"error": squared_error(params, X, Y), "visits": state["visits"].sum()}


RUN = Run(loss_fn, PARAMS, ADAM, DATA, STATE, evaluate)
SETTINGS: dict[str, Any] = {"key": KEY, "steps": STEPS, "batch_size": BATCH, "log_every": 7}


@pytest.fixture(scope="module")
def result():
    return fit(*RUN, **SETTINGS)


def by_hand(indices):
    """The same training as a plain loop over numpy gradients and optax's Adam."""
    params, losses, states = {"w": np.zeros(WIDTH), "b": 0.0}, [], []
    opt_state = ADAM.init(PARAMS)
    for index in indices:
        x, y = X[index].astype(np.float64), Y[index]
        error = x @ params["w"] + params["b"] - y
        losses.append((error**2).mean())
        grads = {"w": 2 * x.T @ error / len(y), "b": 2 * error.mean()}
        grads = jax.tree.map(jnp.float32, grads)
        updates, opt_state = ADAM.update(grads, opt_state)
        params = jax.tree.map(lambda p, u: p + np.asarray(u, np.float64), params, updates)
        states.append(params)
    return losses, states


def test_equals_a_plain_loop_over_the_same_batches(result):
    losses, states = by_hand(np.asarray(result.state["seen"]))
    np.testing.assert_allclose(result.history["train"]["loss"], losses, rtol=2e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5), result.params, states[-1]
    )
    errors = [((X @ p["w"] + p["b"] - Y) ** 2).mean() for p in (states[6], states[13], states[16])]
    np.testing.assert_allclose(result.history["evaluate"]["error"], errors, rtol=2e-5)


def test_history_has_its_documented_layout(result):
    train, evaluated = result.history["train"], result.history["evaluate"]
    assert {name: (x.shape, x.dtype) for name, x in train.items()} == dict.fromkeys(
        ["loss", "draw", "good", "count"], ((STEPS,), np.dtype("float32"))
    )
    np.testing.assert_array_equal(train["count"], np.arange(1, STEPS + 1))
    np.testing.assert_array_equal(train["good"], train["loss"] < 1)
    assert sorted(evaluated) == ["error", "step", "visits"]
    np.testing.assert_array_equal(evaluated["step"], [7, 14, 17])
    np.testing.assert_array_equal(evaluated["visits"], [28, 56, 68])


def test_each_epoch_is_another_permutation(result):
    per_epoch = ROWS // BATCH
    epochs = [
        np.asarray(result.state["seen"])[i : i + per_epoch].ravel()
        for i in range(0, STEPS - per_epoch + 1, per_epoch)
    ]
    assert len(epochs) == 3
    for epoch in epochs:
        assert len(set(epoch)) == per_epoch * BATCH
        assert set(epoch) <= set(range(ROWS))
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert len({tuple(sorted(epoch)) for epoch in epochs}) > 1  # the dropped examples change


def test_every_step_has_its_own_key(result):
    assert len(set(result.history["train"]["draw"].tolist())) == STEPS


@pytest.mark.parametrize("log_every", [1, 5, 100])
def test_chunks_do_not_change_the_numbers(result, log_every):
    other = fit(*RUN, **{**SETTINGS, "log_every": log_every})
    jax.tree.map(np.testing.assert_array_equal, other.history["train"], result.history["train"])
    jax.tree.map(np.testing.assert_array_equal, other.params, result.params)
    jax.tree.map(np.testing.assert_array_equal, other.state, result.state)


def test_the_callers_arrays_survive_and_a_second_call_traces_nothing():
    traces = []

    def counted(params, state, batch, key):
        traces.append(1)
        return loss_fn(params, state, batch, key)

    params, state = {"w": jnp.ones(WIDTH), "b": jnp.ones(())}, {**STATE, "step": jnp.int32(0)}
    # An optimiser whose state holds the very parameters, twice: no buffer may be donated twice.
    keeper = optax.GradientTransformation(lambda p: (p, p), lambda g, s, p: (g, s))
    first = fit(counted, params, keeper, DATA, state, evaluate, **SETTINGS)
    once = len(traces)
    second = fit(counted, params, keeper, DATA, state, evaluate, **SETTINGS)
    jax.tree.map(np.testing.assert_array_equal, first, second)
    np.testing.assert_array_equal(params["w"], np.ones(WIDTH))
    assert len(traces) == once


def test_lbfgs_reaches_the_closed_form():
    def exact(params, state, batch, key):
        return squared_error(params, batch["x"], batch["y"]), (state, {})

    noisy = Y + RNG.normal(size=ROWS).astype(np.float32)
    out = fit(
        exact, PARAMS, optax.lbfgs(), {"x": X, "y": noisy}, key=KEY, steps=20, batch_size=ROWS
    )
    solution = np.linalg.lstsq(np.c_[X, np.ones(ROWS)], noisy, rcond=None)[0]
    np.testing.assert_allclose([*out.params["w"], out.params["b"]], solution, atol=1e-5)


def test_a_loss_that_is_not_finite_freezes_the_step_before():
    def sensitive(w, state, batch, key):
        loss = jnp.where(state == 9, jnp.nan, 1.0) * (w**2).mean()
        return loss, (state + 1, {"state": state})

    def final(w, state):
        return {"w": w.sum()}

    run = Run(sensitive, jnp.ones(2), optax.sgd(0.25), DATA, jnp.int32(0), final)
    with pytest.raises(Diverged, match="at step 9 ") as caught:
        fit(*run, key=KEY, steps=16, batch_size=4, log_every=4)
    result = caught.value.result
    assert caught.value.step == 9
    assert result.state == 9
    np.testing.assert_allclose(result.params, 0.75**9, rtol=1e-6)
    history = result.history["train"]
    np.testing.assert_allclose(history["loss"][:9], 0.75 ** (2 * np.arange(9)), rtol=1e-6)
    assert np.isnan(history["loss"][9:]).all()
    np.testing.assert_array_equal(history["state"][:10], np.arange(10))
    assert np.isnan(history["state"][10:]).all()
    # The last chunk reached shows the parameters that were kept.
    expected = [2 * 0.75**4, 2 * 0.75**8, 2 * 0.75**9, np.nan]
    np.testing.assert_allclose(result.history["evaluate"]["w"], expected, rtol=1e-6)


@pytest.mark.parametrize("fault", ["gradient", "parameters"])
def test_a_finite_loss_does_not_hide_what_is_not(fault):
    def loss_of(w, state, batch, key):
        # sqrt has an infinite slope at 0.
        return (jnp.sqrt(w) if fault == "gradient" else 1e30 * w).sum(), (state, {})

    with pytest.raises(Diverged, match="at step 0 ") as caught:
        fit(loss_of, jnp.zeros(2), optax.sgd(1e20), DATA, key=KEY, steps=2, batch_size=4)
    np.testing.assert_array_equal(caught.value.result.params, [0, 0])


def batches(start, end=STEPS):
    for step in range(start, end):
        index = np.random.default_rng(step).permutation(ROWS)[:BATCH].astype(np.int32)
        yield {"x": X[index], "y": Y[index], "index": index}


def test_host_batches_equal_a_plain_loop():
    out = fit(*RUN._replace(data=batches), **SETTINGS)
    indices = [batch["index"] for batch in batches(0)]
    np.testing.assert_array_equal(out.state["seen"], indices)
    losses, states = by_hand(indices)
    np.testing.assert_allclose(out.history["train"]["loss"], losses, rtol=2e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5), out.params, states[-1])
    np.testing.assert_array_equal(out.history["evaluate"]["visits"], [28, 56, 68])


@pytest.mark.parametrize("end", [7, 9])
def test_host_batches_that_end_early_keep_what_was_done(end):
    run = RUN._replace(data=lambda start: batches(start, end))
    with pytest.raises(DataEnded, match=f"after {end} of 17 steps") as caught:
        fit(*run, **SETTINGS)
    assert caught.value.result.state["step"] == end
    history = caught.value.result.history
    np.testing.assert_array_equal(np.isnan(history["train"]["loss"]), np.arange(STEPS) >= end)
    np.testing.assert_array_equal(np.isnan(history["evaluate"]["error"]), [False, True, True])


def test_keys_in_the_state_and_raw_keys_work():
    def drawing(w, state, batch, key):
        key, mine = jax.random.split(state)
        return (w * jax.random.normal(mine)).sum(), (key, {})

    settings: dict[str, Any] = {"key": jax.random.PRNGKey(0), "steps": 2, "batch_size": 2}
    out = fit(drawing, jnp.ones(1), ADAM, DATA, jax.random.key(1), **settings)
    expected = jax.random.key(1)
    for _ in range(2):
        expected = jax.random.split(expected)[0]
    assert (out.state == expected).all()


def returning(value):
    return lambda params, state, batch, key: value(params, state, batch)


FAULTS: dict[str, Any] = {
    "steps must be at least 1, got 0": {"steps": 0},
    "batch_size must be at least 1, got -1": {"batch_size": -1},
    "log_every must be at least 1, got 0": {"log_every": 0},
    "batch_size 24 exceeds the 23 examples": {"batch_size": 24},
    "one common leading axis, got none": {"data": {}},
    r"leading axis, got \['x'\]: 23, \['y'\]: 22": {"data": {"x": X, "y": Y[:-1]}},
    r"leading axis, got \['x'\]: a scalar": {"data": {"x": np.float32(1)}},
    "data must be a dict of arrays, got ndarray": {"data": X},
    "data must not hold 'index'": {"data": {"index": Y}},
    r"must return \(loss, \(state, metrics\)\), got float32\[\]": {
        "loss_fn": returning(lambda p, s, b: p["b"])
    },
    r"with a scalar loss .* got float32\[4\]": {
        "loss_fn": returning(lambda p, s, b: (b["y"], (s, {})))
    },
    r"must return state as it came .* got None, expected": {
        "loss_fn": returning(lambda p, s, b: (p["b"], (None, {})))
    },
    r"metrics must be a dict of scalars, got \{y: float32\[4\]\}": {
        "loss_fn": returning(lambda p, s, b: (p["b"], (s, {"y": b["y"]})))
    },
    "metrics must not hold 'loss'": {
        "loss_fn": returning(lambda p, s, b: (p["b"], (s, {"loss": p["b"]})))
    },
    r"evaluate's result must be a dict of scalars, got float32\[\]": {
        "evaluate": lambda params, state: params["b"]
    },
    "key": {"key": 3},
    r"batches\(0\) yielded no batch": {"data": lambda start: iter(())},
    "host batch must hold 'index'": {"data": lambda start: iter([DATA])},
    "must have 4 rows in this process, got 23": {"data": lambda start: iter([{"index": Y}])},
}


@pytest.mark.parametrize("message", FAULTS)
def test_faults_are_named(message):
    arguments = {**RUN._asdict(), **SETTINGS, **FAULTS[message]}
    with pytest.raises((TypeError, ValueError), match=message):
        fit(**arguments)


def test_progress_shows_only_where_asked_for(monkeypatch, capsys):
    monkeypatch.setattr("lossbench.train.progress._PATIENCE", 0)
    fit(*RUN, **SETTINGS)  # pytest's stderr is no terminal
    fit(*RUN, **SETTINGS, progress=False)
    assert capsys.readouterr() == ("", "")
    fit(*RUN, **SETTINGS, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "17/17 steps" in err
