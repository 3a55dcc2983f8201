"""Figures of comparisons (matplotlib, without pyplot's global state)."""

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from lossbench.bench.comparison import interval, palette

if TYPE_CHECKING:
    from lossbench.bench.comparison import Comparison


def plot_comparison(comparison: "Comparison", metric: str) -> Figure:
    """Return two panels: mean and interval of each loss over its seeds, and the mean curves."""
    table = comparison.to_pandas(metric)
    colours = dict(zip(comparison.results, palette() * 8, strict=False))
    height = max(3.2, 0.42 * len(table) + 1.4)
    figure = Figure(figsize=(12, height), layout="constrained")
    intervals, curves = figure.subplots(1, 2)
    for row, (name, values) in enumerate(table.iterrows()):
        result, colour = comparison.results[str(name)], colours[str(name)]
        scores = result.scores(metric)
        intervals.scatter(scores, np.full(len(scores), row), s=9, color=colour, alpha=0.35)
        intervals.errorbar(
            values["mean"],
            row,
            xerr=[[values["mean"] - values["low"]], [values["high"] - values["mean"]]],
            fmt="o",
            color=colour,
            capsize=4,
            linewidth=2,
        )
        curve = result.curves(metric)
        low, high = np.transpose([interval(column) for column in curve.T])
        curves.plot(result.evaluated_at, curve.mean(0), color=colour, label=name)
        curves.fill_between(result.evaluated_at, low, high, color=colour, alpha=0.15, linewidth=0)
    intervals.axvline(table.loc[comparison.baseline, "mean"], color="0.6", linestyle=":", zorder=0)
    intervals.set_yticks(range(len(table)), list(table.index))
    intervals.invert_yaxis()
    intervals.set_xlabel(f"test {metric}: mean, 95% interval, every seed")
    intervals.grid(axis="x", alpha=0.25)
    curves.set_xlabel("step")
    curves.set_ylabel(f"test {metric}")
    curves.grid(alpha=0.25)
    curves.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    figure.suptitle(f"{comparison.description} ({comparison.settings['seeds']} seeds)")
    return figure
