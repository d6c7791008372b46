"""The plots of 4.2, drawn from what its cells compute."""

import matplotlib.pyplot as plt
import torch

from figures.drawing import COLORS

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
    axes[0].text(35, 0.425, "gain 1.0: ten stacks", ha="center", va="center")
    axes[0].text(8, 0.43, "gain 0.9", va="center")
    axes[0].set(title="Without the norm", xlabel="layer", ylabel="standard deviation")
    axes[1].set(
        title="With the norm: all 30 stacks stay level", xlabel="layer", xlim=(0, 49), ylim=(0.4, 1.6)
    )
    return fig


def draw_training(without, with_norm, gains):
    """A figure with a panel for each gain: losses (steps, starts, gains) without and with the norm."""
    fig, axes = plt.subplots(1, len(gains), figsize=(7.3, 3.6), sharey=True)
    for i, (ax, gain) in enumerate(zip(axes, gains, strict=True)):
        ax.semilogy(without[:, :, i], "--", color=COLORS["ink"], linewidth=1.3)
        ax.semilogy(with_norm[:, :, i], color=COLORS["norm"])
        ax.set(title=f"Gain {gain:g}", xlabel="step", xlim=(0, len(without)), ylim=(0.03, 10))
    axes[0].set_ylabel("loss (logarithmic)")
    axes[0].text(97, 2.6, "without", ha="right")
    axes[1].text(97, 2.6, "without", ha="right")
    first, last = (float(f"{without[step, :, 2].min():.1g}") for step in (0, -1))
    axes[2].text(
        50, 5, f"without: out of view,\nfrom over {first:,.0f}\nto over {last:.0f}", ha="center", va="center"
    )
    fig.suptitle("With layer norm, all nine stacks learn", size=11, weight="bold")
    return fig


def draw_stream(stds):
    """A figure of the standard deviation of the residual stream after each part is added to it."""
    fig, ax = plt.subplots(figsize=(7.3, 2.7))
    ax.plot(range(len(stds)), range(1, len(stds) + 1), "--", color=COLORS["dropout"])
    ax.plot(stds, color=COLORS["shortcut"], linewidth=5)
    ax.plot([(1 + n) ** 0.5 for n in range(len(stds))], ":", color="white", linewidth=2)
    ax.text(1.01 * (len(stds) - 1), len(stds), "if standard\ndeviations added", va="center")
    ax.text(1.01 * (len(stds) - 1), stds[-1], "the residual\nstream", color=COLORS["shortcut"], va="center")
    ax.text(0.55 * len(stds), 5.6, "dotted: √(1 + parts added)", ha="center")
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
