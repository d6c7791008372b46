"""A notebook that was only opened and saved, in JupyterLab or on Windows, passes as the stored one does."""

import subprocess
import sys

import nbformat
import pytest
from support import LINKED, copy_course

NAME = "4.1_llm_architecture.ipynb"
# As JupyterLab 4.6 writes them, with a kernel that has a name of its own, and the state of the sliders
NOTEBOOK = {
    "kernelspec": {"display_name": "Python (course)", "language": "python", "name": "course"},
    "language_info": {
        "codemirror_mode": {"name": "ipython", "version": 3},
        "file_extension": ".py",
        "mimetype": "text/x-python",
        "name": "python",
        "nbconvert_exporter": "python",
        "pygments_lexer": "ipython3",
        "version": "3.12.1",
    },
    "widgets": {"application/vnd.jupyter.widget-state+json": {"state": {}, "version_major": 2}},
}
CELL = {
    "editable": True,
    "scrolled": True,
    "slideshow": {"slide_type": ""},
    "jupyter": {"source_hidden": False},
    "execution": {"iopub.execute_input": "2026-01-01T00:00:00.000000Z"},
}


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    folder = copy_course(tmp_path_factory.mktemp("course"), *LINKED)
    for path in folder.glob("notebooks/*.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        notebook.metadata.update(NOTEBOOK)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.metadata.update(CELL)
            cell.source = cell.source.replace("\n", "\r\n")
        nbformat.write(notebook, path)
    return folder


def run(*command, cwd):
    result = subprocess.run([sys.executable, *command], cwd=cwd, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_the_tests_pass(course):
    """All that read the notebooks, except those that would run them all again."""
    files = [f"tests/test_{name}.py" for name in ("notebooks", "export", "exercises", "figures")]
    quick = "not solution and not own_parts and not diagrams"
    run("-m", "pytest", "-o", "addopts=--nbval", "-k", quick, *files, f"notebooks/{NAME}", cwd=course)


def test_refresh_finds_nothing_stale(course):
    assert run("notebooks/refresh.py", "--check", NAME[:3], cwd=course).endswith("already up to date\n")
