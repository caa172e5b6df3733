"""Runs the cells of a notebook in order in an empty folder; the file stays without outputs.

python launch/run_notebook.py [launch/colab.ipynb]
"""

import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient


def run(path: Path, *, timeout: float = 600.0) -> nbformat.NotebookNode:
    """The notebook with its outputs. Raises CellExecutionError; `timeout` is of a cell, seconds."""
    book = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        resources = {"metadata": {"path": folder}}
        return NotebookClient(book, timeout=timeout, resources=resources).execute()


if __name__ == "__main__":
    begin = time.monotonic()
    run(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("colab.ipynb"))
    print(f"all cells ran in {time.monotonic() - begin:.0f} s")
