"""The command line: `lossbench list | show | compare | reproduce`."""

import contextlib
import importlib.metadata
import inspect
import json
import pathlib
import signal
import sys
from collections.abc import Iterator
from typing import Annotated, Any, NoReturn, cast

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

app = typer.Typer(
    name="lossbench",
    help="Losses from the research literature in JAX: compare them, and re-test their papers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
console = Console()
errors = Console(stderr=True)

INTERRUPTED = 130
MAIN_TASK = "noisy-digits"
MAIN_LOSSES = (
    "cross_entropy",
    "label_smoothing",
    "generalized_cross_entropy_loss",
    "mean_absolute_error_loss",
    "sum_exponential_loss",
    "ldr_kl_loss",
    "ldr_topk_kl_loss",
    "aldr_kl_loss",
    "crammer_singer_loss",
)
"""What the main job compares: optax's baselines beside the losses of the classification family."""


def _version(value: bool) -> None:
    if value:
        console.print(importlib.metadata.version("lossbench"), highlight=False)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@app.command("list")
def list_(
    family: Annotated[str | None, typer.Argument(help="Only this family.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """List the functions of each family, with the papers they come from."""
    from lossbench.bench import papers
    from lossbench.bench.errors import UnknownNameError

    if family is not None and family not in papers.families():
        raise UnknownNameError("family", family, papers.families())
    rows = [
        {
            "family": home,
            "function": name,
            "summary": _summary(papers.load_function(name)),
            "paper": paper.slug if (paper := papers.paper_of(name)) else None,
        }
        for name, home in sorted(papers.functions().items(), key=lambda row: row[::-1])
        if family in (None, home)
    ]
    if as_json:
        _print_json(rows)
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("family", "function", "paper", ""):
        table.add_column(title, no_wrap=title != "")
    previous = None
    for row in rows:
        shown = row["family"] if row["family"] != previous else ""
        previous = row["family"]
        table.add_row(shown, row["function"], row["paper"] or "", Text(str(row["summary"]), "dim"))
    console.print(table)
    console.print(f"\n{len(rows)} functions. `lossbench show NAME` tells more.", style="dim")


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A public function of a family.")],
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Show a function: signature, formula, paper, hyper-parameters and an example."""
    from lossbench.bench import papers
    from lossbench.bench.errors import UnknownNameError
    from lossbench.bench.grids import GRIDS
    from lossbench.bench.losses import BASELINES

    if name in papers.functions():
        function, family = papers.load_function(name), papers.functions()[name]
    elif name in BASELINES:
        function, family = BASELINES[name], "bench"
    else:
        raise UnknownNameError("function", name, [*papers.functions(), *BASELINES])
    paper = papers.paper_of(name)
    hyperparameters = {
        parameter.name: None if parameter.default is parameter.empty else str(parameter.default)
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY
    }
    grid = {k: v if isinstance(v, tuple) else (v,) for k, v in GRIDS.get(name, {}).items()}
    if as_json:
        _print_json(
            {
                "function": name,
                "family": family,
                "signature": _signature(function),
                "docstring": inspect.getdoc(function),
                "hyperparameters": hyperparameters,
                "grid": grid,
                "paper": None if paper is None else paper.citation,
                "experiment": None if paper is None else paper.experiment,
            }
        )
        return
    from rich.syntax import Syntax

    console.print(f"[bold]lossbench.{family}.{name}[/bold]")
    console.print(
        Syntax(
            f"{name}{_signature(function)}", "python", background_color="default", word_wrap=True
        )
    )
    console.print()
    console.print(inspect.getdoc(function) or "", markup=False, highlight=False)
    console.print()
    facts = Table(box=None, show_header=False, pad_edge=False)
    facts.add_column(style="bold")
    facts.add_column()
    for parameter, default in hyperparameters.items():
        tuned = f"; tuned over {', '.join(map(str, grid[parameter]))}" if parameter in grid else ""
        facts.add_row(parameter, f"default {default}{tuned}" if default else f"required{tuned}")
    if paper is not None:
        facts.add_row("paper", escape(paper.citation))
        facts.add_row("experiment", f"lossbench reproduce {paper.slug}")
    console.print(facts)


@app.command()
def compare(
    task: Annotated[
        str, typer.Argument(help="A task, an .npz file or a folder of images.")
    ] = MAIN_TASK,
    losses: Annotated[
        str, typer.Option(help="Names or package.module:function, separated by commas.")
    ] = ",".join(MAIN_LOSSES),
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of each tuned loss.")] = 10,
    tune: Annotated[int, typer.Option(min=1, help="Settings tried for each loss.")] = 12,
    tune_seeds: Annotated[int, typer.Option(min=1, help="Seeds of each setting.")] = 2,
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps of a run.")] = None,
    baseline: Annotated[
        str | None, typer.Option(help="What the paired test compares with.")
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", help="A setting of the task, as noise=pair-flip or rate=0.2."),
    ] = None,
    key: Annotated[int, typer.Option(help="Seed of all randomness.")] = 0,
    out: Annotated[
        pathlib.Path | None, typer.Option(help="Folder for the results; resumes what is there.")
    ] = None,
    progress: Annotated[
        bool | None, typer.Option(help="Show a progress bar (default: on a terminal).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Compare losses on a task: tune each alike, then measure the winners over many seeds.

    Without arguments: the main job, nine losses on digits with 40% label noise.
    """
    from lossbench import bench
    from lossbench.bench import terminal

    folder = out or pathlib.Path("lossbench-results") / pathlib.Path(task).stem
    chosen = bench.load_task(task, **_settings(setting or []))
    if not as_json:
        errors.print(f"{chosen.description}; results go to {folder}/", style="dim", soft_wrap=True)
    try:
        with _lasting_interrupt():
            comparison = bench.compare(
                chosen,
                [name.strip() for name in losses.split(",") if name.strip()],
                seeds=seeds,
                tune=tune,
                tune_seeds=tune_seeds,
                steps=steps,
                baseline=baseline,
                key=key,
                out=folder,
                progress=progress,
            )
    except KeyboardInterrupt:
        errors.print(
            f"Interrupted. The finished runs are in {folder}/; the same command goes on from them.",
            soft_wrap=True,
        )
        raise typer.Exit(INTERRUPTED) from None
    if as_json:
        sys.stdout.write((folder / "comparison.json").read_text(encoding="utf-8") + "\n")
        return
    console.print(terminal.comparison_table(comparison, console.width))
    console.print(terminal.comparison_caption(comparison), style="dim")
    for name in ("html", "png", "csv", "json"):
        console.print(f"  {folder / f'comparison.{name}'}", highlight=False)


@app.command()
def reproduce(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="SLUG|FILE ...", help="Papers or files.")
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every paper that is built.")] = False,
    size: Annotated[str, typer.Option(help="smoke (seconds) or full (decides).")] = "full",
    seed: Annotated[int, typer.Option(help="Seed of all randomness.")] = 0,
    out: Annotated[
        pathlib.Path | None,
        typer.Option(help="Folder for JSON and PNG (in a checkout: experiments/results)."),
    ] = None,
    report: Annotated[bool, typer.Option("--report", help="Build the table of verdicts.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the verdicts as JSON.")] = False,
) -> None:
    """Re-test papers' claims: run their experiments and say whether they hold.

    A verdict is a result, whichever way it goes: the exit code is 0 when the run succeeded.
    """
    from lossbench.bench import experiment as experiments
    from lossbench.bench import terminal
    from lossbench.bench.comparison import write_text
    from lossbench.bench.errors import UsageError
    from lossbench.bench.papers import papers
    from lossbench.train.progress import progress_bar

    wanted = [paper.slug for paper in papers()] if all_ else (names or [])
    if not wanted and not report:
        raise UsageError("name a paper or a file, or give --all or --report")
    verdicts = []
    chosen = cast(experiments.Size, size)  # `reproduce` refuses others, with a suggestion
    for name in wanted:
        experiment, path = experiments.load_experiment(name)
        folder = out or _results_folder(path, size)
        with progress_bar(None, title=f"{experiment.paper} ({size})", patience=0):
            verdict = experiments.reproduce(experiment, size=chosen, seed=seed, folder=folder)
        verdicts.append(verdict)
        if not as_json:
            terminal.print_verdict(console, verdict, folder)
    if as_json:
        _print_json(verdicts)
    if report:
        folder = out or experiments.checkout() / "experiments" / "results"
        table = experiments.report(folder)
        write_text(folder / "README.md", table)
        if not as_json:
            from rich.markdown import Markdown

            console.print(Markdown(table))
            console.print(f"  {folder / 'README.md'}", highlight=False)


def _results_folder(experiment: pathlib.Path, size: str) -> pathlib.Path:
    """Return where a result goes: full runs of a checkout beside its experiments."""
    root = experiment.resolve().parent.parent
    if size == "full" and root.name == "experiments":
        return root / "results"
    return pathlib.Path("lossbench-results") / "experiments"


@contextlib.contextmanager
def _lasting_interrupt() -> Iterator[None]:
    """Raise Ctrl-C again each second until it arrives.

    Python drops an exception that is raised inside a callback, and jax has one in the garbage
    collector: a single KeyboardInterrupt may get lost there.
    """
    if not hasattr(signal, "setitimer"):  # Windows
        yield
        return

    def interrupt(*_: object) -> NoReturn:
        signal.setitimer(signal.ITIMER_REAL, 1.0)
        raise KeyboardInterrupt

    before = {
        number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGALRM)
    }
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def _settings(given: list[str]) -> dict[str, Any]:
    from lossbench.bench.errors import UsageError

    settings: dict[str, Any] = {}
    for item in given:
        name, equals, value = item.partition("=")
        if not equals:
            raise UsageError(f"--set takes name=value, got {item!r}")
        try:
            settings[name] = json.loads(value)
        except json.JSONDecodeError:
            settings[name] = value
    return settings


def _signature(function: Any) -> str:
    """Return the signature without the annotations: the docstring gives the shapes."""
    signature = inspect.signature(function)
    plain = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in signature.parameters.values()
    ]
    return str(signature.replace(parameters=plain, return_annotation=inspect.Signature.empty))


def _summary(function: Any) -> str:
    return (inspect.getdoc(function) or "").partition("\n")[0]


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=1) + "\n")


def _fail(message: str, code: int = 2) -> NoReturn:
    errors.print(f"[bold red]error:[/bold red] {escape(message)}", soft_wrap=True)
    raise SystemExit(code)


def main() -> None:
    """Run the command line: what a user did wrong is one sentence and exit code 2."""
    from lossbench.bench.errors import UsageError

    try:
        app()
    except (UsageError, FileNotFoundError, FileExistsError) as error:
        _fail(str(error))
    except KeyboardInterrupt:
        _fail("interrupted", INTERRUPTED)
