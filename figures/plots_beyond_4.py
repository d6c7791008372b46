"""The pictures of the notebook on the parts that came after GPT-2, drawn from what its cells compute."""

import torch

from figures.drawing import COLORS, plt
from figures.shapes import (
    SMALL,
    arrow,
    box,
    canvas,
    edge,
    frame,
    grid,
    label,
    leader,
    line,
    mix,
    plus,
    shortcut,
    shown,
    text_width,
)
from llama import rotate

BLUE, RED, GRAY = COLORS["norm"], COLORS["shortcut"], COLORS["dropout"]
ROWS = {"norm1": 1.5, "att": 2.1, "drop1": 2.66, "plus1": 3.08, "norm2": 3.63, "ff": 4.23, "drop2": 4.79}


def draw_two_blocks():
    """A figure of a block of GPT-2 beside one of SmolLM2, with five differences marked."""
    fig, ax = canvas(5.95)
    half, norm, dropout = 1.0, "norm", ("dropout", "Dropout")
    then = {"norm1": (norm, "LayerNorm"), "att": ("attention", "Attention:\n12 heads, 12 key heads")}
    then |= {"drop1": dropout, "norm2": (norm, "LayerNorm"), "ff": ("feed_forward", "Linear, GELU, Linear")}
    then |= {"drop2": dropout}
    now = {"norm1": (norm, "RMSNorm"), "att": ("attention", "Attention, rotated:\n9 heads, 3 key heads")}
    now |= {"norm2": (norm, "RMSNorm"), "ff": ("feed_forward", "SwiGLU")}
    for x, title, parts in ((1.85, "GPT-2, 2019", then), (5.6, "SmolLM2, 2024", now)):
        label(ax, x, 5.78, title, bold=True, size=12)
        frame(ax, x - 1.6, 1.02, x + 1.35, 5.5, "block")
        before = 0.62
        for name, y in [*ROWS.items(), ("plus2", 5.21)]:
            if name.startswith("plus"):
                arrow(ax, (x, before), (x, y - 0.1))
                plus(ax, x, y)
                before = y + 0.1
            elif name in parts:
                height = 0.46 if name == "att" else 0.32
                arrow(ax, (x, before), (x, y - height / 2))
                box(ax, x, y, 2 * half + 0.2, height, *parts[name], size=SMALL)
                before = y + height / 2
        arrow(ax, (x, before), (x, 5.62))
        shortcut(ax, x, x - 1.35, 1.18, ROWS["plus1"])
        shortcut(ax, x, x - 1.35, 3.3, 5.21)
    box(ax, 1.27, 0.4, 1.1, 0.44, "embedding", "Token\nembedding", size=SMALL)
    box(ax, 2.48, 0.4, 1.1, 0.44, "embedding", "Position\nembedding", size=SMALL)
    box(ax, 5.6, 0.4, 1.1, 0.44, "embedding", "Token\nembedding", size=SMALL)
    plus(ax, 1.85, 0.74, "embedding")
    label(ax, 5.72, ROWS["drop2"], "no dropout,\nno biases", ha="left", size=SMALL)
    marks = [("1", 3.6, "norm1"), ("1", 3.6, "norm2"), ("2", 3.44, "att"), ("4", 3.76, "att")]
    marks += [("3", 3.6, "ff"), ("5", 3.6, "drop1"), ("5", 3.6, "drop2"), ("2", 3.6, "embeddings")]
    for number, x, row in marks:
        y = ROWS.get(row, 0.4)
        leader(ax, 3.03 if y == 0.4 else 2.95, x - 0.13, y)
        leader(ax, x + 0.13, 5.05 if y == 0.4 else 5.6 if "drop" in row else 4.5, y)
        box(ax, x, y, 0.26, 0.26, "ink", number, strength=0.85, bold=True, color="white", size=SMALL)
    return fig


