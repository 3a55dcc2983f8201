"""Eight devices, and two processes with four each, must agree with one device.

Run as a script with the arguments "process_count process_index port directory", this file is one
of those processes; it leaves its results in the directory.
"""

import os
import pickle
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType

from lossbench.train import Run, fit, make_mesh, sweep
from lossbench.train.checkpoint import Checkpoint

ROWS, BATCH, STEPS = 40, 16, 12
X = np.random.default_rng(0).normal(size=(ROWS, 3)).astype(np.float32)
SETTINGS: dict[str, Any] = {"steps": STEPS, "batch_size": BATCH, "log_every": 5}
# No jax array at import: jax.distributed must come first.
KEY = np.array([0, 1], np.uint32)


def loss_fn(w, state, batch, key):
    """A loss that couples the rows of the whole batch, with state and noise."""
    z = (batch["x"] + 0.1 * jax.random.normal(key, batch["x"].shape)) @ w
    ranks = jnp.argsort(jnp.argsort(z))
    loss = ((z[:, None] - z) ** 2).mean() - z.mean() + (ranks * z).mean() + (w**2).sum()
    return loss, (state.at[batch["index"]].add(1), {"largest": z.max()})


def evaluate(w, state):
    return {"norm": (w**2).sum(), "visits": state.sum()}


def member(h, key):
    return RUN._replace(params=jax.random.normal(key, (3,)), optimizer=optax.adam(h))


PARAMS, STATE = np.ones(3, np.float32), np.zeros(ROWS, np.int32)
RUN = Run(loss_fn, PARAMS, optax.adam(0.05), {"x": X}, STATE, evaluate)
RATES = np.array([0.01, 0.02, 0.03, 0.04, 0.05], np.float32)


def batches(share, shares):
    """Return host batches; each process yields its own part of the rows."""

    def iterate(start):
        for step in range(start, STEPS):
            index = np.random.default_rng(step).permutation(ROWS)[:BATCH].astype(np.int32)
            index = np.split(index, shares)[share]
            yield {"x": X[index], "index": index}

    return iterate


def trained(directory, mesh, share=0, shares=1, progress=False):
    """Train in every way; the checkpointed run is interrupted once and resumed."""
    settings = {"key": jax.random.key(1), **SETTINGS, "mesh": mesh}
    results: dict[str, Any] = {"fit": fit(*RUN, **settings, progress=progress)}
    host = RUN._replace(data=batches(share, shares))
    results["host"] = fit(*host, **settings)

    save = Checkpoint.save

    def interrupted(self, step, tree):
        save(self, step, tree)
        raise KeyboardInterrupt

    resumed = {**settings, "checkpoint": directory / "run"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoint, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fit(*RUN, **resumed)
    results["resumed"] = fit(*RUN, **resumed)
    results["finished"] = fit(*RUN, **resumed)

    # Five members on eight devices: padded. Their parameters stay spread over the processes; what
    # the host reads is whole in each.
    swept = sweep(member, RATES, **settings)
    results["swept"] = {"history": swept.history, "diverged": swept.diverged}
    return jax.tree.map(np.asarray, results)


def start(directory, count, devices):
    """Run this file in `count` processes; return what each left."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = f"--xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, str(count), str(index), str(port), str(directory)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(count)
    ]
    try:
        outputs = [process.communicate(timeout=180) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * count, outputs
    # Each asked for a bar; only process 0 shows it.
    assert ["12/12 steps" in err for _, err in outputs] == [True, False][:count]
    return [pickle.loads((directory / f"{i}.pickle").read_bytes()) for i in range(count)]


def agree(found, expected):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-5), found, expected
    )


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("alone"), None)


def test_eight_devices_agree_with_one(alone, tmp_path):
    (results,) = start(tmp_path, 1, 8)
    agree(results, alone)
    jax.tree.map(np.testing.assert_array_equal, results["resumed"], results["fit"])
    jax.tree.map(np.testing.assert_array_equal, results["finished"], results["fit"])


def test_two_processes_agree_with_one(alone, tmp_path):
    first, second = start(tmp_path, 2, 4)
    jax.tree.map(np.testing.assert_array_equal, first, second)
    agree(first, alone)
    jax.tree.map(np.testing.assert_array_equal, first["resumed"], first["fit"])


def test_make_mesh_makes_auto_axes():
    mesh = make_mesh((1, 1), ("batch", "model"))
    assert mesh.shape == {"batch": 1, "model": 1}
    assert mesh.axis_types == (AxisType.Auto,) * 2
    assert make_mesh(devices=jax.devices()[:1]).shape == {"batch": 1}


def test_sizes_must_fit_the_devices():
    with pytest.raises(ValueError, match=r"axis_sizes \(3,\) for axes \('batch',\) do not fit"):
        make_mesh((3,), devices=jax.devices()[:1])


MESHES = {
    "mesh needs Auto axes": lambda: jax.make_mesh((1,), ("batch",), devices=jax.devices()[:1]),
    "mesh needs an axis named 'batch'": lambda: make_mesh((1,), ("x",), jax.devices()[:1]),
}


@pytest.mark.parametrize("message", MESHES)
def test_unfit_meshes_are_refused(message):
    with pytest.raises(ValueError, match=message):
        fit(*RUN, key=KEY, **SETTINGS, mesh=MESHES[message]())


def main(count, index, port, directory):
    assert not {"orbax", "rich"} & set(sys.modules)  # loaded when they are needed
    if count > 1:
        jax.distributed.initialize(f"127.0.0.1:{port}", count, index)
    assert jax.device_count() == 8
    mesh = make_mesh()
    if count == 1:
        with pytest.raises(ValueError, match="batch_size 12 is not a multiple of the 8 devices"):
            fit(*RUN, key=KEY, **{**SETTINGS, "batch_size": 12}, mesh=mesh)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lossbench.train.progress._PATIENCE", 0)
        results = trained(directory, mesh, index, count, progress=True)
    (directory / f"{index}.pickle").write_bytes(pickle.dumps(results))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
