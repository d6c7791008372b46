"""The plots of 4.4, drawn from what its cells compute."""

import matplotlib.pyplot as plt
import torch

from figures.drawing import COLORS

NETWORKS = {  # the kinds of networks in 4.4, with one color and dash for each in all figures
    "plain": {"color": "#707070", "linestyle": ":"},
    "shortcuts only": {"color": COLORS["shortcut"], "linestyle": "--"},
    "norm only": {"color": COLORS["norm"], "linestyle": "-."},
    "both": {"color": COLORS["ink"], "linewidth": 3},
}


def draw_range(ax, values, style):
    """Draw values (starts, points): their median as a line, their range as a band; return the median."""
    low, middle, high = values.quantile(torch.tensor([0, 0.5, 1], dtype=values.dtype), dim=0)
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


def draw_losses(curves, title, top):
    """A figure of training losses up to `top`: (steps, starts) for each name, a kind or "kind, 4 layers"."""
    fig, ax = plt.subplots(figsize=(7.3, 3.4))
    ends = []
    for name, losses in curves.items():
        kind, *depth = name.split(", ")
        thin = {} if depth in ([], ["24 layers"]) else {"linewidth": 1.3}
        middle = draw_range(ax, losses.T, NETWORKS[kind] | thin)
        ends.append(middle[-1].item())
        if middle[0] > top:
            note = f"starts at {losses[0].min():,.0f} to {losses[0].max():,.0f}"
            above = (middle > top).sum().item()
            ax.text(1.1 * above + 8, 0.95 * top, note, color=NETWORKS[kind]["color"], va="center")
    for name, height in zip(curves, spread(ends, top / 15), strict=True):
        color = NETWORKS[name.split(", ")[0]]["color"]
        ax.text(1.01 * len(losses), height, name, color=color, va="center")
    ax.set(xlabel="step", ylabel="training loss", xlim=(0, len(losses)), ylim=(0, top))
    ax.set_title(title)
    return fig


def draw_signals(forward, backward):
    """A figure of the RMS of x, left, and of its gradient, right, (starts, layers + 1) for each kind."""
    fig, axes = plt.subplots(1, 2, figsize=(7.3, 3.4), sharey=True)
    bottom, top = 1e-4, 1e4
    for ax, signals in zip(axes, (forward, backward), strict=True):
        middles = [draw_range(ax, values, NETWORKS[kind]) for kind, values in signals.items()]
        ends, depth = [middle[-1].log10().item() for middle in middles], len(middles[0]) - 1
        for kind, end, height in zip(signals, ends, spread(ends, 0.55), strict=True):
            color = NETWORKS[kind]["color"]
            if 10**end < bottom:  # the label says where the curve goes
                ax.text(0.42 * depth, 3 * bottom, f"{kind}, down\nto $10^{{{end:.0f}}}$", color=color)
            else:
                ax.text(1.03 * depth, min(10**height, top), kind, color=color, va="center")
        ax.set(yscale="log", ylim=(bottom, top), xticks=range(0, depth + 1, depth // 4))
    axes[0].set(title="x: shortcuts alone explode", xlabel="layers passed", ylabel="RMS")
    axes[1].set(title="Gradient: plain vanishes", xlabel="layers passed, from the last to layer 0")
    return fig


def draw_directions(stretch):
    """A figure of sorted singular values, (starts, 16) for each kind.

    Values below 1e-12 of the largest are mostly rounding errors, so a curve ends before them.
    """
    fig, ax = plt.subplots(figsize=(7.3, 3.6))
    places = {"plain": (0.4, 1e-16), "shortcuts only": (0.3, 300), "norm only": (3, 1e-8), "both": (11, 4)}
    for (kind, values), marker in zip(stretch.items(), "osD^", strict=True):
        clear = (values > 1e-12 * values[:, :1]).all(dim=0).sum()
        draw_range(ax, values[:, :clear], NETWORKS[kind] | {"marker": marker, "markersize": 5})
        ax.text(*places[kind], kind, color=NETWORKS[kind]["color"])
    for x, low, high, gain in ((0, 1e-11, 0.1, "norm:\nscale"), (8, 1e-9, 0.1, "shortcut:\ndirections")):
        ax.annotate("", (x, high), (x, low), arrowprops={"arrowstyle": "-|>", "facecolor": COLORS["ink"]})
        ax.text(x + 0.15, 1e-7, gain)
    ax.set(yscale="log", xlabel="direction, from the most to the least stretched", ylabel="stretched by")
    ax.set(ylim=(1e-21, 1e4), xticks=range(16))
    ax.set_title("The norm keeps the scale, the shortcut keeps the directions")
    return fig


def draw_gradients(plain, shortcuts):
    """A figure of gradients (starts, layers): medians, and bands from the 10th to the 90th percentile."""
    fig, ax = plt.subplots(figsize=(7.3, 3.0))
    for values, kind, marker in ((plain, "plain", "o"), (shortcuts, "shortcuts only", "s")):
        style, layers = NETWORKS[kind], range(values.shape[1])
        low, middle, high = values.quantile(torch.tensor([0.1, 0.5, 0.9]), dim=0)
        ax.fill_between(layers, low, high, color=style["color"], alpha=0.2, linewidth=0)
        ax.semilogy(middle, marker=marker, **style)
    ax.text(0.1, 0.12, "with shortcuts", color=NETWORKS["shortcuts only"]["color"])
    ax.text(0.3, 2.5e-3, "plain", color=NETWORKS["plain"]["color"])
    ax.set(xlabel="layer", ylabel="mean |gradient|", xticks=range(plain.shape[1]))
    ax.set_title("With shortcuts, the gradient reaches layer 0")
    return fig
