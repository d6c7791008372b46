"""The plots of the notebook that looks inside a model, drawn from what its cells compute.

Values are drawn as lengths, or in steps of color whose borders lie where no value is near. So the last bits
of a value, which differ between machines, change no picture.
"""

from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path

from figures.drawing import COLORS, plt
from figures.influence import label_cells
from figures.shapes import shown

BLUES = ("#9DC3E6", "#2F75B5", "#0B2A4A")
WEIGHTS = (0.115, 0.3, 0.596)  # where the three blues of an attention map begin: about 0.1, 0.3, and 0.6
INK, BLUE, RED, GRAY = COLORS["ink"], COLORS["norm"], COLORS["shortcut"], COLORS["dropout"]


def runs(chosen):
    """Where the columns of a table of booleans are True without a gap: (x, top, bottom) of each run."""
    for x, column in enumerate(chosen.T.tolist()):
        pairs = enumerate(zip([False, *column], [*column, False], strict=True))
        edges = [y for y, (above, below) in pairs if above != below]
        yield from ((x, top, bottom) for top, bottom in zip(edges[::2], edges[1::2], strict=True))


def fill(ax, boxes, color):
    """Fill boxes, each (left, right, top, bottom), as one shape."""
    corners = [corner for a, b, c, d in boxes for corner in ((a, c), (b, c), (b, d), (a, d), (a, c))]
    codes = [Path.MOVETO, *[Path.LINETO] * 3, Path.CLOSEPOLY] * (len(corners) // 5)
    if corners:
        ax.add_patch(PathPatch(Path(corners, codes), facecolor=color, linewidth=0))


def shade(ax, table, borders=WEIGHTS, colors=BLUES, width=None):
    """Fill the cells of `table` by value, those of each color as one shape; below the first border, none.

    If you give the `width` of a cell in points, the cells become lines, which takes less than half the space.
    """
    for color, low, high in zip(colors, borders, (*borders[1:], float("inf")), strict=True):
        found = list(runs((table > low) & (table <= high)))
        if width and found:
            corners = [(x + 0.5, y) for x, *ends in found for y in ends]
            lines = Path(corners, [Path.MOVETO, Path.LINETO] * len(found))
            lines.should_simplify = False
            look = {"fill": False, "edgecolor": color, "linewidth": width, "capstyle": "butt"}
            ax.add_patch(PathPatch(lines, **look))
        else:
            fill(ax, [(x, x + 1, top, bottom) for x, top, bottom in found], color)


def bare(token, width, size=8):
    """A token as a label, without the space before it."""
    return shown(token.strip(" ") or token, width, size)


def legend(fig, names, colors=BLUES, **look):
    boxes = [Rectangle((0, 0), 1, 1, facecolor=color) for color in colors]
    fig.legend(boxes, names, ncols=len(names), fontsize=9, handlelength=1, **look)


def ground(ax, rows, columns, places=((0, 0),)):
    """What lies under each table of a figure; `places` are their corners, each (left, top)."""
    fill(ax, [(x, x + columns, y, y + rows) for x, y in places], "#EDEDED")


def draw_all_heads(maps):
    """A figure of the maps of all heads, (blocks, heads, T, T): blocks in two halves, from the top down."""
    blocks, heads, T, _ = maps.shape
    half, pitch, apart = -(-blocks // 2), T + 1, 12
    wide, high = 2 * heads * pitch + apart, half * pitch
    table, unit = maps.new_zeros(high, wide), round(500 / wide, 2)  # points for each token
    fig = plt.figure(figsize=(7.3, (high * unit + 74) / 72), layout="none")
    width, height = (72 * size for size in fig.get_size_inches())
    ax = fig.add_axes((16 / width, 22 / height, wide * unit / width, high * unit / height))
    places = []
    for block in range(blocks):
        top, left = block % half * pitch, block // half * (heads * pitch + apart)
        ax.text(left - 2, top + T / 2, block, ha="right", va="center", size=8)
        for head in range(heads):
            x = left + head * pitch
            table[top : top + T, x : x + T] = maps[block, head]
            places.append((x, top))
            if block % half == 0:
                ax.text(x + T / 2, -2, head, ha="center", size=8)
    ground(ax, T, T, places)
    shade(ax, table, width=unit)
    ax.set(xlim=(0, wide), ylim=(high, 0))
    ax.axis("off")
    point = "Most of the 270 heads look mainly at the first token"
    fig.suptitle(point, size=11, weight="bold", y=1 - 8 / height, va="top")
    fig.text(0.5, 1 - 28 / height, "rows: blocks, columns: heads", size=9, ha="center", va="center")
    names = [f"weight over about {border:.1g}" for border in WEIGHTS]
    legend(fig, names, loc="lower center", bbox_to_anchor=(0.5, 0))
    return fig


def draw_map(ax, table, tokens, title):
    """One head's map in `ax`, with its tokens."""
    names = [bare(token, 0.7, 7) for token in tokens]
    ground(ax, *table.shape)
    shade(ax, table)
    ax.set(aspect="equal", xlim=(0, len(tokens)), ylim=(0, len(tokens)))
    ax.set_title(title, size=10, weight="normal")
    label_cells(ax, names, names)
    ax.tick_params(labelsize=7)
    ax.tick_params("x", rotation=90)


def draw_named_heads(scores, maps, tokens):
    """A figure of `scores`, {name: (blocks, heads)}, and of the map of the best head by each."""
    fig, axes = plt.subplots(len(scores), 2, figsize=(7.3, 2.5 * len(scores)), width_ratios=[1.25, 1])
    point = "Most heads look at the first token, few at the previous one or themselves"
    fig.suptitle(point, size=11, weight="bold")
    for (ax, right), (name, score) in zip(axes, scores.items(), strict=True):
        block, head = divmod(score.argmax().item(), score.shape[1])
        draw_table(ax, score.T, WEIGHTS, f"score “{name}”", mark=(block, head))
        draw_map(right, maps[block, head], tokens, f"block {block}, head {head}: {score.max():.2f}")
    axes[-1, 0].set_xlabel("block")
    names = [f"over about {border:.1g}" for border in WEIGHTS]
    legend(fig, names, loc="outside lower center")
    return fig


def draw_table(ax, table, borders, title, colors=BLUES, mark=None):
    """A table with a row for each head and a column for each block in `ax`; `mark` frames one head."""
    heads, blocks = table.shape
    ground(ax, heads, blocks)
    shade(ax, table, borders, colors)
    ax.set(xlim=(0, blocks), ylim=(0, heads))
    ax.set_title(title, size=10, weight="normal")
    label_cells(ax, range(heads), [b if b % 5 == 0 else "" for b in range(blocks)])
    ax.tick_params(labelsize=8)
    ax.set_ylabel("head")
    if mark:
        look = {"facecolor": "none", "edgecolor": RED, "linewidth": 2, "clip_on": False, "zorder": 3}
        ax.add_patch(Rectangle(mark, 1, 1, **look))


def draw_stream(lengths, jumps):
    """A figure of the lengths of the residual stream, (blocks + 1, T): the first token, and the others.

    `jumps` are the blocks in which the first token's vector jumps.
    """
    fig, ax = plt.subplots(figsize=(7.3, 3.2))
    point = "The first token's vector jumps twice; the others grow steadily"
    first, others = lengths[:, 0], lengths[:, 1:]
    depths = range(len(lengths))
    ax.fill_between(depths, others.amin(1), others.amax(1), color=BLUE, alpha=0.2, linewidth=0)
    ax.plot(depths, others.median(1).values, color=BLUE)
    ax.plot(depths, first, "o--", color=RED, markersize=4)
    ax.text(len(lengths) - 1, 250, "the other tokens:\nmedian and range", color=BLUE, ha="right", va="top")
    ax.text(len(lengths) - 9, 12000, "the first token", color=RED, va="top")
    for block in jumps:
        place, shift = (block + 1, first[block + 1]), (-6, 2)
        look = {"textcoords": "offset points", "ha": "right", "color": RED, "size": 9}
        ax.annotate(f"block {block}", place, shift, **look)
    ax.set(ylim=(1, 60000), yscale="log", xlabel="blocks passed", ylabel="length of the vector", title=point)
    ax.minorticks_off()
    return fig


def draw_lens(words, shares, tokens, depths):
    """A figure of the best guess at each of the `depths` and tokens, with its probability as a shade."""
    fig, ax = plt.subplots(figsize=(7.3, 0.29 * len(depths) + 1.2))
    point = "Mostly commas, spaces, and small words; Paris and Rome at the very end"
    ground(ax, len(depths), len(tokens))
    colors = ("#D6E6F4", "#9DC3E6", "#5B9BD5")
    shade(ax, shares, (0.25, 0.5, 0.75), colors)
    for y, row in enumerate(words):
        for x, word in enumerate(row):
            ax.text(x + 0.5, y + 0.5, bare(word, 0.62), ha="center", va="center", size=9)
    ax.set(xlim=(0, len(tokens)), ylim=(0, len(depths)), title=point, ylabel="blocks passed")
    label_cells(ax, depths, [bare(token, 0.62) for token in tokens])
    ax.invert_yaxis()  # the deepest on top
    ax.set_xlabel("the token read, and above it the best guess for the next one")
    legend(
        fig,
        [f"probability over {border}" for border in (0.25, 0.5, 0.75)],
        colors,
        loc="outside lower center",
    )
    return fig


def draw_repeated(losses, half, guessing):
    """A figure of the loss of each token, where the second `half` repeats the first."""
    fig, ax = plt.subplots(figsize=(7.3, 2.9))
    point = "Random tokens, read twice: the second time, the model knows the next one"
    ax.axvspan(half - 0.5, len(losses) + 0.5, color=BLUE, alpha=0.1, linewidth=0)
    ax.axhline(guessing, color=GRAY, linestyle="--")
    ax.text(0.5, guessing - 0.4, "blind guessing, ln V", va="top", size=9)
    ax.plot(range(1, len(losses) + 1), losses, "o-", color=BLUE, markersize=4, linewidth=1)
    ax.text(half - 1, 22, "read for the first time", ha="right")
    ax.text(half, 22, "the same tokens again", color=BLUE)
    ax.set(xlabel="position of the token that is predicted", ylabel="loss in nats", title=point)
    ax.set(ylim=(0, 24), xlim=(0, len(losses) + 0.5))
    return fig


def draw_induction(score, table, head):
    """A figure of the induction score of each head, and the map of one of them on the repeated tokens."""
    fig, (ax, right) = plt.subplots(1, 2, figsize=(7.3, 3.1), width_ratios=[1.6, 1])
    point = "Some heads, all in later blocks, look at what came next last time"
    fig.suptitle(point, size=11, weight="bold")
    draw_table(ax, score.T, WEIGHTS, "induction score", mark=head)
    ax.set_xlabel("block")
    T = len(table)
    ground(right, T, T)
    shade(right, table)
    right.set(aspect="equal", xlim=(0, T), ylim=(0, T), xlabel="looks at position")
    right.set_title(f"block {head[0]}, head {head[1]}", size=10, weight="normal")
    names = [t if t % 10 == 0 else "" for t in range(T)]
    label_cells(right, names, names)
    right.tick_params(labelsize=8)
    legend(fig, [f"over about {border:.1g}" for border in WEIGHTS], loc="outside lower center")
    return fig


def draw_removed(panels, mark, word):
    """A figure of how the loss changes without each head; `panels` {title: (blocks, heads)}."""
    fig, axes = plt.subplots(len(panels), 1, figsize=(7.3, 2.5 * len(panels)), sharex=True)
    fig.suptitle(f"One head of 270 matters far more than the others for{word}", size=11, weight="bold")
    colors, borders = ("#F6C9A8", "#E0802F", "#7A2E00"), (0.1, 0.25, 1.0)
    for ax, (title, change) in zip(axes, panels.items(), strict=True):
        draw_table(ax, change.T, borders, title, colors, mark=mark)
        shade(ax, -change.T, borders[:1], BLUES[1:2])
        places = (change < -borders[0]).nonzero() + 0.5  # without color, a minus tells these from the others
        ax.plot(*places.T, "_", color="white", markersize=6, markeredgewidth=1.5)
    axes[-1].set_xlabel("block")
    names = ["−: loss down by over 0.1", *(f"up by over {border:g}" for border in borders)]
    legend(fig, names, (BLUES[1], *colors), loc="outside lower center")
    return fig


def draw_inside(tokens, place, attention, guesses, candidates, head):
    """A figure of what happens at one token: where a head looks, the guesses by depth, the next token.

    `attention` (T,) has the weights; `guesses` are (depth, token, probability); `candidates` are (token, the
    model's probability, that after temperature and cuts). `head` is (block, head).
    """
    fig = plt.figure(figsize=(7.3, 5.4))
    top, bottom = fig.add_gridspec(2, 1, height_ratios=[1, 2.2])
    ax, (lens, after) = fig.add_subplot(top), (fig.add_subplot(b) for b in bottom.subgridspec(1, 2))
    colors = [RED if t == place else BLUE for t in range(len(tokens))]
    ax.bar(range(place + 1), attention[: place + 1], color=BLUE)
    ax.set_xticks(range(len(tokens)), [bare(token, 0.6) for token in tokens], size=8)
    for label, color in zip(ax.get_xticklabels(), colors, strict=True):
        label.set(color=color if color == RED else INK, weight="bold" if color == RED else "normal")
    ax.set(
        ylim=(0, 1),
        xlim=(-0.6, len(tokens) - 0.4),
        ylabel="weight",
        title=f"Where block {head[0]}, head {head[1]} looks from “{tokens[place]}”",
    )
    depths, words, shares = zip(*guesses, strict=True)
    lens.barh(range(len(depths)), shares, color=COLORS["output"])
    for y, word in enumerate(words):
        lens.text(0.02, y, bare(word, 1.2, 9), va="center", size=9)
    lens.set_yticks(range(len(depths)), depths)
    lens.set(xlim=(0, 1), xlabel="probability", ylabel="blocks passed", title="The best guess after n blocks")
    names, raw, cut = zip(*candidates, strict=True)
    after.barh(range(len(names)), cut, color=COLORS["output"], label="after temperature and cuts")
    look = {"facecolor": "none", "edgecolor": INK, "linewidth": 1, "linestyle": "--"}
    after.barh(range(len(names)), raw, label="before them", **look)
    after.legend(loc="lower right", fontsize=9)
    after.set_yticks(range(len(names)), [bare(name, 0.9, 9) for name in names], size=9)
    after.invert_yaxis()
    after.set(xlim=(0, 1), xlabel="probability", title="What comes next")
    return fig
