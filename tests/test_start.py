"""start.py lays a reader's copies, overwrites none of the reader's work, installs, and opens JupyterLab."""

import ast
import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import zipfile
from importlib.metadata import version
from pathlib import Path
from urllib.request import ProxyHandler, build_opener

import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from support import NOTEBOOKS, ROOT

START = ROOT / "notebooks" / "start.py"
FIRST, SECOND, BEYOND = "4.1_height.ipynb", "4.2_width.ipynb", "beyond_1_area.ipynb"
posix = pytest.mark.skipif(os.name == "nt", reason="looks at what only POSIX systems have")


def write(path, *sources):
    cells = [new_markdown_cell(f"# {path.stem}"), *map(new_code_cell, sources)]
    nbformat.write(new_notebook(cells=cells, metadata={"language_info": {"name": "python"}}), path)


def change(path, source=None, output=None, **metadata):
    """Do to a notebook what a reader does: edit its code, run it, open and save it."""
    notebook = nbformat.read(path, 4)
    notebook.cells[1].source = source or notebook.cells[1].source
    if output:
        notebook.cells[1].update(execution_count=1, outputs=[new_output("stream", text=output)])
    notebook.metadata.language_info.update(metadata)
    nbformat.write(notebook, path)


def beside(path, word):
    return path.with_suffix(f".{word}.ipynb")


def code(path):
    return nbformat.read(path, 4).cells[1].source


KINDS = ("code", "markdown")


@pytest.fixture
def course(tmp_path):
    """A small course, whose requirements are what this Python has."""
    folder = tmp_path / "a course"
    (folder / "notebooks").mkdir(parents=True)
    shutil.copy(START, folder / "notebooks")
    shutil.copytree(START.parent / ".jupyter", folder / "notebooks" / ".jupyter")
    for name in (FIRST, SECOND, BEYOND):
        write(folder / "notebooks" / name, "1")
        change(folder / "notebooks" / name, output="1\n")
    (folder / "requirements.txt").write_text(
        f"# to test\njupyterlab=={version('jupyterlab')}  # opens them\n"
    )
    return folder


@pytest.fixture
def mine(course):
    return course / "my_notebooks"


def program(course):
    spec = importlib.util.spec_from_file_location("start", course / "notebooks" / "start.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def start(course, fresh=None):
    """Lay the copies; return the name of the notebook that is opened."""
    return program(course).lay_copies(fresh).name


def names(mine):
    return sorted(path.name for path in mine.iterdir())


def run(course, *arguments, python=sys.executable, **variables):
    command = [python, str(course / "notebooks" / "start.py"), *arguments]
    return subprocess.run(
        command, env={**os.environ, **variables}, capture_output=True, text=True, timeout=120
    )


# The reader's copies


def test_the_copies_are_the_course_without_outputs(tmp_path):
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    start(tmp_path)
    assert names(tmp_path / "my_notebooks") == [path.name for path in NOTEBOOKS]
    for original in NOTEBOOKS:
        old, new = (nbformat.read(p, 4) for p in (original, tmp_path / "my_notebooks" / original.name))
        nbformat.validate(new)
        unfold = re.compile(r"<details><summary>The picture.*\n\n(!.*)\n\n</details>\n<br>")
        assert [(c.cell_type, unfold.sub(r"\1", c.source), c.id) for c in new.cells] == [
            (c.cell_type, c.source, c.id) for c in old.cells
        ]
        cells = [cell for cell in new.cells if cell.cell_type == "code"]
        assert not any(cell.outputs or cell.execution_count for cell in cells)


def test_no_plot_is_seen_before_its_cell_runs():
    """In the copies of the real notebooks, every picture that a cell draws is folded; diagrams are not."""
    module = program(START.parents[1])
    for source in module.NOTEBOOKS:
        cells = module.clean_copy(source)["cells"]
        code, prose = (
            "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == kind) for kind in KINDS
        )
        drawn = set(re.findall(r'show\(.*, "(\w+)"\)', code))
        unfolded = re.sub(r"<details>.*?</details>", "", prose, flags=re.S)
        everywhere, seen = (set(re.findall(r"figures/(.*)\.svg\)", text)) for text in (prose, unfolded))
        assert seen == everywhere - drawn and drawn <= everywhere, source.name


def test_the_copies_lie_beside_the_originals_so_links_hold_and_git_ignores_them(course):
    assert program(course).COPIES.parent == course
    assert "my_notebooks/" in (ROOT / ".gitignore").read_text().splitlines()


def test_a_second_start_changes_nothing(course, mine):
    start(course)
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in mine.iterdir()}
    start(course)
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in mine.iterdir()} == before


