"""The plots of 4.1, drawn from what its cells compute."""

import matplotlib.pyplot as plt
import torch
from matplotlib.patches import Rectangle

from figures.drawing import COLORS
from figures.influence import draw_influence, label_cells
from figures.shapes import box, canvas, label, shown, visible

PER_ROW = 56  # monospaced characters that fit into the width of a figure


def draw_tokens(*texts, tokenizer):
    """A figure with each text cut into its tokens, one chip a token, with its id below."""
    rows = []
    for words in texts:
        row, used = [], 0
        for token_id in tokenizer.encode(words, disallowed_special=()):
            text = visible(tokenizer.decode_single_token_bytes(token_id))
            width = max(len(text), len(str(token_id))) + 1.2
            if row and used + width > PER_ROW:
                rows.append(row)
                row, used = [], 0
            row.append((used, width, text, token_id))
            used += width + 0.6
        rows.append(row)
    fig, ax = canvas(0.75 * len(rows) + 0.1)
    unit = (fig.get_figwidth() - 0.3) / PER_ROW
    for i, row in enumerate(rows):
        y = fig.get_figheight() - 0.29 - 0.75 * i
        for left, width, text, token_id in row:
            x = 0.15 + (left + width / 2) * unit
            box(ax, x, y, width * unit, 0.34, "text", text, strength=0.35, mono=True, size=10.5)
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


def draw_goal(grid, goal, titles, tokens):
    """The influence grid of a model beside that of a goal, whose squares say what they must do."""
    fig = draw_influence(grid, goal, titles=titles, tokens=tokens, read="logits")
    ax, T = fig.axes[-1], len(goal)
    for i, j in torch.cartesian_prod(torch.arange(T), torch.arange(T)).tolist():
        word = "filled\nalready" if i == j else "to fill" if j < i else "stay\nempty"
        color = "white" if j <= i else "black"
        ax.text(j + 0.5, i + 0.5, word, color=color, ha="center", va="center", size=9)
    return fig
