"""What each loss of a score costs beside one pass of its network, and how that grows with d.

Run `python -m experiments.speed.score`, with the `peers` extra for the comparison with torch. All
sides run in one process and take turns, in float32. A loss is timed with its gradient by the
network's parameters; the unit is one pass of the network on the same batch, value alone.
"""

import itertools
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from matplotlib.figure import Figure

from experiments.speed.timing import interleave, machine
from lossbench.score import (
    OrnsteinUhlenbeck,
    denoising_score_matching,
    implicit_score_matching,
    log_density_fokker_planck_residual,
    score_fokker_planck_residual,
    sliced_score_matching,
)

DIMENSIONS = (2, 16, 128, 784, 3072)
BATCH, WIDTH, ROUNDS = 256, 512, 7
EXACT_UP_TO = 128  # d tangent passes
PROCESS = OrnsteinUhlenbeck()
RESULTS = Path(__file__).parent / "results"

Params = list[tuple[jax.Array, jax.Array]]


def init(sizes: tuple[int, ...]) -> Params:
    """Weights and biases of a perceptron."""
    rng = np.random.default_rng(0)
    pairs = itertools.pairwise(sizes)
    return [
        (jnp.asarray(rng.normal(size=(n, m)) / n**0.5, jnp.float32), jnp.zeros(m)) for n, m in pairs
    ]


def network(params: Params, x: jax.Array) -> jax.Array:
    """Three hidden layers of softplus."""
    for weight, bias in params[:-1]:
        x = jax.nn.softplus(x @ weight + bias)
    weight, bias = params[-1]
    return x @ weight + bias


def timed_network(params: Params, x: jax.Array, t: jax.Array) -> jax.Array:
    return network(params, jnp.concatenate([x, t[:, None]], axis=1))


def potential(params: Params, x: jax.Array, t: jax.Array) -> jax.Array:
    return timed_network(params, x, t)[:, 0]


def torch_sides(params: Params, x: np.ndarray, key: int) -> dict[str, Callable[[], object]]:
    """Denoising and sliced score matching of the same network, as one writes them in torch."""
    weights = [
        tuple(torch.tensor(np.asarray(a), requires_grad=True) for a in layer) for layer in params
    ]
    points = torch.tensor(x)
    generator = torch.Generator().manual_seed(key)

    def forward(x: torch.Tensor) -> torch.Tensor:
        for weight, bias in weights[:-1]:
            x = torch.nn.functional.softplus(x @ weight + bias)
        return x @ weights[-1][0] + weights[-1][1]

    def gradient(loss: torch.Tensor) -> object:
        return torch.autograd.grad(loss, [a for layer in weights for a in layer])

    def denoising() -> object:
        noise = torch.randn(points.shape, generator=generator)
        error = 0.5 * forward(points + 0.5 * noise) + noise
        return gradient((error**2).sum(1).mean() / 2)

    def sliced() -> object:
        v = torch.randn(points.shape, generator=generator)
        leaf = points.clone().requires_grad_(True)
        score = forward(leaf)
        (product,) = torch.autograd.grad((score * v).sum(), leaf, create_graph=True)
        return gradient(((product * v).sum(1) + (score**2).sum(1) / 2).mean())

    def plain() -> object:
        with torch.no_grad():
            return forward(points)

    return {"torch, one pass": plain, "torch, denoising": denoising, "torch, sliced": sliced}


