"""helpers.py and the pictures are what the sources make, and refresh.py keeps its promises."""

import itertools
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import psutil
import pytest
import torch
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from figures import drawing
from figures.diagrams import DIAGRAMS, draw_all
from figures.drawing import same_picture
from helpers import GPT_CONFIG_124M, GPTModel, count_parameters
from notebooks import refresh as program
from notebooks.refresh import export, read_notebooks

ROOT = Path(__file__).resolve().parents[1]
FIGURES = ROOT / "figures"


def test_helpers_is_the_export_of_the_notebooks():
    stored = (ROOT / "helpers.py").read_text(encoding="utf-8")
    assert export(read_notebooks(ROOT)) == stored, "run: python notebooks/refresh.py"


def test_helpers_says_where_each_part_is_from():
    stored = (ROOT / "helpers.py").read_text(encoding="utf-8")
    assert re.findall(r"^# ---- (4\.\d)", stored, re.M) == [f"4.{n}" for n in range(1, 8)]


# The plots are compared by the notebooks that draw them, in `show`, while nbval runs them.
def test_diagrams_are_fresh(tmp_path):
    draw_all(tmp_path)
    for name in DIAGRAMS:
        fresh, stored = (folder / f"{name}.svg" for folder in (tmp_path, FIGURES))
        same = same_picture(fresh.read_text(encoding="utf-8"), stored.read_text(encoding="utf-8"))
        assert same, f"{name}.svg is stale, run: python notebooks/refresh.py"


def test_every_picture_has_code_that_draws_it():
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "notebooks").glob("*.ipynb"))
    plots = set(re.findall(r'show\([^"]*\\"(\w+)\\"\)', sources))
    assert plots | set(DIAGRAMS) == {path.stem for path in FIGURES.glob("*.svg")}


def test_the_parameters_in_the_diagrams_are_those_of_the_model():
    with torch.device("meta"):
        model = GPTModel(GPT_CONFIG_124M)
    block = model.trf_blocks[0]
    parts = (model, model.tok_emb, model.pos_emb, model.trf_blocks, model.final_norm, model.out_head)
    parts += (block, block.att, block.ff, block.ff.layers[0], block.ff.layers[2], block.norm1)
    counts = {count_parameters(part) for part in parts}
    model.out_head.weight = model.tok_emb.weight
    counts.add(count_parameters(model))
    drawn = re.findall(r"\d{1,3}(?:,\d{3})+", (FIGURES / "diagrams.py").read_text(encoding="utf-8"))
    assert {int(number.replace(",", "")) for number in drawn} - {50257} == counts


PICTURE = (
    '<path id="a1234567890" d="M 1 2.5" style="fill: #0e1111; opacity: 0.3"/><use href="#a1234567890" x="3"/>'
)


@pytest.mark.parametrize(
    "old, new, same",
    [
        ("a1234567890", "b0987654321", True),  # another id, used in the same places
        ("M 1 2.5", "M 1.01 2.49", True),
        ('x="3"', 'x="3.04"', True),
        ("M 1 2.5", "M 1 2.7", False),
        ("M 1 2.5", "L 1 2.5", False),
        ("M 1 2.5", "M 1 2.5 3", False),
        ("#0e1111", "#0e9999", False),
        ("opacity: 0.3", "opacity: 0.34", False),
        ('href="#a1234567890"', 'href="#c1111111111"', False),
    ],
)
def test_same_picture(old, new, same):
    assert same_picture(PICTURE, PICTURE.replace(old, new)) is same


def test_show_says_whether_the_picture_is_the_stored_one(tmp_path, monkeypatch, capsys):
    shown = []
    monkeypatch.setattr(drawing, "FIGURES", tmp_path)
    monkeypatch.setattr(drawing, "display", shown.append)
    monkeypatch.delenv("COURSE_REFRESH", raising=False)

    def plot(height):
        fig, ax = plt.subplots()
        ax.bar([0], [height])
        ax.set_ylim(0, 9)
        return fig

    drawing.save(plot(2), tmp_path / "bar.svg")
    stored = (tmp_path / "bar.svg").read_bytes()
    drawing.show(plot(2), "bar")
    assert "shown below" in capsys.readouterr().out and not shown
    drawing.show(plot(3), "bar")
    assert "Your picture, which differs" in capsys.readouterr().out and len(shown) == 1
    assert (tmp_path / "bar.svg").read_bytes() == stored  # a reader's experiment changes no file
    assert not plt.get_fignums()


