"""The plots of 4.5, drawn from what its cells compute."""

import matplotlib.pyplot as plt
from matplotlib.patches import Rectangle

from figures.drawing import COLORS
from figures.influence import label_cells


def draw_attention(scores, weights, values, outputs, tokens, features):
    """A figure of attention on a few tokens, from left to right: scores, weights, values, outputs.

    `scores` and `weights` are (T, T), with the masked ones, which have a score of -inf, hatched. `values` and
    `outputs` have a column for each of the `features`. What makes the last output's last feature is framed.
    """
    T, width = len(tokens), len(features)
    fig, axes = plt.subplots(1, 4, figsize=(7.3, 2.9), width_ratios=[T + 0.6, T + 0.6, width, width])
    names = ("scores", "softmax: weights", "× values", "= outputs")
    rows = ("query of", "weights of", "value of", "output of")
    frames = ((0, T - 1, T, 1), (0, T - 1, T, 1), (width - 1, 0, 1, T), (width - 1, T - 1, 1, 1))
    for place, (ax, table) in enumerate(zip(axes, (scores, weights, values, outputs), strict=True)):
        square = place < 2
        shade = table if place == 1 else table.clamp(min=-3, max=3) / 3
        ax.pcolormesh(shade, cmap="RdBu_r", vmin=-1.6, vmax=1.6, edgecolors="#999999", linewidth=0.8)
        for i, row in enumerate(table.tolist()):
            for j, value in enumerate(row):
                if square and scores[i, j] == float("-inf"):
                    hidden = {"facecolor": "#EEEEEE", "edgecolor": "#999999", "hatch": "////"}
                    ax.add_patch(Rectangle((j, i), 1, 1, linewidth=0.8, **hidden))
                else:
                    ax.text(j + 0.5, i + 0.5, f"{value + 0.0:.2f}", ha="center", va="center", size=9)
        left, top, *size = frames[place]
        look = {"facecolor": "none", "edgecolor": COLORS["ink"], "linewidth": 2.4, "clip_on": False}
        ax.add_patch(Rectangle((left, top), *size, zorder=5, **look))
        ax.set_title(names[place])
        ax.set_ylabel(rows[place], labelpad=1)
        ax.set_xlabel("key of" if square else "feature")
        label_cells(ax, tokens, tokens if square else features)
    products = zip(weights[-1].tolist(), values[:, -1].tolist(), strict=True)
    total = " + ".join(f"{weight:.2f} · {value:.2f}" for weight, value in products)
    line = f"framed: weights of {tokens[-1]} × {features[-1]} of values:  {total} = {outputs[-1, -1]:.2f}"
    fig.supxlabel(line, size=9.5, weight="bold")
    return fig


def draw_moves(vectors, moves, axis_labels):
    """A figure of named `vectors` in a plane, and arrows: `moves` are (name, start, end), drawn in turn."""
    fig, ax = plt.subplots(figsize=(7.3, 3.4))
    for word, (x, y) in vectors.items():
        ax.plot(x, y, "o", color=COLORS["ink"])
        ax.annotate(word, (x, y), (8, 6), textcoords="offset points")
    for (name, start, end), color in zip(moves, ("C0", "C1"), strict=True):
        ax.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": color, "lw": 2})
        label = f"{name}: {axis_labels[1].split(':')[0]} {end[1]:+.2f}"
        ax.annotate(label, end, (10, -4), textcoords="offset points", color=color)
    ax.set(title="Where attention moves “bank”", xlim=(-1.4, 1.6), ylim=(-1.4, 1.4))
    ax.set(xlabel=axis_labels[0], ylabel=axis_labels[1])
    return fig


def draw_shares(raw, divided, width):
    """A figure of how a query shares its attention, without and with the division, best match first."""
    fig, ax = plt.subplots()
    for shares, name, style, color in (
        (raw, "not divided", "s--", "C1"),
        (divided, "divided by √Dh", "o-", "C0"),
    ):
        ax.plot(shares, style, color=color, markersize=5)
        label = f"{name}: the best match gets {shares[0]:.0%}"
        ax.annotate(label, (0, shares[0]), (40, 2), textcoords="offset points", color=color)
    ax.set(title=f"How {len(raw)} tokens share the attention (Dh = {width})", ylim=(0, 1))
    ax.set(xlabel="rank of the token: 0 is the best match", ylabel="weight", xticks=range(len(raw)))
    return fig


def draw_maps(maps, point, titles=None, untrained=0):
    """A figure of attention maps side by side, (T, T) each: row i shows where position i looks.

    The weights are rounded to tenths, so that every machine draws the same figure. Without `titles`, each map
    is titled with its head and its strongest distance. The first `untrained` rows are gray.
    """
    titles = titles or [f"head {h}\nmostly {steps_back(table)} back" for h, table in enumerate(maps)]
    fig, axes = plt.subplots(1, len(maps), figsize=(7.3, 7.3 / max(len(maps), 2.6) + 1.0), squeeze=False)
    fig.suptitle(point, size=11, weight="bold")
    tenths = {"cmap": plt.get_cmap("Blues", 12), "vmin": -0.05, "vmax": 1.15}
    for ax, table, title in zip(axes[0], maps, titles, strict=True):
        T = len(table)
        mesh = ax.pcolormesh(table.round(decimals=1), edgecolors="#DDDDDD", linewidth=0.5, **tenths)
        for row in range(untrained):
            ax.add_patch(
                Rectangle((0, row), row + 1, 1, facecolor="#BBBBBB", edgecolor="#DDDDDD", linewidth=0.5)
            )
        ax.set_title(title, weight="normal")
        ax.set(xlabel="looks at position", aspect="equal")
        names = [t if T < 9 or t % 3 == 0 else "" for t in range(T)]
        label_cells(ax, names, names)
    axes[0, 0].set_ylabel("position")
    scale = fig.colorbar(mesh, ax=axes, ticks=[0, 0.5, 1], shrink=0.6, label="weight")
    scale.ax.set_ylim(-0.05, 1.05)
    return fig


def draw_losses(runs, point):
    """A figure with a panel for each learning rate; `runs` maps it to {name: losses}, two names in each."""
    fig, axes = plt.subplots(1, len(runs), figsize=(7.3, 3.4), sharey=True)
    fig.suptitle(point, size=11, weight="bold")
    for ax, (rate, losses) in zip(axes, runs.items(), strict=True):
        for (name, curve), style, shift in zip(losses.items(), ("-", "--"), ((-4, -16), (4, 8)), strict=True):
            (line,) = ax.plot(curve, style)
            look = {"color": line.get_color(), "ha": "right" if style == "-" else "left"}
            ax.annotate(name, (16, curve[16]), shift, textcoords="offset points", **look)
        ax.axhline(1, color=COLORS["ink"], linestyle=":", linewidth=1)
        ax.set_title(f"learning rate {rate}", weight="normal")
        ax.set(xlabel="step", ylim=(0, 2.2))
    axes[0].text(50, 1.04, "answering 0", ha="right", size=9)
    axes[0].set_ylabel("loss")
    return fig


def steps_back(table):
    """The number of a map's strongest diagonal: 0 for the main one, 1 for the one below it, and so on."""
    return max(range(len(table)), key=lambda steps: table.diagonal(-steps).mean())
