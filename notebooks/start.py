"""Start the course, or come back to it.

    python3 notebooks/start.py                 on Windows: py notebooks/start.py
    python3 notebooks/start.py --fresh 4.3     start 4.3 over; your copy is kept under another name
    python3 notebooks/start.py --no-browser    this and all other options go to JupyterLab

Unless this Python has the course's packages, they are installed into .venv. Every notebook is copied into
my_notebooks/, without outputs, and JupyterLab opens the one you last worked on. Nothing of yours is ever
overwritten: the newer version of a notebook that you have edited or run is laid beside yours.
"""

# Up to the check of the version, any Python from 3.6 on must be able to read and run this file.
import argparse
import hashlib
import importlib.util
import itertools
import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

ROOT = Path(__file__).resolve().parents[1]
REQUIREMENTS = ROOT / "requirements.txt"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
COPIES = ROOT / "my_notebooks"
PYTHON = ROOT / ".venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
NEEDED = (3, 11)


def become(*command):
    """Go on as another program, in the same terminal."""
    if os.name == "nt":  # there, exec would return to the prompt at once
        sys.exit(subprocess.call(command))
    os.execv(command[0], command)


def has_packages():
    """Whether this Python has every package in requirements.txt, in the version given there."""
    from importlib.metadata import PackageNotFoundError, version

    pins = re.findall(r"^([\w-]+)==([\w.]+)", REQUIREMENTS.read_text(encoding="utf-8"), re.M)
    try:
        return all(version(name).partition("+")[0] == pin for name, pin in pins)  # 2.13.0+cpu is 2.13.0
    except PackageNotFoundError:
        return False


def prepare_venv():
    """Make .venv if it isn't there, and refuse one that belongs to an older Python."""
    if not os.path.lexists(PYTHON):
        if sys.version_info < NEEDED:
            sys.exit(f"The course needs Python 3.11 or newer; this is Python {platform.python_version()}.")
        print("Making .venv, the folder for the course's packages ...", flush=True)
        if subprocess.call([sys.executable, "-m", "venv", str(ROOT / ".venv")]):
            sys.exit("The folder .venv could not be made; the lines above say why.")
    show_version = "import platform; print('Python', platform.python_version())"
    try:
        found = subprocess.check_output([str(PYTHON), "-c", show_version]).decode().strip()
    except (OSError, subprocess.CalledProcessError):
        found = "a Python that is no longer there"
    if tuple(map(int, re.findall(r"\d+", found)[:2])) < NEEDED:
        sys.exit(
            f"The folder .venv belongs to {found}, and the course needs Python 3.11 or newer: "
            "delete .venv, and run this command again with a newer Python."
        )


def install():
    """Install the course's packages into .venv."""
    print("Installing the course's packages; the first time, this takes a few minutes ...", flush=True)
    if importlib.util.find_spec("pip") is None:  # the making of .venv was interrupted
        subprocess.call([sys.executable, "-m", "ensurepip"])
    if subprocess.call([sys.executable, "-m", "pip", "install", "-r", str(REQUIREMENTS)]):
        sys.exit("pip could not install the packages; the lines above say why. Then run this command again.")


def fingerprint(notebook):
    """A hash of the cells' text, which stays the same when the notebook is run."""
    cells = [(cell["cell_type"], "".join(cell["source"])) for cell in notebook["cells"]]
    return hashlib.sha256(json.dumps(cells).encode()).hexdigest()


def fold_plots(notebook):
    """Fold each stored picture that a cell draws: a reader sees it when that cell runs, not before."""
    code = "".join(text for cell in notebook["cells"] for text in cell["source"])
    drawn = set(re.findall(r'show\(.*, "(\w+)"\)', code))

    def fold(picture):
        opening = "<details><summary>The picture as it should be</summary>"
        return f"{opening}\n\n{picture[0]}\n\n</details>\n<br>" if picture[1] in drawn else picture[0]

    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            cell["source"] = re.sub(r"!\[[^\]]*\]\(\.\./figures/(.*)\.svg\)", fold, "".join(cell["source"]))


def clean_copy(source):
    """A notebook of the course without outputs. It says which version it was made from."""
    notebook = json.loads(source.read_bytes())
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell.update(outputs=[], execution_count=None)
    fold_plots(notebook)
    notebook["metadata"]["course"] = {"made_from": fingerprint(notebook)}
    return notebook