def draw_hands(*rows, width=8, base=10_000.0):
    """A figure of what `rotate` makes of the vector (1, 0) in each plane, for each row of positions."""
    planes = width // 2
    x = torch.cat((torch.ones(planes), torch.zeros(planes)))
    fig, axes = plt.subplots(len(rows), planes, figsize=(7.3, 1.55 * len(rows) + 0.5), squeeze=False)
    for row, positions in zip(axes, rows, strict=True):
        first, second, *_, last = positions
        row[0].set_ylabel(f"positions\n{first}, {second}, …, {last}", fontsize=10)
        for i, ax in enumerate(row):
            ax.add_patch(plt.Circle((0, 0), 1, fill=False, color=GRAY, linewidth=0.8))
            for number, position in enumerate(positions):
                turned = rotate(x[None], position, base)[0]
                tip = round(turned[i].item(), 3), round(turned[i + planes].item(), 3)
                strength = 0.3 + 0.7 * (number + 1) / len(positions)
                ax.plot([0, tip[0]], [0, tip[1]], color=mix("white", BLUE, strength), linewidth=2)
                if number == len(positions) - 1:
                    ax.text(1.42 * tip[0], 1.25 * tip[1], str(position), ha="center", va="center", fontsize=9)
            ax.set(xlim=(-1.6, 1.6), ylim=(-1.35, 1.35), aspect="equal", xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
    for i, ax in enumerate(axes[0]):
        ax.set_title(f"features {i} and {i + planes}", fontsize=10)
    fig.suptitle("Fast planes tell neighbors apart, slow planes tell far from near")
    return fig


def draw_scores(grids):
    """A figure of scores of a query at each position (rows) with a key at each (columns): {title: grid}."""
    fig, axes = plt.subplots(1, len(grids), figsize=(7.3, 3.5), sharey=True)
    grids = {title: (10 * values).round() / 10 + 0.0 for title, values in grids.items()}
    every = torch.stack(list(grids.values()))  # one color scale for all
    low, high = every.min().item(), every.max().item()
    for ax, (title, values) in zip(axes, grids.items(), strict=True):
        colors = ax.pcolormesh(values, cmap="viridis", vmin=low, vmax=high, edgecolors="white")
        for i, row in enumerate(values.tolist()):
            for j, value in enumerate(row):
                ink = "white" if value < low + 0.6 * (high - low) else "black"
                ax.text(j + 0.5, i + 0.5, f"{value:.1f}", ha="center", va="center", fontsize=8, color=ink)
        ticks = [i + 0.5 for i in range(len(values))]
        ax.set_xticks(ticks, range(len(values)))
        ax.set_yticks(ticks, range(len(values)))
        ax.set(xlabel="position of the key", aspect="equal")
        ax.set_title(title, fontsize=10)
        ax.tick_params(length=0)
    axes[0].set_ylabel("position of the query")
    axes[0].invert_yaxis()
    fig.colorbar(colors, ax=axes, label="score", shrink=0.8)
    return fig


def draw_heads():
    """A figure of nine query heads with nine, three, and one head of keys and values."""
    fig, ax = canvas(2.75)
    cell, gap = 0.2, 0.03
    panels = [(9, "Multi-head"), (3, "Grouped-query (SmolLM2)"), (1, "Multi-query")]
    for panel, (kept, title) in enumerate(panels):
        left = 0.25 + 2.42 * panel
        label(ax, left + 4.5 * (cell + gap), 2.55, title, bold=True)
        centers = [left + (cell + gap) * (i + 0.5) for i in range(9)]
        share = 9 // kept
        for i, x in enumerate(centers):
            group = centers[i // share * share : i // share * share + share]
            key = sum(group) / len(group)
            grid(ax, x - cell / 2, 1.75, 1, 1, (cell, 0.4), "attention", "q", strength=0.45)
            line(ax, [x, key], [1.73, 1.2], color=edge("attention"), width=1.2)
            if i % share == 0:
                grid(ax, key - cell / 2, 0.78, 1, 1, (cell, 0.4), "norm", "k", strength=0.45)
                grid(ax, key - cell / 2, 0.36, 1, 1, (cell, 0.4), "feed_forward", "v", strength=0.45)
        label(
            ax, left + 4.5 * (cell + gap), 0.15, f"cached heads: {kept} of keys, {kept} of values", size=SMALL
        )
        label(ax, left + 4.5 * (cell + gap), 2.29, "9 heads of queries", size=SMALL)
    return fig


def draw_versions(losses):
    """A figure of validation losses, compared with the first version's: {version: one for each seed}."""
    fig, ax = plt.subplots(figsize=(7.3, 2.9))
    names = list(losses)
    ax.axhline(0, color=GRAY, linewidth=0.8)
    for seed, values in enumerate(zip(*losses.values(), strict=True)):
        changes = [value - values[0] for value in values]
        ax.plot(changes, ("o-", "D--")[seed], color=(BLUE, RED)[seed], markersize=7, label=f"seed {seed}")
    ax.legend()
    ax.set_xticks(range(len(names)), [names[0], *(f"+ {name}" for name in names[1:])])
    ax.set(ylabel="change in validation loss, nats", xlim=(-0.3, len(names) - 0.7))
    ax.set_xlabel("swapped so far, from left to right")
    ax.set_title("Rotary positions lower the loss most")
    return fig


def draw_rounding(weights, levels):
    """A figure of a block's first weights and the levels that they are rounded to."""
    fig, ax = plt.subplots(figsize=(7.3, 3.3))
    rounded = levels[(weights[:, None] - levels).abs().argmin(dim=1)]
    low, high = rounded.min().item() - 0.2, rounded.max().item() + 0.2
    for level in levels.tolist():
        ax.axhline(level, color=GRAY, linewidth=0.7)
    places = torch.arange(len(weights))
    ax.hlines(rounded, places - 0.3, places + 0.3, color=RED, linewidth=2.5)
    ax.vlines(places, weights, rounded, color=RED, linewidth=1.5)
    ax.plot(weights, "o", color=BLUE, markersize=5)
    ax.set(xlabel="weight in the block", ylabel="value", xlim=(-0.7, len(weights) - 0.3), ylim=(low, high))
    ax.grid(visible=False)
    ax.set_title("Each weight (dot) moves to the nearest level (bar)")
    return fig


def draw_chat(pieces, special):
    """A figure of a chat's tokens, a new row after each end of line; those in `special` are colored."""
    rows, fits = [[]], 6.95
    for piece in pieces:
        width = text_width(shown(piece), size=SMALL) + 0.14
        if sum(w + 0.04 for _, w in rows[-1]) + width > fits:
            rows.append([("", 0.5)])  # the line goes on: indented
        rows[-1].append((piece, width))
        if piece == "\n":
            rows.append([])
    rows = [row for row in rows if row]
    fig, ax = canvas(0.4 * len(rows) + 0.25)
    for number, row in enumerate(rows):
        left, y = 0.15, 0.4 * (len(rows) - number) - 0.08
        for piece, width in row:
            component = "shortcut" if piece in special else "output"
            if piece:
                box(ax, left + width / 2, y, width, 0.3, component, shown(piece), size=SMALL, line=1)
            left += width + 0.04
    return fig
