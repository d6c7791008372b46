"""What every picture of the course shares: style, colours, and how a figure is saved, compared and shown."""

import io
import os
import re
from pathlib import Path

import matplotlib.pyplot as plt
from IPython.display import display

FIGURES = Path(__file__).resolve().parent
plt.style.use(FIGURES / "course.mplstyle")

# One colour for each component, the same in every picture: Okabe and Ito's palette for colour-blind readers,
# https://jfly.uni-koeln.de/color/
COLORS = {
    "text": "#D9D9D9",
    "embedding": "#CC79A7",
    "norm": "#0072B2",
    "attention": "#E69F00",
    "feed_forward": "#009E73",
    "shortcut": "#D55E00",
    "block": "#F0E442",
    "output": "#56B4E9",
    "dropout": "#999999",
    "ink": "#1A1A1A",
}

NUMBER = re.compile(r"-?\d+\.?\d*(?:e-?\d+)?")
MADE_ID = re.compile(r"\b[a-z][0-9a-f]{10}\b")  # matplotlib hashes a shape's coordinates into its id


def as_svg(fig):
    """The text of `fig` as an SVG, the same in every run."""
    text = io.StringIO()
    fig.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()


def save(fig, path):
    """Write `fig` to `path` as an SVG and close it."""
    Path(path).write_text(as_svg(fig), encoding="utf-8", newline="\n")
    plt.close(fig)


def same_picture(svg_a, svg_b, tolerance=0.05):
    """Whether two SVG texts are equal but for ids and numbers that differ by at most `tolerance` points."""
    svg_a, svg_b = MADE_ID.sub("id", svg_a), MADE_ID.sub("id", svg_b)
    if NUMBER.sub("#", svg_a) != NUMBER.sub("#", svg_b):
        return False
    pairs = zip(NUMBER.findall(svg_a), NUMBER.findall(svg_b), strict=True)
    return all(abs(float(a) - float(b)) <= tolerance for a, b in pairs)


def show(fig, name):
    """Compare `fig` with the stored figures/<name>.svg, and display it where it differs.

    The stored picture stands in the Markdown cell below the call, since only there can it carry alt text. So
    an unchanged notebook shows each picture once, and a reader who changed a number sees the new curve above
    the old one. While refresh.py runs, which sets COURSE_REFRESH, `fig` becomes the stored picture.
    """
    stored = FIGURES / f"{name}.svg"
    if os.environ.get("COURSE_REFRESH"):
        save(fig, stored)
    if stored.exists() and same_picture(as_svg(fig), stored.read_text(encoding="utf-8")):
        print(f"Drawn from the numbers above: figures/{name}.svg, shown below.")
    else:
        print(f"Your picture, which differs from the stored figures/{name}.svg:")
        display(fig)
    plt.close(fig)
