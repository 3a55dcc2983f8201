"""Comparisons and verdicts on the terminal."""

import pathlib
from typing import Any, Literal

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lossbench.bench.comparison import Comparison


def print_verdict(console: Console, verdict: dict[str, Any], folder: pathlib.Path) -> None:
    """Print the measured figures beside the paper's, the verdict, and where the files are."""
    console.print(f"[bold]{verdict['paper']}[/bold]  {escape(verdict['claim'])}")
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("figure")
    table.add_column("measured", justify="right")
    table.add_column("paper", justify="right")
    reported = verdict["reported"]
    for name in [*verdict["measured"], *(n for n in reported if n not in verdict["measured"])]:
        value = verdict["measured"].get(name)
        if not isinstance(value, list | dict):
            shown = f"{value:.4g}" if isinstance(value, float) else str(value)
            table.add_row(name, "" if value is None else shown, str(reported.get(name, "")))
    console.print(table)
    word, style = ("HOLDS", "green") if verdict["holds"] else ("DOES NOT HOLD", "red")
    decides = "" if verdict["size"] == "full" else " (a smoke run decides nothing)"
    console.print(f"[bold {style}]{word}[/bold {style}]{decides}  {verdict['seconds']:g} s")
    if verdict["remark"]:
        console.print(escape(verdict["remark"]), style="dim")
    for ending in ("json", "png"):
        console.print(f"  {folder / verdict['paper']}.{ending}", highlight=False)


def comparison_table(comparison: Comparison, width: int) -> Table:
    """Return the table, with drawn intervals and settings where `width` has room for them."""
    frame = comparison.to_pandas()
    title = f"test {comparison.objective} on {comparison.description}"
    table = Table(title=title, title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    wide = width >= 120
    for heading in ("", "loss", "mean", "± 95%", "worst", "rank", "p"):
        justify: Literal["left", "right"] = "left" if heading == "loss" else "right"
        table.add_column(heading, justify=justify, overflow="fold")
    if wide:
        table.add_column("95% interval", no_wrap=True)
        table.add_column("setting", overflow="fold")
    left, right = frame["low"].min(), frame["high"].max()
    for place, (name, row) in enumerate(frame.iterrows(), 1):
        diverged = f" ({row['diverged']} diverged)" if row["diverged"] else ""
        whisker = _whisker(row["low"], row["mean"], row["high"], left, right)
        drawn = [whisker, row["setting"].replace("learning_rate", "lr")] if wide else []
        table.add_row(
            str(place),
            f"{name}{diverged}",
            f"{row['mean']:.4f}",
            f"{row['high'] - row['mean']:.4f}",
            f"{row['worst']:.4f}",
            f"{row['rank']:.1f}",
            "" if row["p_value"] != row["p_value"] else f"{row['p_value']:.1g}",
            *drawn,
            style="bold green" if place == 1 else "cyan" if name == comparison.baseline else "",
        )
    return table


def _whisker(low: float, mean: float, high: float, left: float, right: float) -> str:
    """Return an interval drawn in text on the common scale from `left` to `right`."""
    width = 24
    scale = (width - 1) / (right - left) if right > left else 0.0
    first, middle, last = (round((value - left) * scale) for value in (low, mean, high))
    line = [" "] * width
    line[first : last + 1] = "─" * (last + 1 - first)
    line[middle] = "●"
    return "".join(line)


def comparison_caption(comparison: Comparison) -> str:
    """Return what the table leaves unsaid: the noise, the budget, the test, the device."""
    settings = comparison.settings
    noise = ", ".join(f"{name} {value}" for name, value in comparison.task_settings.items())
    return (
        f"{noise}; {settings['seeds']} seeds after {settings['tuning runs per loss']} tuning runs "
        f"a loss; p: paired t-test against {comparison.baseline}; rank: mean over seeds; "
        f"{comparison.seconds:.0f} s on {comparison.environment['device']}"
    )
