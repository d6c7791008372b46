"""Plots that several cells or notebooks draw: tokens as chips, the gate of GELU, influence, attention."""

import matplotlib.pyplot as plt
import torch
from matplotlib.patches import FancyBboxPatch, Rectangle

from figures.drawing import COLORS
from figures.shapes import MONO, canvas, tint

CHIPS = ("output", "block", "feed_forward", "embedding", "attention")  # the same token, the same color
PER_ROW = 56  # monospaced characters that fit into the width of a figure


def visible(token):
    """A token's bytes as text: a space as ␣, and as byte values what the figures' font may not have."""
    text = token.decode("utf-8", "backslashreplace")
    if max(text) > "\u024f":  # beyond the Latin letters
        text = "".join(chr(byte) if byte < 128 else f"\\x{byte:02x}" for byte in token)
    return text.replace(" ", "␣").replace("\n", "⏎")


def draw_tokens(*texts, tokenizer):
    """A figure with each text cut into its tokens, one chip a token, with its id below."""
    rows = []
    for text in texts:
        row, used = [], 0
        for token_id in tokenizer.encode(text, disallowed_special=()):
            label = visible(tokenizer.decode_single_token_bytes(token_id))
            width = max(len(label), len(str(token_id))) + 1.2
            if row and used + width > PER_ROW:
                rows.append(row)
                row, used = [], 0
            row.append((used, width, label, token_id))
            used += width + 0.6
        rows.append(row)
    fig, ax = canvas(0.75 * len(rows) + 0.1)
    unit = (fig.get_figwidth() - 0.3) / PER_ROW
    for i, row in enumerate(rows):
        y = fig.get_figheight() - 0.4 - 0.75 * i
        for left, width, label, token_id in row:
            x, w = 0.15 + left * unit, width * unit
            style = {"facecolor": tint(CHIPS[token_id % len(CHIPS)], 0.4), "edgecolor": COLORS["ink"]}
            box = "round,pad=0,rounding_size=0.06"
            ax.add_patch(FancyBboxPatch((x, y - 0.06), w, 0.34, boxstyle=box, linewidth=0.8, **style))
            ax.text(x + w / 2, y + 0.11, label, family=MONO, size=10.5, ha="center", va="center")
            ax.text(x + w / 2, y - 0.19, token_id, size=9, ha="center", va="center")
    return fig


def draw_gate(x):
    """A figure of GELU at x: the area under the bell curve left of x, the gate that it sets, the output."""
    normal, green = torch.distributions.Normal(0.0, 1.0), COLORS["feed_forward"]
    z, below = torch.linspace(-3.5, 3.5, 201), torch.linspace(-3.5, x, 201)
    gate = normal.cdf(torch.tensor(x)).item()
    fig, (bell, gates, output) = plt.subplots(1, 3, figsize=(7.3, 2.7), sharex=True)
    bell.plot(z, normal.log_prob(z).exp(), color=COLORS["ink"])
    bell.fill_between(below, normal.log_prob(below).exp(), color=green, alpha=0.4)
    gates.hlines([0, 1], [-3.5, 0], [0, 3.5], color=COLORS["ink"], linestyle="--")
    gates.text(-3.4, 0.78, "dashed:\nReLU's gate", fontsize=9)
    gates.plot(z, normal.cdf(z), color=green)
    output.plot(z, z * normal.cdf(z), color=green)
    for ax, y in ((gates, gate), (output, x * gate)):
        ax.plot(x, y, "o", color=green, markersize=9)
    bell.set(title=f"Area left of {x:.1f}: {gate:.2f}", xlabel="x", ylim=(0, 0.45))
    gates.set(title=f"Gate Φ({x:.1f}) = {gate:.2f}", xlabel="x")
    output.set(title=f"GELU: {x:.1f} × {gate:.2f} = {x * gate:.2f}", xlabel="x")
    return fig


