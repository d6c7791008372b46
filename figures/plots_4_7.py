"""The plots of 4.7, drawn from what its cells compute."""

import torch

from figures.computed import continuation_tree, generation_step
from figures.drawing import COLORS, plt


def draw_step(tokenizer, ids, logits, others):
    """A figure of one step after the tokens `ids` (T,): the two best by `logits` (V,), and some `others`."""
    probabilities = logits.softmax(dim=-1)
    ranking = probabilities.argsort(descending=True).tolist()  # the best token first
    candidates = []
    for token in ranking[:2] + [tokenizer.encode(word)[0] for word in others]:
        scores = (logits[token].item(), probabilities[token].item())
        candidates.append((tokenizer.decode([token]), token, ranking.index(token) + 1, *scores))
    pieces = [tokenizer.decode([token]) for token in ids.tolist()]
    return generation_step(pieces, ids.tolist(), candidates, blind=1 / len(logits))


@torch.no_grad()
def draw_tree(model, vocabulary, opening, paths, products, greedy):
    """A figure of the eight most probable `paths` (N, T) that continue the text `opening` by three tokens.

    `products` (N,) are their probabilities, and `greedy` (1, T) is the path that greedy decoding takes.
    """
    best = paths[products.topk(8).indices]  # (8, T)
    p = model(best)[:, -4:-1].softmax(dim=-1)  # (8, 3, V)
    steps = p.gather(2, best[:, -3:, None])[..., 0]  # (8, 3): the probability of each step
    assert torch.allclose(steps.prod(dim=-1), products.topk(8).values)
    chosen = [*best[:, -3:].tolist(), greedy[0, -3:].tolist()]
    *branches, way = [[vocabulary[token].strip() for token in path] for path in chosen]
    note = f"Shown: the 8 most probable of all {len(paths):,} continuations of three tokens."
    return continuation_tree(opening, list(zip(branches, steps.tolist(), strict=True)), way, note)


def draw_shares(panels, vocabulary, best, point=None, decimals=17):
    """A figure with a bar chart for each of the `panels`, {title: probabilities (V,)}.

    The tokens `best` have a bar each, and all others one together; `point` is the title. With few `decimals`,
    the last bits of a value, which differ between machines, change no picture.
    """
    names = [*(vocabulary[token].strip() for token in best), f"{len(vocabulary) - len(best)} others"]
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    size, layout = (7.3, 0.7 + 1.75 * rows), {"sharex": True, "sharey": True, "squeeze": False}
    fig, axes = plt.subplots(rows, columns, figsize=size, **layout)
    for ax, (title, p) in zip(axes.flat, panels.items(), strict=False):
        values = [*p[best].tolist(), p.index_fill(0, best, 0.0).sum().item()]
        values = [round(value, decimals) for value in values]
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
