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
    frame,
    grid,
    label,
    line,
    mix,
    rectangle,
    shown,
    text_width,
    token_box,
)


def generation_step(context_pieces, context_ids, candidates, blind):
    """One step of greedy generation: context, logits of its last position, probabilities, the chosen token.

    `candidates` are (piece, token id, rank, logit, probability) by rank, the best of which has rank 1. Where
    ranks are left out, there is a gap. `blind` is the probability of every token in a blind guess.
    """
    context = list(zip(context_pieces, context_ids, strict=True))
    context = [("…", ""), *context[-5:]] if len(context) > 6 else context
    pitch, gap, wide, depth, depths = 0.38, 0.2, 1.28, 0.0, []
    for before, candidate in zip([None, *candidates], candidates, strict=False):
        depth += gap if before and candidate[2] > before[2] + 1 else 0
        depths.append(depth + pitch / 2)
        depth += pitch
    fig, ax = canvas(depth + 2.45)
    top = ax.get_ylim()[1] - 1.23
    label(ax, 0.1, top + 1.0, "One step: score every token, append the best", ha="left", size=11, bold=True)
    middle = top - depth / 2 - 0.06
    largest = max(probability for *_, probability in candidates)

    def panel(left, right, height, title):
        low, high = middle - height / 2 - 0.06, middle + height / 2 + 0.06
        frame(ax, left, low, right, high, "text", strength=0.12, line=0.8)
        label(ax, (left + right) / 2, top + 0.52, title, bold=True, size=9.5)
        return low

    slot = panel(0.1, 1.6, pitch * len(context), "context") - 0.24
    panel(2.4, 4.95, depth, "scores of the last position")
    floor = panel(5.55, 7.2, depth, "probabilities")
    heads = {2.85: "rank", 3.3: "token", 4.2: "id", 4.67: "logit", 6.37: "one for each token"}
    for x, head in heads.items():
        label(ax, x, top + 0.18, head, size=SMALL)
    low = middle + pitch * len(context) / 2 + 0.2
    for x, head in ((0.45, "token"), (1.3, "id")):
        label(ax, x, low, head, size=SMALL)
    for place, (piece, token_id) in enumerate(context):
        y = middle + pitch * ((len(context) - 1) / 2 - place)
        token_box(ax, 0.85, y, wide, "text", piece, token_id, strength=0.35)
    for place, (piece, token_id, rank, logit, probability) in enumerate(candidates):
        y = middle + depth / 2 - depths[place]
        if place and depths[place] > depths[place - 1] + pitch + gap / 2:
            for x in (2.87, 3.71, 6.1):
                label(ax, x, y + (pitch + gap) / 2, "⋮", size=11)
        look = {"strength": 0.2, "line": 1} if place else {"strength": 0.6, "line": 2.4}
        ordinal = f"≈{round(rank, -2):,}" if rank > 100 else str(rank)
        label(ax, 3.0, y, ordinal, ha="right", mono=True, size=SMALL)
        token_box(ax, 3.71, y, wide, "output", piece, token_id, **look)
        label(ax, 4.88, y, f"{logit:.2f}", ha="right", mono=True, size=SMALL)
        length = 0.8 * probability / largest
        rectangle(ax, 5.65, y - 0.11, length, 0.22, "output", **look)
        label(ax, 5.71 + length, y, f"{probability:.6f}", ha="left", mono=True, size=SMALL)
    guess = 5.65 + 0.8 * blind / largest
    line(
        ax,
        [guess, guess],
        [floor - 0.06, floor + depth + 0.06],
        color=edge("shortcut"),
        style=(0, (4, 2.5)),
        z=5,
    )
    label(ax, 6.28, floor - 0.16, f"blind guess: {blind:.6f}", ha="right", size=SMALL, color=edge("shortcut"))
    across(ax, middle, (1.6, 1.73), (2.27, 2.4), (4.95, 5.12), (5.38, 5.55))
    box(ax, 2.0, middle, 0.54, 1.1, "ink", "GPT\nmodel", strength=0.08, bold=True, size=9.5)
    box(ax, 5.25, middle, 0.26, 0.9, "ink", "softmax", strength=0.08, rotation=90, size=9.5)
    box(ax, 6.37, 0.26, 0.9, 0.3, "ink", "argmax", strength=0.08, size=9.5)
    arrow(ax, (6.37, floor), (6.37, 0.41))
    token_box(ax, 0.85, slot, wide, "output", *candidates[0][:2], strength=0.6, line=2.4)
    arrow(ax, (5.92, 0.26), (0.85, 0.26), (0.85, slot - 0.18), color=edge("output"), line=2)
    label(ax, 3.4, 0.4, "the chosen token joins the context (␣ is a space)", size=SMALL)
    return fig


