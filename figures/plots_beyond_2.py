"""The plots of the notebook on training, drawn from what its cells compute."""

import math

from figures.drawing import COLORS, plt

BLUE, RED, GRAY = COLORS["norm"], COLORS["shortcut"], COLORS["dropout"]


def draw_memorizing(losses, guessing, recited):
    """A figure of the loss on one page, the loss of `guessing`, and the steps at which it is `recited`."""
    fig, ax = plt.subplots(figsize=(7.3, 2.9))
    ax.axhline(guessing, color=GRAY, linestyle="--")
    ax.text(len(losses) - 2, guessing + 0.1, f"blind guessing: ln 51 ≈ {guessing:.2f}", ha="right")
    ax.plot(losses, color=BLUE)
    for step in recited:
        place = (step, losses[step])
        ax.plot(*place, "o", color=RED, markersize=8)
        look = {"color": RED, "va": "center", "arrowprops": {"arrowstyle": "-", "color": RED}}
        ax.annotate(f"at step {step}, it recites the whole page", place, (step + 8, 1.3), **look)
    title = "A tiny GPT memorizes one page"
    top = max(4.6, 1.05 * max(losses))
    ax.set(xlabel="step", ylabel="nats per token", ylim=(0, top), title=title)
    return fig


def draw_step_0(start, guessing):
    """A figure of the losses at step 0, {name of a fresh model: loss}, and the loss of `guessing`."""
    fig, ax = plt.subplots(figsize=(7.3, 2.5))
    for i, loss in enumerate(start.values()):
        look = {"color": RED, "hatch": "//"} if loss > 2 * guessing else {"color": BLUE}
        ax.barh(i, loss, 0.6, edgecolor="white", **look)
        ax.text(loss + 1, i, f"{loss:.1f}", va="center")
    ax.axvline(guessing, color=GRAY, linestyle="--")
    ax.text(guessing + 1, -0.62, f"blind guessing: {guessing:.1f}", va="center")
    ax.set(yticks=range(len(start)), yticklabels=start, ylim=(len(start) - 0.5, -1), xlim=(0, 100))
    ax.set(
        title="A tied head with large embeddings starts sure, and wrong",
        xlabel="loss at step 0, nats per token",
    )
    ax.grid(axis="y", visible=False)
    return fig


def averages(losses, size):
    """The means of `size` losses each, and the steps in the middle of them."""
    starts = range(0, len(losses), size)
    parts = [losses[i : i + size] for i in starts]
    return [i + size / 2 for i in starts], [sum(part) / len(part) for part in parts]


def draw_plain(runs, smooth=8):
    """A figure of the losses of two `runs` {name: losses}, averaged over `smooth` steps."""
    fig, ax = plt.subplots(figsize=(7.3, 3.1))
    for (name, losses), (color, style) in zip(runs.items(), ((BLUE, "--"), (RED, "-")), strict=True):
        where, means = averages(losses, smooth)
        ax.plot([0, *where], [losses[0], *means], linestyle=style, color=color)
        ax.text(where[-1] + 1, means[-1], name, color=color, va="center")
    ax.set(xlabel="step", ylabel="nats per token", xlim=(0, 1.16 * len(losses)), ylim=(4.8, 8.6))
    ax.set(xticks=range(0, len(losses) + 1, 20), title="With warm-up, the loss starts slower and ends lower")
    ax.text(0.98, 0.95, f"means of {smooth} steps", transform=ax.transAxes, ha="right", va="top", fontsize=9)
    return fig


def draw_learning(losses, val_losses, guessing, smooth=20):
    """A figure of training losses, averaged over `smooth` steps, and validation losses {step: loss}.

    The loss of blind `guessing` is marked; the axis on the right has the perplexities.
    """
    fig, ax = plt.subplots(figsize=(7.3, 3.8))
    steps = len(losses)
    ax.axhline(guessing, color=GRAY, linestyle="--", linewidth=1.4)
    ax.text(steps, guessing + 0.1, "blind guessing, ln V", ha="right", fontsize=9)
    where, averaged = averages(losses, smooth)
    ax.plot([0, *where], [losses[0], *averaged], color=BLUE)
    ax.plot(val_losses.keys(), val_losses.values(), "o", color=RED, markersize=6)
    ax.text(steps, averaged[-1] - 0.5, "training", color=BLUE, ha="right")
    ax.text(steps, val_losses[steps] + 0.35, "validation", color=RED, ha="right")
    title = "The training loss falls faster than the validation loss"
    ax.set(xlabel="step", ylabel="nats per token", ylim=(3, 9), title=title)
    right = ax.secondary_yaxis("right")
    perplexities = (30, 100, 300, 1000, 3000)
    right.set_yticks([math.log(p) for p in perplexities], [f"{p:,}" for p in perplexities])
    right.set_ylabel("perplexity")
    return fig
