"""The notebooks run top to bottom on what is shipped, and are committed with what they then show."""

import nbformat
import pytest
from nbclient import NotebookClient

from tests.conftest import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LARGEST = 2_500_000  # bytes, each


def outputs(notebook):
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_top_to_bottom(path):
    notebook = nbformat.read(path, as_version=4)
    n_pictures = sum("image/png" in output.get("data", {}) for output in outputs(notebook))
    NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(path.parent)}}).execute()
    assert not [output for output in outputs(notebook) if output.output_type == "error"]
    assert sum("image/png" in output.get("data", {}) for output in outputs(notebook)) == n_pictures


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_is_committed_with_its_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert path.stat().st_size < LARGEST
    text = path.read_text(encoding="utf-8")
    assert str(ROOT) not in text and "/home/" not in text
    html = "".join(output.get("data", {}).get("text/html", "") for output in outputs(notebook))
    assert any("image/png" in output.get("data", {}) for output in outputs(notebook))
    if path.stem == "inference":
        assert html.count("<audio") == 9 and "animation" in html


def test_there_are_both():
    assert [path.stem for path in NOTEBOOKS] == ["inference", "training"]
