"""What every picture of the course shares: style, colors, and how a figure is saved, compared and shown."""

import io
import os
import re
from pathlib import Path

import matplotlib.pyplot as plt
from IPython.display import display

FIGURES = Path(__file__).resolve().parent
STYLE = ["default", FIGURES / "course.mplstyle"]  # "default" undoes a reader's own matplotlibrc
plt.switch_backend(plt.get_backend())  # now, since IPython's brings a reader's settings along
plt.style.use(STYLE)

# One color for each component, the same in every picture: Okabe and Ito's palette for color-blind readers,
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
COORDINATES = re.compile(r'\b(?:d|x|y|points)="[^"]*"|translate\([^)]*\)')
MADE_ID = re.compile(r"\b[a-z][0-9a-f]{10}\b")  # matplotlib hashes a shape's coordinates into its id


def as_svg(fig):
    """The text of `fig` as an SVG, the same in every run."""
    text = io.StringIO()
    with plt.style.context(STYLE):  # whatever a reader set since
        fig.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()


def save(fig, path):
    """Write `fig` to `path` as an SVG and close it."""
    Path(path).write_text(as_svg(fig), encoding="utf-8", newline="\n")
    plt.close(fig)


def shape_and_numbers(svg):
    """An SVG text without its coordinates, its ids numbered in order, and the list of its coordinates."""
    ids = {}
    svg = MADE_ID.sub(lambda found: ids.setdefault(found[0], f"id{len(ids)}"), svg)
    numbers = [float(number) for part in COORDINATES.findall(svg) for number in NUMBER.findall(part)]
    return COORDINATES.sub(lambda found: NUMBER.sub("#", found[0]), svg), numbers


def same_picture(svg_a, svg_b, tolerance=0.05):
    """Whether two SVG texts are equal but for made-up ids, and coordinates within `tolerance` points."""
    (shape_a, numbers_a), (shape_b, numbers_b) = shape_and_numbers(svg_a), shape_and_numbers(svg_b)
    close = (abs(a - b) <= tolerance for a, b in zip(numbers_a, numbers_b, strict=False))
    return shape_a == shape_b and all(close)


def show(fig, name):
    """Compare `fig` with the stored figures/<name>.svg, and display it where it differs.

    The stored picture stands in the Markdown cell below the call, since only there can it carry alt text. So
    an unchanged notebook shows each picture once, and a reader who changed a number sees the new curve above
    the old one. In a reader's copy, where start.py has folded the stored pictures, `fig` is always displayed.
    While refresh.py runs, which sets COURSE_REFRESH, `fig` becomes the stored picture.
    """
    stored, svg = FIGURES / f"{name}.svg", as_svg(fig)
    if os.environ.get("COURSE_REFRESH"):
        stored.write_text(svg, encoding="utf-8", newline="\n")
    in_a_copy = Path.cwd().name == "my_notebooks"
    same = stored.exists() and same_picture(svg, stored.read_text(encoding="utf-8"))
    if not same:
        print(f"Your picture, which differs from the stored figures/{name}.svg:")
    elif not in_a_copy:
        print(f"Picture: figures/{name}.svg, shown below.")
    if in_a_copy or not same:
        display(fig)
    plt.close(fig)
