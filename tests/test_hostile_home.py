"""Whatever your own settings are, the outputs and the pictures are those of the repository."""

import json
import os
import re
import shutil
import subprocess
import sys

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook
from support import ROOT, copy_course, read_notebook

NAME = "4.2_layer_normalization.ipynb"
MATPLOTLIBRC = """
savefig.bbox: tight
savefig.transparent: True
savefig.dpi: 33
text.usetex: True
font.size: 20
font.family: serif
lines.linewidth: 7
axes.grid: False
figure.figsize: 3, 3
figure.constrained_layout.use: False
path.simplify: True
svg.fonttype: none
svg.hashsalt: mine
"""
IPYTHON_CONFIG = """
c.InteractiveShell.ast_node_interactivity = "all"
c.InteractiveShell.autocall = 2
c.InteractiveShellApp.exec_lines = ["print('a line of the profile')"]
c.InlineBackend.rc = {"savefig.bbox": "tight", "figure.figsize": (2, 2), "lines.linewidth": 9}
c.InlineBackend.figure_formats = {"retina"}
"""
STARTUP = """
print("a startup file")
import matplotlib.pyplot, torch
matplotlib.pyplot.rcParams["lines.linewidth"] = 5
torch.manual_seed(5)
torch.set_default_dtype(torch.float64)
torch.set_printoptions(precision=9, sci_mode=True, threshold=2)
"""
OTHER_PACKAGES = "import figures, helpers, notebooks"  # others of the same names
BROKEN = "raise ImportError('not the module of the course')\n"
KERNEL_SPEC = {"argv": ["no-such-program"], "display_name": "mine", "language": "python"}


