import inspect
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package with a module that announces its import, and a lazy subpackage."""
    root = tmp_path / "lazy_example"
    root.mkdir()
    (root / "__init__.py").write_text(
        textwrap.dedent("""
        from lossbench._lazy import attach
        __getattr__, __dir__, _public = attach(
            __name__, {"ideas": ["idea", "other"], "part": [], "twin": ["twin"]}
        )
        __all__ = ["idea", "other", "part", "twin"]
        """)
    )
    (root / "ideas.py").write_text("idea, other = object(), object()\nprivate = 1\n")
    (root / "part.py").write_text("")
    (root / "twin.py").write_text("def twin(): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "lazy_example"
    for name in [name for name in sys.modules if name.startswith("lazy_example")]:
        del sys.modules[name]


def test_names_load_when_asked_for(package):
    module = __import__(package)
    assert "lazy_example.ideas" not in sys.modules
    assert {"idea", "other", "part", "__all__"} <= set(dir(module))
    assert "lazy_example.ideas" not in sys.modules
    first = module.idea
    assert first is sys.modules["lazy_example.ideas"].idea
    assert vars(module)["idea"] is first  # found at once the next time
    assert "lazy_example.part" not in sys.modules
    assert module.part is sys.modules["lazy_example.part"]


def test_unknown_names_raise(package):
    module = __import__(package)
    for name in ("private", "nothing"):
        with pytest.raises(AttributeError, match=f"'lazy_example' has no attribute '{name}'"):
            getattr(module, name)
    with pytest.raises(ImportError, match="nothing"):
        exec("from lazy_example import nothing")


def test_star_import_takes_all(package):
    names: dict[str, object] = {}
    exec("from lazy_example import *", names)
    assert {"idea", "other", "part"} <= names.keys()


def test_public_names_are_sorted(package):
    assert __import__(package)._public == ["idea", "other", "part", "twin"]


@pytest.mark.parametrize("first", ["import lazy_example.twin", "from lazy_example import twin"])
def test_function_wins_over_the_module_of_its_name(package, first):
    exec(first)
    assert inspect.isfunction(__import__(package).twin)


def test_lossbench_hands_on_its_families():
    code = "import lossbench; lossbench.classification.comp_sum_loss; lossbench.checked"
    root = Path(__file__).parents[1]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root, timeout=60)
