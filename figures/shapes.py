"""The shapes that the diagrams are made of, from a box and an arrow to a whole transformer block.

One visual language: rounded boxes are layers, flat grids are tensors, thin arrows are data flow, a thick
vermilion line that ends in a plus is a shortcut, a yellow frame is a transformer block, a dashed frame
is not built yet.
One unit is one inch, and (x, y) is the center of what is drawn there unless a docstring says otherwise.
"""

import matplotlib.pyplot as plt
from matplotlib.colors import to_rgb
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.layout_engine import PlaceHolderLayoutEngine
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, Rectangle
from matplotlib.path import Path
from matplotlib.textpath import text_to_path

from figures.drawing import COLORS

WIDTH = 7.3  # inches: 700 px in a browser
SMALL = 9  # points: the smallest text
MONO = "DejaVu Sans Mono"
RADIUS = 0.1  # of the circle around a plus
PLUS = "+"  # stands for an addition among the parts of a tower
WORDS = {"Every": 6109, "␣effort": 3626, "␣moves": 6100, "␣you": 345}


def mix(color, other, share):
    """`color` with `share` of it replaced by `other`."""
    return tuple((1 - share) * a + share * b for a, b in zip(to_rgb(color), to_rgb(other), strict=True))


def tint(component, strength=0.25):
    """A component's color, light enough for dark text."""
    return mix("white", COLORS[component], strength)


def edge(component):
    """A component's color for lines; the two pale ones are darkened to stand out from white."""
    return mix(COLORS[component], COLORS["ink"], 0.45 if component in ("block", "text") else 0)


def paint(component, strength=0.25, line=1.3):
    """The fill and the outline of a component's shape."""
    return {"facecolor": tint(component, strength), "edgecolor": edge(component), "linewidth": line}


def canvas(height):
    """A white figure of the course's width and its axes, one unit to the inch."""
    by_hand = PlaceHolderLayoutEngine(True, True)  # layout="none" lasts only until the figure is first saved
    fig = plt.figure(figsize=(WIDTH, height), facecolor="white", layout=by_hand)
    ax = fig.add_axes([0, 0, 1, 1], xlim=(0, WIDTH), ylim=(0, height))
    ax.axis("off")
    return fig, ax


def font(size=10, bold=False, mono=False):
    """The properties of a text, for drawing and for measuring it."""
    family, weight = MONO if mono else "DejaVu Sans", "bold" if bold else "normal"
    return FontProperties(family=family, weight=weight, size=size)


def text_width(text, **look):
    """The width of `text` in inches."""
    return text_to_path.get_text_width_height_descent(text, font(**look), ismath=False)[0] / 72


def label(ax, x, y, text, ha="center", rotation=0, color=COLORS["ink"], size=10, **look):
    """Text whose capitals are centered on y, so that neighbors share a baseline; `look` is bold, mono."""
    lines = text.split("\n")
    for number, words in enumerate(lines):
        drop = ((number - (len(lines) - 1) / 2) * 1.35 + 0.365) * size / 72
        place = (x + drop, y) if rotation else (x, y - drop)
        style = {"ha": ha, "va": "baseline", "rotation": rotation, "rotation_mode": "anchor", "color": color}
        ax.text(*place, words, fontproperties=font(size, **look), parse_math=False, zorder=6, **style)


def box(
    ax, x, y, width, height, component, text="", name="", strength=0.25, line=1.3, dashed=False, z=3, **look
):
    """A rounded box; with `name`, an attribute's, the text stands left and the name right."""
    corner, style = (x - width / 2, y - height / 2), paint(component, strength, line)
    style["linestyle"] = (0, (4, 2.5)) if dashed else "-"
    style["boxstyle"] = "round,pad=0,rounding_size=0.07"
    ax.add_patch(FancyBboxPatch(corner, width, height, zorder=z, **style))
    if name:
        label(ax, x - width / 2 + 0.1, y, text, ha="left", **look)
        label(ax, x + width / 2 - 0.1, y, name, ha="right", mono=True, size=SMALL)
    else:
        label(ax, x, y, text, **look)


