"""A paper's claim, tested: `Experiment`, `reproduce`, and the table of all verdicts."""

import importlib.util
import json
import math
import pathlib
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import jax
import numpy as np

from lossbench.bench.comparison import environment, write_text
from lossbench.bench.errors import UnknownNameError, UsageError
from lossbench.bench.papers import papers

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Size = Literal["smoke", "full"]


@dataclass(frozen=True)
class Experiment:
    """A claim of a paper and the run that tests it; it may fail, and then the report says so."""

    paper: str
    """The slug, as in `papers.toml`."""
    claim: str
    """What the paper says, as an inequality in words."""
    run: Callable[[jax.Array, Size], dict[str, Any]]
    """`(key, size) -> results`: arrays and floats. `smoke` ends in seconds, `full` decides."""
    holds: Callable[[dict[str, Any]], bool]
    """`results -> bool`: the inequality that the claim means."""
    plot: Callable[[dict[str, Any]], "Figure"]
    reported: Mapping[str, Any] = field(default_factory=dict)
    """The paper's own figures, by the names of the results that they stand beside."""
    remark: str = ""
    """What a reader of the verdict must know: the setting, why it does not hold here."""


def load_experiment(name: str, root: pathlib.Path | None = None) -> tuple[Experiment, pathlib.Path]:
    """Return the experiment in the file `name`, or of the paper with that slug, and its path.

    A slug is looked for in the checkout around the working directory (or `root`).
    """
    if name.endswith(".py"):
        path = pathlib.Path(name)
        if not path.is_file():
            raise FileNotFoundError(f"no experiment at {path}")
    else:
        rows = {paper.slug: paper for paper in papers()}
        if name not in rows:
            raise UnknownNameError("paper", name, rows)
        path = (root or checkout()) / rows[name].experiment
    spec = importlib.util.spec_from_file_location(f"lossbench_experiment_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickle look a module up by name
    spec.loader.exec_module(module)
    experiment = getattr(module, "EXPERIMENT", None)
    if not isinstance(experiment, Experiment):
        raise UsageError(f"{path} defines no EXPERIMENT = Experiment(...)")
    return experiment, path


def checkout() -> pathlib.Path:
    """Return the checkout around the working directory: where the experiments lie."""
    for folder in (pathlib.Path.cwd(), *pathlib.Path.cwd().parents):
        if (folder / "experiments").is_dir() and (folder / "lossbench").is_dir():
            return folder
    raise FileNotFoundError(
        "experiments are found by slug inside a checkout of lossbench only; elsewhere name a file"
    )


def reproduce(
    experiment: Experiment,
    *,
    size: Size = "full",
    seed: int = 0,
    folder: str | pathlib.Path | None = None,
) -> dict[str, Any]:
    """Run an experiment and return its verdict; with `folder` write `<slug>.json` and `.png`.

    The verdict of a smoke run says only that the code works.
    """
    if size not in ("smoke", "full"):
        raise UnknownNameError("size", size, ("smoke", "full"))
    start = time.perf_counter()
    results = experiment.run(jax.random.key(seed), size)
    seconds = time.perf_counter() - start
    verdict = {
        "paper": experiment.paper,
        "claim": experiment.claim,
        "size": size,
        "holds": bool(experiment.holds(results)),
        "remark": experiment.remark,
        "measured": {name: _jsonable(value) for name, value in results.items()},
        "reported": dict(experiment.reported),
        "seed": seed,
        "seconds": round(seconds, 1),
        "environment": environment(),
    }
    if folder is not None:
        folder = pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        experiment.plot(results).savefig(folder / f"{experiment.paper}.png", dpi=120)
        text = json.dumps(verdict, indent=1) + "\n"
        write_text(folder / f"{experiment.paper}.json", text)
    return verdict


def _jsonable(value: Any) -> Any:
    """Return plain numbers, strings and lists; NaN and infinity become None."""
    if isinstance(value, Mapping):
        return {str(name): _jsonable(item) for name, item in value.items()}
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        value = np.asarray(value).tolist()
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def verdicts(folder: str | pathlib.Path) -> list[dict[str, Any]]:
    """Return the verdicts in a folder of results, by paper."""
    rows = []
    for path in sorted(pathlib.Path(folder).glob("*.json")):
        try:
            rows.append(json.loads(path.read_text(encoding="utf-8")))
        except json.JSONDecodeError as error:
            raise UsageError(f"{path} is not a verdict: {error}") from error
    return rows


def report(folder: str | pathlib.Path) -> str:
    """Return the table of the verdicts in a folder, in Markdown."""
    rows = verdicts(folder)
    if not rows:
        raise FileNotFoundError(f"no results in {folder}; run `lossbench reproduce --all` first")
    held = sum(row["holds"] for row in rows if row["size"] == "full")
    full = sum(row["size"] == "full" for row in rows)
    lines = [
        "# Claims re-tested",
        "",
        f"{held} of {full} claims hold at the scale of one small machine. "
        "A smoke run decides nothing.",
        "",
        "| paper | claim | verdict | remark | seconds | device |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        verdict = "holds" if row["holds"] else "**does not hold**"
        if row["size"] != "full":
            verdict = "smoke run"
        cells = [
            f"[{row['paper']}]({row['paper']}.png)",
            row["claim"],
            verdict,
            row["remark"],
            f"{row['seconds']:g}",
            row["environment"]["device"],
        ]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"
