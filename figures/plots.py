"""Plots that several cells or notebooks draw, or that would be long in a lesson."""

import matplotlib.pyplot as plt
import torch
from matplotlib.patches import Rectangle

from figures.drawing import COLORS
from figures.shapes import box, canvas, label, shown, tint

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


def draw_influence(*grids, titles, tokens=None, leaks=False, explain=False, read="output", note=None):
    """A figure with a square for each position (row) and token (column), filled where one moves the other.

    `grids` are bool tensors (T, T), as `compare.influence` returns them, drawn side by side. With `leaks`,
    the squares in which a later token moves an earlier position are hatched. With `explain`, the squares of
    the last grid, a goal, say what they must do. `read` names what is read at each position; `note` goes below.
    """
    fig, axes = plt.subplots(1, len(grids), figsize=(7.3, 3.7 if note else 3.4), squeeze=False)
    T = len(grids[0])
    tokens = tokens or [""] * T
    for ax, grid, title in zip(axes[0], grids, titles, strict=True):
        ax.pcolormesh(grid.float(), cmap="Blues", vmin=0, vmax=1.4, edgecolors="#999999", linewidth=0.8)
        for i, j in grid.triu(1).nonzero().tolist() if leaks else ():
            leak = {"facecolor": COLORS["shortcut"], "edgecolor": "white", "hatch": "///"}
            ax.add_patch(Rectangle((j, i), 1, 1, linewidth=0, **leak))
        ax.set(title=title, xlabel="change this token", ylabel=f"{read} at this position", aspect="equal")
        names = [f"{t} {shown(token)}".strip() for t, token in enumerate(tokens)]
        label_cells(ax, names, [name.replace(" ", "\n") for name in names])
    for i, j in torch.cartesian_prod(torch.arange(T), torch.arange(T)).tolist() if explain else ():
        word = "filled\nalready" if i == j else "to fill" if j < i else "stay\nempty"
        color = "white" if j <= i else "black"
        ax.text(j + 0.5, i + 0.5, word, color=color, ha="center", va="center", size=9)
    if note:
        fig.supxlabel(note, fontsize=10)
    return fig


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


def label_cells(ax, rows, columns):
    """Label the rows, from the top down, and the columns of a table, and draw nothing else around it."""
    ax.set_xticks([j + 0.5 for j in range(len(columns))], columns)
    ax.set_yticks([i + 0.5 for i in range(len(rows))], rows)
    ax.invert_yaxis()
    ax.grid(False)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


def draw_starts(cases, guessing):
    """A figure of fresh models, {name: (loss, correlation without blocks, correlation)}: do they read?"""
    fig, (left, right) = plt.subplots(1, 2, figsize=(7.3, 3.0), sharey=True)
    ink, blue, red = COLORS["ink"], COLORS["norm"], COLORS["shortcut"]
    for i, (loss, *correlations) in enumerate(cases.values()):
        left.semilogx(loss, i, "o", color=ink, markersize=8)
        left.annotate(f"{loss:.1f}", (loss, i), (9, -4), textcoords="offset points")
        looks = ((0.16, "white", ", no blocks"), (-0.16, blue, ", 12 blocks"))
        for value, (shift, fill, words) in zip(correlations, looks, strict=True):
            right.plot(value, i + shift, "s", color=blue, markersize=8, markerfacecolor=fill)
            side = {"ha": "right" if value > 0.9 else "left", "textcoords": "offset points"}
            text = f"{value:.2f}" + words * (i == 0)
            right.annotate(text, (value, i + shift), (-9 if value > 0.9 else 9, -4), **side)
    left.axvline(guessing, color=red, linestyle="--", linewidth=1.6, zorder=5)
    left.text(1.1 * guessing, -0.6, f"guessing: {guessing:.1f}", color=red, va="center")
    left.set(title="Loss at step 0", xlim=(5, 1500), xticks=(10, 100, 1000), xticklabels=(10, 100, 1000))
    left.set(xlabel="cross-entropy (logarithmic)")
    left.minorticks_off()
    left.set(yticks=range(len(cases)), yticklabels=cases, ylim=(len(cases) - 0.3, -0.9))
    right.set(title="Two texts, one answer?", xlim=(0, 1.08), xlabel="correlation of their logits")
    return fig


def draw_growth(without, with_factor):
    """A figure of the residual stream over the blocks: its standard deviations without the factor 1/√N, and
    those with it in {depth: values}."""
    fig, ax = plt.subplots(figsize=(7.3, 3.4))
    ax.plot(without, "--", color=COLORS["shortcut"])
    ax.text(7.6, without[8] + 0.03, "without the factor", ha="right", color=COLORS["shortcut"])
    for (depth, stds), marker in zip(with_factor.items(), "osD", strict=True):
        for values, color in ((without, COLORS["shortcut"]), (stds, COLORS["norm"])):
            ax.plot(depth, values[depth], marker, color=color, markersize=7)
            ax.annotate(f"{values[depth]:.1f}", (depth, values[depth]), (0, 9), textcoords="offset points")
        ax.plot(stds, color=COLORS["norm"])
    ax.text(12.2, 0.55, "with 1/√N", ha="right", color=COLORS["norm"], weight="bold")
    ax.set(title="With 1/√N, stacks of 3, 6, and 12 blocks end at the same level", xlim=(0, 12.6))
    ax.set(xlabel="blocks", ylabel="standard deviation of the stream", ylim=(0, 1.8))
    return fig


def draw_memory(counts):
    """A figure of the memory that models take to train in float32, from {name: number of parameters}."""
    parts = (
        ("weights", 4, "output", ""),
        ("gradients", 4, "shortcut", "//"),
        ("AdamW's averages", 8, "norm", ".."),
    )
    fig, ax = plt.subplots(figsize=(7.3, 2.9))
    for i, count in enumerate(counts.values()):
        left = 0
        for name, size, component, hatch in parts:
            width = count * size / 2**30
            color = {"color": tint(component, 0.5), "edgecolor": COLORS["ink"], "linewidth": 0.8}
            ax.barh(i, width, 0.6, left, hatch=hatch, **color)
            if i == len(counts) - 1:
                ax.text(left + width / 2, i + 0.38, f"{name}\n{size} bytes", ha="center", va="bottom")
            left += width
        ax.text(left + 0.2, i, f"{left:.1f} GB", va="center", weight="bold")
    ax.set(
        title="Training takes 16 bytes per parameter, four times the weights",
        xlabel="GB (2³⁰ bytes): float32, untied, without activations",
    )
    ax.set(yticks=range(len(counts)), yticklabels=counts, ylim=(-0.5, len(counts) + 0.2), xlim=(0, 28))
    ax.grid(axis="y", visible=False)
    return fig