def branch(paths):
    """`paths`, pairs of tokens and probabilities, as branches (token, probability, branches), best first."""
    rest = {}
    for (token, *tokens), (probability, *probabilities) in paths:
        rest.setdefault(token, (probability, []))[1].append((tokens, probabilities))
    branches = [(token, p, branch(more) if more[0][0] else []) for token, (p, more) in rest.items()]
    return sorted(branches, key=lambda one: -one[1])


def count_ends(branches):
    """The number of paths through `branches`."""
    return sum(count_ends(more) or 1 for *_, more in branches)


def continuation_tree(prompt, paths, greedy, note):
    """The most probable continuations of `prompt` as a tree; at its end, each has its product.

    `paths` are pairs of tokens and their probabilities, the best path first; `greedy` are greedy's tokens.
    """
    pitch, wide, branches, best = 0.42, 1.39, branch(paths), paths[0][0]
    fig, ax = canvas(pitch * count_ends(branches) + 1.15)
    top = ax.get_ylim()[1] - 0.9
    start = 0.1 + text_width(prompt, size=SMALL) + 0.14
    step = (WIDTH - 0.75 - start) / len(best)
    label(ax, 0.1, top + 0.7, "Greedy takes the best step, not the best path", ha="left", size=11, bold=True)
    box(ax, (0.1 + start) / 2, top, start - 0.1, 0.32, "text", prompt, strength=0.35, size=SMALL)

    def draw(branches, x, y, path, product):
        """Draw `branches` from (x, y), where `path` ends."""
        below = y
        for piece, probability, more in branches:
            tokens, total = [*path, piece], product * probability
            on_greedy, on_best = (tokens == way[: len(tokens)] for way in (greedy, best))
            component = "output" if on_greedy else "shortcut" if on_best else "text"
            color = edge(component) if on_greedy or on_best else COLORS["dropout"]
            style, width = ((0, (2, 1)), 3) if component == "shortcut" else ("-", 3 if on_greedy else 1.2)
            left = x + step - wide
            line(ax, [x, left], [y, below], color=color, width=width, style=style, z=1 + (width == 3))
            look = {"strength": 0.6, "line": 2.4} if on_greedy else {"strength": 0.2, "line": 1}
            look |= {"strength": 0.3, "line": 2, "dashed": True} if component == "shortcut" else {}
            token_box(ax, left + wide / 2, below, wide, component, piece, f"{probability:.2f}", **look)
            if more:
                draw(more, left + wide, below, tokens, total)
            else:
                text, bold = f"{total:.3f}", tokens in (greedy, best)
                label(ax, WIDTH - 0.1, below, text, ha="right", size=SMALL, mono=True, bold=bold)
            below -= pitch * (count_ends(more) or 1)

    draw(branches, start, top, [], 1.0)
    for place in range(len(best)):
        head = f"token {place + 1}, probability"
        label(ax, start + (place + 1) * step - wide / 2, top + 0.32, head, size=SMALL)
    label(ax, WIDTH - 0.1, top + 0.32, "product", ha="right", size=SMALL)
    notes = [("output", False, "the greedy path"), ("shortcut", True, "the best path")]
    for place, (component, dashed, name) in enumerate(notes):
        y = top - 0.5 - 0.3 * place
        box(ax, 0.25, y, 0.3, 0.18, component, strength=0.6 - 0.3 * dashed, line=2, dashed=dashed)
        label(ax, 0.5, y, name, ha="left", size=SMALL)
    label(ax, 0.1, 0.15, note, ha="left", size=SMALL)
    return fig


