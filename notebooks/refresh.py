"""Bring everything derived up to date: helpers.py, the outputs in the notebooks, the pictures in figures/.

    python notebooks/refresh.py            export, execute, redraw
    python notebooks/refresh.py --check    change nothing; name what is stale and exit with 1

All work happens in a temporary copy. The repository changes only after every notebook has run without an
error, one file at a time and each in one step. So a run that is killed leaves every file whole, old or new,
and the next one does the rest. Of two runs at once, the later may say that a notebook was edited meanwhile.
"""

import argparse
import copy
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from figures.diagrams import draw_all  # noqa: E402
from figures.drawing import same_picture  # noqa: E402

MARKER = "#| export"
HEADER = '''"""The parts of GPT-2, in the order in which notebooks 4.1 to 4.7 finish them.

Exported from the notebooks by `python notebooks/refresh.py`: change the notebook, not this file.
Shapes: B batch, T tokens, D embedding, H heads, Dh per head, V vocabulary.
"""
'''
KERNEL = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


class RefreshError(Exception):
    """What went wrong, in a sentence for the person who ran the refresh."""


def read_notebooks(root):
    """The course's notebooks by file name, in order."""
    notebooks = {}
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        try:
            notebooks[path.name] = nbformat.read(path, as_version=4)
            nbformat.validate(notebooks[path.name])
        except Exception as error:  # nbformat raises many kinds for files that are no notebooks
            raise RefreshError(f"{path.name} is not a valid notebook: {error}") from error
    if not notebooks:
        raise RefreshError(f"no notebooks in {root / 'notebooks'}")
    return notebooks


def exported(name, notebook):
    """The texts of the cells of a notebook that are marked for helpers.py."""
    texts = []
    for number, cell in enumerate(notebook.cells, 1):
        first, _, text = cell.source.partition("\n")
        if cell.cell_type != "code" or not re.match(r"#\s*\|\s*export", cell.source.lstrip()):
            continue
        if first != MARKER:
            raise RefreshError(
                f"{name}, cell {number}: to be exported, its first line must be exactly {MARKER!r}"
            )
        try:
            compile(text, f"{name}, cell {number}", "exec")
        except SyntaxError as error:
            raise RefreshError(
                f"{name}, cell {number}: SyntaxError: {error.msg}, line {error.lineno + 1}"
            ) from error
        texts.append(text.strip("\n"))
    return texts


def export(notebooks):
    """The text of helpers.py: the cells marked `#| export`, under a line that names their notebook."""
    parts = [HEADER]
    for name, notebook in notebooks.items():
        texts = exported(name, notebook)
        if not texts:
            continue
        title = notebook.cells[0].source.splitlines()[0].lstrip("# ")
        banner = f"# ---- {title} (notebooks/{name}) "
        gap = "\n\n" if len(parts) > 1 else "\n"
        parts.append(gap + banner.ljust(110, "-") + "\n\n" + "\n\n\n".join(texts) + "\n")
    return "".join(parts)


def execute(name, notebook, folder):
    """Run `notebook` in `folder`; return it with fresh outputs and nothing that differs from run to run."""
    fresh = copy.deepcopy(notebook)
    for cell in fresh.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    started = []
    client = NotebookClient(
        fresh,
        timeout=600,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
        coalesce_streams=True,
        on_cell_execute=lambda cell, cell_index: started.append(cell_index + 1),
    )
    # What a kernel itself writes to stderr is ipykernel's start-up notes; a cell's own goes into its outputs.
    settings = {"env": {**os.environ, "COURSE_REFRESH": "1"}, "stderr": subprocess.DEVNULL}
    try:
        client.execute(**settings)
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        what = f"{error.ename}: {error.evalue}" if isinstance(error, CellExecutionError) else error
        raise RefreshError(f"{name}, cell {started[-1]}: {what}") from error
    fresh.metadata = nbformat.from_dict(KERNEL)
    for old, new in zip(notebook.cells, fresh.cells, strict=True):
        new.metadata = nbformat.from_dict({k: v for k, v in new.metadata.items() if k == "tags"})
        # An output that may differ (a timing, a version) is kept, or no second run would be clean.
        if "NBVAL_IGNORE_OUTPUT" in new.source and old.get("outputs"):
            new.outputs = old.outputs
    return fresh


