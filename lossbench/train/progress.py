"""A progress bar for long runs, where there is a terminal to show it."""

import importlib.util
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import jax

_PATIENCE = 2.0
"""Seconds before a bar appears: a short run needs none."""


@contextmanager
def progress_bar(total: int, unit: str, *, enabled: bool | None) -> Iterator[Callable[..., None]]:
    """Yield `update(done, **figures)`, which shows how far the work is once it takes seconds.

    `enabled` None means: if stderr is a terminal. Only process 0 shows anything, and nothing is
    shown where rich is not installed.
    """
    if enabled is None:
        enabled = sys.stderr.isatty()
    enabled = enabled and jax.process_index() == 0 and importlib.util.find_spec("rich") is not None
    began = time.monotonic()
    bar: Any = None

    with ExitStack() as stack:

        def update(done: int, **figures: float) -> None:
            nonlocal bar
            if not enabled:
                return
            if bar is None and done < total and time.monotonic() - began >= _PATIENCE:
                bar = stack.enter_context(_bar())
                bar.add_task("", total=total, unit=unit, figures="")
            if bar is not None:
                text = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
                bar.update(bar.task_ids[0], completed=done, figures=text)

        yield update


def _bar() -> Any:
    from rich import progress
    from rich.console import Console

    return progress.Progress(
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[unit]}"),
        progress.TimeRemainingColumn(),
        progress.TextColumn("{task.fields[figures]}"),
        console=Console(stderr=True),
    )
