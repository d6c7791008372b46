"""Makes the pages of the web edition from what's committed: notebooks, README, helpers.py and its companions.

Nothing is typed a second time: titles, minutes, and what you see in a lesson are read from the README.
"""

import ast
import re
import shutil
from pathlib import Path

import nbformat
from nbformat.v4 import new_markdown_cell, new_output

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PART = re.compile(r"^# ---- (.+) \(notebooks/(.+\.ipynb)\) -+\n", re.M)  # the head of what a notebook exports
MODULES = [path for path in ROOT.glob("*.py") if PART.search(path.read_text("utf-8"))]
MODULES.sort(key=lambda path: (path.name != "helpers.py", path.name))  # the chapter's first
PAGES = {"README.md": "index.md"} | {path.name: f"{path.stem}.md" for path in MODULES}
EDITED = {"index": "site/index.md", "glossary": "site/glossary.md", "start": "README.md"}  # made of these
START = ("Take the course", "How a notebook works", "If something is different on your machine")
START += ("How it relates to the book", "License and credits")  # the README's sections on the page "start"
COVERS = {  # the figure on the card of a lesson; without a line here, it's the lesson's last one
    "4.2": "activations_drift",
    "4.3": "fits",
    "4.6": "gpt_model",
    "4.7": "continuation_tree",
    "Beyond 1": "neighbors",
}
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s#:]+)(#[^)\s]*)?\)")  # image? text, file, anchor
FENCE = re.compile(r"(^ *```.*?^ *```$)", re.M | re.S)
ROW = re.compile(r"^\| \[([^\]]+)\]\(notebooks/([\w.]+\.ipynb)\) \| (.+) \| (.+) \|$", re.M)


def lay_out(folder, repository=""):
    """Write all pages to `folder`, with links to `repository` for what isn't a page; return the folder."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT / "figures", folder / "figures", ignore=shutil.ignore_patterns("*.py*", "__*"))
    (folder / "notebooks").mkdir()
    readme = (ROOT / "README.md").read_text("utf-8")
    holder = {}  # a name -> the page of the module that holds it
    for path in MODULES:
        page, names = module_page(path)
        write(folder / PAGES[path.name], page)
        holder |= dict.fromkeys(names, PAGES[path.name])
    for path in NOTEBOOKS:
        write(folder / "notebooks" / path.name, lesson(path, holder, repository))
    write(folder / "start.md", start_page(readme, repository))
    write(folder / "index.md", index_page(readme, repository))
    write(folder / "glossary.md", (ROOT / "site" / "glossary.md").read_text("utf-8"))
    return folder


def write(path, text):
    path.write_text(text, encoding="utf-8")


def number(name):
    """What prose calls a notebook: "4.5", or "Beyond 2"."""
    return re.match(r"4\.\d|beyond_\d", name)[0].replace("beyond_", "Beyond ")


def slug(heading):
    """The anchor of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def outside_code(change, text):
    """`text`, with `change` applied to everything but its blocks of code."""
    return "".join(change(part) if place % 2 == 0 else part for place, part in enumerate(FENCE.split(text)))


def relink(text, folder, repository):
    """Let the links of a Markdown text in `folder` of the repository lead to pages.

    A file without a page is linked on GitHub. While the repository has no address, only plain text stays.
    """

    def link(match):
        image, name, file, anchor = match.groups(default="")
        path = (ROOT / folder / file).resolve()
        if image or path in NOTEBOOKS or not path.exists():  # Sphinx complains where there's nothing
            return match[0]
        file = path.relative_to(ROOT).as_posix()
        if file == "README.md" and anchor:
            return f"[{name}]({'../' * bool(folder)}start.md{anchor})"
        if file in PAGES:
            return f"[{name}]({'../' * bool(folder)}{PAGES[file]})"
        return f"[{name}]({repository}/blob/main/{file}{anchor})" if repository else name

    return outside_code(lambda part: LINK.sub(link, part), text)


# helpers.py, and what builds on it


