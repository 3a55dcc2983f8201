"""Sinkhorn-Newton against Sinkhorn and Newton peers, at one recomputed marginal error.

Run `python -m experiments.speed.entropic [--points 1000 4000] [--budget 35 12]` with the `peers`
extra. All sides run in one process, in float64, on the same cost, scaled to a maximum of 1. A side
is finished when the L1 error of both marginals, recomputed from its plan in numpy, is at most
1e-8: its own threshold is tightened until that is so, and the run that meets it is timed, after
compilation (the median of five runs where they are short). A side that would take more than
`--budget` times as long as ours is stopped there and reported as a lower bound. All sides run at
the first size; at the others only the one of each family that did best there.
OPENBLAS_CORETYPE and OPENBLAS_L2_SIZE should be unset, or numpy is slowed.
"""

import argparse
import json
import math
import statistics
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import ot
import regot
from matplotlib.figure import Figure
from ott.geometry import epsilon_scheduler, geometry
from ott.problems.linear import linear_problem
from ott.solvers.linear import acceleration, sinkhorn
from scipy.ndimage import zoom
from sklearn.datasets import load_digits

from experiments.speed.timing import machine, timed
from lossbench.transport import sinkhorn_newton

ERROR = 1e-8
EPSILONS = (1e-2, 1e-3, 1e-4)
RESULTS = Path(__file__).parent / "results"
GROWTH = (250, 500, 1000, 2000, 4000)
LONGEST = 120.0  # seconds after which any side is stopped

Problem = tuple[np.ndarray, np.ndarray, np.ndarray]
Solve = Callable[[float, int], tuple[float, np.ndarray, bool]]
"""(threshold, most iterations) -> seconds, plan, whether the iterations ran out."""


def squared_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(np.square(x).sum(1)[:, None] + np.square(y).sum(1) - 2 * x @ y.T, 0)


def problems(n: int) -> dict[str, Problem]:
    """Five kinds: points in the plane, assignment, uneven Gaussians, digits under two costs."""
    rng = np.random.default_rng(0)
    uniform = np.full(n, 1 / n)
    plane = rng.normal(size=(n, 2)), 0.7 * rng.normal(size=(n, 2)) + [1.0, 0.5]
    scales = np.linspace(0.5, 1.5, 10)
    high = rng.normal(size=(n, 10)), scales * rng.normal(size=(n, 10)) + 0.5
    weights = rng.gamma(2.0, size=(2, n))
    weights /= weights.sum(1, keepdims=True)
    side = round(np.sqrt(n))
    grid = np.stack(np.meshgrid(*[np.arange(side)] * 2, indexing="ij"), -1).reshape(-1, 2) / side
    images = []
    for digit in load_digits().images[[0, 3]]:
        # Background of one hundredth: every pixel has mass.
        image = np.maximum(zoom(digit, side / 8, order=1), 0).ravel() + 0.01 * digit.max()
        images.append(image / image.sum())
    found = {
        "points, d = 2": (squared_distances(*plane), uniform, uniform),
        "random assignment": (rng.random((n, n)), uniform, uniform),
        "Gaussians, d = 10": (squared_distances(*high), *weights),
        "digits, L1": (np.abs(grid[:, None] - grid).sum(-1), *images),
        "digits, squared L2": (squared_distances(grid, grid), *images),
    }
    return {name: (cost / cost.max(), a, b) for name, (cost, a, b) in found.items()}


def marginal_error(plan: np.ndarray, a: np.ndarray | jax.Array, b: np.ndarray | jax.Array) -> float:
    error = np.abs(plan.sum(1) - a).sum() + np.abs(plan.sum(0) - b).sum()
    return float(error) if np.isfinite(error) else np.inf


def linear(cost: jax.Array, a: jax.Array, b: jax.Array, epsilon: Any) -> Any:
    return linear_problem.LinearProblem(geometry.Geometry(cost, epsilon=epsilon), a, b)


@jax.jit
def ours(cost: jax.Array, a: jax.Array, b: jax.Array, epsilon: jax.Array) -> Any:
    """Solve and return potentials and outer steps."""
    output = sinkhorn_newton(linear(cost, a, b, epsilon), tolerance=ERROR / 2)
    return output.f, output.g, output.n_iters


