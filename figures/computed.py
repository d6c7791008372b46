"""Diagrams of what a notebook has just computed."""

from figures.drawing import COLORS
from figures.shapes import (
    SMALL,
    WIDTH,
    across,
    arrow,
    box,
    canvas,
    edge,
    fit,
    frame,
    grid,
    label,
    line,
    rectangle,
    shown,
    token_box,
)


def generation_step(context_pieces, context_ids, candidates, chosen):
    """One step of generation: context, logits of its last position, probabilities, the chosen token.

    `candidates` are (piece, token id, logit, probability), the most probable first; `chosen` is a place
    among them.
    """
    context = list(zip(context_pieces, context_ids, strict=True))
    context = [("…", ""), *context[-5:]] if len(context) > 6 else context
    pitch, wide, tallest = 0.38, 1.34, max(len(context), len(candidates))
    fig, ax = canvas(pitch * (tallest + 1) + 1.65)
    top = ax.get_ylim()[1] - 0.62
    middle = top - pitch * tallest / 2 - 0.06
    largest = max(probability for *_, probability in candidates)
    thousandths = largest < 0.01

    def levels(count):
        return [middle + pitch * ((count - 1) / 2 - row) for row in range(count)]

    def panel(left, right, count, title, more=0.0):
        reach = pitch * count / 2 + 0.06
        frame(ax, left, middle - reach - more, right, middle + reach, "text", strength=0.12, line=0.8)
        label(ax, (left + right) / 2, top + 0.3, title, bold=True, size=9.5)
        return middle - reach - more

    slot = panel(0.1, 1.62, len(context), "context") - 0.24
    panel(2.64, 4.8, len(candidates), "logits of the\nlast position", 0.24)
    floor = panel(5.46, 7.2, len(candidates), "probabilities" + "\nin thousandths" * thousandths, 0.24)
    for y, (piece, token_id) in zip(levels(len(context)), context, strict=True):
        token_box(ax, 0.86, y, wide, "text", piece, token_id, strength=0.35)
    for place, (piece, token_id, logit, probability) in enumerate(candidates):
        y = levels(len(candidates))[place]
        look = {"strength": 0.6, "line": 2.4} if place == chosen else {"strength": 0.2, "line": 1}
        token_box(ax, 3.39, y, wide, "output", piece, token_id, **look)
        label(ax, 4.72, y, f"{logit:.3f}", ha="right", mono=True, size=SMALL)
        length = 0.82 * probability / largest
        rectangle(ax, 5.56, y - 0.11, length, 0.22, "output", **look)
        amount = f"{1000 * probability:.3f}" if thousandths else f"{probability:.4f}"
        label(ax, 5.62 + length, y, amount, ha="left", mono=True, size=SMALL)
    for x in (3.39, 5.97):
        label(ax, x, floor + 0.15, "⋮", size=12)
    across(ax, middle, (1.62, 1.86), (2.4, 2.64), (4.8, 5.0), (5.26, 5.46))
    box(ax, 2.13, middle, 0.54, 1.1, "ink", "GPT\nmodel", strength=0.08, bold=True, size=9.5)
    box(ax, 5.13, middle, 0.26, 0.9, "ink", "softmax", strength=0.08, rotation=90, size=9.5)
    box(ax, 6.33, 0.26, 0.9, 0.3, "ink", "argmax" if chosen == 0 else "sample", strength=0.08, size=9.5)
    arrow(ax, (6.33, floor), (6.33, 0.41))
    token_box(ax, 0.86, slot, wide, "output", *candidates[chosen][:2], strength=0.6, line=2.4)
    arrow(ax, (5.88, 0.26), (0.86, 0.26), (0.86, slot - 0.18), color=edge("output"), line=2)
    label(ax, 3.39, 0.4, "the chosen token joins the context (␣ is a space)", size=SMALL)
    return fig


def key_value_cache(pieces):
    """What one step computes for the last of `pieces`, without and with a key-value cache."""
    pitch, wide, count = 0.42, 1.02, len(pieces)
    fig, ax = canvas(pitch * count + 1.4)
    top = ax.get_ylim()[1] - 0.95
    halves = [(0.1, "without a cache: all anew", False), (3.75, "with a cache: one token", True)]
    for left, title, kept in halves:
        label(ax, left + 1.72, top + 0.72, title, bold=True)
        for x, head in ((0.52, "token"), (1.72, "key, value"), (2.92, "query")):
            label(ax, left + x, top + 0.34, head, size=SMALL)
        for place, piece in enumerate(pieces):
            y, last = top - pitch * place, place == count - 1
            new = last or not kept
            component = "attention" if new else "text"
            if new:
                box(ax, left + 0.52, y, wide, 0.32, "text", shown(piece), size=SMALL, strength=0.35)
                arrow(ax, (left + 0.52 + wide / 2, y), (left + 1.72 - wide / 2, y))
            else:
                label(ax, left + 0.52, y, shown(piece), size=SMALL, mono=True, color=COLORS["dropout"])
            words, strength = ("new", 0.5) if last else ("again", 0.15) if new else ("kept", 0.6)
            box(ax, left + 1.72, y, wide, 0.32, component, words, size=SMALL, strength=strength)
            if new:
                box(ax, left + 2.92, y, 0.86, 0.32, "attention", words, size=SMALL, strength=strength)
        y = top - pitch * (count - 1)
        for place in range(count):
            line(ax, (left + 2.49, left + 1.72 + wide / 2), (y, top - pitch * place), width=0.8)
        amount = "1 token" if kept else f"{count} tokens"
        label(ax, left + 1.72, y - 0.44, f"{amount} through every block", size=SMALL)
    return fig


