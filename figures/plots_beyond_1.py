"""The plots of the notebook on released weights."""

from figures.drawing import COLORS, plt


def draw_next(names, factors, prompt, which):
    """Bars for the most probable next tokens, whose probabilities are `factors` times a blind guess."""
    fig, ax = plt.subplots(figsize=(7.3, 3.7))
    places = range(len(names))
    for bar in ax.barh(places, factors, color=COLORS["output"]):
        y = bar.get_y() + bar.get_height() / 2
        ax.text(bar.get_width(), y, f" {bar.get_width():,.1f} ×", va="center")
    ax.axvline(1, color=COLORS["ink"], linestyle="--")
    ax.set_yticks(places, names, parse_math=False)
    ax.invert_yaxis()
    ax.margins(x=0.12)
    ax.set_title(f"With {which}, the favorite gets {factors[0]:,.1f} times a blind guess")
    ax.set_xlabel(f"× a blind guess (dashed), after “{prompt}”", parse_math=False)
    return fig


def draw_neighbors(similarities, word, closest, emb_dim, which):
    """How similar all tokens are to `word`, with the most similar one and the range that chance gives."""
    chance = 4 / emb_dim**0.5
    fig, ax = plt.subplots(figsize=(7.3, 2.8))
    best = similarities.max().item()
    right = max(0.3, best + 0.2)
    ax.hist(similarities, bins=int(100 * (right + 0.3)), range=(-0.3, right), color=COLORS["embedding"])
    top = ax.get_ylim()[1]
    for side in (-chance, chance):
        ax.axvline(side, color=COLORS["ink"], linestyle="--")
    ax.text(-chance - 0.005, 0.9 * top, "4 standard\ndeviations\nof chance", ha="right", va="top")
    arrow = {"arrowprops": {"arrowstyle": "->"}, "ha": "left", "va": "center", "parse_math": False}
    ax.annotate(f"closest: {closest!r}", (best, 0), (best + 0.02, 0.4 * top), **arrow)
    ax.set_title(f"With {which}, the token closest to {word!r} is at {best:.2f}", parse_math=False)
    ax.set(xlabel="cosine similarity", ylabel="tokens", xlim=(-0.3, right))
    return fig


def draw_positions(planes):
    """The path through the positions in each of `planes`, which maps a title to coordinates (T, 2)."""
    fig, axes = plt.subplots(1, len(planes), figsize=(7.3, 3.7))
    for ax, (title, plane) in zip(axes, planes.items(), strict=True):
        ax.plot(*plane.T, color=COLORS["embedding"], linewidth=0.8)
        for place, color, marker in ((0, "norm", "o"), (len(plane) - 1, "shortcut", "s")):
            style = {"color": COLORS[color], "markeredgecolor": "white", "markersize": 8, "linestyle": ""}
            ax.plot(*plane[place], marker, label=f"position {place:,}", **style)
        ax.set(title=title, xlabel="principal component 0", ylabel="principal component 1")
        ax.set(xticks=[], yticks=[])
    axes[-1].legend(loc="center")
    return fig
