"""Sliced Wasserstein with its gradient, and the time to 1% accuracy, against ott-jax and POT.

Run `python -m experiments.speed.sliced` with the `peers` extra. All sides run in one process and
take turns, in float32, on the same clouds and projections. numpy's bare sort of both clouds'
projections, without any gradient, is the floor. OPENBLAS_CORETYPE and OPENBLAS_L2_SIZE should be
unset, or numpy is slowed.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import ot
import torch
from matplotlib.figure import Figure
from ott.tools import sliced as ott_sliced

from experiments.speed.timing import interleave, machine
from lossbench.transport import (
    control_variate_sliced_wasserstein,
    projected_wasserstein,
    sample_projections,
)

SIZES = (1_000, 10_000, 100_000)
DIRECTIONS = 50
ROUNDS = 3
ACCURACY = 0.01
KEYS = 20
RESULTS = Path(__file__).parent / "results"


def clouds(n: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    """A normal cloud, and one stretched and shifted."""
    rng = np.random.default_rng(0)
    stretch = np.linspace(0.5, 1.5, d)
    x, y = rng.normal(size=(2, n, d))
    return x.astype("f4"), (y * stretch + 0.5).astype("f4")


def ott_value(x: jax.Array, y: jax.Array, directions: jax.Array) -> jax.Array:
    """Return ott's mean over the directions."""

    def project(points: jax.Array, *_: Any) -> jax.Array:
        return points @ directions.T

    return ott_sliced.sliced_wasserstein(x, y, proj_fn=project)[0]


def our_value(x: jax.Array, y: jax.Array, directions: jax.Array) -> jax.Array:
    """Return our mean over the directions."""
    return projected_wasserstein(x, y, directions).mean()


def measure_gradient(n: int, d: int) -> dict[str, Any]:
    """Time value and gradient by x, and say how far the peers' values are from ours."""
    x_host, y_host = clouds(n, d)
    x, y = jnp.asarray(x_host), jnp.asarray(y_host)
    directions = sample_projections(jax.random.key(0), DIRECTIONS, d)
    columns = np.asarray(directions).T.copy()
    x_torch = torch.tensor(x_host, requires_grad=True)
    y_torch, columns_torch = torch.tensor(y_host), torch.tensor(columns)

    def by_torch() -> tuple[float, np.ndarray]:
        x_torch.grad = None
        value = ot.sliced_wasserstein_distance(x_torch, y_torch, projections=columns_torch) ** 2
        value.backward()
        assert x_torch.grad is not None
        return float(value.detach()), x_torch.grad.numpy()

    ours = jax.jit(jax.value_and_grad(our_value))
    theirs = jax.jit(jax.value_and_grad(ott_value))
    projected = np.stack([x_host @ columns, y_host @ columns]).transpose(0, 2, 1).copy()
    sides: dict[str, Callable[[], object]] = {
        "ours": lambda: ours(x, y, directions),
        "ott": lambda: theirs(x, y, directions),
        "POT, torch": by_torch,
        "POT, numpy (value only)": lambda: ot.sliced_wasserstein_distance(
            x_host, y_host, projections=columns
        ),
        "numpy, bare sort": lambda: np.sort(projected, axis=-1),
    }
    value, gradient = ours(x, y, directions)
    ott_result, torch_result = theirs(x, y, directions), by_torch()
    compiled = ours.lower(x, y, directions).compile()
    memory: Any = compiled.memory_analysis()
    return {
        "seconds": interleave(sides, ROUNDS),
        "difference of values": [
            abs(float(other) / float(value) - 1) for other in (ott_result[0], torch_result[0])
        ],
        "largest difference of gradients": [
            float(np.abs(np.asarray(other) - gradient).max() / np.abs(gradient).max())
            for other in (ott_result[1], torch_result[1])
        ],
        "temporary bytes": memory.temp_size_in_bytes,
    }