def build(root, stage):
    """Make everything derived in the folder `stage`; return its files by their path in the repository."""
    notebooks = read_notebooks(root)
    for folder in ("notebooks", "figures"):
        sources = [p for p in (root / folder).iterdir() if p.suffix in (".py", ".mplstyle")]
        (stage / folder).mkdir()
        for source in sources:
            shutil.copy(source, stage / folder)
    (stage / "helpers.py").write_text(export(notebooks), encoding="utf-8", newline="\n")
    draw_all(stage / "figures")
    for name, notebook in notebooks.items():
        print(f"{name} ...", end=" ", flush=True)
        start = time.perf_counter()
        fresh = execute(name, notebook, stage / "notebooks")
        text = nbformat.writes(fresh) + "\n"
        (stage / "notebooks" / name).write_text(text, encoding="utf-8", newline="\n")
        print(f"{time.perf_counter() - start:.1f} s", flush=True)
    made = [
        stage / "helpers.py",
        *(stage / "notebooks").glob("*.ipynb"),
        *(stage / "figures").glob("*.svg"),
    ]
    return {path.relative_to(stage): path for path in sorted(made)}


def is_fresh(made, stored):
    """Whether the file in the repository says what the one just made says."""
    if not stored.exists():
        return False
    new, old = made.read_text(encoding="utf-8"), stored.read_text(encoding="utf-8")
    return same_picture(new, old) if stored.suffix == ".svg" else new == old


def contents(root):
    """The bytes of the stored notebooks by path."""
    return {path: path.read_bytes() for path in (root / "notebooks").glob("*.ipynb")}


def refresh(root=ROOT, check=False):
    """Refresh the repository at `root`, or with `check` only compare; return the paths that were stale."""
    # A run renames its partial files as soon as it has written them all. One that is here now, and still is
    # when this run has executed every notebook, was left by a run that was killed.
    leftovers = [*root.glob("*.refresh-*.partial"), *root.glob("*/*.refresh-*.partial")]
    before = contents(root)
    with tempfile.TemporaryDirectory(prefix="refresh-") as stage:
        made = build(root, Path(stage))
        stale = [path for path, file in made.items() if not is_fresh(file, root / path)]
        if check:
            return stale
        # Only a rename within a folder is one step; the folder `stage` gives names that no other run has.
        partials = {path: root / f"{path}.{Path(stage).name}.partial" for path in stale}
        try:
            for path, partial in partials.items():
                shutil.copyfile(made[path], partial)
            edited = {path.name for path, _ in before.items() ^ contents(root).items()}
            if stale and edited:
                raise RefreshError(f"{', '.join(sorted(edited))} was edited meanwhile: refresh again")
            for path, partial in partials.items():
                os.replace(partial, root / path)
        except OSError as error:  # a full disk; on Windows also a file that another program has open
            sys.exit(f"\n{error}\nEvery file is whole, old or new. Put that right and refresh again.")
        finally:
            for partial in [*partials.values(), *leftovers]:
                partial.unlink(missing_ok=True)
    return stale


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--check", action="store_true", help="change nothing; exit with 1 if anything is stale"
    )
    check = parser.parse_args().check
    try:
        stale = refresh(check=check)
    except RefreshError as error:
        sys.exit(f"\n{error}\nNothing was changed.")
    for path in stale:
        print("stale:" if check else "refreshed:", path.as_posix())
    if not stale:
        print("everything is up to date")
    sys.exit(1 if check and stale else 0)


if __name__ == "__main__":
    main()
