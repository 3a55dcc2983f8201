"""What is built: the rows of the families' `papers.toml`, and the public functions of the families.

Nothing here imports a family's code, so that listing stays instant.
"""

import functools
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module, resources

import lossbench


@dataclass(frozen=True)
class Paper:
    """One row of a family's `papers.toml`."""

    family: str
    slug: str
    title: str
    authors: str
    venue: str
    year: int
    arxiv: str
    functions: tuple[str, ...]
    experiment: str

    @property
    def citation(self) -> str:
        """Authors, title, venue and year in one line."""
        arxiv = f", arXiv {self.arxiv}" if self.arxiv else ""
        return f"{self.authors}: {self.title}. {self.venue} {self.year}{arxiv}"


@functools.cache
def families() -> tuple[str, ...]:
    """Return the names of the families: the packages that carry a `papers.toml`."""
    root = resources.files(lossbench)
    return tuple(sorted(d.name for d in root.iterdir() if (d / "papers.toml").is_file()))


@functools.cache
def papers() -> tuple[Paper, ...]:
    """Return every paper that is built, by family and slug."""
    root = resources.files(lossbench)
    rows = [
        Paper(family=family, **{**row, "functions": tuple(row["functions"])})
        for family in families()
        for row in tomllib.loads((root / family / "papers.toml").read_text("utf-8"))["paper"]
    ]
    return tuple(sorted(rows, key=lambda paper: (paper.family, paper.slug)))


@functools.cache
def functions() -> dict[str, str]:
    """Return the family of every public function of the families."""
    return {
        name: family
        for family in families()
        for name in import_module(f"lossbench.{family}").__all__
    }


def load_function(name: str) -> Callable:
    """Return the public function `name` of whichever family has it."""
    return getattr(import_module(f"lossbench.{functions()[name]}"), name)


def paper_of(function: str) -> Paper | None:
    """Return the paper that brought `function`, or None for a function that several share."""
    return next((paper for paper in papers() if function in paper.functions), None)
