"""Without a download, the cells that need it print a sentence, and all others run as ever."""

import os

from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook
from support import NOTEBOOKS, ROOT, read_notebook

SETUP = f"import sys; sys.path.insert(0, {str(ROOT)!r})\nfrom notebooks.optional import skip_cells_with"
SAY = "No SmolLM2 here: download it with download_smollm2(), then run the notebook again.\n"


def run(notebook, **environment):
    """The texts that the code cells of `notebook` print."""
    client = NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        coalesce_streams=True,
        resources={"metadata": {"path": str(ROOT / "notebooks")}},
    )
    client.execute(env=os.environ | environment)
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


def test_beyond_5_without_the_model(tmp_path):
    notebook = read_notebook(next(path for path in NOTEBOOKS if path.name.startswith("beyond_5_")))
    stored = ["".join(o.get("text", "") for o in c.outputs) for c in notebook.cells if c.cell_type == "code"]
    printed = run(notebook, COURSE_MODELS=str(tmp_path))
    assert all(now in (SAY, before) for now, before in zip(printed, stored, strict=True))
    assert printed.count(SAY) > 15 and sum(text.startswith("Exercise") for text in printed) == 4