def generation_loop(steps, first=1):
    """Generation iteration by iteration: `steps` are (context pieces, new piece), numbered from `first`."""
    start = len(steps[0][0])
    fitted = fit([*steps[0][0], *(new for _, new in steps)], start, WIDTH - 0.12 - 0.75)
    if fitted is None:  # too many tokens for one picture: show the later steps
        return generation_loop(steps[1:], first + 1)
    skip, names, widths, places = fitted
    pitch, high, top = 0.52, 0.32, 0.52 * len(steps) + 0.42
    fig, ax = canvas(top + 0.25)
    for x, component, strength, name in [(0.9, "text", 0.35, "context"), (2.0, "output", 0.6, "new token")]:
        box(ax, x, top, 0.3, 0.22, component, strength=strength)
        label(ax, x + 0.24, top, name, ha="left", size=SMALL)
    arrow(ax, (3.35, top + 0.11), (3.35, top - 0.11), color=edge("output"), line=2)
    label(ax, 3.5, top, "joins the context of the next step", ha="left", size=SMALL)
    label(ax, 7.15, top, "␣ is a space", ha="right", size=SMALL)
    for row, (context, _) in enumerate(steps):
        y = top - pitch * (row + 1) + 0.02
        newest = start + row
        label(ax, 0.12, y, f"step {first + row}", ha="left", size=SMALL)
        for place in range(max(skip, newest - len(context)), newest + 1):
            fresh = place == newest
            name = "…" if place == skip > newest - len(context) else names[place]
            look = {"strength": 0.6, "line": 2} if fresh else {"strength": 0.35, "line": 1}
            component = "output" if fresh else "text"
            box(ax, places[place] + 0.75, y, widths[place], high, component, name, size=SMALL, **look)
        if row + 1 < len(steps):
            x = places[newest] + 0.75
            arrow(ax, (x, y - high / 2), (x, y - pitch + high / 2), color=edge("output"), line=2)
    return fig


OURS = {  # layers of a released file, from the last one up: our names, component
    "wte": ("tok_emb, out_head", "embedding"),
    "wpe": ("pos_emb", "embedding"),
    "h.0.ln_1": ("norm1", "norm"),
    "h.0.attn.c_attn": ("att.W_query, att.W_key, att.W_value", "attention"),
    "h.0.attn.c_proj": ("att.out_proj", "attention"),
    "h.0.ln_2": ("norm2", "norm"),
    "h.0.mlp.c_fc": ("ff.layers[0]", "feed_forward"),
    "h.0.mlp.c_proj": ("ff.layers[2]", "feed_forward"),
    "ln_f": ("final_norm", "norm"),
}


def checkpoint(shapes):
    """How a released file becomes our model: a row for each layer outside the blocks and in block 0.

    `shapes` maps the names of the file's tensors to their shapes.
    """
    pitch, high = 0.42, 0.32
    fig, ax = canvas(pitch * len(OURS) + 0.45)
    top = ax.get_ylim()[1] - 0.6
    for x, title in ((0.22, "in the file"), (4.1, "in our model")):
        label(ax, x, top + 0.36, title, ha="left", bold=True)
    frame(ax, 0.08, top - 7 * pitch - 0.21, 7.22, top - 2 * pitch + 0.21, "block", strength=0.2)
    label(ax, 7.1, top - 2 * pitch, "trf_blocks[0]", ha="right", size=SMALL, mono=True)
    for row, (name, (ours, component)) in enumerate(OURS.items()):
        y, shape = top - pitch * row, shapes[f"{name}.weight"]
        size = " × ".join(f"{n:,}" for n in shape)
        box(ax, 1.5, y, 2.56, high, "text", name, size, size=SMALL, strength=0.35)
        step = "cut in 3, transpose" if "c_attn" in name else "transpose" if ".c_" in name else "copy"
        arrow(ax, (2.78, y - 0.05), (4.1, y - 0.05), color=edge(component))
        label(ax, 3.42, y + 0.09, step, size=SMALL)
        wide = 3.0 if "c_attn" in name else 1.6
        box(ax, 4.1 + wide / 2, y, wide, high, component, ours, size=SMALL, mono=True)
    return fig


def three_from_one(c_attn, pieces):
    """One c_attn, (D, 3D), and the three weights (D, D) that are cut out of it and transposed."""
    fig, ax = canvas(3.2)
    cell, D, colors = (0.46, 0.4), len(c_attn), ("output", "block", "feed_forward")

    def matrix(x, y, values, component):
        values = [f"{value:g}" for value in values.flatten().tolist()]
        grid(ax, x, y, D, D, cell, component, values, strength=0.45)

    wide, high = D * cell[0], D * cell[1]
    for place, (name, piece) in enumerate(pieces.items()):
        component, y = colors[place], 2.4 - 0.95 * place - high / 2
        columns = c_attn[:, place * D : (place + 1) * D]
        matrix(0.62 + place * wide, 1.45 - high / 2, columns, component)
        arrow(ax, (0.62 + 3 * wide + 0.08, 1.45), (4.55, y + high / 2), color=edge(component))
        matrix(4.6, y, piece, component)
        label(ax, 4.75 + wide, y + high / 2, name, ha="left", size=SMALL, mono=True)
    label(ax, 0.62 + 1.5 * wide, 1.45 + high / 2 + 0.2, "h.0.attn.c_attn.weight", size=SMALL, mono=True)
    label(ax, 0.62 + 1.5 * wide, 1.45 - high / 2 - 0.2, "a column for each output", size=SMALL)
    label(ax, 4.6 + wide / 2, 3.0, "a row for each output", size=SMALL)
    return fig
