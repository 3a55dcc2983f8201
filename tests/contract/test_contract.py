"""Every public function of every family passes the examination, or says in its example why not."""

import functools
import importlib
import importlib.util
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from examination import examine
from kinds import Example, Keyed, Solver, Stateful

import lossbench

PACKAGE = Path(lossbench.__file__).parent
FAMILIES = sorted(path.parent.name for path in PACKAGE.glob("*/papers.toml"))


def public_functions(family: str) -> dict[str, Callable[..., Any]]:
    module = importlib.import_module(f"lossbench.{family}")
    members = {name: getattr(module, name) for name in module.__all__}
    return {name: member for name, member in members.items() if inspect.isroutine(member)}


def examples(family: str) -> Mapping[str, Example | Stateful | Keyed | Solver]:
    """The examples of a family: one file, or a folder with a file for each of its ideas."""
    folder = Path(__file__).parent / "examples"
    found: dict[str, Example | Stateful | Keyed | Solver] = {}
    for path in (folder / f"{family}.py", *sorted((folder / family).glob("*.py"))):
        if not path.exists():
            continue
        spec = importlib.util.spec_from_file_location(f"{family}_{path.stem}_examples", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        assert not found.keys() & module.EXAMPLES.keys(), f"{path}: an example stands elsewhere"
        found |= module.EXAMPLES
    return found


FUNCTIONS = {family: public_functions(family) for family in FAMILIES}
EXAMPLES = {family: examples(family) for family in FAMILIES}


@functools.cache
def outcomes(family: str, name: str) -> dict[str, str | None]:
    return examine(FUNCTIONS[family][name], EXAMPLES[family][name])


@pytest.mark.parametrize("family", FAMILIES)
def test_every_public_function_has_an_example(family):
    without = sorted(FUNCTIONS[family].keys() - EXAMPLES[family].keys())
    assert not without, f"add to tests/contract/examples/{family}: {', '.join(without)}"
    unknown = sorted(EXAMPLES[family].keys() - FUNCTIONS[family].keys())
    assert not unknown, f"examples of functions that are not public: {', '.join(unknown)}"


@pytest.mark.parametrize("family", FAMILIES)
def test_every_skip_names_a_check_and_a_reason(family):
    for name, example in EXAMPLES[family].items():
        for check, reason in example.skip.items():
            assert check in example.checks, f"{name} skips an unknown check: {check}"
            assert reason.strip(), f"{name} skips {check} without a reason"


def judge(family: str, name: str, check: str) -> None:
    failure = outcomes(family, name)[check]
    reason = EXAMPLES[family][name].skip.get(check)
    if reason is None:
        assert failure is None, failure
    else:
        assert failure is not None, f"the skip is not needed ({reason}): the check passes"
        pytest.skip(reason)


def examination_of(family: str, name: str) -> type:
    """A class of tests: `--dist=loadscope` keeps it on one worker, which examines only once."""

    @pytest.mark.parametrize("check", EXAMPLES[family][name].checks)
    def test(self, check):
        judge(family, name, check)

    return type(f"Test_{family}_{name}", (), {"test": test})


for family, functions in FUNCTIONS.items():
    for name in sorted(functions.keys() & EXAMPLES[family].keys()):
        globals()[f"Test_{family}_{name}"] = examination_of(family, name)
