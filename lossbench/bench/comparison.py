"""What a comparison found: its numbers, its table and its files."""

import dataclasses
import datetime
import functools
import importlib.metadata
import json
import os
import pathlib
import platform
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import jax
import numpy as np

from lossbench.bench.errors import UsageError

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas as pd

FORMAT = 1


def environment() -> dict[str, str]:
    """Return the versions and the device that a result depends on."""
    packages = ("lossbench", "jax", "jaxlib", "optax", "flax", "numpy", "scikit-learn")
    devices = jax.devices()
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages},
        "device": f"{len(devices)} x {devices[0].device_kind}",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def write_text(path: pathlib.Path, text: str) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


@dataclass(frozen=True)
class LossResult:
    """All raw numbers of one loss; None stands for a value that is not finite."""

    chosen: dict[str, float]
    """The setting that won the tuning."""
    fixed: dict[str, str]
    """Hyper-parameters that were not tuned."""
    tuning: list[dict[str, Any]]
    """Each setting tried, with its validation score and step of divergence for each tuning seed."""
    evaluated_at: list[int]
    """Steps at which the curves were measured."""
    train_loss: list[list[float | None]]
    """Mean training loss up to each of those steps: (seeds, steps)."""
    validation: dict[str, list[list[float | None]]]
    """For each metric its curve: (seeds, steps)."""
    test: dict[str, list[list[float | None]]]
    diverged: list[int]
    """For each seed the step at which the loss was no longer finite, or -1."""

    def scores(self, metric: str) -> np.ndarray:
        """Return the metric on the test split after the last step, for each seed."""
        return np.array([curve[-1] for curve in self.test[metric]], float)

    def curves(self, metric: str) -> np.ndarray:
        """Return the metric on the test split: (seeds, steps)."""
        return np.array(self.test[metric], float)


@dataclass(frozen=True)
class Comparison:
    """Losses compared on a task. It shows itself as a table in a notebook."""

    task: str
    description: str
    task_settings: dict[str, Any]
    objective: str
    minimized: list[str]
    """Metrics of which the smaller is the better."""
    baseline: str
    settings: dict[str, Any]
    results: dict[str, LossResult]
    environment: dict[str, str]
    seconds: float

    def to_pandas(self, metric: str | None = None) -> "pd.DataFrame":
        """Return a row for each loss, the best first.

        Columns: `mean` over seeds and its 95% interval (`low`, `high`, Student's t), the `worst`
        seed, `rank` (mean over seeds of the loss's rank in that seed), `p_value` of a paired t-test
        against the baseline (two-sided, not corrected for the number of losses), the count of
        `diverged` seeds and the `setting` that won. `metric` defaults to the task's objective.
        """
        import pandas as pd
        from scipy import stats

        metric = metric or self.objective
        scores = {name: result.scores(metric) for name, result in self.results.items()}
        minimized = metric in self.minimized
        stacked = np.stack(list(scores.values()))
        ranks = stats.rankdata(stacked if minimized else -stacked, axis=0, nan_policy="omit")
        rows = []
        for (name, values), rank in zip(scores.items(), ranks, strict=True):
            low, high = interval(values)
            rows.append(
                {
                    "loss": name,
                    "mean": values.mean(),
                    "low": low,
                    "high": high,
                    "worst": values.max() if minimized else values.min(),
                    "rank": rank.mean(),
                    "p_value": paired_p_value(values, scores[self.baseline]),
                    "diverged": sum(step >= 0 for step in self.results[name].diverged),
                    "setting": describe_setting(self.results[name].chosen),
                }
            )
        table = pd.DataFrame(rows).set_index("loss")
        return table.sort_values("mean", ascending=minimized, kind="stable")

    def plot(self, metric: str | None = None) -> "matplotlib.figure.Figure":
        """Return a figure: the intervals of the losses, and their curves over training."""
        from lossbench.bench.plots import plot_comparison

        return plot_comparison(self, metric or self.objective)

    def to_html(self) -> str:
        """Return one self-contained page: table, intervals and curves, all without network."""
        from lossbench.bench.page import render_comparison

        return render_comparison(self)

    def _repr_html_(self) -> str:
        caption = f"{self.objective} on {self.description} ({self.settings['seeds']} seeds)"
        return (
            self.to_pandas()
            .style.format(precision=4)
            .set_caption(caption)
            .background_gradient(subset=["mean"], cmap="Blues", low=0.1, high=0.6)
            .to_html()
        )

    def save(self, folder: str | pathlib.Path) -> pathlib.Path:
        """Write `comparison.json` (everything), `.csv`, `.png` and `.html`; return the folder."""
        folder = pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"format": FORMAT, **dataclasses.asdict(self)}, indent=1)
        write_text(folder / "comparison.json", text)
        write_text(folder / "comparison.csv", self.to_pandas().to_csv())
        self.plot().savefig(folder / "comparison.png", dpi=160)
        write_text(folder / "comparison.html", self.to_html())
        return folder

    @classmethod
    def load(cls, folder: str | pathlib.Path) -> Self:
        """Return the comparison that `save` wrote to `folder`.

        Raises `FileNotFoundError` where there is none, `ValueError` where it cannot be read.
        """
        path = pathlib.Path(folder) / "comparison.json"
        if not path.is_file():
            raise FileNotFoundError(f"no comparison in {folder}: {path.name} is not there")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content.pop("format") != FORMAT:
                raise UsageError(f"it was written in another format than {FORMAT}")
            content["results"] = {
                name: LossResult(**result) for name, result in content["results"].items()
            }
            return cls(**content)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(f"{path} cannot be read: {error}") from error


def interval(values: np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
    """Return the confidence interval of the mean by Student's t; the mean itself for one value."""
    from scipy import stats

    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, mean
    quantile = stats.t.ppf((1 + confidence) / 2, len(values) - 1)
    half = float(quantile * np.std(values, ddof=1) / np.sqrt(len(values)))
    return mean - half, mean + half


def paired_p_value(values: np.ndarray, baseline: np.ndarray) -> float:
    """Return the two-sided p-value of a paired t-test; NaN where nothing can be said."""
    from scipy import stats

    differences = values - baseline
    if len(differences) < 2 or not np.all(np.isfinite(differences)) or np.ptp(differences) == 0:
        return float("nan")
    return float(stats.ttest_1samp(differences, 0.0).pvalue)


def describe_setting(setting: dict[str, float]) -> str:
    """Return a setting as text, three digits a number."""
    return ", ".join(f"{name}={value:.3g}" for name, value in setting.items())


@functools.cache
def palette() -> tuple[str, ...]:
    """Return the colours of the losses, in plots and pages alike: tab20, the strong ones first."""
    import matplotlib as mpl
    from matplotlib.colors import to_hex

    colours = [to_hex(mpl.colormaps["tab20"](i)) for i in range(20)]
    return tuple(colours[::2] + colours[1::2])
