
import jax
import jax.numpy as jnp
import numpy as np
import optax

from lossbench.train import Run, fit

ROWS, WIDTH, STEPS, BATCH = 23, 3, 17, 4
KEY = jax.random.key(5)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(ROWS, WIDTH)).astype(np.float32)
Y = (X @ np.array([1.0, -2.0, 0.5]) + 0.3).astype(np.float32)
DATA = {"x": X, "y": Y}
PARAMS = {"w": jnp.zeros(WIDTH), "b": jnp.zeros(())}
STATE = {"visits": jnp.zeros(ROWS, jnp.int32)}
ADAM = optax.adam(0.1)


def residual(params, x, y):
    return x @ params["w"] + params["b"] - y


def loss_fn(params, state, batch, key):
    """Squared error under input noise, counting how often each example was seen."""
    noisy = batch["x"] + 0.1 * jax.random.normal(key, batch["x"].shape)
    loss = (residual(params, noisy, batch["y"]) ** 2).mean()
    visits = state["visits"].at[batch["index"]].add(1)
    metrics = {"index": batch["index"][0], "good": loss < 1, "half": loss.astype(jnp.bfloat16)}
    return loss, ({"visits": visits}, metrics)


def evaluate(params, state):
    return {"error": (residual(params, X, Y) ** 2).mean(), "visits": state["visits"].sum()}


RUN = Run(loss_fn, PARAMS, ADAM, DATA, STATE, evaluate)
SETTINGS = {"key": KEY, "steps": STEPS, "batch_size": BATCH, "log_every": 7}


def test_smoke():
    out = fit(*RUN, **SETTINGS)
    print(out)
