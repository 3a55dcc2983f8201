"""How the sides of a speed table are timed."""

import os
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import jax

LONG = 5.0  # seconds a call; beyond it one round must do


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds and the result."""
    start = time.perf_counter()
    result = run()
    jax.block_until_ready(result)
    return time.perf_counter() - start, result


def interleave(sides: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return each side's median seconds.

    The sides take turns, so that other load falls on all of them alike. One uncounted round
    compiles; a side that takes longer than `LONG` is timed once after it.
    """
    times: dict[str, list[float]] = {}
    for side in sides.values():
        timed(side)
    for _ in range(rounds):
        for name, side in sides.items():
            if name not in times or times[name][-1] < LONG:
                times.setdefault(name, []).append(timed(side)[0])
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def machine(*packages: str) -> dict[str, Any]:
    """Describe the device, the cores, the load and the versions beside jax's."""
    return {
        "device": str(jax.devices()[0]),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
        "versions": {name: version(name) for name in ("jax", "jaxlib", *packages)},
    }
