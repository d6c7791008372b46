"""The plots of 4.1, drawn from what its cells compute."""

import re

import matplotlib.pyplot as plt
import torch
from matplotlib.patches import Rectangle

from figures.drawing import COLORS
from figures.influence import draw_influence, label_cells
from figures.shapes import box, canvas, label, shown, tint, visible

PER_ROW = 56  # monospaced characters that fit into the width of a figure


def draw_tokens(*texts, tokenizer, highlight=None):
    """A figure with each text cut into its tokens, one chip a token, with its id below.

    The chips that make up the word `highlight`, in capitals or not, are dark.
    """
    rows = []
    for words in texts:
        row, used, start = [], 0, 0
        found = re.finditer(re.escape(highlight), words, re.I) if highlight else ()
        dark = {place for match in found for place in range(*match.span())}  # characters, so ASCII only
        for token_id in tokenizer.encode(words, disallowed_special=()):
            token = tokenizer.decode_single_token_bytes(token_id)
            text, lit = visible(token), not dark.isdisjoint(range(start, start + len(token)))
            start += len(token)
            width = max(len(text), len(str(token_id))) + 1.2
            if row and used + width > PER_ROW:
                rows.append(row)
                row, used = [], 0
            row.append((used, width, text, token_id, lit))
            used += width + 0.6
        rows.append(row)
    fig, ax = canvas(0.75 * len(rows) + 0.1)
    unit = (fig.get_figwidth() - 0.3) / PER_ROW
    for i, row in enumerate(rows):
        y = fig.get_figheight() - 0.29 - 0.75 * i
        for left, width, text, token_id, lit in row:
            x = 0.15 + (left + width / 2) * unit
            look = {"component": "text", "strength": 0.35}
            if lit:
                look = {"component": "ink", "strength": 0.85, "color": "white"}
            box(ax, x, y, width * unit, 0.34, text=text, mono=True, size=10.5, **look)
            label(ax, x, y - 0.3, str(token_id), size=9)
    return fig


def draw_sum(tokens, positions, names, first, column):
    """A figure of the first features of token embeddings, positional embeddings, and their sum, (T, D) each.

    The values of one column, a feature, are written into its cells, so that the sum can be checked.
    """
    (T, D), names = tokens.shape, [shown(name) for name in names]
    tokens, positions = tokens[:, :first], positions[:, :first]
    fig, axes = plt.subplots(3, 1, figsize=(7.3, 4.4), sharex=True)
    panels = (
        (tokens, "Which token: tok_emb", names),
        (positions, "+ where it stands: pos_emb", [f"position {t}" for t in range(T)]),
        (tokens + positions, "= what enters the blocks", [f"{name} at {t}" for t, name in enumerate(names)]),
    )
    for ax, (table, title, rows) in zip(axes, panels, strict=True):
        colors = ax.pcolormesh(table, cmap="RdBu_r", vmin=-3.5, vmax=3.5, edgecolors="white", linewidth=0.8)
        ax.set_title(title, loc="left")
        label_cells(ax, rows, range(first))
        for t, value in enumerate(table[:, column].tolist()):
            ax.text(column + 0.5, t + 0.5, f"{value:.2f}", ha="center", va="center", size=9)
        outline = {"fill": False, "edgecolor": COLORS["ink"], "zorder": 3, "clip_on": False}
        ax.add_patch(Rectangle((column, 0), 1, T, **outline))
    axes[2].set_xlabel(f"feature (the first {first} of {D})")
    fig.colorbar(colors, ax=axes, aspect=40, label="value of the feature")
    return fig


def draw_goal(grid, tokens):
    """The influence grid of a model beside the goal, a triangle, whose squares say what they must do."""
    goal = torch.ones_like(grid).tril()
    titles = ["Today: a diagonal", "Goal: a triangle"]
    fig = draw_influence(grid, goal, titles=titles, tokens=tokens, read="logits")
    ax, T = fig.axes[-1], len(goal)
    for i, j in torch.cartesian_prod(torch.arange(T), torch.arange(T)).tolist():
        if j < i:
            look = {"facecolor": tint("norm", 0.3), "edgecolor": "white", "hatch": "///", "linewidth": 0}
            ax.add_patch(Rectangle((j, i), 1, 1, **look))
            ax.add_patch(Rectangle((j, i), 1, 1, fill=False, edgecolor="#999999", linewidth=0.8))
        word = "filled\nalready" if i == j else "to fill" if j < i else "stay\nempty"
        color = "white" if j == i else "black"
        ax.text(j + 0.5, i + 0.5, word, color=color, ha="center", va="center", size=9)
    return fig