def ott_side(problem: Problem, epsilon: float, **options: Any) -> Solve:
    """One of ott's variants, compiled anew for each limit of iterations."""
    scheduled = options.pop("scheduled", False)
    cost, a, b = map(jnp.asarray, problem)
    scale: Any = epsilon_scheduler.Epsilon(epsilon, init=500.0, decay=0.9) if scheduled else epsilon
    compiled: dict[int, Any] = {}

    def solve(threshold: float, iterations: int) -> tuple[float, np.ndarray, bool]:
        limit = 10 * 2 ** math.ceil(math.log2(max(iterations, 20) / 10))

        def run(cost: jax.Array, a: jax.Array, b: jax.Array, threshold: Any) -> Any:
            solver = sinkhorn.Sinkhorn(threshold=threshold, max_iterations=limit, **options)
            output = solver(linear(cost, a, b, scale))
            return output.f, output.g, output.n_iters

        if limit not in compiled:
            compiled[limit] = jax.jit(run).lower(cost, a, b, threshold).compile()
        seconds, (f, g, made) = timed(lambda: compiled[limit](cost, a, b, threshold))
        return seconds, plan_of(problem, epsilon, f, g), int(made) >= limit

    return solve


def pot_side(problem: Problem, epsilon: float, method: str) -> Solve:
    """One of POT's variants in numpy; it stops on the 2-norm of one marginal."""
    cost, a, b = problem

    def solve(threshold: float, iterations: int) -> tuple[float, np.ndarray, bool]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns where it did not converge: so do we
            seconds, (plan, log) = timed(
                lambda: ot.sinkhorn(
                    a,
                    b,
                    cost,
                    epsilon,
                    method=method,
                    stopThr=threshold,
                    numItermax=iterations,
                    log=True,
                )
            )
        return seconds, plan, log.get("niter", log.get("n_iter", 0)) >= iterations - 1

    return solve


def regot_side(problem: Problem, epsilon: float, method: str) -> Solve:
    """One of regot's C++ methods; it stops on the 2-norm of the gradient."""
    cost, a, b = problem
    columns = np.asfortranarray(cost)
    run = getattr(regot, method)

    def solve(threshold: float, iterations: int) -> tuple[float, np.ndarray, bool]:
        seconds, result = timed(
            lambda: run(columns, a, b, epsilon, tol=threshold, max_iter=iterations)
        )
        return seconds, np.asarray(result.plan), result.niter >= iterations

    return solve


# Dataclasses, but not to the type checker: ott registers them by a decorator of its own.
_momentum: Any = acceleration.Momentum
_anderson: Any = acceleration.AndersonAcceleration

SIDES: dict[str, Callable[[Problem, float], Solve]] = {
    "ott, plain": ott_side,
    "ott, momentum 1.5": partial(ott_side, momentum=_momentum(value=1.5)),
    "ott, Anderson": partial(ott_side, anderson=_anderson(memory=5)),
    "ott, falling epsilon": partial(ott_side, scheduled=True),
    "POT, kernel": partial(pot_side, method="sinkhorn"),
    "POT, log": partial(pot_side, method="sinkhorn_log"),
    "POT, stabilized": partial(pot_side, method="sinkhorn_stabilized"),
    "regot, SSNS": partial(regot_side, method="sinkhorn_ssns"),
    "regot, SPLR": partial(regot_side, method="sinkhorn_splr"),
    "regot, L-BFGS": partial(regot_side, method="sinkhorn_lbfgs_dual"),
}


def plan_of(problem: Problem, epsilon: float, f: jax.Array, g: jax.Array) -> np.ndarray:
    return np.exp((np.asarray(f)[:, None] + np.asarray(g) - problem[0]) / epsilon)


