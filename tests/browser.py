"""Run the notebooks in a real JupyterLab, in a real browser, and say what a reader would stumble over.

    python tests/browser.py                                   every notebook
    python tests/browser.py 4.2 --dark --width 900 --shots .  one, with a screenshot of every screenful

It works on a copy, so nothing in the repository changes. It needs a Chromium: one on the path, or the
one that `playwright install chromium` fetches.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from notebooks.isolation import isolate  # noqa: E402

isolate()

from playwright.sync_api import sync_playwright  # noqa: E402
from support import LINKED, NOTEBOOKS, copy_course  # noqa: E402

WIDTHS = (1400, 900)
SECONDS = 300  # for all cells of one notebook
CHECKS = Path(__file__).with_suffix(".js").read_text(encoding="utf-8")
RUN_ALL = """async ([seconds, run]) => {
    const late = new Promise((_, reject) => setTimeout(reject, 1000 * seconds, new Error('too slow')));
    await jupyterapp.restored;
    const panel = jupyterapp.shell.currentWidget;
    await Promise.race([late, panel.sessionContext.ready]);
    if (run) await Promise.race([late, jupyterapp.commands.execute('notebook:run-all-cells')]);
    document.querySelectorAll('details').forEach((details) => { details.open = true; });
    return panel.content.model.toJSON();
}"""
# Images are loaded, mathematics is typeset, and sliders are drawn some time after the cells have run.
SETTLED = """(sliders) => all("img").every((image) => image.complete)
    && all(".jp-RenderedMarkdown").every((cell) => !rawMath(cell))
    && all(".widget-slider, .widget-dropdown, .widget-text").length >= sliders"""
LINKS = """() => all(".jp-RenderedMarkdown a:not([href^='#'])").map((link) => [cellOf(link), link.href])"""
SCREENFULS = """() => {
    const box = document.querySelector('.jp-WindowedPanel-outer');
    return Math.ceil(box.scrollHeight / box.clientHeight);
}"""
SCROLL = """(screenful) => {
    const box = document.querySelector('.jp-WindowedPanel-outer');
    box.scrollTop = screenful * box.clientHeight;
}"""


def chromium(playwright):
    """The path of a Chromium: playwright's own, or one on the path; None if there is none."""
    own = playwright.chromium.executable_path
    names = ("chromium", "chromium-browser", "google-chrome")
    return own if Path(own).exists() else next(filter(None, map(shutil.which, names)), None)


