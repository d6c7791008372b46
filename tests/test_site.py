"""The web edition: it builds without a network, shows all of the course, and reads well in a browser."""

import html.parser
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from support import NOTEBOOKS, ROOT, read_notebook

sys.path.insert(0, str(ROOT / "site"))

import sources  # noqa: E402

REPOSITORY = "https://github.com/someone/course"
THOROUGHLY = ("index", "beyond_3_fast_generation", "glossary")  # short pages, of each kind


def sphinx(folder, repository="", builder="html", **environment):
    """Build the site in `folder` as CONTRIBUTING says, and return what Sphinx says."""
    environment = {**os.environ, "COURSE_REPOSITORY": repository, **environment}
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", builder, "site", str(folder)]
    result = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, encoding="utf-8"
    )
    return result.stdout + result.stderr


class Page(html.parser.HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(path.read_text(encoding="utf-8"))
        self.ids = {attributes.get("id") for _, attributes in self.tags}
        self.links = [
            attributes["href"] for tag, attributes in self.tags if tag == "a" and attributes.get("href")
        ]

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data

    def count(self, tag, words):
        return sum(t == tag and words <= set((a.get("class") or "").split()) for t, a in self.tags)


def pages_of(folder):
    paths = [path for path in sorted(folder.rglob("*.html")) if "_static" not in path.parts]
    return {path.relative_to(folder).as_posix(): Page(path) for path in paths}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site") / "html"
    assert not sphinx(folder)
    return folder


@pytest.fixture(scope="module")
def pages(site):
    return pages_of(site)


def test_every_lesson_and_module_has_its_page(pages):
    lessons = {f"notebooks/{path.stem}.html" for path in NOTEBOOKS}
    modules = {f"{path.stem}.html" for path in ROOT.glob("*.py") if path.name != "conftest.py"}
    assert {"helpers.html", "beyond.html"} <= modules
    assert pages.keys() == lessons | modules | {"index.html", "start.html", "glossary.html", "search.html"}


def test_nothing_comes_from_a_network(site, pages):
    for name, page in pages.items():
        for tag, attributes in page.tags:
            source = attributes.get("src") or (attributes.get("href") if tag == "link" else "") or ""
            assert not re.match(r"(https?:)?//", source), f"{name}: {source}"
    for path in site.rglob("*.css"):
        remote = r"""(@import\s*|url\()["']?(https?:)?//"""
        assert not re.search(remote, path.read_text(encoding="utf-8")), path.name
    assert (site / "_static" / "tex-svg.js").stat().st_size > 1_000_000


def test_links_and_pictures_lead_somewhere(site, pages):
    for name, page in pages.items():
        targets = page.links + [attributes["src"] for tag, attributes in page.tags if tag == "img"]
        for target in targets:
            parts = urlsplit(target)
            if parts.scheme in ("http", "https", "mailto"):
                continue
            path = (site / name).parent / unquote(parts.path) if parts.path else site / name
            assert path.is_file(), f"{name}: {target}"
            if parts.fragment and path.suffix == ".html":
                there = pages[path.resolve().relative_to(site.resolve()).as_posix()]
                assert unquote(parts.fragment) in there.ids, f"{name}: {target}"


def test_links_of_the_notebooks_stay_on_the_site(pages):
    for path in NOTEBOOKS:
        links = [link for link in pages[f"notebooks/{path.stem}.html"].links if not link.startswith("http")]
        assert "../index.html" in links
        assert not [link for link in links if link.endswith((".md", ".py", ".ipynb"))]


def test_every_picture_has_its_alt_text(pages):
    for name, page in pages.items():
        for tag, attributes in page.tags:
            assert tag != "img" or len((attributes.get("alt") or "").split()) >= 8, f"{name}: {attributes}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_lesson_shows_what_is_stored_and_folds_what_is_tagged(path, pages):
    page, notebook = pages[f"notebooks/{path.stem}.html"], read_notebook(path)
    shown = "".join(page.text.split())
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            text = re.sub(r"^Picture: .+\n", "", output.text, flags=re.M)
            assert "".join(text.split()) in shown
    tags = [tag for cell in notebook.cells for tag in cell.metadata.get("tags", ())]
    assert page.count("details", {"hide", "above-input"}) == tags.count("hide-input")
    assert page.count("details", {"hide", "below-input"}) == tags.count("hide-output")
    solutions = sum(cell.source.count("<details>") for cell in notebook.cells if cell.cell_type == "markdown")
    assert page.count("details", set()) == len(tags) + solutions
    assert page.count("img", set()) == sum(
        cell.source.count("](../figures/") for cell in notebook.cells if cell.cell_type == "markdown"
    )


@pytest.mark.parametrize("path", sources.MODULES, ids=lambda path: path.name)
def test_a_module_is_all_there_and_linked_with_its_lessons(path, pages):
    page, shown = pages[f"{path.stem}.html"], "".join(pages[f"{path.stem}.html"].text.split())
    head, *parts = re.split(r"^# ---- .+ \(notebooks/(.+)\.ipynb\) -+$", path.read_text("utf-8"), flags=re.M)
    for source in (head, *parts[1::2]):
        for line in filter(str.strip, source.splitlines()):
            assert "".join(line.split()) in shown
    for lesson, source in zip(parts[::2], parts[1::2], strict=True):
        names = re.findall(r"^(?:class|def) (\w+)", source, re.M)
        links = [link for link in page.links if link.startswith(f"notebooks/{lesson}.html#")]
        assert len(links) >= len(names) > 0
        back = {f"../{path.stem}.html#{name.lower().replace('_', '-')}" for name in names}
        assert back <= set(pages[f"notebooks/{lesson}.html"].links)


def test_the_first_page_has_a_card_for_every_lesson(pages):
    index = pages["index.html"]
    assert index.count("img", {"sd-card-img-top"}) == len(NOTEBOOKS)
    assert {f"notebooks/{path.stem}.html" for path in NOTEBOOKS} <= set(index.links)
    assert "Featureiman Byeswickattribute argue" in index.text and "\\" not in index.text


def test_the_glossary_links_each_term_to_its_explanation():
    text = (ROOT / "site" / "glossary.md").read_text(encoding="utf-8")
    terms = re.findall(r"^(\w.*)\n  .+\(notebooks/(.+?)\.ipynb#(.+?)\)$", text, re.M)
    assert len(terms) == text.count("](notebooks/") > 50
    assert [term for term, *_ in terms] == sorted((term for term, *_ in terms), key=str.lower)
    for term, name, anchor in terms:
        cells = read_notebook(ROOT / "notebooks" / f"{name}.ipynb").cells
        prose = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
        _, *parts = re.split(r"^#+ (.+)$", prose, flags=re.M)
        places = zip(map(sources.slug, parts[::2]), parts[1::2], strict=True)
        section = next(body for place, body in places if place == anchor)
        for word in re.findall(
            r"\w{3,}", term.lower()
        ):  # only its beginning: "vanishing" is explained as "vanished"
            assert word[:4] in section.lower(), f"{name}#{anchor} doesn't say {term}"


def test_links_to_the_repository_appear_once_it_has_an_address(pages, tmp_path):
    def outside(pages):
        links = {link for page in pages.values() for link in page.links}
        return {link for link in links if "github.com/someone" in link or "colab" in link}

    assert not outside(pages) and "ADDRESS_OF_THE_COURSE" in pages["index.html"].text
    assert not sphinx(tmp_path / "html", REPOSITORY)
    linked = pages_of(tmp_path / "html")
    found, path = outside(linked), f"notebooks/{NOTEBOOKS[1].name}"
    assert {
        REPOSITORY,
        f"{REPOSITORY}/edit/main/{path}",
        f"{REPOSITORY}/edit/main/site/index.md",
        f"{REPOSITORY}/blob/main/tests/test_gpt2_weights.py",
        f"https://colab.research.google.com/github/someone/course/blob/main/{path}",
    } <= found
    for link in found:
        file = re.search(r"/(?:edit|blob)/main/([^#]+)", link)
        assert not file or (ROOT / file[1]).exists(), link
    assert not [link for link in linked["helpers.html"].links if "/edit/" in link]
    assert f"git clone {REPOSITORY}" in linked["index.html"].text
    assert not any("ADDRESS_OF" in page.text for page in linked.values())


# In a browser


@pytest.fixture(scope="module")
def visitor(site):
    """A browser, and the address at which this machine serves the site."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    from site_browser import chromium, served

    with api.sync_playwright() as driver:
        if not (path := chromium(driver)):
            pytest.skip("no Chromium here; to get one, run: playwright install chromium")
        with served(site) as address:
            yield driver.chromium.launch(executable_path=path), address


def test_a_reader_sees_every_page(visitor, pages):
    from site_browser import examine

    wrong = [line for name in pages for line in examine(*visitor, name, Path(name).stem in THOROUGHLY)]
    assert not wrong, "\n".join(wrong)


def test_every_fault_is_found(visitor, site):
    from site_browser import examine

    page = (site / "glossary.html").read_text(encoding="utf-8")
    faults = {
        "broken image none.svg": '<img src="none.svg" alt="a picture">',
        "no alt text on": '<img src="_static/favicon.svg" width="9">',
        "mathematics not rendered": '<span class="math">x</span>',
        "not rendered: $x$": "<p>A raw $x$</p>",
        "too wide: hr": '<hr style="width: 2000px">',
        "nothing unfolds": "<details><summary>Solution</summary></details>",
        "color-contrast": '<p style="color: #777; background: #888">pale</p>',
        "console: 404": "",
    }
    bad = page.replace("</article>", "".join(faults.values()) + "</article>")
    (site / "bad.html").write_text(bad, encoding="utf-8")
    lines = "\n".join(examine(*visitor, "bad.html"))
    (site / "bad.html").unlink()
    assert not [fault for fault in faults if fault not in lines]


def test_search_finds_the_residual_stream(visitor):
    from site_browser import search

    found = search(*visitor, "residual stream")
    assert {"glossary.html", "notebooks/4.2_layer_normalization.html"} <= set(found)
    assert not search(*visitor, "xylophone")


def test_links_to_papers_work(tmp_path):
    try:
        socket.create_connection(("arxiv.org", 443), timeout=3).close()
    except OSError:
        pytest.skip("no network here, so the links to papers aren't tried")
    direct = {name: "" for name in os.environ if name.lower().endswith("_proxy")}
    sphinx(tmp_path, builder="linkcheck", **direct)
    tried = [json.loads(line) for line in (tmp_path / "output.json").read_text(encoding="utf-8").splitlines()]
    assert len(tried) > 20
    # Some publishers answer programs with 403, or not at all. Only what is gone counts.
    assert not [link["uri"] for link in tried if re.match(r"404|410", link["info"])]
