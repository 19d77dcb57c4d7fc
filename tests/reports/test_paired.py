"""Each notebook and its text twin, in which changes are reviewed, hold the same cells."""

from __future__ import annotations

import nbformat
import pytest

from hr_search.base import paths

jupytext = pytest.importorskip("jupytext", reason="no jupytext: pip install jupytext")
NOTEBOOKS = sorted(paths.notebooks().glob("*.ipynb"))


def cells(notebook: nbformat.NotebookNode) -> list[tuple[str, str, dict]]:
    return [(cell.cell_type, cell.source, dict(cell.metadata)) for cell in notebook.cells]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_and_its_twin_are_in_step(path):
    twin = path.parent / "paired" / f"{path.stem}.py"
    assert twin.is_file(), "run `make pair`"
    assert cells(jupytext.read(twin, fmt="py:percent")) == cells(nbformat.read(path, 4)), "run `make pair`"


def test_no_twin_is_left_of_a_notebook_that_is_gone():
    assert {path.stem for path in (paths.notebooks() / "paired").iterdir()} == {path.stem for path in NOTEBOOKS}


def test_every_notebook_begins_with_its_title_and_the_same_cell_that_installs_what_is_missing():
    second = [nbformat.read(path, 4).cells[1] for path in NOTEBOOKS]
    assert {cell.source for cell in second} == {second[0].source}
    assert all(cell.metadata["tags"] == ["setup"] and cell.metadata["jupyter"]["source_hidden"] for cell in second)


def test_the_first_cell_does_nothing_where_the_package_is_installed(monkeypatch):
    called = []
    monkeypatch.setattr("subprocess.run", lambda *words, **options: called.append(words))
    exec(nbformat.read(NOTEBOOKS[0], 4).cells[1].source, {})
    assert not called
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.chdir(paths.notebooks())
    monkeypatch.syspath_prepend("unused")  # puts sys.path back afterwards
    exec(nbformat.read(NOTEBOOKS[0], 4).cells[1].source, {})
    ((words,),) = called
    assert words[1:-1] == ["-m", "pip", "install", "-q", "-e"] and words[-1] == f"{paths.checkout()}[bundled]"