@pytest.mark.parametrize("work", [{"source": "my answer"}, {"output": "7\n"}], ids=["edited", "run"])
def test_a_newer_version_is_laid_beside_the_readers_work(course, mine, work, capsys):
    start(course)
    change(mine / SECOND, **work)
    own, newer, newer2 = mine / SECOND, beside(mine / SECOND, "newer"), beside(mine / SECOND, "newer2")
    before = own.read_bytes()
    for text in ("2", "3"):  # the second takes the place of the first, which is untouched
        change(course / "notebooks" / SECOND, text)
        start(course)
        assert own.read_bytes() == before and code(newer) == text and not newer2.exists()
        said = f"The course has a newer version of {own.name}. Yours stays; the new one is {newer.name}.\n"
        assert capsys.readouterr().out == said
    start(course)
    assert not capsys.readouterr().out
    change(newer, "my second answer")
    change(course / "notebooks" / SECOND, "4")
    start(course)
    assert own.read_bytes() == before and code(newer) == "my second answer" and code(newer2) == "4"


def test_a_copy_that_was_only_opened_and_saved_is_replaced_by_the_newer_version(course, mine, capsys):
    start(course)
    change(mine / SECOND, version="3.13.0")
    change(course / "notebooks" / SECOND, "2")
    start(course)
    assert code(mine / SECOND) == "2" and names(mine) == [FIRST, SECOND, BEYOND]
    assert not capsys.readouterr().out


@pytest.mark.parametrize("text", ["", "[]", '{"cells": [', '{"cells": 3, "metadata": {}}', "\xff", "mine"])
def test_a_file_that_is_no_copy_is_not_overwritten(course, mine, text):
    mine.mkdir()
    (mine / FIRST).write_bytes(text.encode("latin-1"))
    write(mine / SECOND, "all my own")
    own = (mine / SECOND).read_bytes()
    assert start(course) == FIRST
    assert (mine / FIRST).read_bytes() == text.encode("latin-1") and (mine / SECOND).read_bytes() == own
    assert code(beside(mine / FIRST, "newer")) == code(beside(mine / SECOND, "newer")) == "1"


def test_a_deleted_copy_is_laid_again(course, mine):
    start(course)
    (mine / SECOND).unlink()
    start(course)
    assert names(mine) == [FIRST, SECOND, BEYOND]


def test_fresh_starts_over_and_keeps_the_old_copy(course, mine, capsys):
    start(course)
    for text, word in (("my answer", "kept"), ("another", "kept2")):
        change(mine / SECOND, text)
        assert start(course, fresh="4.2") == SECOND
        assert code(mine / SECOND) == "1" and code(beside(mine / SECOND, word)) == text
        assert capsys.readouterr().out == f"Your copy is kept as {beside(mine / SECOND, word).name}.\n"
    before = names(mine)
    assert start(course, fresh="beyond_1") == BEYOND and names(mine) == before  # as it was laid


def test_fresh_takes_the_newer_version(course, mine):
    start(course)
    change(mine / SECOND, "my answer")
    change(course / "notebooks" / SECOND, "2")
    start(course)
    start(course, fresh="4.2")
    kept = beside(mine / SECOND, "kept")
    assert code(mine / SECOND) == "2" and code(kept) == "my answer"
    assert not beside(mine / SECOND, "newer").exists()


@pytest.mark.parametrize("name", ["4", "4.", "4.9", "beyond", ""])
def test_fresh_knows_the_notebooks(course, mine, name):
    start(course)
    change(mine / FIRST, "my answer")
    before = (mine / FIRST).read_bytes()
    with pytest.raises(SystemExit, match=f"no notebook {name}; the notebooks are 4.1, 4.2, beyond_1."):
        program(course).start_over(name)
    assert (mine / FIRST).read_bytes() == before


def test_opens_what_was_last_worked_on(course, mine):
    assert start(course) == FIRST
    os.utime(mine / BEYOND, (9e9, 9e9))  # opened, saved, and nothing more
    assert start(course) == FIRST
    for age, (name, work) in enumerate([(FIRST, {"source": "x"}), (BEYOND, {"output": "1\n"})]):
        change(mine / name, **work)
        os.utime(mine / name, (1e9 + age, 1e9 + age))
        assert start(course) == name
    change(course / "notebooks" / SECOND, "2")  # now the newest file, but not the reader's
    assert start(course) == BEYOND