def code(*sources):
    return [new_code_cell(source) for source in sources]


def write(path, *new_cells):
    notebook = new_notebook(cells=[new_markdown_cell(f"# {path.stem}"), *new_cells])
    nbformat.write(notebook, path)


def make_course(folder):
    """A course of two small notebooks, the second of which uses and draws what the first defines."""
    (folder / "notebooks").mkdir()
    (folder / "figures").mkdir()
    shutil.copy(ROOT / "notebooks" / "refresh.py", folder / "notebooks")
    for name in ("drawing.py", "course.mplstyle"):
        shutil.copy(FIGURES / name, folder / "figures")
    (folder / "figures" / "diagrams.py").write_text("def draw_all(folder): pass\n")
    write(folder / "notebooks" / "1.ipynb", *code("#| export\nheight = 2", "print(height)"))
    write(
        folder / "notebooks" / "2.ipynb",
        *code("import sys\nsys.path.insert(0, '..')\nfrom helpers import height\nprint(height)"),
        *code("import matplotlib.pyplot as plt\nfrom figures.drawing import show"),
        *code("fig, ax = plt.subplots()\nax.bar([0], [height])\nax.set_ylim(0, 9)\nshow(fig, 'bar')"),
        *code("# NBVAL_IGNORE_OUTPUT\nimport time\nprint(time.perf_counter())"),
    )
    return folder


@pytest.fixture
def course(tmp_path):
    return make_course(tmp_path)


def command(course, *options):
    return [sys.executable, str(course / "notebooks" / "refresh.py"), *options]


def refresh(course, *options):
    return subprocess.run(command(course, *options), capture_output=True, text=True, timeout=300)


def contents(course):
    files = (p for p in course.rglob("*") if p.is_file() and p.suffix != ".pyc")
    return {path.relative_to(course): path.read_bytes() for path in files}


def outputs(path):
    return [o.text for c in nbformat.read(path, 4).cells if c.cell_type == "code" for o in c.outputs]


def test_refresh_derives_everything_and_then_changes_nothing(course):
    assert refresh(course, "--check").returncode == 1
    first = refresh(course)
    assert first.returncode == 0, first.stderr
    assert "2.ipynb ... " in first.stdout and re.search(r"\d\.\d s", first.stdout)  # progress, with times
    assert "height = 2" in (course / "helpers.py").read_text()
    assert outputs(course / "notebooks" / "2.ipynb")[0] == "2\n"
    assert (course / "figures" / "bar.svg").exists()

    before = contents(course)
    second = refresh(course)
    assert "already up to date" in second.stdout and contents(course) == before
    assert refresh(course, "--check").returncode == 0

    # A change in the first notebook reaches the second and the picture; --check names all, changes nothing.
    write(course / "notebooks" / "1.ipynb", *code("#| export\nheight = 5", "print(height)"))
    before = contents(course)
    check = refresh(course, "--check")
    assert check.returncode == 1 and contents(course) == before
    stale = ["helpers.py", "notebooks/1.ipynb", "notebooks/2.ipynb", "figures/bar.svg"]
    assert set(re.findall(r"^stale: (.*)$", check.stdout, re.M)) == set(stale)
    assert refresh(course).returncode == 0
    assert outputs(course / "notebooks" / "2.ipynb")[0] == "5\n"


def edit(path, number, source):
    """Give cell `number` (from 1) of a stored, executed notebook another source."""
    notebook = nbformat.read(path, 4)
    notebook.cells[number - 1].source = source
    nbformat.write(notebook, path)


def test_a_failing_notebook_leaves_every_file_as_it_was(course):
    assert refresh(course).returncode == 0
    for notebook, cell, source, error in (
        ("1.ipynb", 2, "#| export\nheight = 3\n1 / 0", "ZeroDivisionError: division by zero"),
        ("2.ipynb", 3, "import sys\nraise KeyError('no')", "KeyError: 'no'"),
        ("2.ipynb", 4, "import os, time\ntime.sleep(0.3)\nos._exit(1)", "Kernel died"),
        ("1.ipynb", 2, "#| export\nheight = = 3", "SyntaxError: invalid syntax, line 2"),
        ("1.ipynb", 2, "#|export\nheight = 3", "to be exported, its first line must be exactly '#| export'"),
    ):
        good = (course / "notebooks" / notebook).read_bytes()
        edit(course / "notebooks" / notebook, cell, source)
        before = contents(course)
        result = refresh(course)
        assert result.returncode == 1 and contents(course) == before
        assert f"{notebook}, cell {cell}: {error}" in result.stderr
        assert "Nothing was changed" in result.stderr and "Traceback" not in result.stderr
        (course / "notebooks" / notebook).write_bytes(good)


