"""The plots of 4.4, drawn from what its cells compute."""

import matplotlib.pyplot as plt
import numpy as np
import torch

from figures.drawing import COLORS

NETWORKS = {  # the kinds of networks in 4.4, with one color and dash for each in all figures
    "plain": {"color": "#707070", "linestyle": ":"},
    "shortcuts only": {"color": COLORS["shortcut"], "linestyle": "--"},
    "norm only": {"color": COLORS["norm"], "linestyle": "-."},
    "both": {"color": COLORS["ink"], "linewidth": 3},
}
SHALLOW = {"linestyle": "-", "linewidth": 1.3}  # how a plain network of fewer than 24 layers differs


def draw_range(ax, values, style, ends=(0, 1)):
    """Draw values (starts, points): their median as a line, their range as a band; return the median."""
    quantiles = torch.tensor([ends[0], 0.5, ends[1]], dtype=values.dtype)
    low, middle, high = values.quantile(quantiles, dim=0)
    ax.fill_between(range(len(middle)), low, high, color=style["color"], alpha=0.2, linewidth=0)
    ax.plot(middle, **style)
    return middle


def spread(heights, gap):
    """`heights`, raised where needed so that labels there are at least `gap` apart."""
    heights = list(heights)
    order = sorted(range(len(heights)), key=heights.__getitem__)
    for below, above in zip(order[:-1], order[1:], strict=True):
        heights[above] = max(heights[above], heights[below] + gap)
    return heights


def draw_depths(curves):
    """A figure of the training losses (steps, starts) of plain networks, by name: "plain, 4 layers"."""
    fig, ax = plt.subplots(figsize=(7.3, 3.2))
    middles = []
    for name, losses in curves.items():
        style = NETWORKS["plain"] if name.endswith(" 24 layers") else NETWORKS["plain"] | SHALLOW
        middles.append(draw_range(ax, losses.T, style))
    ends = spread([middle[-1].item() for middle in middles], 0.035)
    for name, height in zip(curves, ends, strict=True):
        ax.text(1.01 * len(losses), height, name, color=NETWORKS["plain"]["color"], va="center")
    ax.text(5, 0.03, "lines: median of the starts · bands: their range", fontsize=9)
    ax.set(xlabel="step", ylabel="training loss", xlim=(0, len(losses)), ylim=(0, 0.6))
    ax.set_title("24 layers do no better than a blind guess")
    return fig


def draw_four(curves):
    """A figure of the training losses (steps, starts) of the four kinds and of "plain, 4 layers"."""
    fig, ax = plt.subplots(figsize=(7.3, 3.8))
    low, top, ends, starts = 0.025, 2, [], []
    for name, losses in curves.items():
        kind, *shallow = name.split(", ")
        style = NETWORKS[kind] | (SHALLOW if shallow else {})
        middle = draw_range(ax, losses.T, style)
        ends.append(middle[-1].log10().item())
        if middle[0] > top:
            starts.append(f"{name}, {losses[0].min():,.0f} to {losses[0].max():,.0f}")
    for name, height in zip(curves, spread(ends, 0.1), strict=True):
        color = NETWORKS[name.split(", ")[0]]["color"]
        ax.text(1.01 * len(losses), 10**height, name, color=color, va="center")
    notes = "lines: median of three starts · bands: their range\nabove the plot at step 0: "
    ax.text(5, 1.1 * low, notes + "; ".join(starts), fontsize=9)
    ax.set(xlabel="step", ylabel="training loss", xlim=(0, len(losses)), yscale="log", ylim=(low, top))
    ticks = [0.05, 0.1, 0.2, 0.5, 1, 2]
    ax.set_yticks(ticks, [str(tick) for tick in ticks])
    ax.set_yticks([], minor=True)
    ax.set_title("Only norm and shortcuts together beat a plain network of 4 layers")
    return fig


def draw_gradients(plain, shortcuts):
    """A figure of gradients (networks, layers): medians, and bands from the 10th to the 90th percentile."""
    fig, ax = plt.subplots(figsize=(7.3, 3.2))
    for values, kind, marker in ((plain, "plain", "o"), (shortcuts, "shortcuts only", "s")):
        draw_range(ax, values, NETWORKS[kind] | {"marker": marker}, ends=(0.1, 0.9))
    ax.text(0.1, 0.07, "with shortcuts", color=NETWORKS["shortcuts only"]["color"])
    ax.text(0.3, 9e-4, "plain", color=NETWORKS["plain"]["color"])
    ax.text(2.1, 7e-5, "lines: median of 200 networks\nbands: the middle 80% of them", fontsize=9)
    ax.set(xlabel="layer", ylabel="mean |gradient of the weights|", xticks=range(5), yscale="log")
    ax.set_title("With shortcuts, the gradient reaches layer 0")
    return fig


