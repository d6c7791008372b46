"""The plots of the notebook on fast generation, drawn from what its cells compute."""

from figures.drawing import COLORS, plt
from figures.shapes import SMALL, box, canvas, label, shown

LOOKS = (  # of the three ways, from the slowest
    {"color": COLORS["ink"], "linestyle": "--"},
    {"color": COLORS["embedding"], "linestyle": ":"},
    {"color": COLORS["norm"], "linewidth": 3.5},
)
PLACES = {  # of a curve's name: at which share of the text, how far to the right, and how it is aligned
    "the simple loop": (0.7, -40, {"ha": "right", "va": "center"}),
    "last position only": (0.5, 50, {"va": "top"}),
    "with a cache": (0.45, 0, {"va": "bottom"}),
}


def draw_costs(costs):
    """A figure of what each way costs, {name: multiplications for one more token at each length of text}."""
    fig, axes = plt.subplots(1, 2, figsize=(7.3, 3.3))
    for (name, each), look in zip(costs.items(), LOOKS, strict=True):
        for ax, values in zip(axes, (each / 1e9, each.cumsum(0) / 1e12), strict=True):
            ax.plot(range(1, len(each) + 1), values, **look)
            share, x, align = PLACES[name]
            i = int(share * len(each))
            ax.text(i + x, values[i], name, color=look["color"], fontsize=9, **align)
    axes[0].set(ylabel="billions of multiplications", title="for one more token")
    axes[1].set(ylabel="thousands of billions", title="for the whole text")
    for ax in axes:
        ax.set_title(ax.get_title(), fontsize=10, weight="normal")
        ax.set_xlabel("tokens in the text")
        ax.set_ylim(bottom=0)
    fig.suptitle("With a cache, a token costs nearly the same at any length", weight="bold", fontsize=11)
    return fig


def draw_passes(passes):
    """A figure with a row for each pass of a model over (guesses, how many it accepts, the token it adds)."""
    pitch, wide = 0.36, 1.14
    fig, ax = canvas(pitch * len(passes) + 0.98)
    top = ax.get_ylim()[1] - 0.86
    title = "Each pass of the model checks all guesses, and adds one token of its own"
    label(ax, 0.1, top + 0.66, title, ha="left", bold=True, size=11)
    label(ax, 0.72, top + 0.3, "guesses of the draft", ha="left", size=SMALL)
    label(ax, 6.6, top + 0.3, "the model's own", size=SMALL)
    for row, (guesses, accepted, own) in enumerate(passes):
        y = top - pitch * row
        label(ax, 0.1, y, f"pass {row}", ha="left", size=SMALL)
        for place, piece in enumerate(guesses):
            x, good = 0.72 + (place + 0.5) * (wide + 0.08), place < accepted
            look = {"strength": 0.35} if good else {"strength": 0.05, "dashed": True, "line": 0.8}
            words = shown(piece, wide - 0.34) + (" ✓" if good else " ✗")
            color = COLORS["ink"] if good else "#666666"
            box(
                ax,
                x,
                y,
                wide,
                0.28,
                "feed_forward" if good else "text",
                words,
                size=SMALL,
                color=color,
                **look,
            )
        box(ax, 6.6, y, wide, 0.28, "attention", shown(own, wide - 0.1), size=SMALL, strength=0.6, line=2)
    return fig