KILLED = """
import importlib.util, os, sys
from pathlib import Path

path, step, fresh = sys.argv[1:]
spec = importlib.util.spec_from_file_location("start", path)
start = importlib.util.module_from_spec(spec)
spec.loader.exec_module(start)
left = int(step)

def dying(whole, half):
    def operation(*arguments, **options):
        global left
        left -= 1
        if left < 0:
            half(*arguments)
            os._exit(9)
        return whole(*arguments, **options)
    return operation

write_bytes = Path.write_bytes
Path.write_text = dying(Path.write_text, lambda path, text: write_bytes(path, text[:99].encode()))
Path.unlink = dying(Path.unlink, lambda path: None)
os.replace, os.rename = dying(os.replace, lambda *paths: None), dying(os.rename, lambda *paths: None)
start.lay_copies(fresh)
"""


def test_killed_at_any_moment_every_file_is_whole_and_the_next_start_finishes(course, mine):
    start(course)
    change(mine / FIRST, "my answer")
    change(course / "notebooks" / FIRST, "2")  # to be laid beside
    start(course)
    change(course / "notebooks" / FIRST, "3")
    change(course / "notebooks" / SECOND, "2")  # to be replaced
    (mine / BEYOND).unlink()  # to be laid again
    before = {path.name: path.read_bytes() for path in mine.iterdir()}
    for step in range(99):
        shutil.rmtree(mine)
        mine.mkdir()
        for name, content in before.items():
            (mine / name).write_bytes(content)
        command = [sys.executable, "-c", KILLED, str(course / "notebooks" / "start.py"), str(step), "4.1"]
        killed = subprocess.run(command, capture_output=True).returncode == 9
        texts = {path.name: code(path) for path in mine.glob("[!.]*.ipynb")}  # each is a valid notebook
        assert "my answer" in texts.values()
        start(course)
        texts = {path.name: code(path) for path in mine.glob("[!.]*.ipynb")}
        assert "my answer" in texts.values() and (texts[SECOND], texts[BEYOND]) == ("2", "1")
        if not killed:
            break
    assert step == 8 and names(mine) == [FIRST, beside(mine / FIRST, "kept").name, SECOND, BEYOND]


