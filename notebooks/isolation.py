"""Keep your own settings away from the kernels that check and refresh the notebooks."""

import atexit
import functools
import importlib
import os
import shutil
import tempfile
from pathlib import Path

# How the variables begin that hold settings. Those of the processor, such as OMP_NUM_THREADS, stay.
SETTINGS = ("PYTHON", "IPYTHON", "JUPYTER", "MATPLOTLIB", "MPL", "TORCH", "PYTORCH")


@functools.cache
def isolate():
    """Give this process, and every kernel that it starts, empty settings in a folder of their own.

    Call it before anything reads a setting.
    """
    folder = tempfile.mkdtemp(prefix="settings-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for name in list(os.environ):
        if name.startswith(SETTINGS):
            del os.environ[name]
    Path(folder, "matplotlibrc").touch()  # given an empty one, matplotlib looks for no other
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "MATPLOTLIBRC", "MPLCONFIGDIR"):
        os.environ[name] = folder
    os.environ["PYTHONUTF8"] = "1"
    # A kernel that runs in a copy of the course finds the downloaded models, too.
    os.environ.setdefault("COURSE_MODELS", str(Path(__file__).resolve().parents[1] / "models"))
    # Where matplotlib takes long to list the fonts, it prints a warning. Here it's not in a cell's output.
    importlib.import_module("matplotlib.font_manager")