def draw_influence(*grids, titles, tokens=None):
    """A figure with a square for each position (row) and token (column), filled where one moves the other.

    `grids` are bool tensors (T, T), as `compare.influence` returns them, drawn side by side.
    """
    fig, axes = plt.subplots(1, len(grids), figsize=(7.3, 3.4), squeeze=False)
    T = len(grids[0])
    tokens = tokens or [""] * T
    for ax, grid, title in zip(axes[0], grids, titles, strict=True):
        ax.pcolormesh(grid.float(), cmap="Blues", vmin=0, vmax=1.4, edgecolors="#999999", linewidth=0.8)
        ax.set(title=title, xlabel="change this token", ylabel="output at this position", aspect="equal")
        names = [f"{t} {token.strip()}".strip() for t, token in enumerate(tokens)]
        ax.set_xticks([t + 0.5 for t in range(T)], names)
        ax.set_yticks([t + 0.5 for t in range(T)], names)
        ax.invert_yaxis()
        bare(ax)
    return fig


def draw_attention(scores, weights, values, outputs, tokens, features):
    """A figure of attention on a few tokens, from left to right: scores, weights, values, outputs.

    `scores` and `weights` are (T, T), with the masked ones, which have a score of -inf, hatched. `values` and
    `outputs` have a column for each of the `features`.
    """
    T = len(tokens)
    widths = [T, T, values.shape[1], outputs.shape[1]]
    fig, axes = plt.subplots(1, 4, figsize=(7.3, 2.7), width_ratios=[w + 0.6 for w in widths])
    titles = ("scores", "softmax: weights", "× values", "= outputs")
    for ax, table, title in zip(axes, (scores, weights, values, outputs), titles, strict=True):
        square = table is scores or table is weights
        shade = table.clamp(min=-3, max=3) / 3 if table is not weights else table
        ax.pcolormesh(shade, cmap="RdBu_r", vmin=-1.6, vmax=1.6, edgecolors="#999999", linewidth=0.8)
        for i, row in enumerate(table.tolist()):
            for j, value in enumerate(row):
                if square and scores[i, j] == float("-inf"):
                    hidden = {"facecolor": "#EEEEEE", "edgecolor": "#999999", "hatch": "////"}
                    ax.add_patch(Rectangle((j, i), 1, 1, linewidth=0.8, **hidden))
                else:
                    ax.text(j + 0.5, i + 0.5, f"{value + 0.0:.2f}", ha="center", va="center", size=9)
        ax.set_title(title)
        ax.set_yticks([t + 0.5 for t in range(T)], tokens if ax is axes[0] else [""] * T)
        ax.set_xticks([j + 0.5 for j in range(table.shape[1])], tokens if square else features)
        ax.set_xlabel("key of" if square else "feature")
        ax.invert_yaxis()
        bare(ax)
    axes[0].set_ylabel("query of")
    return fig


def draw_maps(maps, point, titles=None):
    """A figure of attention maps side by side, (T, T) each: row i shows where position i looks.

    Without `titles`, each map is titled with its head and the distance that gets most of its weight.
    """
    titles = titles or [f"head {h}\nmostly {steps_back(table)} back" for h, table in enumerate(maps)]
    fig, axes = plt.subplots(1, len(maps), figsize=(7.3, 7.3 / max(len(maps), 2.6) + 1.0), squeeze=False)
    fig.suptitle(point, size=11, weight="bold")
    for ax, table, title in zip(axes[0], maps, titles, strict=True):
        ax.pcolormesh(table, cmap="Blues", vmin=0, vmax=1.2, edgecolors="#DDDDDD", linewidth=0.5)
        ax.set_title(title, weight="normal")
        ax.set(xlabel="looks at position", aspect="equal")
        ax.set_xticks([t + 0.5 for t in range(len(table))], range(len(table)))
        ax.set_yticks([t + 0.5 for t in range(len(table))], range(len(table)))
        ax.invert_yaxis()
        bare(ax)
    axes[0, 0].set_ylabel("position")
    return fig


def steps_back(table):
    """The number of a map's strongest diagonal: 0 for the main one, 1 for the one below it, and so on."""
    return max(range(len(table)), key=lambda steps: table.diagonal(-steps).mean())


def bare(ax):
    """Leave a table's axes with their labels alone."""
    ax.grid(False)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