def test_a_folder_that_cannot_be_used_is_named(course, mine, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(SystemExit, match="my_notebooks: Permission denied."):
        patch.setattr(
            os, "replace", lambda *paths: (_ for _ in ()).throw(PermissionError(13, "Permission denied"))
        )
        start(course)
    shutil.rmtree(mine)
    mine.write_text("a file")
    with pytest.raises(SystemExit, match="my_notebooks: File exists."):
        start(course)


# Python and its packages


def test_every_python_from_3_6_on_can_read_it():
    ast.parse(START.read_text(encoding="utf-8"), feature_version=(3, 6))


PRETEND = """
import platform, runpy, sys
sys.version_info, platform.python_version = (3, 10, 4, "final", 0), lambda: "3.10.4"
runpy.run_path(sys.argv.pop(1), run_name="__main__")
"""


def test_an_old_python_is_told_so_in_a_sentence(course):
    command = [sys.executable, "-c", PRETEND, str(course / "notebooks" / "start.py")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.stderr == "The course needs Python 3.11 or newer; this is Python 3.10.4.\n"
    assert result.returncode == 1 and not result.stdout and not (course / ".venv").exists()


@posix
@pytest.mark.parametrize("old", ["Python 3.9.18", "a Python that is no longer there"])
def test_a_venv_of_an_old_python_is_told_so_in_a_sentence(course, old):
    (course / "requirements.txt").write_text("nonesuch==1.0\n")
    python = course / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    if "3.9" in old:
        python.write_text(f"#!/bin/sh\necho {old}\n")
        python.chmod(0o755)
    else:
        python.symlink_to("/nowhere/python")
    result = run(course)
    assert result.returncode == 1 and not result.stdout
    assert result.stderr == (
        f"The folder .venv belongs to {old}, and the course needs Python 3.11 or newer: "
        "delete .venv, and run this command again with a newer Python.\n"
    )


def wheel(folder, name, number, source):
    """A package of one module that runs as a program."""
    info = f"{name}-{number}.dist-info"
    files = {
        f"{name}.py": source,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {number}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": "",
    }
    with zipfile.ZipFile(folder / f"{name}-{number}-py3-none-any.whl", "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)


def test_installs_into_its_own_venv_and_a_restart_does_not_install(course, tmp_path):
    lab = "import sys\nprint(sys.executable, *sys.argv[1:], sep='\\n')"
    for number in ("0.1", "0.2"):
        wheel(tmp_path, "jupyterlab", number, lab)
    offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path), "PIP_CONFIG_FILE": os.devnull}
    requirements = course / "requirements.txt"

    requirements.write_text("jupyterlab==0.3\n")
    failed = run(course, **offline)
    assert failed.returncode == 1 and "Making .venv" in failed.stdout and "Traceback" not in failed.stderr
    assert failed.stderr.endswith("the lines above say why. Then run this command again.\n")
    for path in [*(course / ".venv").rglob("site-packages/pip*")]:
        shutil.rmtree(path)  # as if it had been interrupted while it made .venv
    for number in ("0.1", "0.2"):
        requirements.write_text(f"jupyterlab=={number}  # opens the notebooks\n")
        first, second = (run(course, "--no-browser", "--ip=0.0.0.0", **offline) for _ in range(2))
        assert "Installing" in first.stdout and "Making" not in first.stdout, first.stderr
        opened, python, *arguments = second.stdout.splitlines()
        assert opened == f"Opening my_notebooks/{FIRST} in JupyterLab ..."
        assert (course / ".venv") in Path(python).parents
        assert arguments[-2:] == ["--no-browser", "--ip=0.0.0.0"] and first.stdout.endswith(second.stdout)


# JupyterLab


@posix
@pytest.mark.parametrize("user, allowed", [(0, True), (1000, False)])
def test_root_is_allowed(course, monkeypatch, user, allowed):
    monkeypatch.setattr(os, "geteuid", lambda: user)
    monkeypatch.chdir(course)
    module, commands = program(course), []
    module.become = lambda *command: commands.append(command)
    module.open_lab(module.lay_copies(None), ["--no-browser"])
    assert ("--allow-root" in commands[0]) == allowed and commands[0][-1] == "--no-browser"


def test_jupyterlab_opens_the_notebook_at_the_printed_address(course, mine, tmp_path):
    start(course)
    own = beside(mine / SECOND, "my notes")  # with a space
    shutil.copy(mine / SECOND, own)
    change(own, "my answer")
    environment = {
        **os.environ,
        "HOME": str(tmp_path),
        "JUPYTER_CONFIG_DIR": str(tmp_path),
        "BROWSER": "none",
    }
    log = tmp_path / "log"
    with socket.socket() as taken, log.open("w") as file:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]  # in use, so JupyterLab takes another
        command = [sys.executable, str(course / "notebooks" / "start.py"), "--no-browser", f"--port={port}"]
        lab = subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT)
        try:
            end, found = time.monotonic() + 90, None
            while not found and time.monotonic() < end and lab.poll() is None:
                time.sleep(0.1)
                found = re.search(r"http://127\S+:(\d+)/lab/tree/(\S+)\?(token=\w+)", log.read_text())
            assert found, log.read_text()
            address, its_port, path, token = found[0], *found.groups()
            browser = build_opener(ProxyHandler({}))  # the tests know no proxy that works
            assert path.replace("%20", " ") == f"my_notebooks/{own.name}" and its_port != str(port)
            with browser.open(address) as page:
                assert page.status == 200
            for name in (
                path,
                f"notebooks/{FIRST}",
            ):  # the copies' neighbors, such as the figures, are served, too
                with browser.open(f"http://127.0.0.1:{its_port}/api/contents/{name}?{token}") as answer:
                    assert json.load(answer)["type"] == "notebook"
            settings = "lab/api/settings/@jupyterlab/apputils-extension:notification"
            with browser.open(f"http://127.0.0.1:{its_port}/{settings}?{token}") as answer:
                news = json.load(answer)["schema"]["properties"]["fetchNews"]
            assert news["default"] == "false"  # "none" asks a question that covers a corner
        finally:
            for process in (
                [*psutil.Process(lab.pid).children(recursive=True), lab] if lab.poll() is None else []
            ):
                process.kill()
            lab.wait()