def test_an_edit_during_a_refresh_is_not_lost(course):
    edited = "from pathlib import Path\npath = Path({!r})\npath.write_bytes(path.read_bytes() + b' ')"
    edited = edited.format(str(course / "notebooks" / "2.ipynb"))
    write(course / "notebooks" / "1.ipynb", *code("#| export\nheight = 2", edited))
    result = refresh(course)
    assert result.returncode == 1 and "2.ipynb was edited meanwhile" in result.stderr
    assert (course / "notebooks" / "2.ipynb").read_bytes().endswith(b" ")
    assert not (course / "helpers.py").exists()


@pytest.mark.parametrize(
    "text", ['{"cells": [', "[]", "null", "", '{"cells": 3, "nbformat": 4, "nbformat_minor": 5}']
)
def test_a_damaged_notebook_is_named(course, text):
    (course / "notebooks" / "2.ipynb").write_text(text)
    before = contents(course)
    result = refresh(course)
    assert result.returncode == 1 and contents(course) == before
    assert "2.ipynb is not a valid notebook" in result.stderr and "Traceback" not in result.stderr


STOP = "import os, time\nif 'STOP' in os.environ:\n    open(os.environ['STOP'], 'w').write(str(os.getpid()))"
DERIVED = [Path(path) for path in ("helpers.py", "notebooks/1.ipynb", "notebooks/2.ipynb", "figures/bar.svg")]
LEFTOVER = Path("helpers.py.refresh-killed.partial")


@pytest.fixture(scope="module")
def states(tmp_path_factory):
    """The files of a course before and after an undisturbed refresh, which changes all that it derives."""
    course = make_course(tmp_path_factory.mktemp("undisturbed"))
    write(course / "notebooks" / "1.ipynb", *code("#| export\nheight = 5", STOP + "\n    time.sleep(100)"))
    (course / "helpers.py").write_text("height = 2\n")
    timed = nbformat.read(course / "notebooks" / "2.ipynb", 4)
    timed.cells[-1].outputs = [new_output("stream", text="0.5\n")]  # kept, so every refresh gives the same
    nbformat.write(timed, course / "notebooks" / "2.ipynb")
    old = contents(course)
    assert refresh(course).returncode == 0
    new = contents(course)
    assert [path for path in DERIVED if old.get(path) != new[path]] == DERIVED
    return old, new


def fill(folder, files):
    """Make `folder` hold `files` and nothing else."""
    shutil.rmtree(folder, ignore_errors=True)
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)


def whole(folder, old, new):
    """Whether every file that the course derives is the old one or the new one."""
    stored = [(folder / path).read_bytes() if (folder / path).exists() else None for path in DERIVED]
    return all(now in (old.get(path), new[path]) for path, now in zip(DERIVED, stored, strict=True))


