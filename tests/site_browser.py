"""Visit every page of the built web edition in a browser, and say what a reader would stumble over.

    python -m sphinx -W site _site/html
    python tests/site_browser.py _site/html                         every page
    python tests/site_browser.py _site/html 4.3 index --shots .     two, with a screenshot of each view

It needs a Chromium, as browser.py does.
"""

import argparse
import contextlib
import functools
import itertools
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from axe_playwright_python.sync_playwright import Axe
from browser import chromium
from playwright.sync_api import sync_playwright

WIDTHS = (1300, 360)
THEMES = ("light", "dark")
CHECKS = Path(__file__).with_suffix(".js").read_text(encoding="utf-8")
AXE = {
    "resultTypes": ["violations"],
    "runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"],
    "preload": False,
}
SETTLE = 450  # milliseconds until the theme has noticed another width, and colors have faded over


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@contextlib.contextmanager
def served(folder):
    """Serve a folder on this machine; give its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def accessibility(page, context):
    """What axe-core calls serious or critical in this part of the page, as it looks now."""
    for violation in Axe().run(page, context, AXE).response["violations"]:
        if violation["impact"] in ("serious", "critical"):
            for node in violation["nodes"]:
                yield f"{violation['id']}: {node['html'][:120]}"


def examine(browser, address, path, thorough=True, shots=None):
    """Look at a page in every width with everything unfolded, and return what is wrong, as lines.

    If `thorough`, look at both themes, with axe-core, too. It takes long for code, so it sees that once.
    """
    name, found, console = Path(path).stem, [], []
    page = browser.new_page(viewport={"width": WIDTHS[0], "height": 1000})
    page.on("console", lambda message: message.type == "error" and console.append(message.text))
    page.on("pageerror", lambda error: console.append(str(error)))
    page.on("requestfailed", lambda request: console.append(f"failed: {request.url}"))
    page.on("response", lambda response: response.ok or console.append(f"{response.status}: {response.url}"))
    page.on("request", lambda request: request.url.startswith(address) or console.append(request.url))
    page.goto(f"{address}/{path}")
    page.evaluate("window.MathJax ? MathJax.startup.promise : null")
    page.add_script_tag(content=CHECKS)
    found += page.evaluate("content()")
    for width, theme in itertools.product(WIDTHS, THEMES if thorough else THEMES[:1]):
        page.set_viewport_size({"width": width, "height": 1000})
        page.evaluate("theme => { document.documentElement.dataset.theme = theme; }", theme)
        new = page.evaluate("layout()")
        if thorough:
            page.wait_for_timeout(SETTLE)
            new += accessibility(page, None if width == WIDTHS[0] else {"exclude": [["pre"]]})
        found += [f"{problem} ({width} px, {theme})" for problem in new]
        if shots:
            page.screenshot(path=Path(shots, f"{name}-{width}-{theme}.png"), full_page=True)
    page.close()
    return [f"{path}: {problem}" for problem in dict.fromkeys(found)] + [
        f"{path}, console: {c}" for c in console
    ]


def search(browser, address, words):
    """The pages that the site's own search finds, best first."""
    page = browser.new_page()
    page.goto(f"{address}/search.html?q={words}")
    page.wait_for_function(
        "/found|did not match/.test(document.querySelector('#search-results').textContent)"
    )
    links = page.locator("#search-results ul.search a").all()
    pages = [link.get_attribute("href").split("?")[0].split("#")[0] for link in links]
    page.close()
    return list(dict.fromkeys(pages))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("site", type=Path, help="the folder that Sphinx wrote")
    parser.add_argument("names", nargs="*", metavar="page", help="such as 4.5 or index (default: all)")
    parser.add_argument("--shots", type=Path, help="a folder for screenshots")
    arguments = parser.parse_args()
    if arguments.shots:
        arguments.shots.mkdir(parents=True, exist_ok=True)
    site = arguments.site
    pages = [page.relative_to(site) for page in sorted(site.rglob("*.html")) if "_static" not in page.parts]
    wrong = []
    with served(site) as address, sync_playwright() as playwright:
        path = chromium(playwright) or sys.exit("No Chromium here. Run: playwright install chromium")
        browser = playwright.chromium.launch(executable_path=path)
        for page in pages:
            if page.name.startswith(tuple(arguments.names or [""])):
                wrong += examine(browser, address, page.as_posix(), shots=arguments.shots)
    sys.exit("\n".join(wrong) or 0)


if __name__ == "__main__":
    main()
