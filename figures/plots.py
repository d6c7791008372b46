"""Plots that several cells or notebooks draw, or that would be long in a lesson."""

import matplotlib.pyplot as plt
import torch
from matplotlib.patches import FancyBboxPatch, Rectangle

from figures.drawing import COLORS
from figures.shapes import MONO, canvas, shown, tint

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


def draw_influence(*grids, titles, tokens=None, note=None):
    """A figure with a square for each position (row) and token (column), filled where one moves the other.

    `grids` are bool tensors (T, T), as `compare.influence` returns them, drawn side by side. The
    `note` goes below them.
    """
    fig, axes = plt.subplots(1, len(grids), figsize=(7.3, 3.7 if note else 3.4), squeeze=False)
    T = len(grids[0])
    tokens = tokens or [""] * T
    for ax, grid, title in zip(axes[0], grids, titles, strict=True):
        ax.pcolormesh(grid.float(), cmap="Blues", vmin=0, vmax=1.4, edgecolors="#999999", linewidth=0.8)
        ax.set(title=title, xlabel="change this token", ylabel="output at this position", aspect="equal")
        names = [f"{t} {token.strip()}".strip() for t, token in enumerate(tokens)]
        label_cells(ax, names, names)
    if note:
        fig.supxlabel(note, fontsize=10)
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


GAIN_STYLES = {0.9: ":", 1.0: "-", 1.1: "--"}


def draw_drift(runs, title):
    """A figure of the standard deviation by layer: `runs` maps gains to tensors (depth, stacks)."""
    fig, ax = plt.subplots(figsize=(7.3, 3.4))
    for gain, stds in runs.items():
        average = stds.log().mean(dim=1).exp()  # the axis is logarithmic, so we average logarithms
        ax.semilogy(stds, color=COLORS["dropout"], linewidth=0.7)
        ax.semilogy(average, GAIN_STYLES.get(gain, "-"), color=COLORS["ink"])
        height = average[-1].clamp(1e-6, 1e6)  # beside the frame, even if the curve has left it
        ax.text(1.02 * (len(stds) - 1), height, f"gain {gain:.2f}", va="center")
    ax.set(title=title, xlim=(0, len(stds) - 1), xlabel="layer", ylabel="standard deviation")
    ax.text(0.02, 0.05, "thin: one stack each; thick: their average", transform=ax.transAxes)
    return fig


def draw_before_and_after(without, with_norm):
    """A figure of what `draw_drift` shows, zoomed in, without and with the norm side by side."""
    fig, axes = plt.subplots(1, 2, figsize=(7.3, 3.2), sharex=True, sharey=True)
    for ax, runs, color in zip(axes, (without, with_norm), (COLORS["ink"], COLORS["norm"]), strict=True):
        for gain, stds in runs.items():
            ax.plot(stds, GAIN_STYLES[gain], color=color, linewidth=0.9)
    for gain, stds in with_norm.items():
        label = {"color": COLORS["norm"], "va": "center"}
        axes[1].text(1.02 * (len(stds) - 1), stds[-1].mean(), f"gain {gain:.1f}", **label)
    axes[0].text(9, 1.5, "gain 1.1", va="center")
    axes[0].text(48, 0.43, "gain 1.0", ha="right", va="center")
    axes[0].text(8, 0.43, "gain 0.9", va="center")
    axes[0].set(title="Without the norm", xlabel="layer", ylabel="standard deviation")
    axes[1].set(title="With it: level, in all 30 stacks", xlabel="layer", xlim=(0, 49), ylim=(0.4, 1.6))
    return fig


def draw_training(without, with_norm, gains):
    """A figure with a panel for each gain: losses (steps, starts, gains) without and with the norm."""
    fig, axes = plt.subplots(1, len(gains), figsize=(7.3, 3.6), sharey=True)
    for i, (ax, gain) in enumerate(zip(axes, gains, strict=True)):
        ax.semilogy(without[:, :, i], "--", color=COLORS["ink"], linewidth=1.3)
        ax.semilogy(with_norm[:, :, i], color=COLORS["norm"])
        ax.set(title=f"Gain {gain:g}", xlabel="step", xlim=(0, len(without)), ylim=(0.03, 1e6))
    axes[0].set_ylabel("loss (logarithmic)")
    axes[0].text(97, 4, "without", ha="right")
    for ax in axes:
        ax.text(97, 0.055, "with the norm", color=COLORS["norm"], weight="bold", ha="right")
    axes[1].text(97, 8, "without: one lags,\ntwo end lowest", ha="right")
    axes[2].text(97, 5e3, "without", ha="right")
    fig.suptitle("With layer norm, all nine stacks learn", size=11, weight="bold")
    return fig


