"""The plots of 4.6, drawn from what its cells compute."""

import matplotlib.pyplot as plt

from figures.computed import weight_tying
from figures.drawing import COLORS
from figures.shapes import tint


def draw_tying(pieces, rows, h):
    """A figure of the tied model: the final vector `h` (D,), compared with the `rows` (n, D) of n tokens."""
    scores = rows @ h
    best = scores.argmax().item()
    features = rows[best].abs().topk(4).indices  # four of all D
    return weight_tying(pieces, rows[:, features], h[features], scores, best)


def draw_starts(cases, guessing):
    """A figure of fresh models, {name: (loss, correlation of their answers to two texts)}: do they read?"""
    fig, (left, right) = plt.subplots(1, 2, figsize=(7.3, 2.7), sharey=True)
    ink, blue, red = COLORS["ink"], COLORS["norm"], COLORS["shortcut"]
    for i, (loss, correlation) in enumerate(cases.values()):
        left.semilogx(loss, i, "o", color=ink, markersize=8)
        left.annotate(f"{loss:.1f}", (loss, i), (9, -4), textcoords="offset points")
        right.plot(correlation, i, "s", color=blue, markersize=8)
        side, shift = ("right", -9) if correlation > 0.9 else ("left", 9)
        look = {"textcoords": "offset points", "ha": side}
        right.annotate(f"{correlation:.2f}", (correlation, i), (shift, -4), **look)
    left.axvline(guessing, color=red, linestyle="--", linewidth=1.6, zorder=5)
    left.text(1.1 * guessing, -0.6, f"guessing: {guessing:.1f}", color=red, va="center")
    left.set(title="Loss at step 0", xlim=(5, 1500), xticks=(10, 100, 1000), xticklabels=(10, 100, 1000))
    left.set(xlabel="cross-entropy (logarithmic)")
    left.minorticks_off()
    left.set(yticks=range(len(cases)), yticklabels=cases, ylim=(len(cases) - 0.5, -0.9))
    right.axvline(1, color=red, linestyle="--", linewidth=1.6)
    right.text(0.97, -0.6, "1: can't tell them apart", color=red, ha="right", va="center")
    right.set(title="Two texts, one answer?", xlim=(0, 1.08), xlabel="correlation of their logits")
    return fig


def draw_growth(without, with_factor):
    """A figure of the residual stream over the blocks: its standard deviations without the factor 1/√N, and
    those with it in {depth: values}."""
    fig, ax = plt.subplots(figsize=(7.3, 3.4))
    ax.plot(without, "--", color=COLORS["shortcut"])
    ax.text(5.4, without[8], "without the factor", ha="right", color=COLORS["shortcut"])
    for (depth, stds), marker in zip(with_factor.items(), "osD", strict=True):
        ax.plot(stds, color=COLORS["norm"])
        side = "right" if depth == 12 else "center"
        looks = (without, "shortcut", ""), (stds, "norm", f"{depth} blocks: ")
        for values, component, words in looks:
            place = {"xytext": (0, 9), "textcoords": "offset points", "ha": side, "color": COLORS[component]}
            ax.plot(depth, values[depth], marker, color=COLORS[component], markersize=7)
            ax.annotate(f"{words}{values[depth]:.1f}", (depth, values[depth]), **place)
    ax.text(8.6, 0.62, "with 1/√N for its own depth", ha="center", color=COLORS["norm"], weight="bold")
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
    ax.plot([16, 16], [-0.5, len(counts) - 0.6], "--", color=COLORS["ink"], linewidth=1.6)
    ax.text(16.2, 0, "16 GB", va="center")
    ax.set(
        title="Training takes 16 bytes per parameter, four times the weights",
        xlabel="GB (2³⁰ bytes): float32, untied, without activations",
    )
    ax.set(yticks=range(len(counts)), yticklabels=counts, ylim=(-0.5, len(counts) + 0.2), xlim=(0, 28))
    ax.grid(axis="y", visible=False)
    return fig
