"""Bring everything that is generated up to date: the exported files, the notebooks' outputs, the figures.

    python notebooks/refresh.py            export, execute and redraw everything
    python notebooks/refresh.py 4.5        only 4.5, and the later notebooks if its exported code changed
    python notebooks/refresh.py --check    change nothing; name what is stale and exit with 1

Every run exports the code of all notebooks and draws all diagrams, which is quick. Executing takes longer: if
you name notebooks, only those run, plus everything from the first change in the exported code on.

All the work happens in a temporary copy. The repository changes only after every notebook has run without an
error, and then one whole file at a time. If a run is killed, each file is complete, either old or new, and
the next run finishes the job.
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

from notebooks.isolation import isolate  # noqa: E402

isolate()  # before matplotlib is imported

from figures.diagrams import draw_all  # noqa: E402
from figures.drawing import same_picture  # noqa: E402

NAME = re.compile(r"(4\.\d+|beyond_\d+)_\w+\.ipynb")  # its first part is how you name a notebook
MARKER = "#| export"
HEADER = '''"""The parts of GPT-2, in the order in which notebooks 4.1 to 4.7 finish them.

Exported from the notebooks by `python notebooks/refresh.py`: change the notebook, not this file.
Shapes: B batch, T tokens, D embedding, H heads, Dh per head, V vocabulary.
A value that is not allowed raises TypeError or ValueError, which state it and what is allowed (the `check_`
functions of 4.1); a key that a configuration lacks is a KeyError, and keys that nobody reads are ignored.
"""
'''
BEYOND_HEADER = '''"""What the notebooks beyond the chapter add to GPT-2, in the order in which they add it.

Exported from the notebooks by `python notebooks/refresh.py`: change the notebook, not this file.
Builds on helpers.py, and names shapes with the same letters.
"""
'''
LLAMA_HEADER = '''"""GPT-2 turned, part by part, into a model of today, and the real weights of one.

Exported from the notebooks by `python notebooks/refresh.py`: change the notebook, not this file.
Builds on helpers.py, and names shapes with the same letters; also S tokens so far, G key and value heads.
"""
'''
EXPORTS = {  # each exported file: how the names of its notebooks begin, and how it begins itself
    "helpers.py": (("4.",), HEADER),
    "beyond.py": (("beyond_1_", "beyond_2_", "beyond_3_"), BEYOND_HEADER),
    "llama.py": (("beyond_4_", "beyond_5_"), LLAMA_HEADER),
}
WIDGET = "application/vnd.jupyter.widget-view+json"
KERNEL = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


class RefreshError(Exception):
    """What went wrong, in a sentence for the person who ran the refresh."""


def paths_of_notebooks(root):
    return sorted(path for path in (root / "notebooks").iterdir() if NAME.fullmatch(path.name))


def tidy(notebook):
    """`notebook` without what an editor adds when it saves: metadata, and Windows line ends inside cells.

    The tags stay. JupyterLab opens a cell with the tag hide-input folded.
    """
    notebook.metadata = nbformat.from_dict(KERNEL)
    for cell in notebook.cells:
        metadata = {k: v for k, v in cell.metadata.items() if k == "tags"}
        if "hide-input" in metadata.get("tags", ()):
            metadata["jupyter"] = {"source_hidden": True}
        cell.metadata = nbformat.from_dict(metadata)
        cell.source = cell.source.replace("\r\n", "\n")
    return notebook


def read_notebooks(root):
    """The course's notebooks by file name, in order."""
    notebooks = {}
    for path in paths_of_notebooks(root):
        try:
            notebook = nbformat.read(path, as_version=4)
            nbformat.validate(notebook)
        except Exception as error:  # nbformat raises many kinds for files that are not notebooks
            raise RefreshError(f"{path.name} is not a valid notebook: {error}") from error
        notebooks[path.name] = tidy(notebook)
    if not notebooks:
        raise RefreshError(f"no notebooks in {root / 'notebooks'}")
    return notebooks


