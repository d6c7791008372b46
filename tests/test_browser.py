"""The notebooks in a real JupyterLab: every cell runs, and a reader sees all of it."""

import pytest
from nbformat import write
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from support import LINKED, NOTEBOOKS, copy_course

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

from browser import chromium, examine, jupyterlab  # noqa: E402

from notebooks.refresh import KERNEL  # noqa: E402

SLIDER = "from ipywidgets import interact\ninteract(lambda n: n, n=(0, 3));"
GOOD = [
    new_markdown_cell("# A title\n\nSee [above](#A-title) and [4.2](4.2_layer_normalization.ipynb)."),
    new_markdown_cell("![The course map](../figures/course_map_4.1.svg) $\\frac{1}{2}$ costs `$2`"),
    new_code_cell(SLIDER),
    new_code_cell("print('a line of text')"),
]
WIDE = "| a | b |\n|---|---|\n| " + "`a_very_long_name_in_code`&nbsp;" * 9 + " | b |"
BAD = {
    "broken image": new_markdown_cell("![A picture that is not there](../figures/none.svg)"),
    "no alt text": new_markdown_cell("![](../figures/course_map_4.1.svg)"),
    "mathematics not rendered": new_markdown_cell("It costs $2 and \\frac{1}{2}."),
    "mathematics not understood": new_markdown_cell("$\\notacommand{x}$"),
    "no heading for #nowhere": new_markdown_cell("[nowhere](#nowhere)"),
    "the link leads nowhere: notebooks/none.ipynb": new_markdown_cell("[nowhere](none.ipynb)"),
    "too wide: table": new_markdown_cell(WIDE),
    "too wide: aaa": new_markdown_cell("a" * 300),
    "broken across lines: letters": new_markdown_cell(
        f"<p style='word-break: break-all'>{'letters ' * 99}</p>"
    ),
    "output is cut off": new_code_cell("from IPython.display import HTML\nHTML('<hr width=2000>')"),
    "the slider is not drawn": new_code_cell("if False:\n    interact()"),
    "a progress bar is red": new_code_cell(
        "from ipywidgets import IntProgress\nIntProgress(9, bar_style='danger')"
    ),
    "stderr: no": new_code_cell("import sys\nprint('no', file=sys.stderr)"),
    "ZeroDivisionError: division by zero": new_code_cell("1 / 0"),
    "was not run": new_code_cell("2"),
}


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A browser, and the address of a JupyterLab that serves a copy of the course."""
    course = copy_course(tmp_path_factory.mktemp("course"), *LINKED)
    for name, cells in ("good", GOOD), ("bad", BAD.values()):
        write(new_notebook(cells=list(cells), metadata=KERNEL), course / "notebooks" / f"{name}.ipynb")
    with playwright.sync_playwright() as driver:
        if not (path := chromium(driver)):
            pytest.skip("no Chromium here; to get one, run: playwright install chromium")
        with jupyterlab(course) as address:
            yield driver.chromium.launch(executable_path=path), address


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_reader_sees_every_cell(path, lab):
    """To save minutes, only the chapter's sliders run; the other notebooks show what nbval compares."""
    slider = path.name.startswith("4.") and "interact(" in path.read_text(encoding="utf-8")
    assert not examine(*lab, path.name, run=slider)


def test_a_good_notebook_passes(lab):
    assert not examine(*lab, "good.ipynb")


def test_every_fault_is_found(lab):
    lines = examine(*lab, "bad.ipynb", widths=(900,))
    for number, problem in enumerate(BAD):
        assert f"bad.ipynb, cell {number}: {problem}" in "\n".join(lines)
    assert any("console: Failed to load resource" in line for line in lines)
