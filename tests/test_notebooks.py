"""The notebooks run top to bottom on what is shipped, and are committed with what they then show."""

import sys

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from runs.plot_curve import hours_at_steps
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from common.errors import run_command
from runs import keep_scalars, plot_curve
from tests.conftest import ROOT
from tests.processes import PYTHON, run_to_end

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


def test_hours_of_training_leave_out_interruptions(tmp_path):
    with SummaryWriter(tmp_path) as writer:
        for step in range(100, 1100, 100):
            overnight = 10 * 3600 if step > 500 else 0
            writer.add_scalar("validation/pesq", 1.0, step, 1e9 + 0.36 * step + overnight)
    steps, hours = hours_at_steps(EventAccumulator(str(tmp_path)).Reload())
    np.testing.assert_allclose(hours, steps * 0.36 / 3600, rtol=1e-6)


def test_curves_are_drawn(tmp_path):
    script = [PYTHON, "-m", "runs.plot_curve"]
    command = [*script, ROOT / "notebooks" / "small-16k-run", "-o", tmp_path / "curve.png"]
    assert run_to_end(*command).returncode == 0
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    result = run_to_end(*script, tmp_path, "-o", tmp_path / "none.png")
    assert (result.returncode, result.stderr) == (2, f"error: {tmp_path}: no curves\n")
    assert not (tmp_path / "none.png").exists()
    result = run_to_end(*command[:-1], tmp_path / "none" / "curve.png")
    assert (result.returncode, result.stderr) == (2, f"error: {tmp_path / 'none' / 'curve.png'}: No such file or directory\n")


@pytest.mark.parametrize("script", [keep_scalars, plot_curve], ids=lambda script: script.__name__)
def test_a_folder_that_is_missing_is_one_line(script, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["script", str(tmp_path / "none"), *["-o"] * (script is plot_curve), str(tmp_path / "new")])
    with pytest.raises(SystemExit) as exit_:
        run_command(script.main)
    assert (exit_.value.code, capsys.readouterr().err) == (2, f"error: {tmp_path / 'none'}: no such folder\n")
    assert not (tmp_path / "new").exists()


def test_curves_are_kept_in_an_empty_folder_only(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    for target, said in [("kept", ""), ("kept", "kept: not empty"), ("file", "file: Not a directory")]:
        monkeypatch.setattr(sys, "argv", ["keep_scalars.py", str(ROOT / "notebooks" / "small-16k-run"), str(tmp_path / target)])
        with pytest.raises(SystemExit) as exit_:
            run_command(keep_scalars.main)
        assert exit_.value.code == (2 if said else 0)
        assert capsys.readouterr().err == (f"error: {tmp_path}/{said}\n" if said else "")
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["events.out.tfevents.curves"]
