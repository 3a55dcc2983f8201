"""A progress bar for long runs, where there is a terminal to show it."""

import importlib.util
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

import jax

_PATIENCE = 2.0
"""Seconds before a bar appears: a short run needs none."""


class Update(Protocol):
    """What shows how far the work is."""

    def __call__(self, done: int, title: str | None = None, **figures: float) -> None:
        """Show the units `done`, a new `title` if given, and figures beside them."""


@contextmanager
def progress_bar(
    total: int | None,
    unit: str = "",
    *,
    title: str = "",
    enabled: bool | None = None,
    patience: float | None = None,
) -> Iterator[Update]:
    """Yield an `Update`; the bar appears with the first update after `patience` seconds.

    Two by default; with 0 it appears at once. A `total` of None is work of unknown length.
    `enabled` None means: if stderr is a terminal. Only process 0 shows anything, and nothing is
    shown where rich is not installed.
    """
    if enabled is None:
        enabled = sys.stderr.isatty()
    # Asked last: counting the processes starts the devices.
    enabled = enabled and importlib.util.find_spec("rich") is not None and jax.process_index() == 0
    patience = _PATIENCE if patience is None else patience
    began = time.monotonic()
    shown = title
    bar: Any = None

    with ExitStack() as stack:

        def update(done: int, title: str | None = None, **figures: float) -> None:
            nonlocal bar, shown
            shown = title or shown
            if not enabled:
                return
            if bar is None and time.monotonic() - began >= patience and done != total:
                bar = stack.enter_context(_bar(total))
                bar.add_task(shown, total=total, unit=unit, figures="")
            if bar is not None:
                text = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
                bar.update(bar.task_ids[0], completed=done, description=shown, figures=text)

        update(0)
        yield update


def _bar(total: int | None) -> Any:
    from rich import progress
    from rich.console import Console

    columns: list[Any] = [progress.SpinnerColumn(), progress.TextColumn("{task.description}")]
    if total is None:
        columns += [progress.TimeElapsedColumn()]
    else:
        columns += [
            progress.BarColumn(bar_width=20),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[unit]}"),
            progress.TimeRemainingColumn(),
        ]
    columns += [progress.TextColumn("{task.fields[figures]}")]
    return progress.Progress(*columns, console=Console(stderr=True))