def measure(d: int) -> dict[str, float]:
    """Seconds of every side at dimension d."""
    x_host = np.random.default_rng(1).normal(size=(BATCH, d)).astype("f4")
    x, key = jnp.asarray(x_host), jax.random.key(0)
    t = jnp.linspace(0.1, 2.0, BATCH)
    hidden = (WIDTH, WIDTH, WIDTH)
    params, timed = init((d, *hidden, d)), init((d + 1, *hidden, d))
    scalar = init((d + 1, *hidden, 1))

    def side(loss: Callable[[Params], jax.Array], params: Params) -> Callable[[], object]:
        return partial(jax.jit(jax.grad(lambda p: jnp.mean(loss(p)))), params)

    def field(p: Params) -> Callable[[jax.Array], jax.Array]:
        return partial(network, p)

    sides: dict[str, Callable[[], object]] = {
        "one pass": partial(jax.jit(network), params, x),
        "one pass of the potential": partial(jax.jit(potential), scalar, x, t),
        "denoising": side(lambda p: denoising_score_matching(key, field(p), x, noise=0.5), params),
        "denoising, process": side(
            lambda p: denoising_score_matching(key, partial(timed_network, p), x, noise=PROCESS),
            timed,
        ),
        "sliced, one probe": side(lambda p: sliced_score_matching(key, field(p), x), params),
        "Fokker-Planck of a potential, one probe": side(
            lambda p: jnp.square(
                log_density_fokker_planck_residual(
                    partial(potential, p), x, t, process=PROCESS, key=key
                )
            ),
            scalar,
        ),
        "Fokker-Planck of a score, one probe": side(
            lambda p: jnp.square(
                score_fokker_planck_residual(
                    partial(timed_network, p), x, t, process=PROCESS, key=key
                )
            ),
            timed,
        ),
        **torch_sides(params, x_host, 0),
    }
    if d <= EXACT_UP_TO:
        sides["implicit, exact trace"] = side(
            lambda p: implicit_score_matching(field(p), x), params
        )
    return interleave(sides, ROUNDS)


def ratios(seconds: dict[str, float]) -> dict[str, float]:
    """Each loss over one pass of its own network."""
    units = {
        "torch": "torch, one pass",
        "Fokker-Planck of a potential": "one pass of the potential",
    }
    found = {}
    for side, value in seconds.items():
        unit = next((units[start] for start in units if side.startswith(start)), "one pass")
        if side != unit:
            found[side] = value / seconds[unit]
    return found


def plot(record: dict[str, Any], path: Path) -> None:
    """Draw passes and seconds against the dimension."""
    figure = Figure(figsize=(12, 4.4), layout="constrained")
    passes, seconds = figure.subplots(1, 2)
    sides = list(record["seconds"][str(DIMENSIONS[0])])
    for side in sides:
        if side == "one pass of the potential":
            continue
        shown = [d for d in DIMENSIONS if side in record["seconds"][str(d)]]
        style = {"linestyle": "--" if side.startswith("torch") else "-", "marker": "o"}
        values = [record["seconds"][str(d)][side] for d in shown]
        seconds.loglog(shown, values, label=side, markersize=4, **style)
        if "one pass" not in side:
            found = [record["passes"][str(d)][side] for d in shown]
            passes.loglog(shown, found, label=side, markersize=4, **style)
    passes.set(xlabel="dimension", ylabel="value and gradient / one pass")
    seconds.set(xlabel="dimension", ylabel="seconds", title=f"batch {BATCH}, width {WIDTH}")
    for axes in (passes, seconds):
        axes.grid(alpha=0.3)
    passes.legend(fontsize=7)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Measure, print the ratios, and save them beside this file as JSON and PNG."""
    seconds = {str(d): measure(d) for d in DIMENSIONS}
    record = {
        "batch": BATCH,
        "width": WIDTH,
        "seconds": seconds,
        "passes": {d: ratios(found) for d, found in seconds.items()},
        **machine("torch", "numpy"),
    }
    for d, found in record["passes"].items():
        listed = "  ".join(f"{side} {value:.1f}" for side, value in found.items())
        print(f"d = {d}: one pass {seconds[d]['one pass'] * 1e3:.2f} ms; in passes: {listed}")
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "score.json").write_text(json.dumps(record, indent=1) + "\n")
    plot(record, RESULTS / "score.png")


if __name__ == "__main__":
    main()