def in_two_steps(source, target):
    """Copy a file as `shutil.copyfile` does, with a step in between, when half of it is written."""
    content = Path(source).read_bytes()
    Path(target).write_bytes(content[: len(content) // 2])
    with open(target, "ab") as file:
        file.write(content[len(content) // 2 :])


def before_each_step(folder, files, action):
    """Refresh `folder`, holding `files`, in a child process that calls `action` before its first operation on
    a file there; once more, with `action` before the second; and so on. Yield its exit code each time.
    """
    for number in itertools.count():
        fill(folder, files)
        child = os.fork()
        if not child:
            left = itertools.count(-number)

            def hook(event, args, left=left):
                if event in ("open", "os.rename", "os.remove") and str(folder) in str(args):
                    if next(left) == 0:
                        action()

            try:
                sys.addaudithook(hook)
                program.refresh(folder)
                os._exit(0 if next(left) > 0 else 77)  # 77: the run has fewer operations
            except (program.RefreshError, SystemExit) as error:
                os._exit(0 if "meanwhile" in str(error) or "old or new" in str(error) else 1)
            finally:
                os._exit(1)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code == 77:
            return
        yield code


@pytest.fixture
def known(states, tmp_path, monkeypatch):
    """A refresh whose notebooks ran before: only what it does in the repository is left to do."""
    old, new = states

    def build(root, stage):
        fill(stage, {path: new[path] for path in DERIVED})
        return {path: stage / path for path in DERIVED}

    monkeypatch.setattr(program, "build", build)
    monkeypatch.setattr(shutil, "copyfile", in_two_steps)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # where the killed leave their temporary copies
    return old, new, tmp_path / "course"


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="copies the running process")


@needs_fork
def test_a_run_that_dies_at_any_step_is_repaired_by_the_next(known):
    old, new, folder = known
    seen = set()
    for died in before_each_step(folder, old, lambda: os._exit(9)):
        assert died == 9 and whole(folder, old, new)
        stored = contents(folder)
        seen.add((sum(stored.get(path) == new[path] for path in DERIVED), len(stored.keys() - new.keys())))
        program.refresh(folder)
        assert contents(folder) == new
    # (files renamed, partial files there): from none to all four written, then one after the other renamed.
    assert seen == {(0, 0), (0, 1), (0, 2), (0, 3), (0, 4), (1, 3), (2, 2), (3, 1), (4, 0)}


def half_a_refresh(folder):
    """A refresh in a process of its own, which dies when it has written half of its first file."""

    def die(source, target):
        Path(target).write_bytes(Path(source).read_bytes()[:3])
        os._exit(9)

    if not os.fork():
        try:
            shutil.copyfile = die
            program.refresh(folder)
        finally:
            os._exit(0)
    os.wait()


@needs_fork
@pytest.mark.parametrize("other", [program.refresh, half_a_refresh])
def test_another_refresh_between_any_two_steps(known, other):
    old, new, folder = known
    for code in before_each_step(folder, old, lambda: other(folder)):
        assert code == 0 and new.items() <= contents(folder).items()
        program.refresh(folder)
        assert contents(folder) == new


@pytest.mark.parametrize("module, name, changed", [(shutil, "copyfile", 0), (os, "replace", 1)])
def test_a_file_that_cannot_be_written_is_named(known, monkeypatch, module, name, changed):
    old, new, folder = known
    fill(folder, old)
    write_or_rename = getattr(module, name)

    def refuse(source, target):
        if "1.ipynb" in Path(target).name:
            raise PermissionError(13, "Permission denied", str(target))
        write_or_rename(source, target)

    monkeypatch.setattr(module, name, refuse)
    with pytest.raises(SystemExit, match=r"Permission denied: .*1\.ipynb.*\nEvery file is whole"):
        program.refresh(folder)
    assert contents(folder) == old | {path: new[path] for path in DERIVED[:changed]}


def test_a_refresh_killed_while_a_notebook_runs_leaves_no_kernel(states, tmp_path):
    old, new = states
    folder, stop = tmp_path / "course", tmp_path / "pid"
    fill(folder, old | {LEFTOVER: b"hei"})
    env = {**os.environ, "STOP": str(stop), "TMPDIR": str(tmp_path)}
    killed = subprocess.Popen(command(folder), env=env, stdout=subprocess.DEVNULL)
    wait_until(lambda: stop.exists() and stop.read_text())
    kernel = psutil.Process(int(stop.read_text()))
    assert kernel.is_running()
    killed.kill()
    killed.wait()
    assert contents(folder) == old | {LEFTOVER: b"hei"}
    # A kernel looks every second whether its parent is still there.
    wait_until(lambda: not kernel.is_running() or kernel.status() == psutil.STATUS_ZOMBIE)
    assert refresh(folder).returncode == 0 and contents(folder) == new


def wait_until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_two_refreshes_and_two_kernels_at_once(states, tmp_path):
    old, new = states
    folder = tmp_path / "course"
    fill(folder, old | {LEFTOVER: b"hei"})
    reader = "import sys, nbclient, nbformat\nname, folder = sys.argv[1:]\n"
    reader += "nbclient.execute(nbformat.read(name, 4), cwd=folder)"
    second = str(folder / "notebooks" / "2.ipynb")
    reads = [sys.executable, "-c", reader, second, str(folder / "notebooks")]
    runs = [
        subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for arguments in (command(folder), reads, command(folder), reads)
    ]

    def done():
        assert whole(folder, old, new)
        return all(run.poll() is not None for run in runs)

    wait_until(done, 300)
    errors = [run.communicate()[1] for run in runs]
    failed = [error for run, error in zip(runs, errors, strict=True) if run.returncode]
    assert len(failed) < 2 and all("edited meanwhile: refresh again" in error for error in failed), errors
    assert contents(folder) == new
