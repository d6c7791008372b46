"""The plots of 4.7, drawn from what its cells compute."""

from figures.drawing import COLORS, plt


def draw_shares(names, panels, point=None):
    """A figure with a bar chart for each of the `panels`, {title: probabilities}, of the same candidates.

    The last of the `names` stands for all others together; `point` is the title.
    """
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    size, layout = (7.3, 0.7 + 1.75 * rows), {"sharex": True, "sharey": True, "squeeze": False}
    fig, axes = plt.subplots(rows, columns, figsize=size, **layout)
    for ax, (title, values) in zip(axes.flat, panels.items(), strict=False):
        bars = ax.barh(names, values, color=COLORS["output"])
        bars[-1].set(facecolor=COLORS["text"], hatch="////", edgecolor="white")
        ax.bar_label(bars, [f"{value:.2f}" if value > 0 else "cut" for value in values], padding=3, size=9)
        ax.set_title(title, size=10, weight="normal")
        ax.set(xlim=(0, 1.15 if len(panels) == 1 else 1.0), xticks=(0, 0.25, 0.5, 0.75))
        ax.xaxis.set_tick_params(labelbottom=True)
    for ax in axes.flat[len(panels) :]:
        ax.axis("off")
    axes[0, 0].invert_yaxis()  # the best on top
    fig.suptitle(point, size=11, weight="bold")
    fig.supxlabel("probability", size=10)
    return fig
