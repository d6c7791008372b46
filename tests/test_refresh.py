"""refresh.py derives everything from the notebooks, and leaves every file complete whatever happens."""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from support import ROOT

from notebooks import refresh as program

# A small course, in which every file that refresh.py derives depends on `height`

DIAGRAMS = """import matplotlib.pyplot as plt
from figures.drawing import save

def draw_all(folder):
    fig, ax = plt.subplots()
    ax.plot([0, 1])
    save(fig, folder / "line.svg")
"""
SETUP = "import os, sys, time\nsys.path.insert(0, '..')\n"
STOP = "if (path := os.getenv('STOP')):\n    open(path, 'w').write(str(os.getpid()))\n    time.sleep(99)"
PLOT = "fig, ax = plt.subplots()\nax.bar([0], [height])\nax.set_ylim(0, 9)\nshow(fig, 'bar')"
COURSE = {
    "4.1_height.ipynb": ["#| export\nheight = 2", SETUP + STOP, "height - 1\nheight"],
    "4.2_bar.ipynb": [
        SETUP + "import matplotlib.pyplot as plt\nprint(plt.rcParams['font.size'])",
        "from figures.drawing import show\nfrom helpers import height\n" + PLOT,
        "# NBVAL_IGNORE_OUTPUT\nprint(time.perf_counter())",
    ],
    "beyond_1_area.ipynb": [SETUP, "#| export\nfrom helpers import height\narea = height**2", "print(area)"],
}
HEIGHT, BAR, AREA = (Path("notebooks") / name for name in COURSE)
PICTURE, DIAGRAM = Path("figures/bar.svg"), Path("figures/line.svg")
HELPERS, BEYOND = Path("helpers.py"), Path("beyond.py")
DERIVED = [PICTURE, DIAGRAM, HEIGHT, BAR, AREA, HELPERS, BEYOND]  # in the order in which they are replaced


def write(path, *sources):
    cells = [new_markdown_cell(f"# {path.stem}"), *map(new_code_cell, sources)]
    if "perf_counter" in sources[-1]:
        cells[-1].outputs = [new_output("stream", text="0.5\n")]  # kept, so every refresh gives the same
    nbformat.write(new_notebook(cells=cells), path)


def edit(path, number, source):
    """Give cell `number` (from 1) of a stored, executed notebook another source."""
    notebook = nbformat.read(path, 4)
    notebook.cells[number - 1].source = source
    nbformat.write(notebook, path)


def command(course, *arguments):
    return [sys.executable, str(course / "notebooks" / "refresh.py"), *arguments]


def refresh(course, *arguments, **variables):
    environment = {**os.environ, **variables}
    run = command(course, *arguments)
    return subprocess.run(run, env=environment, capture_output=True, text=True, timeout=300)


def executed(result):
    assert result.returncode == 0, result.stderr
    return re.findall(r"^(\S+\.ipynb) \.\.\. \d+\.\d s$", result.stdout, re.M)  # progress, with times


def contents(course):
    files = (path for path in course.rglob("*") if path.is_file() and path.suffix != ".pyc")
    return {path.relative_to(course): path.read_bytes() for path in files}


def fill(course, files):
    for path, content in files.items():
        (course / path).parent.mkdir(parents=True, exist_ok=True)
        (course / path).write_bytes(content)
    return course


