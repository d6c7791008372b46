"""The plots of 4.3, drawn from what its cells compute."""

import matplotlib.pyplot as plt
import torch

from figures.drawing import COLORS


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