def defined(source):
    """The names that a Python source defines at its top level, and the line on which each begins."""
    lines, names = source.splitlines(), {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            name, first = node.name, min(part.lineno for part in (node, *node.decorator_list))
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name, first = node.targets[0].id, node.lineno
        else:
            continue
        while first > 1 and lines[first - 2].startswith("# "):  # a comment above belongs to it
            first -= 1
        names.setdefault(name, first)
    return names


def built_in():
    """Each name that a notebook exports -> the heading under which it does."""
    places = {}
    for path in NOTEBOOKS:
        heading = ""
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "markdown":
                headings = re.findall(r"^#+ (.+)", FENCE.sub("", cell.source), re.M)
                heading = headings[-1] if headings else heading
            elif cell.source.startswith("#| export"):
                places |= dict.fromkeys(defined(cell.source), heading)
    return places


def module_page(path):
    """A page with the whole of a module, each name linked to where it's built; and the names."""
    head, *parts = PART.split(path.read_text("utf-8"))
    page, names, places = f"# {path.name}\n\n{block(head)}", [], built_in()
    for title, notebook, source in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
        lines, firsts = source.splitlines(), defined(source)
        ends = [first - 1 for first in firsts.values()] + [len(lines)]
        page += f"\n## {title}\n\n{block(lines[: ends[0]])}"
        for (name, first), end in zip(firsts.items(), ends[1:], strict=True):
            link = f"notebooks/{notebook}#{slug(places[name])}"
            page += f"\n### {name}\n\n[Built in {number(notebook)}: {places[name]}]({link}){{.built}}\n\n"
            page += block(lines[first - 1 : end])
        names += firsts
    return page, names


def block(source):
    source = source if isinstance(source, str) else "\n".join(source)
    return f"```python\n{source.strip()}\n```\n" if source.strip() else ""


# The lessons


def lesson(path, holder, repository):
    """A notebook as a page: links lead to pages, classes to their module, and outputs show their figures."""
    notebook = nbformat.read(path, as_version=4)
    move_figures(notebook.cells)
    mention = re.compile(r"^#.*$|\[[^\]]*\]\([^)]*\)|`(\w+)`", re.M)  # a heading or a link stays as it is
    new, cells = set(holder), []

    def link(match):
        if match[1] not in new:
            return match[0]
        new.remove(match[1])  # once in a lesson is enough
        return to_module(match[1])

    def to_module(name):
        return f"[`{name}`](../{holder[name]}#{slug(name)})"

    for cell in notebook.cells:
        cells.append(cell)
        if cell.cell_type == "markdown":
            text = relink(cell.source, "notebooks", repository)
            cell.source = outside_code(lambda part: mention.sub(link, part), text)
        elif cell.source.startswith("#| export") and (names := list(defined(cell.source))):
            kept = f"Kept in {Path(holder[names[0]]).stem}.py: {', '.join(map(to_module, names))}"
            cells.append(new_markdown_cell(f":::{{div}} built\n{kept}\n:::"))
        cell.source = cell.source.removeprefix("# NBVAL_IGNORE_OUTPUT\n")  # for the tests
    notebook.cells = cells
    return nbformat.writes(notebook)


def move_figures(cells):
    """Where a text begins with the figure of the cell above it, show it in the output, which may be folded.

    The output has a line that names the figure. Where the text shows it later on, both stay as they are.
    """
    for place, cell in enumerate(cells):
        for output in list(cell.get("outputs", ())):
            text = next(later for later in cells[place:] if later.cell_type == "markdown")
            for line, file in re.findall(r"^(Picture: (figures/.+), shown below\.\n)", output.text, re.M):
                if figure := re.match(rf"(!\[[^\]]*\]\(\.\./{re.escape(file)}\))\n*", text.source):
                    text.source = text.source[figure.end() :]
                    output.text = output.text.replace(line, "")
                    cell.outputs.append(new_output("display_data", {"text/markdown": figure[1]}))
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("text", True)]


# What the README becomes


def sections(text, level):
    """The sections of a Markdown text by their headings of this level."""
    found = re.split(rf"^#{{{level}}} (.+)\n", text, flags=re.M)
    return dict(zip(found[1::2], found[2::2], strict=True))