def draw_stream(stds):
    """A figure of the standard deviation of the residual stream after each part is added to it."""
    fig, ax = plt.subplots(figsize=(7.3, 2.7))
    ax.plot(range(len(stds)), range(1, len(stds) + 1), "--", color=COLORS["dropout"])
    ax.plot(stds, color=COLORS["shortcut"], linewidth=4)
    ax.plot([(1 + n) ** 0.5 for n in range(len(stds))], ":", color=COLORS["ink"])
    ax.text(1.01 * (len(stds) - 1), len(stds), "if standard\ndeviations added", va="center")
    ax.text(1.01 * (len(stds) - 1), stds[-1], "the residual\nstream", color=COLORS["shortcut"], va="center")
    ax.text(0.55 * len(stds), 6.3, "dotted: if variances added", ha="center")
    ax.set(xlabel="parts added", ylabel="standard deviation", xlim=(0, len(stds) - 1), ylim=(0, 26))
    ax.set_title("Adding parts makes the stream grow slowly")
    return fig


def draw_inputs(used):
    """A figure of which inputs affect one value of a norm's output: `used` maps norms to bools (B, T, D).

    The output is that of text 0, token 1, feature 2.
    """
    fig = plt.figure(figsize=(7.3, 2.6))
    for part, (name, grids) in zip(fig.subfigures(1, len(used)), used.items(), strict=True):
        axes = part.subplots(1, len(grids), sharey=True)
        for text, (ax, grid) in enumerate(zip(axes, grids, strict=True)):
            ax.pcolormesh(grid.float(), cmap="Blues", vmin=0, vmax=1.3, edgecolors="black")
            ax.set(title=f"text {text}", xlabel="feature", ylim=(len(grid), 0), xticks=[], yticks=[])
        axes[0].plot(2.5, 1.5, "o", color="white", markersize=7)
        axes[0].set_ylabel("token (later ones below)")
        part.suptitle(f"{name}: {grids.sum()} inputs", weight="bold")
    fig.supxlabel("Dot: one output value. Blue: the inputs that affect it.", fontsize=10)
    return fig


def draw_geometry(cloud, centered, scaled):
    """A figure of tokens with three features, (N, 3) each: centering in 3-D, then scaling in the plane."""
    equal = torch.ones(3) / 3**0.5  # the direction in which all features are equal
    across, back = torch.tensor([-1.0, -1.0, 2.0]) / 6**0.5, torch.tensor([1.0, -1.0, 0.0]) / 2**0.5
    plane = 2.3 * torch.stack([across + back, across - back, back - across, -across - back]).view(2, 2, 3)
    norm, ink, before, middle = COLORS["norm"], COLORS["ink"], COLORS["dropout"], "skyblue"
    fig = plt.figure(figsize=(7.3, 3.9))
    space = fig.add_subplot(1, 2, 1, projection="3d", proj_type="ortho")
    space.plot_surface(*plane.movedim(-1, 0).numpy(), color=COLORS["output"], alpha=0.25)
    space.plot(*torch.stack([-3.5 * equal, 3.5 * equal]).T, "--", color=ink, linewidth=1)
    space.text(*(3.4 * equal).tolist(), "all features equal", ha="right", va="bottom", size=9)
    for start, end in zip(cloud, centered, strict=True):
        space.plot(*torch.stack([start, end]).T, color=before, linewidth=0.7)
    space.plot(*cloud.T, "o", color="white", markersize=3.5, markeredgecolor=ink, markeredgewidth=0.7)
    space.plot(*centered.T, "o", color=middle, markersize=3.5, markeredgecolor=ink, markeredgewidth=0.4)
    for axis, i in zip("xyz", range(3), strict=True):
        space.set(**{f"{axis}lim": (-2.3, 2.3), f"{axis}ticks": (-2, 0, 2)})
        space.tick_params(axis, pad=-3, labelsize=8)
        getattr(space, f"set_{axis}label")(f"feature {i}", labelpad=-8)
    space.set_title("Centering: straight onto a plane")
    space.set_box_aspect((1, 1, 1), zoom=1.1)
    space.view_init(elev=12, azim=-10)  # 35 degrees above the plane
    flat = fig.add_subplot(1, 2, 2)
    basis = torch.stack([back, across], dim=1)  # (3, 2): the plane, seen along the dashed line
    for start, end in zip(centered @ basis, scaled @ basis, strict=True):
        flat.plot(*torch.stack([start, end]).T, color=before, linewidth=0.7)
    flat.plot(
        *(centered @ basis).T, "o", color=middle, markersize=3.5, markeredgecolor=ink, markeredgewidth=0.4
    )
    flat.plot(*(scaled @ basis).T, "o", color=norm, markersize=4)
    radius = torch.tensor([[0.0, 0.0], [-1.5, -1.5 / 3**0.5]])
    flat.annotate("", radius[1], radius[0], arrowprops={"arrowstyle": "->", "color": ink, "linewidth": 1.5})
    flat.text(-1.0, -0.95, "√3", size=12, weight="bold", bbox={"color": "white", "pad": 1})
    flat.set(xlim=(-2.3, 2.3), ylim=(-2.3, 2.3), xticks=(-2, 0, 2), yticks=(-2, 0, 2), aspect="equal")
    flat.set_title("Scaling, in that plane: onto a circle")
    fig.supxlabel("white: the tokens; light blue: centered; dark blue: centered and scaled", fontsize=10)
    return fig


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