def exported(name, notebook):
    """The code in the cells of a notebook that are marked for export."""
    texts = []
    for number, cell in enumerate(notebook.cells, 1):
        first, _, text = cell.source.partition("\n")
        if cell.cell_type != "code" or not re.match(r"#\s*\|\s*export", cell.source.lstrip()):
            continue
        if first != MARKER:
            raise RefreshError(f"{name}, cell {number}: to export it, make its first line exactly {MARKER!r}")
        try:
            compile(text, f"{name}, cell {number}", "exec")
        except SyntaxError as error:
            what = f"SyntaxError: {error.msg}, line {error.lineno + 1}"
            raise RefreshError(f"{name}, cell {number}: {what}") from error
        texts.append(text.strip("\n"))
    return texts


def export(notebooks):
    """The texts of the exported files: exported cells, under a line that names their notebook."""
    files = {}
    for name, notebook in notebooks.items():
        texts = exported(name, notebook)
        if not texts:
            continue
        file = next((file for file, (starts, _) in EXPORTS.items() if name.startswith(starts)), None)
        if file is None:
            raise RefreshError(f"{name} exports code: add it to EXPORTS in refresh.py")
        title = notebook.cells[0].source.splitlines()[0].lstrip("# ")
        banner = f"# ---- {title} (notebooks/{name}) "
        before = files.get(file, EXPORTS[file][1]) + "\n"
        files[file] = before + banner.ljust(110, "-") + "\n" + "\n\n\n".join(texts) + "\n"
    return files


def sections(text):
    """The code that each notebook contributed to an exported file, by the notebook's file name."""
    parts = re.split(r"^# ---- .*\(notebooks/(.+)\) -*\n", text, flags=re.M)[1:]
    return {name: code.strip() for name, code in zip(parts[::2], parts[1::2], strict=True)}


def to_execute(names, notebooks, files, root):
    """The notebooks that `names` ask for, and all from the first one whose exported code changed."""
    known = {file: NAME.match(file)[1] for file in notebooks}
    if unknown := sorted(set(names) - set(known.values())):
        raise RefreshError(f"no notebook {', '.join(unknown)}; the notebooks are {', '.join(known.values())}")
    new, old = {}, {}
    for name in EXPORTS:
        new |= sections(files.get(name, ""))
        old |= sections((root / name).read_text(encoding="utf-8") if (root / name).exists() else "")
    first = next((file for file in notebooks if new.get(file) != old.get(file)), None)
    return [f for f in notebooks if not names or known[f] in names or (first and f >= first)]


def committed_sources(root, name):
    """The sources of the notebook's cells in the last commit, by id; empty if git has none."""
    try:
        run = subprocess.run(["git", "show", f"HEAD:./notebooks/{name}"], cwd=root, capture_output=True)
        return {cell.id: cell.source for cell in tidy(nbformat.reads(run.stdout, as_version=4)).cells}
    except Exception:  # no git, no repository, a new notebook
        return {}


def execute(name, notebook, stage, committed):
    """Run `notebook` in `stage`; return it with fresh outputs and nothing that differs from run to run.

    `committed` has sources by cell id. An output that may differ is kept unless its cell's source changed.
    """
    fresh = copy.deepcopy(notebook)
    for cell in fresh.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    started = []
    client = NotebookClient(
        fresh,
        timeout=600,
        kernel_name="python3",
        resources={"metadata": {"path": str(stage / "notebooks")}},
        record_timing=False,
        coalesce_streams=True,
        on_cell_execute=lambda cell, cell_index: started.append(cell_index + 1),
    )
    # A kernel's own stderr holds ipykernel's start-up notes; what a cell writes there becomes an output.
    try:
        client.execute(env=os.environ | {"COURSE_REFRESH": "1"}, stderr=subprocess.DEVNULL)
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        what = f"{error.ename}: {error.evalue}" if isinstance(error, CellExecutionError) else error
        raise RefreshError(f"{name}, cell {started[-1]}: {what}") from error
    for old, new in zip(notebook.cells, tidy(fresh).cells, strict=True):
        # Keep an output that may differ (a time, a version), or a second run would change the file.
        unchanged = committed.get(new.id, new.source) == new.source
        if "NBVAL_IGNORE_OUTPUT" in new.source and old.get("outputs") and unchanged:
            new.outputs = old.outputs
        # A stored widget has no kernel to talk to: it shows an error when the file is opened.
        if new.cell_type == "code":
            new.outputs = [output for output in new.outputs if WIDGET not in output.get("data", {})]
    return fresh


