"""The plots of the notebook on fast generation, drawn from what its cells compute."""

from figures.drawing import COLORS, plt
from figures.shapes import SMALL, box, canvas, label, shown

LOOKS = (  # of the three ways, from the slowest
    {"color": COLORS["ink"], "linestyle": "--"},
    {"color": COLORS["embedding"], "linestyle": ":"},
    {"color": COLORS["norm"], "linewidth": 3.5},
)
PLACES = {  # of a curve's name: at which share of the text, how far to the right and up, how it is aligned
    "the simple loop": (0.7, -40, 0, {"ha": "right", "va": "center"}),
    "last position only": (0.5, 50, 0, {"va": "top"}),
    "with a cache": (0.42, 0, 0.035, {"va": "bottom"}),
}


def draw_costs(costs):
    """A figure of what each way costs, {name: multiplications for one more token at each length of text}."""
    fig, axes = plt.subplots(1, 2, figsize=(7.3, 3.3))
    highest = max(each.max() for each in costs.values()), max(each.sum() for each in costs.values())
    for (name, each), look in zip(costs.items(), LOOKS, strict=True):
        share, x, y, align = PLACES[name]
        i = int(share * len(each))
        for ax, values, top, unit in zip(axes, (each, each.cumsum(0)), highest, (1e9, 1e12), strict=True):
            ax.plot(range(1, len(each) + 1), values / unit, **look)
            style = {"color": look["color"], "fontsize": 9}
            ax.text(i + x, (values[i] + y * top) / unit, name, **style, **align)
            end, places = (values[-1] / unit).item(), 0 if values[-1] > unit else 2
            ax.text(
                len(each) + 25,
                end,
                f"{end:.{places}f}",
                va="center" if places == 0 else "bottom",
                weight="bold",
                **style,
            )
    axes[0].set(ylabel="billions of multiplications", title="for one more token")
    axes[1].set(ylabel="trillions of multiplications", title="for the whole text")
    for ax in axes:
        ax.set_title(ax.get_title(), fontsize=10, weight="normal")
        ax.set(xlabel="tokens in the text", xlim=(0, 1200), xticks=range(0, 1001, 250))
        ax.set_ylim(bottom=0)
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