def start_page(readme, repository):
    found = sections(readme, 2)
    text = f"# {START[0]}\n{found[START[0]]}" + "".join(f"## {name}\n{found[name]}" for name in START[1:])
    text = text.replace("ADDRESS_OF_THIS_REPOSITORY", repository or "ADDRESS_OF_THE_COURSE")
    text = text.replace(
        "this repository", f"[the repository]({repository})" if repository else "the repository"
    )
    return relink(text.replace("```python\n  !", "```ipython3\n  !"), "", repository)  # a line for the shell


def index_page(readme, repository):
    """site/index.md with its marks filled in (cards, figures, stored outputs), and the table of contents."""
    page = (ROOT / "site" / "index.md").read_text("utf-8")
    page = page.replace("ADDRESS", repository or "ADDRESS_OF_THE_COURSE")
    parts, contents = sections(readme, 2), ""
    seen = dict(sights(parts["What you will see"]))
    fill = {"figure": picture, "cards": lambda title: grid(tables[title], seen)}
    fill |= {"first": lambda where: said(where, 0), "last": lambda where: said(where, -1)}
    tables = {title: ROW.findall(text) for title, text in sections(parts["The notebooks"], 3).items()}
    page = re.sub(r"<!-- (\w+): (.+) -->", lambda mark: fill[mark[1]](mark[2]), page)
    for title, rows in tables.items():
        contents += toctree(title, [f"{full(name, file)} <notebooks/{file}>" for name, file, *_ in rows])
    return page + contents + toctree("Reference", ["start", *(path.stem for path in MODULES), "glossary"])


def picture(name):
    """A figure with the alt text that it has in its lesson."""
    texts = (image for path in NOTEBOOKS for image in images(path))
    return next(f"![{alt}](figures/{file}.svg)" for alt, file in texts if file == name)


def images(path):
    """The figures of a notebook, each with its alt text."""
    cells = nbformat.read(path, as_version=4).cells
    prose = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    return re.findall(r"!\[([^\]]*)\]\(\.\./figures/(.+?)\.svg\)", prose)


def said(where, which):
    """One of the lines in a notebook's stored outputs that begin as `where` says: "notebook, pattern"."""
    name, beginning = where.split(", ", 1)
    cells = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4).cells
    printed = "\n".join(output.text for cell in cells for output in cell.get("outputs", ()))
    line = re.findall(rf"^{beginning}.*", printed, re.M)[which]
    return re.sub(r"([!-/:-@[-`{-~])", r"\\\1", line) + " …"  # no mark of its own is Markdown


def sights(text):
    """Each lesson, and what one sees in it, from a list whose items name their lesson in parentheses."""
    for item in re.findall(r"^- (.+(?:\n  .+)*)", text, re.M):
        before, name, after = re.split(r" \((4\.\d|Beyond \d)\)", " ".join(item.split()), maxsplit=1)
        yield name, before + after


def full(title, file):
    return title if file.startswith("4.") else f"Beyond {title}"


def grid(rows, seen):
    """A card for each lesson in a table of the README: what you see, what you build, how long it takes."""
    cards = []
    for title, file, builds, minutes in rows:
        shown = images(ROOT / "notebooks" / file)
        alt, figure = next((pair for pair in shown if pair[1] == COVERS.get(number(file))), shown[-1])
        link = f":link: notebooks/{file.removesuffix('.ipynb')}\n:link-type: doc\n"
        image = f":img-top: figures/{figure}.svg\n:img-alt: {alt}\n"
        foot = f":::{{card-footer}}\n{builds}\n\n{minutes} minutes\n:::"
        name, sight = full(title, file), seen[number(file)]
        cards.append(f"::::{{grid-item-card}} {name}\n{link}{image}\n{sight}\n\n{foot}\n::::\n")
    return ":::::{grid} 1 1 2 2\n:gutter: 3\n\n" + "\n".join(cards) + ":::::"


def toctree(caption, pages):
    lines = "\n".join(pages)
    return f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{lines}\n```\n"