def build(root, stage, names, check=False):
    """Make in `stage` what a refresh of `names` makes; return the files by their path in the repository."""
    notebooks = read_notebooks(root)
    files = export(notebooks)
    chosen = to_execute(names, notebooks, files, root)
    for pattern in ("notebooks/**/*.py", "figures/*.py", "figures/*.mplstyle"):
        for source in root.glob(pattern):
            target = stage / source.relative_to(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    for file, text in files.items():
        (stage / file).write_text(text, encoding="utf-8", newline="\n")
    draw_all(stage / "figures")
    for name in chosen:
        print(f"{name} ...", end=" ", flush=True)
        start = time.perf_counter()
        committed = {} if check else committed_sources(root, name)
        text = nbformat.writes(execute(name, notebooks[name], stage, committed)) + "\n"
        (stage / "notebooks" / name).write_text(text, encoding="utf-8", newline="\n")
        print(f"{time.perf_counter() - start:.1f} s", flush=True)
    # The exported files come last: until they are replaced, the next run sees that they have changed.
    made = [*(stage / "notebooks").glob("*.ipynb"), *(stage / "figures").glob("*.svg")]
    made = [*sorted(made), *(stage / file for file in files)]
    return {path.relative_to(stage): path for path in made}


def is_fresh(made, stored, check=False):
    """Whether the file in the repository says what the one just made says: in a check, but for metadata."""
    if not stored.exists():
        return False
    new, old = made.read_text(encoding="utf-8"), stored.read_text(encoding="utf-8")
    if check and stored.suffix == ".ipynb":
        old = nbformat.writes(tidy(nbformat.reads(old, as_version=4))) + "\n"
    return same_picture(new, old) if stored.suffix == ".svg" else new == old


def contents(root):
    """The bytes of the stored notebooks by path."""
    return {path: path.read_bytes() for path in paths_of_notebooks(root)}


def refresh(root=ROOT, names=(), check=False):
    """Refresh `names` in the repository at `root`, or with `check` only compare; return the stale paths."""
    # A run renames its partial files as soon as it has written them all. Any that are here now, and still are
    # when this run has executed its notebooks, were left by a run that was killed.
    leftovers = [*root.glob("*.refresh-*.partial"), *root.glob("*/*.refresh-*.partial")]
    before = contents(root)
    with tempfile.TemporaryDirectory(prefix="refresh-") as stage:
        made = build(root, Path(stage), names, check)
        stale = [path for path, file in made.items() if not is_fresh(file, root / path, check)]
        if check:
            return stale
        # Only a rename within a folder is a single step. `stage` gives names that no other run uses.
        partials = {path: root / f"{path}.{Path(stage).name}.partial" for path in stale}
        try:
            for path, partial in partials.items():
                shutil.copyfile(made[path], partial)
            edited = {path.name for path, _ in before.items() ^ contents(root).items()}
            if stale and edited:
                raise RefreshError(f"{', '.join(sorted(edited))} was edited during the refresh: run it again")
            for path, partial in partials.items():
                os.replace(partial, root / path)
        except OSError as error:  # a full disk; on Windows also a file that another program has open
            sys.exit(f"\n{error}\nEvery file is complete, old or new. Fix this and refresh again.")
        finally:
            for partial in [*partials.values(), *leftovers]:
                partial.unlink(missing_ok=True)
    return stale


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="notebook", help="such as 4.5 or beyond_2 (default: all)")
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 if any is stale")
    arguments = parser.parse_args()
    try:
        stale = refresh(names=arguments.names, check=arguments.check)
    except RefreshError as error:
        sys.exit(f"\n{error}\nNothing was changed.")
    for path in stale:
        print("stale:" if arguments.check else "refreshed:", path.as_posix())
    if not stale:
        print("already up to date")
    sys.exit(1 if arguments.check and stale else 0)


if __name__ == "__main__":
    main()
