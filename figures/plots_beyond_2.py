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


def draw_schedule(rates, warmup):
    """A figure of the learning rate at each step, with its `warmup` marked."""
    fig, ax = plt.subplots(figsize=(7.3, 2.6))
    ax.axvspan(0, warmup, color=COLORS["attention"], alpha=0.25, linewidth=0)
    ax.plot(rates, color=BLUE)
    peak = max(rates)
    ax.text(warmup + 8, 0.08 * peak, f"← warm-up: {warmup} steps", va="center")
    ax.text(0.62 * len(rates), 0.68 * peak, "cosine decay", color=BLUE)
    title = "A short warm-up, then a long decay"
    ax.set(xlabel="step", ylabel="learning rate", ylim=(0, 1.1 * peak), xlim=(0, len(rates)), title=title)
    return fig


def draw_learning(losses, val_losses, lines, smooth=20):
    """A figure of training losses, averaged over `smooth` steps, and validation losses {step: loss}.

    `lines` {words: loss} are drawn across; the axis on the right has the perplexities.
    """
    fig, ax = plt.subplots(figsize=(7.3, 3.8))
    steps = len(losses)
    for words, height in lines.items():
        ax.axhline(height, color=GRAY, linestyle="--", linewidth=1.4)
        ax.text(steps, height + 0.1, words, ha="right", fontsize=9)
    parts = [losses[i : i + smooth] for i in range(0, steps, smooth)]
    averaged = [sum(part) / len(part) for part in parts]
    ax.plot([i + smooth / 2 for i in range(0, steps, smooth)], averaged, color=BLUE)
    ax.plot(val_losses.keys(), val_losses.values(), "o", color=RED, markersize=6)
    ax.text(steps, averaged[-1] - 0.7, "training", color=BLUE, ha="right")
    ax.text(steps, val_losses[steps] + 0.35, "validation", color=RED, ha="right")
    title = "Training falls faster than validation"
    ax.set(xlabel="step", ylabel="nats per token", ylim=(2, 9), title=title)
    right = ax.secondary_yaxis("right")
    perplexities = (10, 30, 100, 300, 1000, 3000)
    right.set_yticks([math.log(p) for p in perplexities], [f"{p:,}" for p in perplexities])
    right.set_ylabel("perplexity")
    return fig
