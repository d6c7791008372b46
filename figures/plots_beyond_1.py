"""The plots of the notebook on released weights."""

import torch

from figures.drawing import COLORS, plt


def draw_next(panels, prompt):
    """The most probable next tokens: each title maps to their names and their multiples of a blind guess."""
    fig, axes = plt.subplots(1, len(panels), figsize=(7.3, 3.8), sharex=True)
    for ax, (title, (names, factors)) in zip(axes, panels.items(), strict=True):
        ax.plot(factors, range(len(names)), "o", color=COLORS["norm"], markersize=7)
        for place, factor in enumerate(factors):
            ax.text(
                factor * 1.6, place, f"{factor:,.1f} ×" if factor < 10 else f"{factor:,.0f} ×", va="center"
            )
        ax.axvline(1, color=COLORS["ink"], linestyle="--", linewidth=1)
        ax.set_yticks(range(len(names)), names, parse_math=False)
        ax.set(xscale="log", xlim=(0.2, 2e7), title=title)
        ax.set_xticks([1, 100, 10_000], ["1", "100", "10,000"])
        ax.tick_params(axis="x", which="minor", bottom=False)
        ax.grid(visible=False)
        ax.invert_yaxis()
    fig.supxlabel(
        f"probability × 50,257 after “{prompt}” (dashed: a blind guess)", fontsize=10, parse_math=False
    )
    return fig


def draw_neighbors(panels, chance):
    """Histograms of cosine similarities by title; dashed lines mark the range that chance gives."""
    fig, axes = plt.subplots(len(panels), 1, figsize=(7.3, 4), sharex=True)
    for ax, (title, similarities) in zip(axes, panels.items(), strict=True):
        ax.hist(similarities, bins=100, range=(-1, 1), color=COLORS["embedding"])
        ax.plot(similarities.max(), 0.06 * ax.get_ylim()[1], "v", color=COLORS["ink"], markersize=7)
        for side in (-chance, chance):
            ax.axvline(side, color=COLORS["ink"], linestyle="--", linewidth=1)
        ax.set(
            title=f"{title}: median {similarities.median():.2f}, closest {similarities.max():.2f}",
            ylabel="tokens",
            xlim=(-1, 1.02),
            yticks=[],
        )
        ax.grid(visible=False)
    axes[0].text(
        -chance - 0.02,
        0.9 * axes[0].get_ylim()[1],
        "dashed: ± 4 standard\ndeviations of chance\n▼ the closest token",
        ha="right",
        va="top",
    )
    axes[-1].set_xlabel("cosine similarity")
    return fig


def draw_positions(tables):
    """The path through the rows of each of `tables`, (T, D), in the plane in which they vary most."""
    fig, axes = plt.subplots(1, len(tables), figsize=(7.3, 2.9))
    for ax, (title, table) in zip(axes, tables.items(), strict=True):
        plane = main_plane(table)
        ax.plot(*plane.T, color=COLORS["embedding"], linewidth=0.8)
        for place, color, marker in ((0, "norm", "o"), (len(plane) - 1, "shortcut", "s")):
            style = {"color": COLORS[color], "markeredgecolor": "white", "markersize": 8, "linestyle": ""}
            ax.plot(*plane[place], marker, label=f"position {place:,}", **style)
        ax.set(title=title, xticks=[], yticks=[])
    axes[0].set(xlabel="first principal component", ylabel="second principal component")
    axes[-1].legend(loc="center")
    return fig


def main_plane(table):
    """The rows of `table`, projected onto the plane in which they vary most."""
    centered = (table - table.mean(dim=0)).double()
    axes = torch.linalg.svd(centered, full_matrices=False).Vh[:2]
    largest = axes.gather(1, axes.abs().argmax(dim=1, keepdim=True))
    return centered @ (axes * largest.sign()).T  # the sign of an axis is arbitrary, so we fix it