def state(path):
    """The version that a copy was made from, and whether it is untouched: neither edited nor run since."""
    try:
        notebook = json.loads(path.read_bytes())
        version = notebook["metadata"]["course"]["made_from"]
        was_run = any(cell.get("outputs") or cell.get("execution_count") for cell in notebook["cells"])
        return version, version == fingerprint(notebook) and not was_run
    except (ValueError, TypeError, KeyError, AttributeError):  # damaged, or no copy at all
        return None, False


def names(path, word):
    """x.newer.ipynb, x.newer2.ipynb, x.newer3.ipynb and so on, for x.ipynb and "newer"."""
    for number in itertools.count(1):
        yield path.with_name(f"{path.stem}.{word}{'' if number == 1 else number}.ipynb")


def lay(source):
    """Lay a copy of a notebook, unless the reader has this version; overwrite only what is untouched."""
    own, new = COPIES / source.name, clean_copy(source)
    for place in itertools.chain([own], names(own, "newer")):
        version, untouched = state(place) if place.exists() else (None, True)
        if version == new["metadata"]["course"]["made_from"]:
            return
        if untouched:
            break
    # Killed at any moment, this leaves the file whole: there is only the old one or the new one.
    partial = place.with_name(f".{place.name}.partial")
    partial.write_text(json.dumps(new, indent=1, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n")
    os.replace(partial, place)
    if place != own:
        print(f"The course has a newer version of {own.name}. Yours stays; the new one is {place.name}.")


def start_over(name):
    """Keep the reader's copy of a notebook under another name, and lay a fresh one; return its path."""
    sources = {re.match(r"[^_]+(_\d+)?", path.name)[0]: path for path in NOTEBOOKS}
    if name not in sources:
        sys.exit(f"There is no notebook {name}; the notebooks are {', '.join(sources)}.")
    own = COPIES / sources[name].name
    if own.exists() and not state(own)[1]:
        kept = next(path for path in names(own, "kept") if not path.exists())
        os.rename(own, kept)
        print(f"Your copy is kept as {kept.name}.")
    for newer in filter(lambda path: state(path)[1], [*COPIES.glob(f"{own.stem}.newer*.ipynb")]):
        newer.unlink()
    lay(sources[name])
    return own


def last_worked_on():
    """The copy that the reader edited or ran last, or the first notebook."""
    copies = [(path.stat().st_mtime, path, *state(path)) for path in COPIES.glob("*.ipynb")]
    worked_on = [(time, path) for time, path, version, untouched in copies if version and not untouched]
    return max(worked_on)[1] if worked_on else COPIES / NOTEBOOKS[0].name


def lay_copies(fresh):
    """Lay a copy of every notebook that the reader lacks; return the one to open."""
    try:
        COPIES.mkdir(exist_ok=True)
        opened = start_over(fresh) if fresh else None
        for source in NOTEBOOKS:
            lay(source)
        return opened or last_worked_on()
    except OSError as error:
        sys.exit(f"Your notebooks cannot be written to {COPIES}: {error.strerror}.")


def open_lab(notebook, options):
    """Go on as JupyterLab, which prints an address that opens this notebook, and opens it in the browser."""
    place = notebook.relative_to(ROOT).as_posix()
    print(f"Opening {place} in JupyterLab ...", flush=True)
    os.chdir(ROOT)
    no_news, others = str(ROOT / "notebooks" / ".jupyter"), os.environ.get("JUPYTER_CONFIG_PATH")
    os.environ["JUPYTER_CONFIG_PATH"] = os.pathsep.join(filter(None, (no_news, others)))
    become(
        *(sys.executable, "-m", "jupyterlab"),
        f"--ServerApp.root_dir={ROOT}",  # not my_notebooks: the figures lie outside it
        f"--LabApp.default_url=/lab/tree/{quote(place)}",
        *(["--allow-root"] if os.name != "nt" and os.geteuid() == 0 else []),  # as in a container
        *options,
    )


def main():
    parser = argparse.ArgumentParser(usage=__doc__, allow_abbrev=False)
    parser.add_argument("--fresh", metavar="NOTEBOOK", help="start it over; such as 4.3 or beyond_2")
    arguments, options = parser.parse_known_args()
    try:
        if sys.version_info < NEEDED or not has_packages():
            prepare_venv()
            if Path(sys.executable) != PYTHON:
                become(PYTHON, __file__, *sys.argv[1:])
            install()
        open_lab(lay_copies(arguments.fresh), options)
    except KeyboardInterrupt:
        sys.exit("\nInterrupted. Run the same command to go on.")


if __name__ == "__main__":
    main()