def frame(ax, left, bottom, right, top, component, **look):
    """A box given by its edges, behind everything else."""
    box(ax, (left + right) / 2, (bottom + top) / 2, right - left, top - bottom, component, z=0, **look)


def arrow(ax, *points, color=COLORS["ink"], line=1.1, head=True):
    """An arrow through `points`, with rounded corners."""
    vertices, codes = [points[0]], [Path.MOVETO]
    for place in range(1, len(points) - 1):
        before, corner, after = points[place - 1 : place + 2]
        vertices += [towards(corner, before), corner, towards(corner, after)]
        codes += [Path.LINETO, Path.CURVE3, Path.CURVE3]
    path = Path([*vertices, points[-1]], [*codes, Path.LINETO])
    tip = "-|>,head_length=0.5,head_width=0.22" if head else "-"
    style = {"color": color, "linewidth": line, "capstyle": "butt", "joinstyle": "miter"}
    ax.add_patch(FancyArrowPatch(path=path, arrowstyle=tip, mutation_scale=9 + 2 * line, zorder=2, **style))


def towards(start, end, distance=0.09):
    """The point `distance` from `start` on the way to `end`."""
    (x, y), (u, v) = start, end
    share = distance / ((u - x) ** 2 + (v - y) ** 2) ** 0.5
    return x + share * (u - x), y + share * (v - y)


def line(ax, xs, ys, color=COLORS["ink"], width=1.1, style="-", z=2):
    """A line without a head."""
    ax.plot(xs, ys, color=color, linewidth=width, linestyle=style, solid_capstyle="round", zorder=z)


def plus(ax, x, y, component="shortcut"):
    """A circle with a plus: an addition."""
    style = {"facecolor": "white", "edgecolor": edge(component), "linewidth": 1.8}
    ax.add_patch(Circle((x, y), RADIUS, zorder=4, **style))
    line(ax, [x - 0.055, x + 0.055], [y, y], width=1.5, z=5)
    line(ax, [x, x], [y - 0.055, y + 0.055], width=1.5, z=5)


def across(ax, y, *spans):
    """A straight arrow to the right at the height y for each (start, end)."""
    for start, end in spans:
        arrow(ax, (start, y), (end, y))


def rectangle(ax, left, bottom, width, height, component, strength=0.25, line=0.8, z=3, **look):
    """A sharp-cornered rectangle given by its lower left corner."""
    style = paint(component, strength, line) | look
    ax.add_patch(Rectangle((left, bottom), width, height, zorder=z, **style))


def grid(ax, x, y, rows, columns, cell, component, values=(), strength=0.25, z=3):
    """A tensor as a flat grid of cells; (x, y) is its lower left corner, `values` fill it by rows."""
    width, height = cell
    for row in range(rows):
        for column in range(columns):
            left, bottom = x + column * width, y + (rows - 1 - row) * height
            rectangle(ax, left, bottom, width, height, component, strength, z=z)
            if values:
                text = values[row * columns + column]
                label(ax, left + width / 2, bottom + height / 2, text, mono=True, size=SMALL)


def tower(ax, x, bottom, parts, width, height=0.32, gap=0.2):
    """Boxes and pluses from `bottom` upward with arrows between them; returns their centers.

    A part is PLUS or (component, text) or (component, text, attribute name).
    """
    centers, space = [], 0
    for part in parts:
        if centers:
            arrow(ax, (x, bottom), (x, bottom + space))
        half = RADIUS if part == PLUS else height / 2
        centers.append(bottom + space + half)
        if part == PLUS:
            plus(ax, x, centers[-1])
        else:
            box(ax, x, centers[-1], width, height, *part)
        bottom = centers[-1] + half
        space = gap + (0.12 if part == PLUS else 0)  # room for the next shortcut to branch off
    return centers


def shortcut(ax, x, side, start, end):
    """The line that leaves the trunk at `start`, passes at x = `side` and ends in the plus at `end`."""
    reach = x + (RADIUS if side > x else -RADIUS)
    ax.add_patch(Circle((x, start), 0.035, color=edge("shortcut"), zorder=3))
    arrow(ax, (x, start), (side, start), (side, end), (reach, end), color=edge("shortcut"), line=2.4)