def key_value_cache(pieces):
    """Two steps of generation, after all but the last of `pieces` and after all, without and with a cache."""
    pitch, deep, column = 0.3, 0.26, WIDTH / 2
    fig, ax = canvas(2 * pitch * len(pieces) + 1.75)
    top = ax.get_ylim()[1]

    def step(left, high, count, kept):
        """One step, for the last of `count` tokens; `kept` are the rows that a cache has."""
        for x, head in ((0.46, "token"), (1.35, "key, value"), (2.29, "query"), (3.14, "token")):
            label(ax, left + x, high, head, size=SMALL)
        for place, piece in enumerate(pieces[:count]):
            y, new, old = high - pitch * (place + 1), place == count - 1, place < kept
            words = "new" if new else "kept" if old else "again"
            token = {"size": SMALL, "strength": 0.1 if old else 0.5}
            look = {"size": SMALL, "strength": 0.6 if new else 0.15, "line": 1.6 if new else 0.8}
            look["dashed"] = not (new or old)
            box(ax, left + 0.46, y, 0.86, deep, "text", shown(piece), **token)
            box(ax, left + 1.35, y, 0.6, deep, "text" if old else "attention", words, **look)
            if old:
                continue
            arrow(ax, (left + 0.9, y), (left + 1.04, y), line=0.8)
            box(ax, left + 3.14, y, 0.86, deep, "text", shown(piece), **token)
            arrow(ax, (left + 2.7, y), (left + 2.56, y), line=0.8)
            box(ax, left + 2.26, y, 0.56, deep, "attention", words, **look)
            for key in range(place + 1):
                ends = (y, high - pitch * (key + 1))
                color, width = (COLORS["ink"], 1.2) if new else ("#777777", 0.7)
                line(ax, (left + 1.98, left + 1.66), ends, color=color, width=width)

    for title, cached in (("Without a cache: every step computes all tokens again", False),
                          ("With a cache: a step computes the new token only", True)):  # fmt: skip
        label(ax, 0.08, top - 0.16, title, ha="left", bold=True)
        for place, count in enumerate((len(pieces) - 1, len(pieces))):
            step(0.02 + column * place, top - 0.46, count, cached * (count - 1))
        label(ax, 1.82, top - 0.46 - pitch * len(pieces), "then the next step →", size=SMALL)
        top -= pitch * len(pieces) + 0.86
    return fig


