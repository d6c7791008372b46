"""The plots of the notebook on fast generation, drawn from what its cells compute."""

from figures.drawing import COLORS, plt
from figures.shapes import SMALL, box, canvas, label, shown

LOOKS = (  # of the three ways, from the slowest
    {"color": COLORS["ink"], "linestyle": "--"},
    {"color": COLORS["embedding"], "linestyle": ":"},
    {"color": COLORS["norm"], "linewidth": 3.5},
)
PLACES = {  # of a curve's name, in each panel: tokens, multiple of the value there, alignment
    "the simple loop": ((50, 1.4, "right"), (640, 1.2, "right")),
    "last position only": ((18, 0.36, "left"), (600, 0.72, "left")),
    "with a cache": ((1, 0.62, "left"), (330, 62, "left")),
}
HEIGHTS = {"the simple loop": 4, "last position only": -4}  # of a curve's last value, in points


def draw_costs(costs):
    """A figure of what each way costs, {name: multiplications for one more token at each length of text}."""
    fig, axes = plt.subplots(1, 2, figsize=(7.3, 3.4))
    for (name, each), look in zip(costs.items(), LOOKS, strict=True):
        thin = [*range(0, len(each) - 1, 16), len(each) - 1]  # a smooth curve needs no more points
        style = {"color": look["color"], "fontsize": 9, "va": "center"}
        panels = ((each, 1e9, "billion"), (each.cumsum(0), 1e12, "trillion"))
        for ax, (values, unit, word), (S, factor, align) in zip(axes, panels, PLACES[name], strict=True):
            values = (values / unit).tolist()
            ax.plot([i + 1 for i in thin], [values[i] for i in thin], **look)
            ax.text(S, values[S - 1] * factor, name, ha=align, **style)
            end = f"{values[-1]:.0f} {word}" if values[-1] > 1 else f"{values[-1]:.2f} {word}"
            place = (len(values), values[-1]), (6, HEIGHTS.get(name, 4) if ax is axes[0] else 3)
            ax.annotate(end, *place, textcoords="offset points", weight="bold", **style)
    left, right = axes
    left.set(xscale="log", yscale="log", xlim=(0.9, 24000), ylim=(0.05, 300))
    left.set(xticks=(1, 10, 100, 1000), xticklabels=("1", "10", "100", "1,000"))
    left.set(yticks=(0.1, 1, 10, 100), yticklabels=("0.1", "1", "10", "100"))
    left.minorticks_off()
    slow, *_, fast = ((len(each), each[-1].item() / 1e9) for each in costs.values())
    left.annotate("", slow, fast, arrowprops={"arrowstyle": "<->", "shrinkA": 3, "shrinkB": 1})
    left.text(1300, 4, f"{slow[1] / fast[1]:,.0f} times", fontsize=9, va="center")
    right.set(xlim=(0, 1560), xticks=(0, 250, 500, 750, 1000), ylim=(0, None))
    right.set_xticklabels(("0", "250", "500", "750", "1,000"))
    left.set(xlabel="tokens in the text (log scale)", ylabel="multiplications, billions (log scale)")
    right.set(xlabel="tokens in the text", ylabel="multiplications, trillions")
    left.set_title("for one more token", fontsize=10, weight="normal")
    right.set_title("for the whole text", fontsize=10, weight="normal")
    fig.suptitle("With a cache, a token costs nearly the same at any length", weight="bold", fontsize=11)
    return fig


def draw_passes(words, start, accepted, guesses_after):
    """A figure with a row for each pass that extends the first `start` of `words`.

    Pass i accepts the first accepted[i] of guesses_after(T), where T counts the words so far.
    """
    pitch, deep, wide = 0.36, 0.28, 1.13
    fig, ax = canvas(pitch * len(accepted) + 1.1)
    top = ax.get_ylim()[1] - 0.86
    title = "Each pass checks four guesses, and adds one token of the model's own"
    label(ax, 0.08, top + 0.66, title, ha="left", bold=True, size=11)
    heads = ((0.08, "pass"), (0.44, "follows"), (1.52, "guesses of the draft: "), (6.28, "the model's own"))
    for x, head in heads:
        label(ax, x, top + 0.3, head, ha="left", size=SMALL)
    keys = ((3.18, "accepted"), (4.36, "wrong"), (5.54, "discarded"))
    LOOK = {
        "accepted": ("feed_forward", {"strength": 0.35}),
        "wrong": ("shortcut", {"strength": 0.0, "line": 2}),
        "discarded": ("text", {"strength": 0.05, "dashed": True, "line": 0.8, "color": "#666666"}),
    }

    def guess(x, y, kind, text, wide=wide):
        component, look = LOOK[kind]
        box(ax, x, y, wide, deep, component, text, size=SMALL, **look)

    for x, kind in keys:
        guess(x + 0.2, top + 0.3, kind, kind, wide=0.9)
    for row, n in enumerate(accepted):
        y, guesses = top - 0.06 - pitch * row, guesses_after(start)
        label(ax, 0.16, y, f"{row}", ha="left", size=SMALL)
        label(ax, 1.42, y, shown(words[start - 1]), ha="right", size=SMALL)
        for place, piece in enumerate(guesses):
            kind = "accepted" if place < n else "wrong" if place == n else "discarded"
            guess(1.52 + wide / 2 + place * (wide + 0.06), y, kind, shown(piece))
        box(ax, 6.76, y, 0.96, deep, "attention", shown(words[start + n]), size=SMALL, strength=0.6, line=2)
        start += n + 1
    return fig
