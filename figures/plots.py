"""Plots that several cells or notebooks draw, or that would be long in a lesson."""

import matplotlib.pyplot as plt
import torch
from matplotlib.patches import FancyBboxPatch, Rectangle

from figures.drawing import COLORS
from figures.shapes import MONO, SMALL, arrow, box, canvas, label, shown, tint

CHIPS = ("output", "block", "feed_forward", "embedding", "attention")  # the same token, the same color
PER_ROW = 56  # monospaced characters that fit into the width of a figure


def visible(token):
    """A token's bytes as a figure can show them: beyond the Latin letters, as byte values."""
    text = token.decode("utf-8", "backslashreplace")
    if max(text) > "\u024f":
        text = "".join(chr(byte) if byte < 128 else f"\\x{byte:02x}" for byte in token)
    return shown(text)


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
    bell.text(-3.5, 0.455, "standard normal", fontsize=9)
    bell.set(title=f"Area left of {x:.1f}: {gate:.2f}", xlabel="x", ylim=(0, 0.5))
    gates.set(title=f"Gate Φ({x:.1f}) = {gate:.2f}", xlabel="x")
    output.set(title=f"GELU: {x:.1f} × {gate:.2f} = {x * gate:.2f}", xlabel="x")
    return fig


def draw_fits(networks, t, target, step=600, limit=0.1):
    """A figure with a panel for each network: its curves after `step` steps, one a start, over the target.

    `networks` maps names to curves (starts, 25, points), one for every 25th step. A curve misses if
    its error, the root mean square of its distances from the target, is above `limit`.
    """
    fig, axes = plt.subplots(1, len(networks), figsize=(7.3, 2.9), sharey=True, squeeze=False)
    misses = {"color": COLORS["shortcut"], "linestyle": "--", "label": "misses"}
    follows = {"color": COLORS["feed_forward"], "linestyle": "-", "label": "follows"}
    lines = {}
    for ax, (name, curves) in zip(axes[0], networks.items(), strict=True):
        errors = (curves[:, step // 25] - target.T).square().mean(dim=1).sqrt()
        (lines["target"],) = ax.plot(t, target, color="#CCCCCC", linewidth=6)
        for curve, error in zip(curves[:, step // 25], errors, strict=True):
            look = misses if error > limit else follows
            (lines[look["label"]],) = ax.plot(t, curve, linewidth=1.6, **look)
        spread = f" to {errors.max():.2f}" if len(errors) > 1 else ""
        ax.set(title=f"{name}\nerror {errors.min():.2f}{spread}", xlabel="t", ylim=(-1.5, 1.5))
    fig.legend(lines.values(), lines, loc="outside lower center", ncol=3, handlelength=3)
    return fig


def draw_paths(units):
    """A figure with a panel for each unit, (name, activation, path of z): its way along the curve."""
    fig, axes = plt.subplots(1, len(units), figsize=(7.3, 3.0), sharex=True, sharey=True)
    z, ink = torch.linspace(-3.3, 1.5, 201), COLORS["ink"]
    for ax, (name, activation, path) in zip(axes, units, strict=True):
        ax.axhline(1, color=COLORS["shortcut"], linestyle="--", linewidth=1.2)
        ax.plot(z, activation(z), color=COLORS["dropout"], linewidth=1)
        ax.plot(path, activation(path), ".", color=COLORS["feed_forward"], label="each step")
        ax.plot(path[0], activation(path[0]), "o", ms=10, mec=ink, mfc="none", label="start")
        ax.plot(path[-1], activation(path[-1]), "s", color=ink, ms=5, label="100 steps")
        ax.set(title=f"{name}\nz: {path[0]:.1f} → {path[-1]:.1f}", xlabel="z")
    axes[0].text(-3.3, 1.05, "target: 1", color=COLORS["shortcut"])
    axes[0].set(ylabel="output")
    axes[0].legend(loc="center left", bbox_to_anchor=(-0.03, 0.43))
    return fig


def draw_derivatives(x, gelu, slope):
    """A figure of ReLU and GELU, left, and their derivatives, right; shaded where GELU's is negative."""
    ink, green, lowest = COLORS["ink"], COLORS["feed_forward"], gelu.argmin()
    fig, (left, right) = plt.subplots(1, 2, figsize=(7.3, 3.2), sharex=True)
    left.plot(x, torch.relu(x), "--", color=ink)
    right.hlines([0, 1], [-4, 0], [0, 4], color=ink, linestyle="--")
    right.plot(0, 0, "o", color=ink)  # closed: PyTorch takes 0 as the derivative at 0
    right.plot(0, 1, "o", color=ink, markerfacecolor="white")
    for ax, curve, bottom in ((left, gelu, gelu[lowest]), (right, slope, 0)):
        ax.plot(x, curve, color=green)
        ax.plot(x[lowest], bottom, "s", color=green)
        ax.axvspan(-4, x[lowest], color=green, alpha=0.1, linewidth=0)
    left.text(-3.9, 2.6, "shaded:\nGELU falls,\nz moves left", fontsize=9)
    right.text(-3.9, 0.82, "shaded:\nnegative\nfor GELU", fontsize=9)
    point = f"{x[lowest]:.2f}"
    arrow = {"arrowstyle": "-"}
    lowest_point = f"lowest point:\n{gelu[lowest]:.2f} at {point}"
    left.annotate(lowest_point, (x[lowest], gelu[lowest]), (-3.9, 0.9), arrowprops=arrow)
    right.annotate(f"0 at {point}", (x[lowest], 0), (-3.7, 0.4), arrowprops=arrow)
    left.text(0.4, 2.0, "ReLU")
    left.text(2.4, 1.8, "GELU", color=green)
    right.text(2.6, 0.88, "ReLU")
    right.text(1.9, 1.14, "GELU", color=green)
    left.set(title="ReLU has a corner, GELU dips below 0", xlabel="x", ylim=(-1, 4.2))
    right.set(title="Only ReLU's derivative jumps", xlabel="x", ylim=(-0.25, 1.3))
    return fig


def draw_bends(t, parts):
    """A figure of what three hidden units contribute, (points, 3), and of their running sum, on one scale."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(7.3, 3.2), sharex=True, sharey=True)
    styles = (("-", "C0", "GELU(t + 2)"), ("--", "C1", "-2 GELU(t)"), (":", "C3", "GELU(t - 2)"))
    places = ((-0.2, 2.9), (0.9, -3.4), (4.1, -0.9))
    for part, (style, color, name), place in zip(parts.T, styles, places, strict=True):
        left.plot(t, part, style, color=color)
        left.text(*place, name, color=color, ha="right")
    first, first_two, total = parts.cumsum(dim=1).T
    right.plot(t, first, "-", color="C0", linewidth=1)
    right.plot(t, first_two, "--", color="C1", linewidth=1)
    right.plot(t, total, color=COLORS["feed_forward"], linewidth=3)
    right.text(0.6, 3.2, "first unit", color="C0", ha="right")
    right.text(2.6, -2.4, "first two", color="C1", ha="right")
    right.text(1.5, 1.3, "all three", color=COLORS["feed_forward"], weight="bold")
    left.set(title="Each hidden unit adds one bend", xlabel="t", xlim=(-4.2, 4.2), ylim=(-4, 4))
    right.set(title="Added up, they make a bump", xlabel="t")
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
        label_cells(ax, names, names)
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
        ax.set_xlabel("key of" if square else "feature")
        label_cells(ax, tokens if ax is axes[0] else [""] * T, tokens if square else features)
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
        label_cells(ax, range(len(table)), range(len(table)))
    axes[0, 0].set_ylabel("position")
    return fig


def steps_back(table):
    """The number of a map's strongest diagonal: 0 for the main one, 1 for the one below it, and so on."""
    return max(range(len(table)), key=lambda steps: table.diagonal(-steps).mean())


def label_cells(ax, rows, columns):
    """Label the rows, from the top down, and the columns of a table, and draw nothing else around it."""
    ax.set_xticks([j + 0.5 for j in range(len(columns))], columns)
    ax.set_yticks([i + 0.5 for i in range(len(rows))], rows)
    ax.invert_yaxis()
    ax.grid(False)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


def draw_geometry(cloud, centered, scaled):
    """A figure of tokens with three features, (N, 3) each: as they are, centered, and scaled."""
    equal = torch.ones(3) / 3**0.5  # the direction in which all features are equal
    across, back = torch.tensor([-1.0, -1.0, 2.0]) / 6**0.5, torch.tensor([1.0, -1.0, 0.0]) / 2**0.5
    plane = 2.3 * torch.stack([across + back, across - back, back - across, -across - back]).view(2, 2, 3)
    corner = 0.4 * torch.stack([equal, equal + across, across])  # the mark of a right angle
    fig, axes = plt.subplots(1, 3, figsize=(7.3, 2.7), subplot_kw={"projection": "3d", "proj_type": "ortho"})
    titles = ("A cloud of tokens", "Centered: a plane", "Scaled: a circle")
    for ax, points, title in zip(axes, (cloud, centered, scaled), titles, strict=True):
        if points is not cloud:
            ax.plot_surface(*plane.movedim(-1, 0).numpy(), color=COLORS["output"], alpha=0.25)
            ax.plot(*corner.T, color=COLORS["ink"], linewidth=1)
        ax.plot(*torch.stack([-3.5 * equal, 3.5 * equal]).T, "--", color=COLORS["ink"], linewidth=1)
        ax.plot(
            *points.T, "o", color=COLORS["norm"], markersize=4, markeredgecolor="white", markeredgewidth=0.4
        )
        for i, axis in enumerate("xyz"):
            ax.set(**{f"{axis}lim": (-2.3, 2.3), f"{axis}ticks": (-2, 0, 2), f"{axis}ticklabels": []})
            getattr(ax, f"set_{axis}label")(f"feature {i}", labelpad=-12)
        ax.set_title(title)
        ax.set_box_aspect((1, 1, 1), zoom=1.15)
        ax.view_init(elev=10, azim=-27)  # 20 degrees above the plane
    axes[0].text(*(3.2 * equal).tolist(), "all features equal", ha="right", va="bottom", size=9)
    return fig


def draw_window(pieces):
    """All tokens but the last as inputs, and below each one its target: the token that comes next."""
    fig, ax = canvas(1.75)
    width = 1.18
    for y, name, row, component in (
        (1.3, "inputs", pieces[:-1], "text"),
        (0.4, "targets", pieces[1:], "output"),
    ):
        label(ax, 0.15, y, name, ha="left", bold=True)
        for i, piece in enumerate(row):
            box(ax, 1.55 + i * (width + 0.08), y, width, 0.42, component, shown(piece), size=SMALL)
    for i in range(len(pieces) - 1):
        arrow(ax, (1.55 + i * (width + 0.08), 1.07), (1.55 + i * (width + 0.08), 0.63))
    return fig
