"""The plots of 4.7, drawn from what its cells compute."""

from figures.drawing import COLORS, plt


def draw_shares(names, panels, point=None):
    """A figure with a bar chart for each of the `panels`, {title: probabilities}, of the same candidates.

    The last of the `names` stands for all others; `point` is the title.
    """
    fig, axes = plt.subplots(1, len(panels), figsize=(7.3, 3.0), sharex=True, sharey=True, squeeze=False)
    for ax, (title, values) in zip(axes[0], panels.items(), strict=True):
        bars = ax.barh(names, values, color=COLORS["output"])
        bars[-1].set(facecolor=COLORS["text"], hatch="////", edgecolor="white")
        ax.bar_label(bars, [f"{value:.2f}" if value > 0 else "–" for value in values], padding=2, size=9)
        ax.set_title(title, size=9.5, weight="normal")
        ax.set(xlim=(0, 1.1), xticks=(0, 0.5, 1), xticklabels=("0", ".5", "1"))
    axes[0, 0].invert_yaxis()  # the best on top
    fig.suptitle(point, size=11, weight="bold")
    fig.supxlabel("probability", size=10)
    return fig
