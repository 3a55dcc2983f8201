"""What is built: the rows of the families' `papers.toml`, and the families' public functions."""

import functools
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module, resources
from typing import Any

import lossbench


@dataclass(frozen=True)
class Paper:
    """One row of a family's `papers.toml`."""

    family: str
    slug: str
    title: str
    authors: tuple[str, ...]
    venue: str
    year: int
    arxiv: str
    functions: tuple[str, ...]
    experiment: str

    @property
    def citation(self) -> str:
        """Authors, title, venue and year in one line."""
        arxiv = f", arXiv {self.arxiv}" if self.arxiv else ""
        return f"{', '.join(self.authors)}: {self.title}. {self.venue} {self.year}{arxiv}"


@functools.cache
def families() -> tuple[str, ...]:
    """Return the names of the families: the packages that carry a `papers.toml`."""
    root = resources.files(lossbench)
    return tuple(sorted(d.name for d in root.iterdir() if (d / "papers.toml").is_file()))


@functools.cache
def papers() -> tuple[Paper, ...]:
    """Return every paper that is built, by family and slug."""
    rows = [Paper(**row) for family in families() for row in _rows(family)]
    return tuple(sorted(rows, key=lambda paper: (paper.family, paper.slug)))


def _rows(family: str) -> Iterator[dict[str, Any]]:
    text = (resources.files(lossbench) / family / "papers.toml").read_text("utf-8")
    for row in tomllib.loads(text)["paper"]:
        values = {name: tuple(v) if isinstance(v, list) else v for name, v in row.items()}
        yield {"family": family, **values}


@functools.cache
def functions() -> dict[str, str]:
    """Return the family of every public function of the families."""
    found = {}
    for family in families():
        module = import_module(f"lossbench.{family}")
        for name in module.__all__:
            if not isinstance(getattr(module, name), type):  # a state's class is no function
                found[name] = family
    return found


def load_function(name: str) -> Callable:
    """Return the public function `name` of whichever family has it."""
    return getattr(import_module(f"lossbench.{functions()[name]}"), name)


def paper_of(function: str) -> Paper | None:
    """Return the paper that brought `function`, or None for a function that several share."""
    return next((paper for paper in papers() if function in paper.functions), None)