def measure(solve: Solve, problem: Problem, limit: float, few: int) -> dict[str, Any]:
    """Time the loosest threshold that meets the error, within `limit` seconds a run.

    The time of `few` iterations says how many fit.
    """
    _, a, b = problem
    try:
        probe, _, _ = solve(ERROR, few)
        iterations = max(few, int(few * limit / probe))
        error = np.inf
        for threshold in (ERROR, ERROR / 4, ERROR / 30, ERROR / 300, ERROR / 3000):
            seconds, plan, exhausted = solve(threshold, iterations)
            error = marginal_error(plan, a, b)
            if error <= ERROR:
                repeats = 0 if seconds > 2 else 4
                again = [solve(threshold, iterations)[0] for _ in range(repeats)]
                return {"seconds": statistics.median([seconds, *again]), "error": error}
            if exhausted or not np.isfinite(error):
                break
        if not np.isfinite(error):
            return {"seconds": None, "at least": None, "error": None, "why": "not finite"}
        if not exhausted:  # it ended by itself, at every threshold: more time would not help
            return {"seconds": None, "at least": None, "error": error, "why": "falls short"}
        return {"seconds": None, "at least": seconds, "error": error, "why": "stopped"}
    except Exception as error:  # a peer that breaks down is a result
        return {"seconds": None, "at least": None, "error": None, "why": f"{error}"[:200]}


def measure_cell(
    problem: Problem, epsilon: float, budget: float, names: list[str]
) -> dict[str, Any]:
    """Measure ours, the named sides and the exact solver on one problem."""
    cost, a, b = map(jnp.asarray, problem)
    scale = jnp.asarray(epsilon)
    jax.block_until_ready(ours(cost, a, b, scale))
    runs = [timed(lambda: ours(cost, a, b, scale)) for _ in range(5)]
    f, g, steps = runs[0][1]
    seconds = statistics.median(run[0] for run in runs)
    cell: dict[str, Any] = {
        "ours": {
            "seconds": seconds,
            "error": marginal_error(plan_of(problem, epsilon, f, g), a, b),
            "steps": int(steps),
        }
    }
    limit = min(LONGEST, max(1.0, budget * seconds))
    for name in names:
        side = SIDES[name]
        few = 3 if name.startswith("regot") else 40  # Newton steps are long
        cell[name] = measure(side(problem, epsilon), problem, limit, few)
    exact, _ = timed(lambda: ot.emd(problem[1], problem[2], problem[0], numItermax=10_000_000))
    cell["exact, network simplex"] = {"seconds": exact}
    return cell


def contenders(cell: dict[str, Any]) -> list[str]:
    """Return each family's fastest side, or the one that came nearest where none finished."""

    def rank(name: str) -> tuple[float, float]:
        return cell[name]["seconds"] or np.inf, cell[name]["error"] or np.inf

    return [
        min((name for name in SIDES if name.startswith(family)), key=rank)
        for family in ("ott", "POT", "regot")
    ]


def ratio(cell: dict[str, Any], family: str) -> tuple[float, bool]:
    """Return how many times longer than ours the family's best takes, and whether it finished.

    Where none finished, all that is known is that each took longer than the least bound.
    """
    sides = [value for name, value in cell.items() if name.startswith(family)]
    finished = [side["seconds"] for side in sides if side["seconds"]]
    ours_seconds = cell["ours"]["seconds"]
    if finished:
        return min(finished) / ours_seconds, True
    stopped = [side["at least"] for side in sides if side.get("at least")]
    return min(stopped, default=np.inf) / ours_seconds, False


def growth() -> dict[str, Any]:
    """Time and temporary memory against n, points in the plane at epsilon 1e-3."""
    found: dict[str, Any] = {"n": list(GROWTH), "seconds": {}, "bytes": {}}
    for n in GROWTH:
        problem = problems(n)["points, d = 2"]
        arguments = [*map(jnp.asarray, problem), jnp.asarray(1e-3)]
        compiled = ours.lower(*arguments).compile()
        jax.block_until_ready(compiled(*arguments))
        times = [timed(partial(compiled, *arguments))[0] for _ in range(3)]
        seconds = statistics.median(times)
        found["seconds"].setdefault("ours", []).append(seconds)
        memory: Any = compiled.memory_analysis()
        found["bytes"].setdefault("ours", []).append(
            memory.temp_size_in_bytes + memory.argument_size_in_bytes
        )
    return found