def weight_tying(pieces, rows, vector, scores, token):
    """One matrix, used twice: row `token` goes in, and at the end the vector is compared with every row.

    `rows` (n, k) are k of the features of the n tokens in `pieces`, `vector` (k,) those of the final
    vector, and `scores` the n logits, which are sums over all features.
    """
    wide, high, top = 0.4, 0.34, 2.06
    n, k = rows.shape
    fig, ax = canvas(3.16)
    left, right = 0.95, 4.2

    def strip(x, y, features, line=0.8):
        """The features of one vector; red is positive, blue negative."""
        for i, value in enumerate(features.tolist()):
            color = mix("white", COLORS["shortcut" if value > 0 else "norm"], min(abs(value), 3) / 5)
            style = {"facecolor": color, "edgecolor": COLORS["ink"]}
            rectangle(ax, x + i * wide, y - high / 2, wide, high, "text", line=line, **style)
            label(ax, x + (i + 0.5) * wide, y, f"{round(value, 1) + 0.0:.1f}", size=SMALL, mono=True)
        label(ax, x + k * wide + 0.14, y, "…", size=SMALL)

    for x, name in ((left, "tok_emb.weight"), (right, "out_head.weight")):
        label(ax, x + k * wide / 2, top + 0.93, name, mono=True, size=9.5)
        label(ax, x + k * wide / 2, top - high * (n - 0.3), "⋮", size=12)
        for i, row in enumerate(rows):
            strip(x, top - high * i, row)
        strip(x, top - high * token, rows[token], line=2.2)  # last, so that its frame is seen
    for i, (piece, score) in enumerate(zip(pieces, scores.tolist(), strict=True)):
        y = top - high * i
        label(ax, left - 0.12, y, shown(piece), ha="right", size=SMALL, bold=i == token)
        label(ax, 6.5, y, f"{score:.0f}", ha="right", mono=True, size=SMALL, bold=i == token)
        label(ax, 6.62, y, shown(piece), ha="left", size=SMALL, bold=i == token)
    end, start = left + k * wide + 0.3, top - high * token
    box(ax, 3.5, start, 0.94, 0.66, "block", "+ position,\n12 blocks,\nfinal norm", size=SMALL)
    arrow(ax, (end, start), (3.03, start), line=1.6)
    arrow(ax, (3.5, start + 0.33), (3.5, top + 0.54), (right, top + 0.54), line=1.6)
    strip(right, top + 0.54, vector, line=2.2)
    label(ax, 3.85, top + 0.68, "h", mono=True)
    label(ax, 6.1, top + 0.54, "logit = h · row,\n768 products", ha="left", size=SMALL)
    floor = top - high * (n + 0.35)
    line(ax, [left, left, right + k * wide, right + k * wide], [floor + 0.1, floor, floor, floor + 0.1])
    middle = (left + right + k * wide) / 2
    label(ax, middle, floor - 0.17, "tied: one tensor, 50257 × 768", size=9.5, bold=True)
    key = f"shown: the {k} largest features of {shown(pieces[token])} · red: positive, blue: negative"
    label(ax, middle, floor - 0.43, key, size=SMALL)
    return fig


OURS = {  # layers of a released file, from the last one up: our names, component
    "wte": ("tok_emb, out_head", "embedding"),
    "wpe": ("pos_emb", "embedding"),
    "h.0.ln_1": ("norm1", "norm"),
    "h.0.attn.c_attn": ("att.W_query, W_key, W_value", "attention"),
    "h.0.attn.bias": ("", "text"),
    "h.0.attn.c_proj": ("att.out_proj", "attention"),
    "h.0.ln_2": ("norm2", "norm"),
    "h.0.mlp.c_fc": ("ff.layers[0]", "feed_forward"),
    "h.0.mlp.c_proj": ("ff.layers[2]", "feed_forward"),
    "ln_f": ("final_norm", "norm"),
}


def checkpoint(shapes, blocks, context):
    """How a released file becomes our model: a row for each layer outside the blocks and in block 0.

    `shapes` maps the names of the file's tensors to their shapes; `context` is the width of a mask.
    """
    pitch, high = 0.42, 0.32
    fig, ax = canvas(pitch * len(OURS) + 0.45)
    top = ax.get_ylim()[1] - 0.6
    for x, title in ((0.28, "in the file"), (4.72, "in our model")):
        label(ax, x, top + 0.36, title, ha="left", bold=True)
    frame(ax, 0.08, top - 8 * pitch - 0.21, 7.22, top - 2 * pitch + 0.21, "block", strength=0.2)
    label(
        ax,
        7.12,
        top - 2 * pitch,
        f"{blocks} blocks",
        ha="right",
        size=SMALL,
        bold=True,
    )
    for row, (name, (ours, component)) in enumerate(OURS.items()):
        y, mask = top - pitch * row, not ours
        size = " × ".join(f"{n:,}" for n in ((context, context) if mask else shapes[f"{name}.weight"]))
        size += " + bias" if f"{name}.bias" in shapes else ""
        strength = 0.1 if mask else 0.35
        box(ax, 1.7, y, 3.0, high, "text", name, size, size=SMALL, strength=strength, dashed=mask)
        if mask:
            label(ax, 3.42, y, "skipped: the causal mask, which isn't learned", ha="left", size=SMALL)
            continue
        step = "transpose, cut in 3" if "c_attn" in name else "transpose" if ".c_" in name else "copy"
        arrow(ax, (3.22, y - 0.05), (4.7, y - 0.05), color=edge(component))
        label(ax, 3.92, y + 0.09, step, size=SMALL)
        wide = 2.4 if "c_attn" in name else 1.45
        box(ax, 4.7 + wide / 2, y, wide, high, component, ours, size=SMALL, mono=True)
    return fig


