"""A progress bar on the terminal, and nothing anywhere else."""

import sys
from types import TracebackType
from typing import Self


class Progress:
    """Shows `total` units of work on stderr; `show=None` means only on a terminal."""

    def __init__(self, description: str, total: int | None, show: bool | None = None):
        self._bar = None
        if sys.stderr.isatty() if show is None else show:
            from rich import progress
            from rich.console import Console

            self._bar = progress.Progress(
                progress.SpinnerColumn(),
                progress.TextColumn("{task.description}"),
                progress.BarColumn(),
                progress.MofNCompleteColumn() if total else progress.TextColumn(""),
                progress.TimeElapsedColumn(),
                progress.TimeRemainingColumn() if total else progress.TextColumn(""),
                console=Console(stderr=True),
                transient=True,
            )
            self._task = self._bar.add_task(description, total=total)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def describe(self, description: str) -> None:
        """Change what the bar says."""
        if self._bar is not None:
            self._bar.update(self._task, description=description)

    def advance(self, units: int) -> None:
        """Count `units` of work as done."""
        if self._bar is not None:
            self._bar.advance(self._task, units)
