"""The influence grid: which token moves which output. 4.1, 4.5 and 4.6 draw it."""

import matplotlib.pyplot as plt
from matplotlib.patches import Rectangle

from figures.drawing import COLORS
from figures.shapes import shown


def draw_influence(*grids, titles, tokens=None, leaks=False, read="output", note=None):
    """A figure with a square for each position (row) and token (column), filled where one moves the other.

    `grids` are bool tensors (T, T), as `compare.influence` returns them, drawn side by side. With `leaks`,
    the squares in which a later token moves an earlier position are hatched. `read` names
    what is read at each position, and the `note` goes below.
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
    if note:
        fig.supxlabel(note, fontsize=10)
    return fig


def label_cells(ax, rows, columns):
    """Label the rows, from the top down, and the columns of a table, and draw nothing else around it."""
    ax.set_xticks([j + 0.5 for j in range(len(columns))], columns)
    ax.set_yticks([i + 0.5 for i in range(len(rows))], rows)
    ax.invert_yaxis()
    ax.grid(False)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
