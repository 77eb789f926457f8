# SPDX-License-Identifier: Apache-2.0
"""The example notebooks, executed against the real daemon as a reader would. With
ABLATE_SAVE_EXAMPLES=1 what comes out is written back, slim enough to commit.
"""

from __future__ import annotations

import base64
import os
from pathlib import Path

import nbformat
import pytest
from daemon import ROOT, Daemon, goldens, smollm2
from nbclient import NotebookClient

EXAMPLES = ROOT / "clients" / "python" / "examples"
PICTURE_BYTES = 200_000
plainly = pytest.mark.skipif(
    bool(os.environ.get("ABLATE_SANITIZED")),
    reason="notebooks show the Python package; with sanitizers the other tests drive the daemon",
)


def execute(name: str, daemon: Daemon) -> nbformat.NotebookNode:
    """The notebook with its outputs; CellExecutionError if a cell fails."""
    notebook = nbformat.read(EXAMPLES / name, as_version=4)
    for cell in notebook.cells:
        cell.pop("outputs", None)
        if cell.cell_type == "code":
            cell.outputs = []
    environment = {**os.environ, "ABLATE_HOST": daemon.grpc}
    client = NotebookClient(
        notebook, timeout=500, kernel_name="python3", resources={"metadata": {"path": str(EXAMPLES)}}
    )
    client.execute(env=environment)
    if os.environ.get("ABLATE_SAVE_EXAMPLES"):
        save(notebook, EXAMPLES / name)
    return notebook


def save(notebook: nbformat.NotebookNode, path: Path) -> None:
    """Without progress bars, times of execution, and what names this machine."""
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs = [out for out in cell.outputs if out.get("name") != "stderr"]
    notebook.metadata.pop("widgets", None)
    notebook.metadata["language_info"] = {"name": "python"}
    nbformat.write(notebook, path)


def pictures(notebook: nbformat.NotebookNode) -> list[bytes]:
    found = []
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if "image/png" in output.get("data", {}):
                found.append(base64.b64decode(output["data"]["image/png"]))
    return found


def last_text(notebook: nbformat.NotebookNode, code: str) -> str:
    """What the cell that has this code shows."""
    cell = next(cell for cell in notebook.cells if cell.cell_type == "code" and code in cell.source)
    return "".join(out.get("text") or out.data["text/plain"] for out in cell.outputs if out.get("name") != "stderr")


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.ipynb")), ids=lambda path: path.name)
def test_committed_notebooks_are_slim_and_show_their_pictures(path):
    notebook = nbformat.read(path, as_version=4)
    drawn = sum("\nplot." in "\n" + cell.source for cell in notebook.cells if cell.cell_type == "code")
    found = pictures(notebook)
    assert len(found) == drawn > 0, "each call of plot is a picture"
    assert all(len(picture) <= PICTURE_BYTES for picture in found)
    assert "stderr" not in path.read_text() and "/home/" not in path.read_text()


@plainly
def test_three_algorithms_agree_on_a_small_model(daemon):
    notebook = execute("three_algorithms.ipynb", daemon)
    assert len(pictures(notebook)) == 4
    assert "A0.3-&gt;MLP 0" in str(notebook.cells)


@plainly
def test_ones_own_model_goes_up_and_away(daemon):
    notebook = execute("own_model.ipynb", daemon)
    assert len(pictures(notebook)) == 3
    assert float(last_text(notebook, "hooked - mine")) < 1e-3, "a silenced head is a head without weights"
    assert int(last_text(notebook, "model.unload()")) > 0


@plainly
@pytest.mark.skipif(smollm2() is None, reason="there is no smollm2-135m; python -m ablate.models fetch")
def test_ioi_in_smollm2(daemon):
    with Daemon(roots=[smollm2().parent, goldens() / "models"]) as own:
        notebook = execute("ioi_smollm2.ipynb", own)
    assert len(pictures(notebook)) == 4
    assert "A23.3-&gt;Resid End" in str(notebook.cells)