def measure_accuracy(n: int, d: int) -> dict[str, Any]:
    """Time until the estimate is within 1% (root mean square) of the mean over all directions."""
    x_host, y_host = clouds(n, d)
    x, y = jnp.asarray(x_host), jnp.asarray(y_host)
    values = jax.jit(lambda key: projected_wasserstein(x, y, sample_projections(key, 500, d)))
    many = np.concatenate([values(jax.random.key(1000 + i)) for i in range(4)])

    def make(count: int) -> Callable[[jax.Array], jax.Array]:
        method: Any = "spiral" if d == 3 else "orthogonal" if count >= d else "gaussian"
        return jax.jit(
            lambda key: control_variate_sliced_wasserstein(
                key,
                x,
                y,
                num_projections=count,
                bound="both",
                coefficient="centred",
                method=method,
                root=False,
            )
        )

    keys = jax.random.split(jax.random.key(0), KEYS)
    # The reference's own control variate: plain averages of 10^4 directions would be too rough.
    exact = float(np.mean([make(500)(key) for key in keys]))
    for count in (4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256):
        estimate = make(count)
        error = np.sqrt(np.mean(np.square([float(estimate(key)) / exact - 1 for key in keys])))
        if error <= ACCURACY:
            break
    else:
        raise RuntimeError(f"256 directions leave an error of {error:.3g}")
    plain = int(np.ceil(many.var() / (ACCURACY * exact) ** 2))
    # A plain mean's time is proportional to its directions: the peers are timed on a part of them.
    part = min(plain, 50)
    directions = sample_projections(jax.random.key(0), part, d)
    columns = np.asarray(directions).T.copy()
    columns_torch, x_torch, y_torch = map(torch.tensor, (columns, x_host, y_host))
    theirs = jax.jit(ott_value)
    seconds = interleave(
        {
            "ours": lambda: estimate(keys[0]),
            "ott": lambda: theirs(x, y, directions),
            "POT, torch": lambda: ot.sliced_wasserstein_distance(
                x_torch, y_torch, projections=columns_torch
            ),
            "POT, numpy": lambda: ot.sliced_wasserstein_distance(
                x_host, y_host, projections=columns
            ),
        },
        ROUNDS,
    )
    return {
        "seconds": {s: t if s == "ours" else t * plain / part for s, t in seconds.items()},
        "directions": {"ours": count, "plain": plain, "timed": part},
        "error of ours": float(error),
        "mean of plain against the reference": float(many.mean() / exact),
    }


def plot(record: dict[str, Any], path: Path) -> None:
    """Draw the seconds against n, and the time to 1%."""
    figure = Figure(figsize=(11, 4), layout="constrained")
    growth, accuracy = figure.subplots(1, 2)
    for side in record["gradient"][str(SIZES[0])]["seconds"]:
        y = [record["gradient"][str(n)]["seconds"][side] for n in SIZES]
        growth.loglog(SIZES, y, "o-", label=side)
    growth.set(
        xlabel="n", ylabel="seconds", title=f"value and gradient, d = 3, {DIRECTIONS} directions"
    )
    growth.legend(fontsize=8)
    growth.grid(alpha=0.3)
    dimensions = list(record["accuracy"])
    sides = list(record["accuracy"][dimensions[0]]["seconds"])
    for offset, side in enumerate(sides):
        heights = [record["accuracy"][d]["seconds"][side] for d in dimensions]
        positions = np.arange(len(dimensions)) + 0.2 * (offset - 1.5)
        bars = accuracy.bar(positions, heights, 0.2, label=side)
        accuracy.bar_label(bars, fmt="%.2g", fontsize=7)
    accuracy.set_xticks(range(len(dimensions)), [f"d = {d}" for d in dimensions])
    accuracy.set(yscale="log", ylabel="seconds", title="to 1% of the mean over all directions")
    accuracy.set(ylim=(1e-3, 5e3))
    accuracy.legend(fontsize=8, ncols=4, loc="upper center")
    figure.savefig(path, dpi=150)


def main() -> None:
    """Measure, print the ratios, and save them beside this file as JSON and PNG."""
    record: dict[str, Any] = {
        "gradient": {str(n): measure_gradient(n, 3) for n in SIZES},
        "accuracy": {str(d): measure_accuracy(10_000, d) for d in (3, 50)},
        **machine("ott-jax", "POT", "torch", "numpy"),
    }
    for title, cases in (("gradient, n", record["gradient"]), ("1%, d", record["accuracy"])):
        for case, found in cases.items():
            seconds = found["seconds"]
            ratios = "  ".join(f"{s} {t / seconds['ours']:.1f}" for s, t in seconds.items())
            print(f"{title} = {case}: ours {seconds['ours'] * 1e3:.1f} ms; ratios: {ratios}")
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "sliced.json").write_text(json.dumps(record, indent=1) + "\n")
    plot(record, RESULTS / "sliced.png")


if __name__ == "__main__":
    main()