@contextlib.contextmanager
def jupyterlab(course, dark=False):
    """Serve the folder `course` in a JupyterLab with settings of its own; give its address."""
    with tempfile.TemporaryDirectory(prefix="lab-", ignore_cleanup_errors=True) as folder:
        settings = {
            "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
            "apputils-extension/themes": {"theme": "JupyterLab Dark" if dark else "JupyterLab Light"},
            "notebook-extension/tracker": {"windowingMode": "none"},  # else cells off the screen aren't there
        }
        for name, values in settings.items():
            file = Path(folder, "@jupyterlab", f"{name}.jupyterlab-settings")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(values))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
        command += [f"--ServerApp.port={port}", "--ServerApp.port_retries=0", "--IdentityProvider.token="]
        command += [f"--ServerApp.root_dir={course}", "--LabApp.expose_app_in_browser=True"]
        command += [f"--LabApp.user_settings_dir={folder}", f"--LabApp.workspaces_dir={folder}/workspaces"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        server = subprocess.Popen(command, env=os.environ | {"HOME": folder}, **quiet)
        try:
            address = f"http://127.0.0.1:{port}"
            wait_for(address + "/api", server)
            yield address
        finally:
            server.terminate()
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()


def wait_for(address, server, seconds=90):
    end = time.monotonic() + seconds
    while not answers(address):
        if server.poll() is not None or time.monotonic() > end:
            raise RuntimeError("JupyterLab did not start")
        time.sleep(0.2)


def answers(address):
    try:
        return urllib.request.urlopen(address, timeout=10).status == 200
    except (OSError, urllib.error.URLError):
        return False


def wrong_results(document):
    """What is wrong in the cells of a notebook that has run."""
    for number, cell in enumerate(document["cells"]):
        source = "".join(cell["source"])
        if cell["cell_type"] == "code" and source.strip() and not cell["execution_count"]:
            yield number, "was not run"
        for output in cell.get("outputs", []):
            if output["output_type"] == "error" or output.get("name") == "stderr":
                text = output.get("evalue") or "".join(output["text"])
                yield number, f"{output.get('ename', 'stderr')}: {text.strip()}"


def has_slider(cell):
    return cell["cell_type"] == "code" and bool(re.search(r"\binteract\(", "".join(cell["source"])))


def examine(browser, address, name, widths=WIDTHS, shots=None, run=True):
    """Run the notebook `name`, or open it as stored, and return what is wrong with it, as sorted lines."""
    page = browser.new_page(viewport={"width": widths[0], "height": 1000})
    page.set_default_timeout(90_000)
    found, console = [], []
    page.on("console", lambda message: message.type == "error" and console.append(message.text))
    page.on("pageerror", lambda error: console.append(str(error)))
    page.goto(f"{address}/lab/tree/notebooks/{name}?reset")
    page.wait_for_function("window.jupyterapp && document.querySelector('.jp-Notebook .jp-Cell')")
    page.add_script_tag(content=CHECKS)
    document = page.evaluate(RUN_ALL, [SECONDS, run])
    found += wrong_results(document)
    sliders = [n for n, cell in enumerate(document["cells"]) if run and has_slider(cell)]
    with contextlib.suppress(Exception):  # what is still missing then is found below
        page.wait_for_function(SETTLED, arg=len(sliders), timeout=20_000)
    found += page.evaluate("brokenContent")
    for number in sliders:
        if not page.locator(".jp-Notebook .jp-Cell").nth(number).locator(".jupyter-widgets").count():
            found.append((number, "the slider is not drawn"))
    for number, link in page.evaluate(LINKS):
        path = link.split("?")[0].split("#")[0].removeprefix(f"{address}/files/")
        if link.startswith(address) and not answers(f"{address}/api/contents/{path}?content=0"):
            found.append((number, f"the link leads nowhere: {path}"))
    for width in widths:
        page.set_viewport_size({"width": width, "height": 1000})
        page.wait_for_timeout(500)
        found += [(number, f"{problem} ({width} px)") for number, problem in page.evaluate("badLayout")]
        for screenful in range(page.evaluate(SCREENFULS) if shots else 0):
            page.evaluate(SCROLL, screenful)
            page.wait_for_timeout(300)
            page.screenshot(path=Path(shots, f"{Path(name).stem}-{width}-{screenful:02}.png"))
    page.close()
    lines = [f"{name}, cell {number}: {problem}" for number, problem in sorted(set(map(tuple, found)))]
    return lines + [f"{name}, console: {text}" for text in console]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="notebook", help="such as 4.5 or beyond_2 (default: all)")
    parser.add_argument("--dark", action="store_true", help="in JupyterLab's dark theme")
    parser.add_argument("--width", type=int, action="append", help="of the window, in pixels (repeatable)")
    parser.add_argument("--shots", type=Path, help="a folder for screenshots")
    arguments = parser.parse_args()
    if arguments.shots:
        arguments.shots.mkdir(parents=True, exist_ok=True)
    chosen = [path.name for path in NOTEBOOKS if path.name.startswith(tuple(arguments.names or [""]))]
    wrong = 0
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        course = copy_course(Path(folder), *LINKED)
        with jupyterlab(course, arguments.dark) as address:
            path = chromium(playwright) or sys.exit("No Chromium here. Run: playwright install chromium")
            browser = playwright.chromium.launch(executable_path=path)
            for name in chosen:
                start = time.perf_counter()
                lines = examine(browser, address, name, arguments.width or WIDTHS, arguments.shots)
                wrong += bool(lines)
                print(f"{name}: {time.perf_counter() - start:.0f} s", *lines, sep="\n  ", flush=True)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
