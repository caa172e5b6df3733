"""The notebook as it is stored; CI runs its cells by launch/run_notebook.py."""

import ast
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")


def test_the_notebook_is_stored_without_outputs_and_is_python():
    path = Path(__file__).parents[2] / "launch" / "colab.ipynb"
    book = nbformat.read(path, as_version=4)
    nbformat.validate(book)
    cells = [cell for cell in book.cells if cell.cell_type == "code"]
    assert len(cells) >= 5
    for cell in cells:
        assert cell.outputs == [] and cell.execution_count is None
        lines = ["pass" if x.lstrip()[:1] in ("!", "%") else x for x in cell.source.split("\n")]
        if not any(x.startswith(" ") and x.lstrip()[:1] == "%" for x in cell.source.split("\n")):
            ast.parse("\n".join(lines))