def fill(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """A copy of what a notebook needs, with settings of the user's in the folder where notebooks run."""
    folder = copy_course(tmp_path_factory.mktemp("course"))
    (folder / "notebooks" / "matplotlibrc").write_text(MATPLOTLIBRC)
    return folder


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """The environment of someone with many settings, other packages, no locale, and a home that is a file."""
    folder = tmp_path_factory.mktemp("settings")
    fill(
        folder,
        {
            "matplotlibrc": MATPLOTLIBRC,
            "ipython/profile_default/ipython_config.py": IPYTHON_CONFIG,
            "ipython/profile_default/ipython_kernel_config.py": IPYTHON_CONFIG,
            "ipython/profile_default/startup/1.py": STARTUP,
            "ipython/profile_default/startup/2.py": OTHER_PACKAGES,
            "jupyter/jupyter_config.py": BROKEN,
            "jupyter/jupyter_nbclient_config.py": BROKEN,
            "data/kernels/python3/kernel.json": json.dumps(KERNEL_SPEC),
            "packages/notebooks/__init__.py": "",
            "packages/figures/__init__.py": "",
            "packages/helpers.py": "",
            "start.py": STARTUP,
            "file": "",
        },
    )
    home = str(folder / "file" / "home")  # not even root can make a folder below a file
    variables = {
        **dict.fromkeys(("HOME", "USERPROFILE", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "TORCH_HOME"), home),
        "MATPLOTLIBRC": str(folder),
        "MPLBACKEND": "svg",
        "IPYTHONDIR": str(folder / "ipython"),
        "JUPYTER_CONFIG_DIR": str(folder / "jupyter"),
        "JUPYTER_PATH": str(folder / "data"),
        "PYTHONPATH": str(folder / "packages"),
        "PYTHONSTARTUP": str(folder / "start.py"),
        "PYTHONWARNINGS": "error",
        "PYTHONHASHSEED": "7",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUTF8": "0",
        "PYTHONIOENCODING": "ascii",
        "LC_ALL": "C",
        "COLUMNS": "20",
        "NO_COLOR": "1",
        "TORCH_LOGS": "+dynamo",
        "TORCH_SHOW_CPP_STACKTRACES": "1",
    }
    dropped = ("LANG", "MPLCONFIGDIR", "JUPYTER_DATA_DIR")
    return {name: value for name, value in os.environ.items() if name not in dropped} | variables


def run(*command, cwd, env):
    result = subprocess.run([sys.executable, *command], cwd=cwd, env=env, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_nbval_sees_none_of_them(course, hostile):
    out = run("-m", "pytest", "-o", "addopts=--nbval", "-q", NAME, cwd=course / "notebooks", env=hostile)
    cells = read_notebook(course / "notebooks" / NAME).cells
    assert f"{sum(cell.cell_type == 'code' for cell in cells)} passed" in out


def test_refresh_sees_none_of_them(course, hostile):
    out = run("notebooks/refresh.py", "--check", NAME[:3], cwd=course, env=hostile)
    assert out.endswith("already up to date\n")


PLOT = """
fig, ax = plt.subplots()
ax.plot([1, 4, 2], "o-", label="a curve")
ax.set_title("A title with $x^2$")
ax.legend()
"""


def test_a_readers_kernel_draws_the_stored_picture(course, hostile, tmp_path):
    """In JupyterLab the settings are in force. Outputs may show it, pictures don't."""
    draw = f"from figures.drawing import plt, save\n{PLOT}\nsave(fig, 'figures/plot.svg')"
    run("-c", draw, cwd=course, env=os.environ)
    shutil.copytree(hostile["IPYTHONDIR"], tmp_path / "ipython")
    (tmp_path / "ipython/profile_default/startup/2.py").unlink()
    setup = "import sys\nsys.path.insert(0, '..')\nimport matplotlib.pyplot as plt\n"
    setup += "from figures.drawing import show\nfrom notebooks import compare"
    sources = [setup, PLOT + "show(fig, 'plot')", "plt.rcParams['savefig.bbox'] = 'tight'"]
    sources += [PLOT + "show(fig, 'plot')", "'all'\n'of them'"]
    notebook = new_notebook(cells=[new_code_cell(source) for source in sources])
    resources = {"metadata": {"path": str(course / "notebooks")}}
    client = NotebookClient(notebook, kernel_name="python3", resources=resources)
    own = {"IPYTHONDIR": str(tmp_path / "ipython"), "MPLBACKEND": "inline", "PYTHONWARNINGS": ""}
    client.execute(env=hostile | own, stderr=subprocess.DEVNULL)
    text = str([cell.outputs for cell in notebook.cells])
    assert "'all'" in text and "'of them'" in text  # the profile is in force
    assert text.count("figures/plot.svg, shown below") == 2 and "differs" not in text


def test_one_notebook_alone_has_the_environment_of_the_whole_suite(hostile, tmp_path):
    for name in ("conftest.py", "pyproject.toml", "tests/conftest.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "notebooks").mkdir()
    for name in ("__init__.py", "isolation.py"):
        shutil.copy(ROOT / "notebooks" / name, tmp_path / "notebooks")
    dump = "import json, os\njson.dump(dict(os.environ), open(os.environ['SEEN'], 'w'))"
    nbformat.write(new_notebook(cells=[new_code_cell(dump)]), tmp_path / "notebooks" / "4.1_seen.ipynb")
    (tmp_path / "tests" / "test_nothing.py").write_text("def test_nothing(): pass")

    seen = {}
    for folder, *arguments in (".",), ("notebooks", "-o", "addopts=--nbval", "4.1_seen.ipynb"):
        file = tmp_path / "seen.json"
        run("-m", "pytest", *arguments, cwd=tmp_path / folder, env=hostile | {"SEEN": str(file)})
        variables = json.loads(re.sub(r"settings-\w+", "", file.read_text())).items()
        others = ("PYTEST_", "JPY_", "PYDEVD_", "LINES", "COLUMNS")  # a run's own, and the terminal's
        seen[folder] = {name: value for name, value in variables if not name.startswith(others)}
    assert seen["notebooks"] == seen["."]
    assert seen["."]["OMP_WAIT_POLICY"] and seen["."]["https_proxy"] and "PYTHONPATH" not in seen["."]
