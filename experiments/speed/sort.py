"""Sorting: `lossbench._math.sort` against `jnp.sort` and `numpy.sort`.

Run `python -m experiments.speed.sort`. The sides take turns in one process, so that other load
falls on all of them alike; read the ratios, not the seconds. OPENBLAS_CORETYPE and
OPENBLAS_L2_SIZE should be unset, or numpy is slowed.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np

from experiments.speed.timing import interleave, machine
from lossbench._math import argsort, sort

SHAPE = (200, 10_000)
ROUNDS = 9
RESULTS = Path(__file__).parent / "results"


def gradient(sort_fn: Callable[[jax.Array], jax.Array], weights: jax.Array) -> Callable:
    """Return the gradient of a weighted sum of order statistics."""
    return jax.jit(jax.grad(lambda x: jnp.sum(sort_fn(x) * weights)))


def numpy_gradient(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Scatter the weights back through the permutation."""
    out = np.empty_like(x)
    np.put_along_axis(out, np.argsort(x, axis=-1), weights, axis=-1)
    return out


def measure(dtype: str) -> dict[str, dict[str, float]]:
    """Time values, permutation and gradient at one dtype."""
    x_host, w_host = np.random.default_rng(0).normal(size=(2, *SHAPE)).astype(dtype)
    x, weights = jnp.asarray(x_host), jnp.asarray(w_host)
    quantities: dict[str, tuple[Callable, Callable, Callable[[], object]]] = {
        "value": (jax.jit(sort), jax.jit(jnp.sort), lambda: np.sort(x_host)),
        "permutation": (jax.jit(argsort), jax.jit(jnp.argsort), lambda: np.argsort(x_host)),
        "gradient": (
            gradient(sort, weights),
            gradient(jnp.sort, weights),
            lambda: numpy_gradient(x_host, w_host),
        ),
    }
    return {
        name: interleave(
            {"ours": partial(ours, x), "jnp": partial(theirs, x), "numpy": host}, ROUNDS
        )
        for name, (ours, theirs, host) in quantities.items()
    }


def plot(seconds: dict[str, dict[str, dict[str, float]]], path: Path) -> None:
    """Draw how many times slower than ours each peer is."""
    mpl.use("agg")
    from matplotlib import pyplot as plt

    cases = [(dtype, name) for dtype in seconds for name in seconds[dtype]]
    figure, axes = plt.subplots(figsize=(8, 3.6), layout="constrained")
    for offset, side in enumerate(("ours", "jnp", "numpy")):
        ratios = [
            seconds[dtype][name][side] / seconds[dtype][name]["ours"] for dtype, name in cases
        ]
        bars = axes.bar(np.arange(len(cases)) + 0.27 * (offset - 1), ratios, 0.27, label=side)
        axes.bar_label(bars, fmt="%.1f", fontsize=8)
    axes.set_xticks(range(len(cases)), [f"{name}\n{dtype}" for dtype, name in cases])
    axes.set(ylabel="time / ours", title=f"Sorting {SHAPE[0]} rows of {SHAPE[1]:,}")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Measure, print the ratios, and save them beside this file as JSON and PNG."""
    seconds = {"float32": measure("float32")}
    with jax.enable_x64(True):
        seconds["float64"] = measure("float64")
    for dtype, quantities in seconds.items():
        for name, sides in quantities.items():
            ratios = "  ".join(f"{side} {t / sides['ours']:5.2f}" for side, t in sides.items())
            print(f"{dtype}  {name:12s} ours {sides['ours'] * 1e3:7.1f} ms   ratios: {ratios}")
    RESULTS.mkdir(exist_ok=True)
    record = {
        "shape": SHAPE,
        "rounds": ROUNDS,
        "seconds": seconds,
        **machine("numpy"),
    }
    (RESULTS / "sort.json").write_text(json.dumps(record, indent=1) + "\n")
    plot(seconds, RESULTS / "sort.png")


if __name__ == "__main__":
    main()
