"""Without a download, the cells that need it print a sentence, and all others run as ever."""

import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook
from support import NOTEBOOKS, ROOT, copy_course, read_notebook

from notebooks.refresh import EXPORTS, execute

SETUP = f"import sys; sys.path.insert(0, {str(ROOT)!r})\nfrom notebooks.optional import skip_cells_with"


def run(notebook):
    """The texts that the code cells of `notebook` print."""
    client = NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        coalesce_streams=True,
        resources={"metadata": {"path": str(ROOT / "notebooks")}},
    )
    client.execute()
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return ["".join(output.get("text", "") for output in cell.outputs) for cell in code]


def test_what_is_skipped():
    cells = [
        ("skip_cells_with('model', say='no model')", "no model\n"),
        ("x = model(3)", "no model\n"),
        ("print(x)", "no model\n"),  # made by a cell that was skipped
        ("def read(text):\n    return [model(word) for word in text]", "no model\n"),
        ("print(read('a'))", "no model\n"),
        ("def size(model):\n    x = len(model)\n    return x\nprint(size('abc'))", "3\n"),  # names of its own
        ("print('model', [].append.__name__)", "model append\n"),
        ("x = 5", ""),
        ("print(x)", "5\n"),  # it's there again
        ("print(read)", "no model\n"),
        ("model = len", ""),
        ("def read(text):\n    return model(text)", ""),
        ("print(read('ab'))", "2\n"),
    ]
    notebook = new_notebook(cells=[new_code_cell(source) for source in (SETUP, *(cell for cell, _ in cells))])
    assert run(notebook) == ["", *(printed for _, printed in cells)]


@pytest.mark.parametrize(
    "path", [p for p in NOTEBOOKS if p.name.startswith(EXPORTS["llama.py"][0])], ids=lambda p: p.stem
)
def test_notebooks_run_without_smollm2_and_say_so(path, tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_MODELS", str(tmp_path / "no models"))
    (tmp_path / "course").mkdir()
    stored = read_notebook(path)
    fresh = execute(path.name, stored, copy_course(tmp_path / "course"), {})
    said = 0
    for old, new in zip(stored.cells, fresh.cells, strict=True):
        if new.cell_type == "code":
            before, now = ("".join(out.get("text", "") for out in cell.outputs) for cell in (old, new))
            said += now.startswith("No SmolLM2 here: ")
            assert now.startswith("No SmolLM2") or now == before or "NBVAL_IGNORE_OUTPUT" in new.source
    assert said > 3 and not (tmp_path / "no models").exists()
