"""The plots of 4.4, drawn from what its cells compute."""

import matplotlib.pyplot as plt
import numpy as np
import torch

from figures.drawing import COLORS

NETWORKS = {  # the kinds of networks in 4.4, with one color and dash for each in all figures
    "plain": {"color": "#707070", "linestyle": ":"},
    "shortcuts only": {"color": COLORS["shortcut"], "linestyle": "--"},
    "norm only": {"color": COLORS["norm"], "linestyle": "-."},
    "norm + shortcuts": {"color": COLORS["ink"], "linewidth": 3},
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
    """`heights`, moved where needed so that labels there are at least `gap` apart."""
    order = sorted(range(len(heights)), key=heights.__getitem__)
    up, down = list(heights), list(heights)
    for below, above in zip(order[:-1], order[1:], strict=True):
        up[above] = max(up[above], up[below] + gap)
    for above, below in zip(order[:0:-1], order[-2::-1], strict=True):
        down[below] = min(down[below], down[above] - gap)
    return [(high + low) / 2 for high, low in zip(up, down, strict=True)]


def draw_depths(curves, guess):
    """A figure of training losses (steps, starts) by name, "plain, 4 layers", and the loss of a guess."""
    fig, ax = plt.subplots(figsize=(7.3, 3.2))
    middles = []
    for name, losses in curves.items():
        style = NETWORKS["plain"] if name.endswith(" 24 layers") else NETWORKS["plain"] | SHALLOW
        middles.append(draw_range(ax, losses.T, style))
    ax.axhline(guess, color=COLORS["ink"], linewidth=0.8)
    ax.text(395, guess - 0.012, "always guessing the mean of the targets", fontsize=9, va="top", ha="right")
    ends = spread([middle[-1].item() for middle in middles], 0.035)
    for name, height in zip(curves, ends, strict=True):
        ax.text(1.01 * len(losses), height, name, color=NETWORKS["plain"]["color"], va="center")
    ax.text(5, 0.03, "lines: median of the starts · bands: their range", fontsize=9)
    ax.set(xlabel="step", ylabel="training loss", xlim=(0, len(losses)), ylim=(0, 0.6))
    ax.set_title("24 layers do no better than a blind guess")
    return fig


def draw_four(curves):
    """A figure of the training losses (steps, starts) of the four kinds and of "plain, 4 layers"."""
    fig, ax = plt.subplots(figsize=(7.3, 4))
    low, top, ends, starts = 0.025, 1.2, [], []
    for name, losses in curves.items():
        kind, *shallow = name.split(", ")
        style = NETWORKS[kind] | (SHALLOW if shallow else {})
        middle = draw_range(ax, losses.T, style)
        ends.append(middle[-1].log10().item())
        if middle[0] > top:
            starts.append(f"{name}, {losses[0].min():,.0f} to {losses[0].max():,.0f}")
    for name, height in zip(curves, spread(ends, 0.062), strict=True):
        color = NETWORKS[name.split(", ")[0]]["color"]
        ax.text(1.01 * len(losses), 10**height, name, color=color, va="center", fontsize=9)
    notes = "lines: median of three starts · bands: their range\nabove the plot at step 0: "
    ax.text(5, 1.1 * low, notes + "; ".join(starts), fontsize=9)
    ax.set(xlabel="step", ylabel="training loss", xlim=(0, len(losses)), yscale="log", ylim=(low, top))
    ticks = [0.05, 0.1, 0.2, 0.5, 1]
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


def draw_ellipses(one, two, four, title):
    """A figure of a circle and of what the Jacobian (2, 2) of one, two and four layers makes of it.

    A second row enlarges ellipses that are too small to see.
    """
    matrices = {"a circle of steps": torch.eye(2)}
    matrices |= {"after 1 layer": one, "after 2 layers": two, "after 4 layers": four}
    angle = torch.linspace(0, 2 * torch.pi, 121)
    circle = torch.stack([angle.cos(), angle.sin()])
    parts = {name: torch.linalg.svd(matrix) for name, matrix in matrices.items()}
    zooms = [max(1, round(1 / s[0].item())) for _, s, _ in parts.values()]
    rows = [[1] * len(zooms), zooms] if max(zooms) > 1 else [zooms]
    size = (7.3, 1.1 + 1.8 * len(rows))
    fig, axes = plt.subplots(len(rows), len(zooms), figsize=size, squeeze=False)
    for (row, column), ax in np.ndenumerate(axes):
        name, zoom = list(matrices)[column], rows[row][column]
        U, s, _ = parts[name]
        U = U * torch.where(U[0] < 0, -1, 1)  # a singular vector has no sign of its own
        ax.set(xlim=(-1.5, 1.5), ylim=(-1.5, 1.5), aspect="equal", xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
        if row and zoom == 1:
            continue  # there is nothing to enlarge
        ax.plot(*circle, color="#B0B0B0", linewidth=0.8)
        ax.plot(*(zoom * matrices[name] @ circle), color=COLORS["ink"], linewidth=1.5)
        for axis, color in zip((U * s).T, (COLORS["shortcut"], COLORS["norm"]), strict=True):
            ax.plot(*zip((0, 0), zoom * axis, strict=True), color=color, linewidth=3)
        if row:
            ax.set_xlabel(f"enlarged {zoom} times")
        else:
            ax.set_title(name, fontsize=10, weight="normal")
            digits = {"precision": 2, "min_digits": 2, "fractional": False}
            lengths = [np.format_float_positional(v, **digits) for v in s.tolist()]
            ax.set_xlabel("half-axes\n" + " and ".join(lengths))
    note = "orange: the longer half-axis · blue: the shorter · gray: the circle of steps"
    fig.supxlabel(note, fontsize=9)
    fig.suptitle(title, weight="bold", fontsize=11)
    return fig


def draw_signals(signals):
    """A figure of the RMS of x, left, and of its gradient, right: (starts, 2, layers + 1) for each kind."""
    fig, axes = plt.subplots(1, 2, figsize=(7.3, 3.8), sharey=True)
    bottom, top = -4, 3
    for i, ax in enumerate(axes):
        middles = {kind: draw_range(ax, values[:, i], NETWORKS[kind]) for kind, values in signals.items()}
        ends = {kind: middle[-1].log10().item() for kind, middle in middles.items()}
        depth = len(middles["plain"]) - 1
        for kind in [kind for kind, end in ends.items() if end < bottom]:  # a curve that leaves the axes
            place = (middles[kind] > 10**bottom).sum().item()
            note = f"{kind}: falls on to $10^{{{ends.pop(kind):.0f}}}$"
            ax.text(place + 0.6, 10 ** (bottom + 0.25), note, color=NETWORKS[kind]["color"])
        for kind, height in zip(ends, spread(list(ends.values()), 0.7), strict=True):
            label = kind.replace("norm + ", "norm +\n")
            ax.text(1.03 * depth, 10**height, label, color=NETWORKS[kind]["color"], va="center", fontsize=9)
        ax.set(yscale="log", ylim=(10**bottom, 10**top), xticks=range(0, depth + 1, depth // 4))
    axes[0].set(title="Shortcuts only: x explodes", xlabel="layers passed", ylabel="RMS")
    axes[1].set(title="Plain: the gradient vanishes", xlabel="layers passed, from the last to layer 0")
    axes[0].text(0.5, 10 ** (bottom + 0.2), "lines: median of five networks\nbands: their range", fontsize=9)
    return fig


def draw_directions(stretch):
    """A figure of sorted singular values, (starts, 16) for each kind, as shares of each network's largest."""
    fig, ax = plt.subplots(figsize=(7.3, 3.8))
    ax.axhspan(1e-12, 1e-3, color="#EEEEEE", linewidth=0)
    for (kind, values), marker in zip(stretch.items(), "osD^", strict=True):
        shares = (values / values[:, :1]).clamp(min=1e-10)  # much smaller ones are mostly rounding errors
        draw_range(ax, shares, NETWORKS[kind] | {"marker": marker, "markersize": 6})
    places = {"plain": (9.9, 5e-6), "shortcuts only": (12, 1e-5), "norm only": (3.4, 1e-7)}
    for kind, place in (places | {"norm + shortcuts": (10.5, 0.9)}).items():
        ax.text(*place, kind, color=NETWORKS[kind]["color"], va="center")
    ax.text(0, 1e-8, "gray: lost, below 1/1000\nof the largest value", fontsize=9, va="center")
    ax.set(xlabel="direction, from the most to the least stretched", xticks=range(16))
    ax.set(yscale="log", ylim=(1e-9, 10), ylabel="singular value ÷ the largest")
    ax.set_yticks([10.0**power for power in range(-9, 1, 3)])
    ax.set_title("Shortcuts keep the directions")
    return fig
