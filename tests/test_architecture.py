"""The house keeps its floors: imports go down only, and importing it costs next to nothing."""

import ast
import collections
import functools
import graphlib
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import lossbench

PACKAGE = Path(lossbench.__file__).parent
FAMILIES = sorted(path.parent.name for path in PACKAGE.glob("*/papers.toml"))
FLOORS = [
    {"_lazy"},
    {"_typing"},
    {"_math", "_manifold"},
    {*FAMILIES, "data"},
    {"train"},
    {"bench"},
    {"cli"},
    {"__main__"},
]
# A family may use another through its public names, and rarely: the edges are listed here.
FAMILY_EDGES = {("classification", "robust"), ("score", "transport")}
HEAVY = "beartype flax jaxtyping matplotlib optax orbax ott pandas plotly rich scipy sklearn typer"
MODULES = sorted(PACKAGE.rglob("*.py"))
MAX_LINES = 400


def is_type_checking(node):
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def imports(path):
    """The (module, name) pairs that a file imports, those for the type checker aside."""
    found: list[tuple[str, str | None]] = []

    def visit(node):
        if is_type_checking(node):
            for other in node.orelse:
                visit(other)
            return
        if isinstance(node, ast.Import):
            found.extend((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.extend((node.module or "", alias.name) for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text()))
    return found


def room(path):
    """The part of the house that a file belongs to; "" is the package's own `__init__`."""
    part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "" if part == "__init__" else part


@functools.cache
def edges():
    """Import edges between the rooms of the house: (importer, imported) -> files."""
    found = collections.defaultdict(list)
    for path in MODULES:
        for module, name in imports(path):
            parts = module.split(".")
            if parts[0] != "lossbench":
                continue
            target = parts[1] if len(parts) > 1 else name or ""
            if not (PACKAGE / target).is_dir() and not (PACKAGE / f"{target}.py").exists():
                target = ""  # a name of the package itself: __version__, checked
            if target != room(path):
                found[room(path), target].append(str(path.relative_to(PACKAGE)))
    return dict(found)


def test_imports_go_down_only():
    floor = {name: level for level, names in enumerate(FLOORS) for name in names}
    for (importer, imported), files in edges().items():
        if "" in (importer, imported):
            continue
        assert importer in floor, f"{importer} has no floor in DESIGN.md"
        assert imported in floor, f"{imported} has no floor in DESIGN.md"
        if (importer, imported) not in FAMILY_EDGES:
            assert floor[imported] < floor[importer], f"{importer} imports {imported}: {files}"


def test_rooms_have_no_cycle():
    graph = collections.defaultdict(set)
    for importer, imported in edges():
        # The package itself is lazy: _typing reads its user context.
        if importer and imported:
            graph[importer].add(imported)
    list(graphlib.TopologicalSorter(graph).static_order())


def test_families_meet_through_public_names_only():
    for path in MODULES:
        for module, _ in imports(path):
            parts = module.split(".")
            if parts[0] == "lossbench" and len(parts) > 2 and room(path) != parts[1]:
                private = parts[1] in FAMILIES
                assert not private, f"{path.relative_to(PACKAGE)} reaches into {module}"


def test_nothing_imports_experiments_or_tests():
    for path in MODULES:
        for module, _ in imports(path):
            assert module.split(".")[0] not in {"experiments", "tests", "notebooks"}, path


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_module_is_read_in_one_sitting(path):
    assert len(path.read_text().splitlines()) <= MAX_LINES


def test_public_names_are_unique_across_families():
    homes = collections.defaultdict(list)
    for family in FAMILIES:
        for name in importlib.import_module(f"lossbench.{family}").__all__:
            homes[name].append(family)
    assert not {name: where for name, where in homes.items() if len(where) > 1}


def packages():
    return [
        path.parent for path in MODULES if path.name == "__init__.py" and path.parent != PACKAGE
    ]


@pytest.mark.parametrize("package", packages(), ids=lambda p: p.name)
def test_package_hands_on_what_it_declares(package):
    """`__all__`, the lazy table and the type checker's imports name the same things."""
    tree = ast.parse((package / "__init__.py").read_text())
    name = ".".join(("lossbench", *package.relative_to(PACKAGE).parts))
    module = importlib.import_module(name)
    if not hasattr(module, "_public"):
        return
    typed = {
        alias.name
        for node in tree.body
        if is_type_checking(node)
        for statement in ast.walk(node)
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }
    assert set(module.__all__) == set(module._public) == typed
    assert module.__all__ == sorted(module.__all__)


def loaded(code):
    """What a fresh interpreter has loaded, configured and started after `code`."""
    report = """
import json, sys
import jax._src.xla_bridge as bridge
print(json.dumps([sorted(sys.modules), {k: repr(v) for k, v in jax.config.values.items()},
                  bool(bridge._backends)]))
"""
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    out = subprocess.run(
        [sys.executable, "-c", code + report],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
    ).stdout
    return json.loads(out)


@functools.cache
def plain_jax():
    return loaded("import jax")


def test_importing_lossbench_loads_jax_and_nothing_heavy():
    modules, config, started = plain_jax()
    with_ours, config_after, started_after = loaded("import jax, lossbench")
    extra = {name.split(".")[0] for name in set(with_ours) - set(modules)}
    assert extra <= {"lossbench"}
    assert config_after == config
    assert not started
    assert not started_after


@pytest.mark.parametrize("family", [*FAMILIES, "_math", "data"])
def test_importing_a_family_loads_nothing_until_it_is_used(family):
    modules, config, _ = plain_jax()
    with_family, config_after, started = loaded(f"import jax, lossbench.{family}")
    extra = {name.split(".")[0] for name in set(with_family) - set(modules)}
    assert not extra & set(HEAVY.split())
    assert config_after == config
    assert not started


def test_using_every_public_name_starts_no_device_and_changes_no_setting():
    uses = "import jax\n" + "".join(f"from lossbench.{family} import *\n" for family in FAMILIES)
    _, config, _ = plain_jax()
    _, config_after, started = loaded(uses)
    assert config_after == config
    assert not started