def outputs(path):
    cells = (cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code")
    return [o.get("text") or o.data["text/plain"] for cell in cells for o in cell.outputs]


@pytest.fixture(scope="module")
def states(tmp_path_factory):
    """The files of the course before and after a refresh, which changes all that it derives."""
    course = tmp_path_factory.mktemp("course")
    for folder, *names in (
        ("notebooks", "__init__.py", "isolation.py", "refresh.py"),
        ("figures", "__init__.py", "drawing.py", "course.mplstyle"),
    ):
        (course / folder).mkdir()
        for name in names:
            shutil.copy(ROOT / folder / name, course / folder)
    (course / "figures" / "diagrams.py").write_text(DIAGRAMS)
    for name, sources in COURSE.items():
        write(course / "notebooks" / name, *sources)
    old = contents(course)
    assert executed(refresh(course)) == list(COURSE)
    new = contents(course)
    assert new.keys() == old.keys() | set(DERIVED) and all(old.get(path) != new[path] for path in DERIVED)
    return old, new


@pytest.fixture
def course(states, tmp_path):
    """The course, refreshed."""
    return fill(tmp_path / "course", states[1])


def test_a_refresh_derives_everything(course):
    assert "height = 2" in (course / HELPERS).read_text()
    assert "area = height**2" in (course / BEYOND).read_text()
    assert outputs(course / HEIGHT) == ["2"] and outputs(course / AREA) == ["4\n"]


def test_a_second_one_changes_nothing_whatever_your_own_settings(course, states, tmp_path):
    settings = {
        "profile_default/ipython_config.py": "c.InteractiveShell.ast_node_interactivity = 'all'",
        "profile_default/startup/start.py": "import builtins\nbuiltins.print = str",
        "start.py": "import builtins\nbuiltins.print = str",
        "matplotlibrc": "savefig.bbox: tight\nfont.size: 20",
    }
    home = fill(tmp_path / "home", {path: text.encode() for path, text in settings.items()})
    variables = {"IPYTHONDIR": str(home), "MATPLOTLIBRC": str(home), "PYTHONSTARTUP": str(home / "start.py")}
    second = refresh(course, **variables)
    assert executed(second) == list(COURSE) and "already up to date" in second.stdout
    assert contents(course) == states[1]


def test_an_output_that_may_differ_is_renewed_only_when_its_cell_changed(course):
    git = ["git", "-C", str(course), "-c", "user.name=reader", "-c", "user.email=reader@example.org"]
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"]):
        subprocess.run([*git, *arguments], check=True)
    edit(course / BAR, 3, "print('no plot')")
    program.refresh(course, ["4.2"])
    assert outputs(course / BAR)[-1] == "0.5\n"
    edit(course / BAR, 4, "# NBVAL_IGNORE_OUTPUT\nprint('another', 'one')")
    program.refresh(course, ["4.2"])
    assert outputs(course / BAR)[-1] == "another one\n"
    assert not program.refresh(course, ["4.2"], check=True)


def test_a_slider_is_run_and_never_stored(course):
    edit(course / BAR, 4, "from ipywidgets import interact\ninteract(lambda n: n, n=(0, 3));")
    program.refresh(course)
    cell = nbformat.read(course / BAR, 4).cells[3]
    assert cell.execution_count == 3 and cell.outputs == []


def test_check_names_what_is_stale_and_changes_nothing(course):
    edit(course / HEIGHT, 2, "#| export\nheight = 5")
    before = contents(course)
    check = refresh(course, "--check")
    stale = re.findall(r"^stale: (.*)$", check.stdout, re.M)
    assert stale == [path.as_posix() for path in (PICTURE, HEIGHT, AREA, HELPERS)]
    assert check.returncode == 1 and contents(course) == before


def test_a_named_notebook_alone_unless_the_exported_code_changed(course):
    before = contents(course)
    edit(course / BAR, 4, "print('no longer timed')")
    edit(course / AREA, 4, "print('not executed')")
    assert executed(refresh(course, "4.2")) == [BAR.name]
    assert outputs(course / BAR)[-1] == "no longer timed\n" and outputs(course / AREA) == ["4\n"]
    assert [path for path in DERIVED if (course / path).read_bytes() != before[path]] == [BAR, AREA]

    edit(course / HEIGHT, 2, "#| export\nheight = 5")
    assert executed(refresh(course, "4.1")) == list(COURSE)
    assert outputs(course / HEIGHT) == ["5"] and outputs(course / AREA) == ["not executed\n"]
    assert (course / PICTURE).read_bytes() != before[PICTURE]


@pytest.mark.parametrize(
    "changed, names, expected",
    [
        (None, [], "4.1 4.2 beyond_1"),
        (None, ["beyond_1", "4.1"], "4.1 beyond_1"),
        (HEIGHT, ["beyond_1"], "4.1 4.2 beyond_1"),
        (AREA, ["4.1"], "4.1 beyond_1"),
        (AREA, ["beyond_1"], "beyond_1"),
    ],
)
def test_everything_from_the_first_changed_export_on_is_executed(changed, names, expected, course):
    if changed:
        edit(course / changed, 2, "#| export\nheight = 5")
    notebooks = program.read_notebooks(course)
    chosen = program.to_execute(names, notebooks, program.export(notebooks), course)
    assert chosen == [name for name in COURSE if re.match(r"[^_]+(_\d)?", name)[0] in expected.split()]


def test_an_unknown_name_is_rejected_with_a_list_of_the_names(course):
    result = refresh(course, "4.2", "4.3", "bar")
    message = "\nno notebook 4.3, bar; the notebooks are 4.1, 4.2, beyond_1\nNothing was changed.\n"
    assert result.returncode == 1 and result.stderr == message


def test_line_ends_of_windows_are_normalized(course, states):
    notebook = course / HEIGHT
    notebook.write_bytes(notebook.read_bytes().replace(rb"\n", rb"\r\n"))
    assert executed(refresh(course, "4.1")) == [HEIGHT.name]
    assert contents(course) == states[1]


# What goes wrong


def test_a_failing_notebook_leaves_every_file_as_it_was(course):
    for notebook, cell, source, error in (
        (HEIGHT, 2, "#| export\nheight = 3\n1 / 0", "ZeroDivisionError: division by zero"),
        (BAR, 3, "import os, time\ntime.sleep(0.3)\nos._exit(1)", "Kernel died"),
    ):
        good = (course / notebook).read_bytes()
        edit(course / notebook, cell, source)
        before = contents(course)
        result = refresh(course, notebook.name[:3])
        assert result.returncode == 1 and contents(course) == before
        assert f"{notebook.name}, cell {cell}: {error}" in result.stderr
        assert "Nothing was changed" in result.stderr and "Traceback" not in result.stderr
        (course / notebook).write_bytes(good)


def test_an_edit_during_a_refresh_is_not_lost(course, states):
    path = course / AREA
    edit(course / HEIGHT, 4, f"with open({str(path)!r}, 'a') as file:\n    file.write(' ')")
    edited = (course / HEIGHT).read_bytes()
    result = refresh(course, "4.1")
    assert result.returncode == 1 and f"{AREA.name} was edited during the refresh" in result.stderr
    assert contents(course) == {**states[1], HEIGHT: edited, AREA: states[1][AREA] + b" "}


@pytest.mark.parametrize(
    "text", ['{"cells": [', "[]", "null", "", '{"cells": 3, "nbformat": 4, "nbformat_minor": 5}']
)
def test_a_damaged_notebook_is_named(course, text):
    (course / BAR).write_text(text)
    before = contents(course)
    with pytest.raises(program.RefreshError, match="^4.2_bar.ipynb is not a valid notebook: "):
        program.refresh(course)
    assert contents(course) == before


@pytest.fixture
def known(states, tmp_path, monkeypatch):
    """A course before its refresh, whose notebooks ran already: all that is left is to replace the files."""
    old, new = states
    made = {path: fill(tmp_path / "made", new) / path for path in DERIVED}
    monkeypatch.setattr(program, "build", lambda root, stage, names, check: made)
    return fill(tmp_path / "course", old)


@pytest.mark.parametrize("module, name, replaced", [(shutil, "copyfile", 0), (os, "replace", 4)])
def test_a_file_that_cannot_be_written_is_named(known, states, monkeypatch, module, name, replaced):
    old, new = states
    write_or_rename = getattr(module, name)

    def refuse(source, target):
        if AREA.name in Path(target).name:
            raise PermissionError(13, "Permission denied", str(target))
        write_or_rename(source, target)

    monkeypatch.setattr(module, name, refuse)
    with pytest.raises(SystemExit, match=r"Permission denied: .*area\.ipynb.*\nEvery file is complete"):
        program.refresh(known)
    assert contents(known) == old | {path: new[path] for path in DERIVED[:replaced]}


KILLED = """
import os, shutil, sys
from pathlib import Path
from notebooks import refresh

course, made, step, *derived = sys.argv[1:]
left, whole = int(step), {"copyfile": shutil.copyfile, "replace": os.replace}

def dying(name):
    def operation(source, target):
        global left
        left -= 1
        if left < 0:
            if name == "copyfile":
                Path(target).write_bytes(Path(source).read_bytes()[:100])
            os._exit(9)
        whole[name](source, target)
    return operation

shutil.copyfile, os.replace = dying("copyfile"), dying("replace")
refresh.build = lambda root, stage, names, check: {Path(path): Path(made, path) for path in derived}
refresh.refresh(Path(course))
"""


@pytest.mark.parametrize("step", [1, 7, 8, 13])  # it writes 7 partial files, and then renames these
def test_a_refresh_killed_while_it_replaces_files_is_finished_by_the_next(step, known, states, tmp_path):
    old, new = states
    run = [sys.executable, "-c", KILLED, str(known), str(tmp_path / "made"), str(step), *map(str, DERIVED)]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}  # for what a killed process can't remove
    assert subprocess.run(run, cwd=ROOT, env=environment).returncode == 9
    stored, replaced = contents(known), max(0, step - len(DERIVED))
    partial = {path: stored.pop(path) for path in list(stored) if path.suffix == ".partial"}
    assert len(partial) == min(step + 1, len(DERIVED)) - replaced
    assert stored == old | {path: new[path] for path in DERIVED[:replaced]}
    program.refresh(known)
    assert contents(known) == new


def wait_until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_refresh_killed_while_a_notebook_runs_changes_nothing_and_leaves_no_kernel(course, tmp_path):
    stop, before = tmp_path / "pid", contents(course)
    environment = {**os.environ, "STOP": str(stop), "TMPDIR": str(tmp_path)}
    killed = subprocess.Popen(command(course), env=environment, stdout=subprocess.DEVNULL)
    wait_until(lambda: stop.exists() and stop.read_text())
    kernel = psutil.Process(int(stop.read_text()))
    assert kernel.is_running()
    killed.kill()
    killed.wait()
    # A kernel checks every second whether its parent is still there.
    wait_until(lambda: not kernel.is_running() or kernel.status() == psutil.STATUS_ZOMBIE)
    assert contents(course) == before