def three_from_one(c_attn, pieces):
    """One c_attn, (D, 3D), and below it the three weights (D, D) that come out of its columns."""
    fig, ax = canvas(3.5)
    cell, D, colors = (0.5, 0.4), len(c_attn), ("output", "block", "feed_forward")
    wide, high, top, low = D * cell[0], D * cell[1], 2.3, 0.5
    left = (WIDTH - 3 * wide) / 2

    def matrix(x, y, values, component):
        values = [f"{value:g}" for value in values.flatten().tolist()]
        grid(ax, x, y, D, D, cell, component, values, strength=0.45)

    for place, (name, piece) in enumerate(pieces.items()):
        component, middle = colors[place], WIDTH / 2 + 2.3 * (place - 1)
        start = left + (place + 0.5) * wide
        matrix(start - wide / 2, top, c_attn[:, place * D : (place + 1) * D], component)
        arrow(ax, (start, top - 0.05), (middle, low + high + 0.06), color=edge(component), line=1.6)
        matrix(middle - wide / 2, low, piece, component)
        label(ax, middle, low - 0.2, name, size=SMALL, mono=True)
    label(ax, WIDTH / 2, top + high + 0.2, "h.0.attn.c_attn.weight: a column for each output", size=SMALL)
    label(ax, WIDTH / 2 + 0.1, (top + low + high) / 2, "transpose, cut", ha="left", size=SMALL)
    label(ax, WIDTH / 2, 0.09, "a row for each output", size=SMALL)
    return fig


def training_window(pieces):
    """A window's inputs and its targets, one below the other; then a row for each target, with all the tokens
    from which it is predicted."""
    count, pitch, wide = len(pieces) - 1, 0.36, 0.98
    fig, ax = canvas(pitch * count + 1.65)
    top, left = ax.get_ylim()[1] - 0.25, 1.02
    for row, (name, component) in enumerate((("inputs", "text"), ("targets", "output"))):
        label(ax, 0.1, top - 0.46 * row, name, ha="left", bold=True)
        for place, piece in enumerate(pieces[row : row + count]):
            x = left + (place + 0.5) * 1.22
            box(ax, x, top - 0.46 * row, 1.16, 0.28, component, shown(piece), size=SMALL, strength=0.35)
            if row:
                arrow(ax, (x, top - 0.14), (x, top - 0.32))
    top -= 1.3
    label(ax, 0.1, top + 0.38, "what each target is predicted from", ha="left", bold=True)
    for row, target in enumerate(pieces[1:]):
        y = top - pitch * row
        for place, piece in enumerate(pieces[: row + 1]):
            x = 0.1 + (place + 0.5) * wide
            box(ax, x, y, wide - 0.06, 0.28, "text", shown(piece), size=SMALL, strength=0.35)
        arrow(ax, (0.14 + (row + 1) * wide, y), (5.95, y))
        box(ax, 6.55, y, 1.16, 0.28, "output", shown(target), size=SMALL)
    return fig