def draw_ellipses(matrices, title):
    """A figure of what each matrix (2, 2), by name, makes of a circle; small ellipses are enlarged."""
    fig, axes = plt.subplots(1, len(matrices), figsize=(7.3, 2.9))
    angle = torch.linspace(0, 2 * torch.pi, 121)
    circle = torch.stack([angle.cos(), angle.sin()])
    for ax, (name, matrix) in zip(axes, matrices.items(), strict=True):
        U, s, _ = torch.linalg.svd(matrix)
        U = U * torch.where(U[0] < 0, -1, 1)  # a singular vector has no sign of its own
        zoom = max(1, round(1 / s[0].item()))
        ax.plot(*(zoom * matrix @ circle), color=COLORS["ink"], linewidth=1.5)
        for axis, color in zip((U * s).T, (COLORS["shortcut"], COLORS["norm"]), strict=True):
            ax.plot(*zip((0, 0), zoom * axis, strict=True), color=color, linewidth=3)
        ax.set_title(name + (f"\nenlarged {zoom} times" if zoom > 1 else "\n"), fontsize=10, weight="normal")
        ax.set(xlim=(-1.5, 1.5), ylim=(-1.5, 1.5), aspect="equal", xticks=[], yticks=[])
        lengths = [np.format_float_positional(v, 2, fractional=False, trim="-") for v in s.tolist()]
        ax.set_xlabel("half-axes\n" + " and ".join(lengths))
        ax.spines[:].set_visible(False)
    fig.suptitle(title, weight="bold", fontsize=11)
    return fig


def draw_signals(forward, backward):
    """A figure of the RMS of x, left, and of its gradient, right, (starts, layers + 1) for each kind."""
    fig, axes = plt.subplots(1, 2, figsize=(7.3, 3.6))
    for ax, signals, (bottom, top) in zip(axes, (forward, backward), ((-2, 3), (-14, 5)), strict=True):
        middles = [draw_range(ax, values, NETWORKS[kind]) for kind, values in signals.items()]
        ends, depth = [middle[-1].log10().item() for middle in middles], len(middles[0]) - 1
        for kind, height in zip(signals, spread(ends, (top - bottom) / 17), strict=True):
            height = min(max(height, bottom), top)  # a curve that leaves the axes
            ax.text(1.03 * depth, 10**height, kind, color=NETWORKS[kind]["color"], va="center")
        ax.set(yscale="log", ylim=(10**bottom, 10**top), xticks=range(0, depth + 1, depth // 4))
    axes[0].set(title="x: shortcuts alone explode", xlabel="layers passed", ylabel="RMS of x")
    axes[1].set(title="Gradient: plain vanishes", xlabel="layers passed, from the last to layer 0")
    axes[1].set(ylabel="RMS of the gradient", yticks=[10.0**power for power in range(-14, 5, 2)])
    return fig


def draw_directions(stretch):
    """A figure of sorted singular values, (starts, 16) for each kind.

    Values below 1e-12 of the largest are mostly rounding errors, so a curve ends before them.
    """
    fig, ax = plt.subplots(figsize=(7.3, 4))
    places = {"plain": (0.4, 1e-16), "shortcuts only": (0.3, 400), "norm only": (2.2, 1e-6), "both": (11, 4)}
    for (kind, values), marker in zip(stretch.items(), "osD^", strict=True):
        clear = (values > 1e-12 * values[:, :1]).all(dim=0).sum()
        middle = draw_range(ax, values[:, :clear], NETWORKS[kind])
        for lost in (False, True):
            chosen = [i for i in range(clear) if (middle[i] < middle[0] / 1000).item() == lost]
            fill = {"markerfacecolor": "white"} if lost else {}
            ax.plot(chosen, middle[chosen], marker, color=NETWORKS[kind]["color"], markersize=6, **fill)
        ax.text(*places[kind], kind, color=NETWORKS[kind]["color"])
        if kind == "norm only" and clear < 16:
            note = "beyond: too close to 0\nto tell from rounding errors"
            ax.text(clear - 0.7, middle[-1], note, color=NETWORKS[kind]["color"], fontsize=9, va="center")
    ax.text(15.4, 3e3, "hollow: lost, below 1/1000 of the network's largest", fontsize=9, ha="right")
    ax.set(yscale="log", xlabel="direction, from the most to the least stretched")
    ax.set(ylabel="factor by which the\ndirection is stretched", ylim=(1e-21, 1e5), xticks=range(16))
    ax.set_title("The norm keeps the scale, the shortcut keeps the directions")
    return fig