def plot(record: dict[str, Any], path: Path) -> None:
    """Draw seconds by epsilon for each problem, and how ours grows.

    A triangle is a side that was stopped there, unfinished.
    """
    sizes = list(record["cells"])
    figure = Figure(figsize=(15, 3.2 * (len(sizes) + 1)), layout="constrained")
    names = list(record["cells"][sizes[0]])
    grid = figure.subplots(len(sizes) + 1, len(names), squeeze=False)
    for row, n in enumerate(sizes):
        for axes, name in zip(grid[row], names, strict=True):
            for side in ("ours", *SIDES):
                cells = record["cells"][n][name]
                x = [float(epsilon) for epsilon in cells]
                y = [cells[e].get(side, {}).get("seconds") or np.nan for e in cells]
                bounds = [cells[e].get(side, {}).get("at least") or np.nan for e in cells]
                style = {"color": "black", "linewidth": 2.5} if side == "ours" else {}
                (drawn,) = axes.loglog(x, y, "o-", label=side, markersize=4, **style)
                axes.loglog(x, bounds, "^", color=drawn.get_color(), markersize=4, fillstyle="none")
            axes.set(title=f"{name}, n = {n}", xlabel="epsilon", ylabel="seconds")
            axes.invert_xaxis()
            axes.grid(alpha=0.3)
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="lower right", fontsize=11, ncols=2)
    grown = record["growth"]
    for axes, quantity in zip(grid[-1], ("seconds", "bytes"), strict=False):
        axes.loglog(grown["n"], grown[quantity]["ours"], "o-", color="black")
        axes.set(title="ours, points, epsilon 1e-3", xlabel="n", ylabel=quantity)
        axes.grid(alpha=0.3)
    for axes in grid[-1, 2:]:
        axes.axis("off")
    figure.savefig(path, dpi=130)


def summary(cells: dict[str, Any]) -> dict[str, Any]:
    """The median over problems of each family's best, as ratios to ours, by size and epsilon."""
    found: dict[str, Any] = {}
    for n, by_problem in cells.items():
        for epsilon in map(str, EPSILONS):
            for family in ("ott", "POT", "regot", "exact"):
                ratios = sorted(ratio(by[epsilon], family) for by in by_problem.values())
                found.setdefault(n, {}).setdefault(epsilon, {})[family] = {
                    name: {"ratio": value, "finished": finished}
                    for name, (value, finished) in (
                        ("median", ratios[len(ratios) // 2]),
                        ("least", ratios[0]),
                    )
                }
    return found


def line(cell: dict[str, Any]) -> str:
    """Return a cell as ratios to ours; > where a side was stopped, - where it broke down."""
    seconds = cell["ours"]["seconds"]
    parts = [f"ours {seconds:.3f} s, error {cell['ours']['error']:.0e};"]
    for side, value in cell.items():
        if side != "ours":
            at_least = value.get("at least")
            ratio = f"{value['seconds'] / seconds:.1f}" if value["seconds"] else "-"
            parts.append(f"{side} {f'>{at_least / seconds:.1f}' if at_least else ratio} ")
    return " ".join(parts)


def main() -> None:
    """Measure, print the ratios, and save them beside this file as JSON and PNG."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, nargs="+", default=[1000, 4000])
    parser.add_argument("--budget", type=float, nargs="+", default=[35.0, 12.0])
    options = parser.parse_args()
    if len(options.points) != len(options.budget):
        parser.error("--points and --budget must have as many values")
    cells: dict[str, Any] = {}
    with jax.enable_x64(True):
        for n, budget in zip(options.points, options.budget, strict=True):
            for name, problem in problems(n).items():
                for epsilon in EPSILONS:
                    first = cells.get(str(options.points[0]), {}).get(name, {}).get(str(epsilon))
                    names = contenders(first) if first else list(SIDES)
                    cell = measure_cell(problem, epsilon, budget, names)
                    cells.setdefault(str(n), {}).setdefault(name, {})[str(epsilon)] = cell
                    print(f"n {n}  {name:20s} {epsilon:g}  {line(cell)}", flush=True)
        record = {
            "error": ERROR,
            "budget": options.budget,
            "cells": cells,
            "summary": summary(cells),
            "growth": growth(),
            **machine("ott-jax", "POT", "regot", "numpy"),
        }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "entropic.json").write_text(json.dumps(record, indent=1) + "\n")
    plot(record, RESULTS / "entropic.png")
    for n, by_epsilon in record["summary"].items():
        for epsilon, families in by_epsilon.items():
            for family, found in families.items():
                text = "  ".join(
                    f"{name} {'' if value['finished'] else '>'}{value['ratio']:.1f}"
                    for name, value in found.items()
                )
                print(f"n {n}  {epsilon}  {family}: {text}")


if __name__ == "__main__":
    main()
