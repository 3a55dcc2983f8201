"""Every notebook runs from top to bottom, with warnings as errors, and draws."""

from pathlib import Path

import nbclient
import nbformat
import pytest

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
# The kernel's own sockets and event loop are not ours to close.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")
def test_notebook_runs(path):
    notebook = nbformat.read(path, as_version=4)
    # A kernel does not inherit pytest's filters; ott-jax imports jaxopt, as pyproject says.
    strict = nbformat.v4.new_code_cell(
        "import warnings\nwarnings.simplefilter('error')\n"
        "warnings.filterwarnings('ignore', 'JAXopt is no longer maintained', DeprecationWarning)"
    )
    notebook.cells.insert(0, strict)
    folder = {"metadata": {"path": str(path.parent)}}
    nbclient.NotebookClient(notebook, timeout=300, resources=folder).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 2
    assert not [output for output in outputs if output.get("name") == "stderr"]
