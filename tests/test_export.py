"""The exported files are what the notebooks export."""

import re

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from support import ROOT

from notebooks.refresh import EXPORTS, RefreshError, export, read_notebooks, sections


def notebook(title, *sources):
    return new_notebook(cells=[new_markdown_cell(f"# {title}"), *map(new_code_cell, sources)])


@pytest.mark.parametrize("file", EXPORTS)
def test_the_stored_file_is_the_export_of_the_notebooks(file):
    stored = (ROOT / file).read_text(encoding="utf-8") if (ROOT / file).exists() else None
    assert export(read_notebooks(ROOT)).get(file) == stored, "run: python notebooks/refresh.py"


def test_every_notebook_of_the_chapter_has_a_part_in_helpers():
    stored = (ROOT / "helpers.py").read_text(encoding="utf-8")
    assert re.findall(r"^# ---- (4\.\d)", stored, re.M) == [f"4.{n}" for n in range(1, 8)]


def test_marked_cells_go_to_the_file_of_their_notebook_in_order():
    notebooks = {
        "4.1_height.ipynb": notebook(
            "4.1 Height", "#| export\nheight = 2\n", "height += 1", "#| export\nx = 1"
        ),
        "4.2_none.ipynb": notebook("4.2 None", "nothing = 0"),
        "4.3_width.ipynb": notebook("4.3 Width", "#| export\nwidth = 3"),
        "beyond_1_area.ipynb": notebook("Beyond 1", "#| export\nfrom helpers import width"),
        "beyond_4_volume.ipynb": notebook("Beyond 4", "#| export\nvolume = 6"),
        "beyond_5_mass.ipynb": notebook("Beyond 5", "#| export\nmass = 7"),
    }
    files = export(notebooks)
    assert list(files) == ["helpers.py", "beyond.py", "llama.py"]
    assert all(
        re.match(r'"""[^"]+ `python notebooks/refresh.py`: [^"]+\n"""\n\n# ---', f) for f in files.values()
    )
    banner = "# ---- 4.1 Height (notebooks/4.1_height.ipynb) "
    first = f"\n{banner}{'-' * (110 - len(banner))}\nheight = 2\n\n\nx = 1\n\n# ---- 4.3 Width"
    assert first in files["helpers.py"] and files["helpers.py"].endswith("-\nwidth = 3\n")
    assert sections(files["helpers.py"]) == {
        "4.1_height.ipynb": "height = 2\n\n\nx = 1",
        "4.3_width.ipynb": "width = 3",
    }
    assert sections(files["beyond.py"]) == {"beyond_1_area.ipynb": "from helpers import width"}
    assert sections(files["llama.py"]) == {
        "beyond_4_volume.ipynb": "volume = 6",
        "beyond_5_mass.ipynb": "mass = 7",
    }


def test_a_notebook_that_no_exported_file_is_for_is_named():
    with pytest.raises(RefreshError, match="beyond_6_time.ipynb exports code: add it to EXPORTS"):
        export({"beyond_6_time.ipynb": notebook("Beyond 6", "#| export\ntime = 1")})


@pytest.mark.parametrize(
    "source, error",
    [
        ("#| export\nheight = = 3", "SyntaxError: invalid syntax, line 2"),
        ("#|export\nheight = 3", "to export it, make its first line exactly '#| export'"),
        ("\n# | exports\nheight = 3", "to export it, make its first line exactly '#| export'"),
    ],
)
def test_a_cell_that_cannot_be_exported_is_named(source, error):
    with pytest.raises(RefreshError, match=re.escape(f"4.1_height.ipynb, cell 3: {error}")):
        export({"4.1_height.ipynb": notebook("4.1 Height", "#| export\nwidth = 1", source)})
