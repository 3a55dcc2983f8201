import collections
import re
import sys
from pathlib import Path

import jax
import pytest

# Not installed: the examination, which the example factories import too.
sys.path.insert(0, str(Path(__file__).parent / "contract"))


@pytest.fixture(autouse=True, scope="module")
def drop_compiled_programs():
    """Give back a file's compiled programs: over the whole suite they would fill gigabytes."""
    yield
    jax.clear_caches()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Count the contract's skips by check: a check that most functions skip is no check."""
    skips: collections.Counter[str] = collections.Counter()
    for report in terminalreporter.stats.get("skipped", []):
        if match := re.search(r"test_contract\.py::Test_\w+::test\[(\w+)\]", report.nodeid):
            skips[match[1]] += 1
    if skips:
        counts = ", ".join(f"{check} {number}" for check, number in sorted(skips.items()))
        terminalreporter.write_line(f"contract checks skipped: {counts}")
