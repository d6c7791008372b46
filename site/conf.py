"""How Sphinx builds the web edition: python -m sphinx -W site _site/html"""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.fileutil import copy_asset_file

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "site"))

from sources import EDITED, lay_out  # noqa: E402

# The address of the course on GitHub, such as https://github.com/owner/name; the workflow sets it. Once it's
# known, pages get the links "edit" and "open in Colab", and files without a page are linked on GitHub.
REPOSITORY = os.environ.get("COURSE_REPOSITORY", "").rstrip("/")

project = "GPT-2 from scratch"
copyright = author = "the authors of GPT-2 from scratch, notebook by notebook"
html_title = project
language = "en"

extensions = ["myst_nb", "sphinx_copybutton", "sphinx_design"]
myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # the stored outputs, which the tests compare
nb_code_prompt_show = "Show the {type}"
nb_code_prompt_hide = "Hide the {type}"
mathjax_path = "tex-svg.js"  # one file with everything in it, so no page needs a network or a font
copybutton_selector = "div.highlight pre:not(.cell_output pre)"  # code, not what it printed

linkcheck_anchors = False
linkcheck_timeout = 10

html_theme = "sphinx_book_theme"
html_static_path = ["style.css"]
html_css_files = ["style.css"]
html_favicon = "favicon.svg"
html_context = {"default_mode": "auto"}  # light or dark, as the system is
html_show_sphinx = html_copy_source = html_use_index = False
html_theme_options = {
    "navbar_persistent": [],
    "use_download_button": False,
    "use_fullscreen_button": False,
    "show_toc_level": 2,
    "footer_content_items": ["copyright.html"],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
if REPOSITORY:
    html_theme_options |= {
        "repository_url": REPOSITORY,
        "repository_branch": "main",
        "use_repository_button": True,
        "use_edit_page_button": True,
        "launch_buttons": {"colab_url": "https://colab.research.google.com"},
    }


def edit_the_source(app, pagename, templatename, context, doctree):
    """Let "edit" lead to the file that a page is made of. A module is made of several: no such link."""
    for group in context.get("header_buttons", ()):
        for button in list(group.get("buttons", ())):
            if button.get("label") != "source-edit-button":
                continue
            if pagename in EDITED:
                button["url"] = f"{REPOSITORY}/edit/main/{EDITED[pagename]}"
            elif not pagename.startswith("notebooks/"):
                group["buttons"].remove(button)


def link_figures(app, doctree, docname):
    """Let a click on a figure open it alone: on a telephone, it's too small to read in its page."""
    for image in list(doctree.findall(nodes.image)):
        if image["uri"] in app.env.images and "sd-card-img-top" not in image["classes"]:
            file = f"{'../' * docname.count('/')}_images/{app.env.images[image['uri']][1]}"
            image.replace_self(nodes.reference("", "", image.deepcopy(), refuri=file, classes=["figure"]))


def copy_mathjax(app, error):
    if app.builder.format == "html" and not error:
        mathjax = Path(find_spec("sphinx-mathjax-offline").origin).parent / "static" / "mathjax"
        copy_asset_file(mathjax / mathjax_path, app.outdir / "_static")


def setup(app: Sphinx):
    app.srcdir = lay_out(app.doctreedir / "pages", REPOSITORY)
    app.connect("html-page-context", edit_the_source, priority=900)
    app.connect("doctree-resolved", link_figures)
    app.connect("build-finished", copy_mathjax)