def pre_norm_block(ax, x, bottom, left, right, parts, width, height, gap):
    """A transformer block's frame, eight parts (the fourth and the last a plus) and two shortcuts."""
    y = tower(ax, x, bottom + 0.3, parts, width, height, gap)
    frame(ax, left, bottom, right, y[7] + 0.22, "block")
    arrow(ax, (x, bottom - 0.18), (x, bottom + 0.3))
    arrow(ax, (x, y[7] + RADIUS), (x, y[7] + 0.42))
    for start, end in [(bottom + 0.13, y[3]), (y[3] + RADIUS + 0.1, y[7])]:
        shortcut(ax, x, left + 0.4, start, end)
    return y


def embeddings(ax, x, y, height, starts, join):
    """Token and positional embedding around x, fed from the heights `starts`, added at `join`."""
    for side, start in zip((-1, 1), starts, strict=True):
        center = x + 1.02 * side
        box(ax, center, y, 1.86, height, "embedding")
        arrow(ax, (center, start), (center, y - height / 2))
        arrow(ax, (center, y + height / 2), (center, join), (x + side * RADIUS, join))
    plus(ax, x, join, "embedding")


def token_row(ax, x, y, width=0.7, spacing=0.7, ids=True):
    """The four tokens of "Every effort moves you", with or without their ids, in a row around x."""
    for place, (word, token_id) in enumerate(WORDS.items()):
        center = x + (place - 1.5) * spacing
        grid(ax, center - width / 2, y - 0.2, 1, 1, (width, 0.4), "text")
        label(ax, center, y + 0.09 * ids, word, size=SMALL)
        if ids:
            label(ax, center, y - 0.09, str(token_id), size=SMALL, mono=True)


def token_box(ax, x, y, width, component, piece, token_id, **look):
    """A box with a token's text on the left, shortened to fit, and its id on the right."""
    piece = shown(piece, width - 0.28 - text_width(str(token_id), size=SMALL, mono=True))
    box(ax, x, y, width, 0.32, component, piece, str(token_id), size=SMALL, **look)


def stop(ax, x, y, width, height, component, text, lit=False, done=False):
    """A stop on the course map: lit where the reader is, ticked when done, otherwise dashed and pale."""
    if lit:
        component, look = "ink", {"strength": 0.85, "bold": True, "color": "white"}
    elif done:
        look = {"strength": 0.25, "line": 1}
        tick(ax, x + width / 2 - 0.14, y + height / 2 - 0.13)
    else:
        look = {"strength": 0.05, "line": 1, "dashed": True, "color": "#555555"}
    box(ax, x, y, width, height, component, text, size=SMALL, **look)


def leader(ax, start, end, y):
    """A dotted line from a part to its note."""
    line(ax, [start + 0.05, end - 0.05], [y, y], color="#777777", width=0.9, style=(0, (1, 2)))


def tick(ax, x, y):
    """A check mark."""
    line(ax, [x - 0.07, x - 0.02, x + 0.08], [y, y - 0.05, y + 0.07], width=2, z=5)


def cost(ax, y, formula, count, left, bold=False):
    """A row of a parameter table: a formula and the count that it gives."""
    label(ax, left, y, formula, ha="left", size=SMALL, bold=bold)
    label(ax, 7.12, y, count, ha="right", mono=True, size=SMALL, bold=bold)


def shown(piece, width=None, size=SMALL):
    """A token as it can be drawn: white space made visible, no missing glyph, at most `width` inches."""
    known = get_font(findfont(font())).get_char_index
    visible = piece.replace(" ", "␣").replace("\n", "↵").replace("\t", "→")
    visible = "".join(sign if known(ord(sign)) else "\ufffd" for sign in visible)
    while width and len(visible) > 1 and text_width(visible, size=size) > width:
        visible = visible.rstrip("…")[:-1] + "…"
    return visible


def visible(token):
    """A token's bytes as a figure can show them: beyond the Latin letters, as byte values."""
    text = token.decode("utf-8", "backslashreplace")
    if max(text) > "\u024f":
        text = "".join(chr(byte) if byte < 128 else f"\\x{byte:02x}" for byte in token)
    return shown(text)
