"""The course's diagrams."""

from functools import partial
from itertools import pairwise
from pathlib import Path

from figures.drawing import save
from figures.shapes import (
    PLUS,
    RADIUS,
    SMALL,
    WIDTH,
    across,
    arrow,
    box,
    canvas,
    cost,
    edge,
    embeddings,
    frame,
    grid,
    label,
    leader,
    line,
    paint,
    plus,
    pre_norm_block,
    rectangle,
    stop,
    token_row,
    tower,
)

SECTIONS = {  # number: name, component whose color it takes, column and row on the course map
    "4.1": ("Architecture", "text", 0, 1),
    "4.2": ("Layer norm", "norm", 1, 2),
    "4.3": ("GELU, feed-forward", "feed_forward", 1, 1),
    "4.4": ("Shortcuts", "shortcut", 1, 0),
    "4.5": ("Attention,\ntransformer\nblock", "block", 2, 1),
    "4.6": ("GPT model", "embedding", 3, 1),
    "4.7": ("Generating\ntext", "output", 4, 1),
}
BEYOND = {  # after 4.7
    "beyond_1": "Released\nweights",
    "beyond_2": "Training",
    "beyond_3": "Fast\ngeneration",
    "beyond_4": "After\nGPT-2",
    "beyond_5": "Inside",
}


def architecture():
    """The GPT architecture with shapes and, beside each part, the section that builds it."""
    fig, ax = canvas(7.45)
    x, notes, dropout, norm = 2.6, 5.0, ("dropout", "Dropout"), ("norm", "Layer norm")
    attention = ("attention", "Attention")
    feed_forward = ("feed_forward", "Feed-forward network")
    token_row(ax, x - 1.02, 0.52)
    grid(ax, x + 0.62, 0.42, 1, 4, (0.2, 0.2), "text", "0123")
    label(ax, x - 1.02, 0.17, "4 token ids (␣ is a space)", size=SMALL)
    label(ax, x + 1.02, 0.17, "4 positions", size=SMALL)
    embeddings(ax, x, 1.1, 0.28, (0.74, 0.64), 1.43)
    label(ax, x - 1.02, 1.1, "Token embedding")
    label(ax, x + 1.02, 1.1, "Positional embedding")
    arrow(ax, (x, 1.53), (x, 1.79))
    box(ax, x, 1.925, 2.3, 0.27, *dropout)
    parts = [norm, attention, dropout, PLUS, norm, feed_forward, dropout, PLUS]
    y = pre_norm_block(ax, x, 2.24, 0.65, 4.85, parts, 2.3, 0.27, 0.17)
    label(ax, 0.33, (y[0] + y[7]) / 2, "12 ×", size=12, bold=True)
    parts = [("norm", "Final norm"), ("output", "Output head")]
    head = tower(ax, x, y[7] + 0.42, parts, 2.3, 0.27, 0.2)
    top = head[1] + 0.37
    arrow(ax, (x, head[1] + 0.135), (x, top))
    label(ax, x, top + 0.12, "logits: at each position, 50,257 scores", size=SMALL)
    between = [(1.53, 1.79), (2.06, 2.24), (y[7] + 0.22, y[7] + 0.42), (head[0] + 0.135, head[1] - 0.135)]
    inside = [(y[part] + 0.135, y[part] + 0.305) for part in (1, 5)] + [(y[3] + RADIUS, y[4] - 0.135)]
    for low, high in between + inside:
        label(ax, x + 0.12, (low + high) / 2, "(4, 768)", ha="left", size=SMALL, mono=True)
    label(ax, x + 0.12, head[1] + 0.25, "(4, 50257)", ha="left", size=SMALL, mono=True)
    label(ax, notes + 0.26, top + 0.12, "built in", size=SMALL)
    for height in (1.925, y[2], y[6]):
        label(ax, 3.8, height, "only in training", ha="left", size=SMALL)
    for height, start, section, component, text in [
        (1.1, 4.55, "4.1", "embedding", ""),
        (y[0], 3.75, "4.2", "norm", ""),
        (y[1], 3.75, "4.5", "attention", ""),
        (y[3], x + RADIUS, "4.4", "shortcut", "shortcut"),
        (y[4], 3.75, "4.2", "norm", ""),
        (y[5], 3.75, "4.3", "feed_forward", ""),
        (y[7], x + RADIUS, "4.4", "shortcut", "shortcut"),
        (head[0], 3.75, "4.2", "norm", ""),
        (head[1], 3.75, "4.1", "output", ""),
    ]:
        leader(ax, start, notes, height)
        box(ax, notes + 0.26, height, 0.46, 0.25, component, section, bold=True, size=9.5)
        label(ax, notes + 0.58, height, text, ha="left", size=SMALL)
    for x, low, high, section, component, text in [
        (6.72, y[0] - 0.3, y[7] + 0.2, "4.5", "block", "the block"),
        (7.08, 0.96, head[1] + 0.14, "4.6", "text", "the whole model"),
    ]:
        line(ax, [x - 0.08, x, x, x - 0.08], [low, low, high, high])
        box(ax, x, (low + high) / 2, 0.34, 0.25, component, section, strength=0.6, bold=True, size=SMALL, z=5)
        label(ax, x + 0.13, (low + high) / 2 + 0.22, text, ha="left", rotation=90, size=SMALL)
    return fig


def text_to_logits():
    """The example batch on its way from text to logits, with the shape at each step."""
    fig, ax = canvas(3.75)
    middle, cell = 2.0, (0.165, 0.24)
    ids = [6109, 3626, 6100, 345, 6109, 1110, 6622, 257]
    grid(ax, 1.6, middle - 0.46, 2, 4, (0.35, 0.46), "text", [str(i) for i in ids])
    for x, text in [(1.27, "tokenizer"), (3.3, "embeddings"), (5.33, "blocks, norm, head")]:
        box(ax, x, middle, 0.3, 2.46, "ink", text, strength=0.08, rotation=90, size=9.5)
    for number, tokens in enumerate(("Every ␣effort ␣moves ␣you", "Every ␣day ␣holds ␣a")):
        words, sheet = tokens.replace("␣", "").split(), middle + 0.7 - 1.4 * number
        y = middle + 0.23 - 0.46 * number  # of the ids
        label(ax, 0.53, sheet + 0.26, f"text {number}", size=SMALL, bold=True)
        label(ax, 0.53, sheet - 0.08, f"{' '.join(words[:2])}\n{' '.join(words[2:])}", size=SMALL)
        for row, token in enumerate(tokens.split()):
            label(ax, 4.25, sheet + (1.5 - row) * cell[1], token, ha="right", size=SMALL)
        for x, columns, component in [(4.3, 4, "embedding"), (5.68, 9, "output")]:
            row = ["…" if column == columns - 2 else "" for column in range(columns)]
            grid(ax, x, sheet - 2 * cell[1], 4, columns, cell, component, row * 4)
        across(ax, sheet, (0.98, 1.12), (3.45, 3.67), (4.99, 5.18), (5.48, 5.66))
        across(ax, y, (1.42, 1.6), (3.0, 3.15))
    for x, title, shape, note in [
        (0.53, "texts", "", ""),
        (2.3, "token ids", "(2, 4)", "two texts\nof four tokens"),
        (4.3, "vectors", "(2, 4, 768)", "768 features\nfor each token"),
        (6.3, "logits", "(2, 4, 50257)", "50,257 scores for each token\n(drawn far too narrow)"),
    ]:
        label(ax, x, 3.55, title, bold=True)
        label(ax, x, 0.57, shape, mono=True)
        label(ax, x, 0.22, note, size=SMALL)
    return fig


def course_map(current):
    """The notebooks as a path; `current` is lit, the sections before it are ticked, all others dashed."""
    fig, ax = canvas(2.6)
    low, middle, high = rows = [1.12, 1.7, 2.28]
    columns = [(0.68, 1.12), (2.42, 1.75), (4.13, 1.1), (5.4, 0.9), (6.63, 1.05)]  # center and width
    for number, (name, component, column, row) in SECTIONS.items():
        (x, width), height = columns[column], 0.46 if column == 1 else 0.78
        text, lit, done = f"{number}\n{name}", number == current, number < current  # "4.7" < "beyond_1"
        stop(ax, x, rows[row], width, height, component, text, lit, done)
    for y in (low, high):
        arrow(ax, (1.24, middle), (1.39, middle), (1.39, y), (1.545, y))
        arrow(ax, (3.295, y), (3.4, y), (3.4, middle), (3.5, middle), head=False)
    across(ax, middle, (1.24, 1.545), (3.295, 3.58), (4.68, 4.95), (5.85, 6.105))
    arrow(ax, (6.63, middle - 0.39), (6.63, 0.78))
    frame(ax, 0.08, 0.06, WIDTH - 0.08, 0.78, "text", strength=0.18, line=0.8)
    label(ax, 0.2, 0.42, "Beyond\nthe chapter", ha="left", size=SMALL)
    left = 1.5  # of the stops
    width = (WIDTH - 0.12 - left) / len(BEYOND) - 0.1
    for place, (notebook, name) in enumerate(BEYOND.items()):
        x, text = left + (width + 0.1) * (place + 0.5), notebook.replace("_", " ") + f"\n{name}"
        stop(ax, x, 0.42, width, 0.6, "text", text, lit=notebook == current)
    return fig


def feed_forward():
    """The feed-forward network's layers with shapes and parameter counts."""
    fig, ax = canvas(3.5)
    x = 2.15
    names = ["Linear 768 → 3072", "GELU", "Linear 3072 → 768"]
    parts = [("feed_forward", name, f"layers[{place}]") for place, name in enumerate(names)]
    y = tower(ax, x, 0.8, parts, 2.7, 0.38, 0.4)
    frame(ax, 0.5, 0.6, 3.8, y[2] + 0.39, "feed_forward", strength=0.08)
    label(ax, 0.5, y[2] + 0.54, "FeedForward", ha="left", bold=True)
    arrow(ax, (x, 0.33), (x, 0.8))
    arrow(ax, (x, y[2] + 0.19), (x, y[2] + 0.66))
    label(ax, x, 0.2, "(B, T, 768)", mono=True)
    label(ax, x, y[2] + 0.78, "(B, T, 768)", mono=True)
    for below, above in pairwise(y):
        label(ax, x + 0.12, (below + above) / 2, "(B, T, 3072)", mono=True, size=SMALL, ha="left")
    label(ax, 7.12, y[2] + 0.45, "parameters", ha="right", bold=True)
    rows = [("768 × 3072 + 3072", "2,362,368"), ("none", "0"), ("3072 × 768 + 768", "2,360,064")]
    for height, row in zip(y, rows, strict=True):
        leader(ax, 3.5, 4.4, height)
        cost(ax, height, *row, 4.4)
    line(ax, [6.3, 7.12], [0.42, 0.42])
    cost(ax, 0.22, "together", "4,722,432", 4.4, bold=True)
    return fig


def expand_contract():
    """Attention mixes the tokens; the feed-forward network then widens and narrows each one alone."""
    fig, ax = canvas(5.0)
    narrow, wide, right = 0.15, 0.6, 6.5  # half of 768 and of 3072 features, to scale; the frames' edge
    frame(ax, 1.12, 0.8, right, 1.75, "attention", strength=0.08)
    frame(ax, 1.12, 2.15, right, 4.5, "feed_forward", strength=0.08)
    token_row(ax, 3.81, 0.25, spacing=1.35, ids=False)
    centers = [3.81 + 1.35 * (place - 1.5) for place in range(4)]
    for place, x in enumerate(centers):
        for tip, later in enumerate(centers[place:]):  # the tips side by side, so that each is seen
            arrow(ax, (x, 0.88), (later - 0.13 * tip, 1.7), color=edge("attention"))
        for start, end in [(0.45, 0.8), (1.75, 2.25), (4.4, 4.85)]:
            arrow(ax, (x, start), (x, end))
        for below, above, y in [(narrow, wide, 2.37), (wide, narrow, 3.61)]:
            outline = ([x - below, x + below, x + above, x - above], [y, y, y + 0.67, y + 0.67])
            ax.fill(*outline, **paint("feed_forward", strength=0.4), zorder=3)
        for half, y in [(narrow, 2.31), (wide, 3.1), (wide, 3.55), (narrow, 4.34)]:
            rectangle(ax, x - half, y - 0.06, 2 * half, 0.12, "embedding", strength=0.5)
        rectangle(ax, x - wide, 3.16, 2 * wide, 0.33, "feed_forward", strength=0.2)
        label(ax, x, 3.32, "GELU", size=SMALL)
        if x < centers[-1]:
            label(ax, x + 0.675, 4.31, "same weights", size=SMALL)
    names = ["768", "expand", "3072", "3072", "contract", "768"]
    for y, text in zip([2.31, 2.7, 3.1, 3.55, 3.95, 4.34], names, strict=True):
        label(ax, right + 0.1, y, text, ha="left", size=SMALL)
    for y, text in [(1.28, "attention:\ncommunicate"), (3.32, "feed-forward:\ncompute")]:
        label(ax, 1.04, y, text, ha="right", size=SMALL, bold=True)
    return fig


def shortcuts():
    """The five-layer toy network, plain, and with shortcuts: a stream that layers read from and add to."""
    fig, ax = canvas(3.5)
    plain, above, stream, left = 2.72, 1.32, 0.5, 0.4
    label(ax, 0.12, 3.28, "Plain: each layer replaces x", ha="left", bold=True)
    label(ax, 0.12, 1.9, "With shortcuts: each layer adds to x", ha="left", bold=True)
    ends = {plain: left, stream: left}  # how far each row has been drawn
    for number in range(5):
        x, last = 1.35 + 1.27 * number, number == 4
        text = f"layer {number}\n{'3 → 1' if last else '3 → 3'}"
        for height in (plain, stream if last else above):
            box(ax, x, height, 0.76, 0.48, "feed_forward", text, size=SMALL)
        arrow(ax, (ends[plain], plain), (x - 0.38, plain))
        ends[plain] = x + 0.38
        if not last:
            join = x + 0.53
            arrow(ax, (x - 0.54, stream), (x - 0.54, above), (x - 0.38, above))
            arrow(ax, (x + 0.38, above), (join, above), (join, stream + RADIUS))
            plus(ax, join, stream)
        target = x - 0.38 if last else join - RADIUS
        arrow(ax, (ends[stream], stream), (target, stream), color=edge("shortcut"), line=2.4)
        ends[stream] = x + 0.38 if last else join + RADIUS
    for row in (plain, stream):
        arrow(ax, (ends[row], row), (7.1, row))
        label(ax, 0.22, row, "x", bold=True)
    label(ax, x, stream + 0.46, "shapes differ:\nno shortcut", size=SMALL)
    label(ax, 3.9, stream - 0.28, "residual stream", bold=True, color=edge("shortcut"), size=SMALL)
    return fig


def transformer_block():
    """The pre-norm transformer block with attribute names: two sublayers beside the residual stream."""
    fig, ax = canvas(5.65)
    stream, x, dropout = 0.95, 2.85, ("dropout", "Dropout", "drop_shortcut")
    frame(ax, 0.35, 0.53, 4.4, 5.05, "block")
    label(ax, 4.4, 5.22, "TransformerBlock", ha="right", bold=True)
    low = 0.42
    for bottom, norm, name, text, component, note in [
        (0.7, "norm1", "att", "MultiHeadAttention", "attention", "between tokens:\n12 heads of 64, causal"),
        (2.88, "norm2", "ff", "FeedForward", "feed_forward", "within each token:\n768 → 3072 → 768"),
    ]:
        parts = [("norm", "LayerNorm", norm), (component, text, name), dropout]
        y = tower(ax, x, bottom + 0.28, parts, 2.7, 0.36, 0.2)
        join = y[2] + 0.36
        arrow(ax, (stream, bottom), (x, bottom), (x, bottom + 0.28))
        arrow(ax, (x, y[2] + 0.18), (x, join), (stream + RADIUS, join))
        plus(ax, stream, join)
        line(ax, [stream, stream], [low, join - RADIUS], edge("shortcut"), 4)
        low = join + RADIUS
        for height, words in zip(y, ["a normalized copy", note, "in training only"], strict=True):
            leader(ax, 4.2, 4.75, height)
            label(ax, 4.75, height, words, ha="left", size=9.5)
        leader(ax, x, 4.75, join)
        label(ax, 4.75, join, "added to the stream", ha="left", size=9.5)
    arrow(ax, (stream, low), (stream, 5.35), color=edge("shortcut"), line=4)
    label(ax, stream - 0.3, 2.79, "residual stream", rotation=90, bold=True, color=edge("shortcut"))
    label(ax, stream, 0.22, "(B, T, 768)", mono=True)
    label(ax, stream, 5.5, "(B, T, 768)", mono=True)
    return fig


def block_shapes():
    """Four tokens' streams through a block: attention reads earlier ones, feed-forward each one alone."""
    fig, ax = canvas(4.6)
    columns, cell = [2.05, 3.5, 4.95, 6.4], 0.15
    token_row(ax, 4.225, 0.3, 1.2, 1.45)
    frame(ax, 1.2, 1.15, 7.05, 3.65, "block", strength=0.12)
    label(ax, 0.6, 2.4, "transformer\nblock", bold=True)
    for end, x in enumerate(columns):
        stream, part = x - 0.3, x + 0.2
        arrow(ax, (stream, 0.5), (stream, 0.72))
        for y in (0.72, 3.92):
            grid(ax, x - 4 * cell, y, 1, 8, (cell, 0.2), "embedding", ["", "", "", "", "", "", "…", ""])
        for start, source in enumerate(columns[: end + 1]):
            arrow(ax, (source - 0.3, 1.32), (part + 0.1 * (start - end / 2), 1.94), color=edge("attention"))
        for y, component, name in ((2.1, "attention", "att"), (3.05, "feed_forward", "ff")):
            box(ax, part, y, 0.5, 0.32, component, name, size=SMALL, mono=True)
            join = y + 0.36
            arrow(ax, (part, y + 0.16), (part, join), (stream + RADIUS, join), color=edge(component))
            plus(ax, stream, join)
        arrow(ax, (stream, 2.7), (part, 2.7), (part, 2.89), color=edge("feed_forward"))
        line(ax, [stream, stream], [0.92, 2.36], edge("shortcut"), 2.4)
        line(ax, [stream, stream], [2.56, 3.31], edge("shortcut"), 2.4)
        arrow(ax, (stream, 3.51), (stream, 3.92), color=edge("shortcut"), line=2.4)
        label(ax, x, 4.27, f"from inputs 0–{end}" if end else "from input 0", size=SMALL)
    label(ax, 0.6, 0.3, "tokens\n(␣ is a space)", size=SMALL)
    for y, name in [(0.82, "in"), (4.02, "out")]:
        label(ax, 0.6, y, f"{name}: (1, 4, 768)", size=SMALL)
    label(ax, WIDTH / 2, 4.48, "norms and dropout are left out", size=SMALL)
    return fig


def gpt_model():
    """The full GPT model with attribute names, shapes and parameter counts."""
    fig, ax = canvas(5.4)
    x, left, width = 2.2, 4.6, 2.9
    embeddings(ax, x, 0.87, 0.5, (0.33, 0.33), 1.5)
    for center, name, attribute, source in [
        (x - 1.02, "Token embedding", "tok_emb", "in_idx (B, T)"),
        (x + 1.02, "Positional embedding", "pos_emb", "0 … T−1 (T,)"),
    ]:
        label(ax, center, 0.2, source, mono=True, size=SMALL)
        label(ax, center, 0.97, name)
        label(ax, center, 0.77, attribute, mono=True, size=SMALL)
    label(ax, x - 1.12, 1.3, "(B, T, 768)", mono=True, size=SMALL, ha="right")
    label(ax, x + 1.12, 1.3, "(T, 768)", mono=True, size=SMALL, ha="left")
    for shift in (0.16, 0.08):
        box(ax, x + shift, 2.87 + shift, width, 0.5, "block", z=2.5 - shift)
    parts = [("dropout", "Dropout", "drop_emb"), ("block", "12 × TransformerBlock", "trf_blocks")]
    parts += [("norm", "LayerNorm", "final_norm"), ("output", "Linear, no bias", "out_head")]
    y = [2.12, 2.87, 3.79, 4.51]
    for height, part in zip(y, parts, strict=True):
        box(ax, x, height, width, 0.5 if part[0] == "block" else 0.34, *part)
    ends = [1.6, 1.95, 2.29, 2.62, 3.28, 3.62, 3.96, 4.34, 4.68, 5.06]
    for start, end in zip(ends[::2], ends[1::2], strict=True):
        arrow(ax, (x, start), (x, end))
        shape = "(B, T, 50257)" if start > 4.5 else "(B, T, 768)"
        label(ax, x + 0.12, (start + end) / 2, shape, mono=True, size=SMALL, ha="left")
    label(ax, x, 5.19, "logits", bold=True)
    for height, start in [(0.87, 4.15), (y[0], 3.65), (y[1], 3.81), (y[2], 3.65), (y[3], 3.65)]:
        leader(ax, start, left, height)
    line(ax, [x - 0.07, x, x], [0.97, 0.97, 1.17], color="#777777", width=0.9, style=(0, (1, 2)))
    leader(ax, x - 0.05, left, 1.19)
    for height, formula, count in [
        (y[3], "768 × 50257", "38,597,376"),
        (y[2], "2 × 768", "1,536"),
        (y[1], "12 × 7,085,568", "85,026,816"),
        (y[0], "none", "0"),
        (1.19, "50257 × 768", "38,597,376"),
        (0.87, "1024 × 768", "786,432"),
    ]:
        cost(ax, height, formula, count, left)
    line(ax, [6.15, 7.12], [0.56, 0.56])
    cost(ax, 0.38, "total", "163,009,536", left, bold=True)
    label(ax, 7.12, 5.19, "parameters", ha="right", bold=True)
    return fig


# The rest draw what a notebook has just computed.


def multi_head_attention():
    """Multi-head attention: three projections, cut into heads, attention in each, joined, projected."""
    fig, ax = canvas(4.3)
    T, heads, cell = 4, ("attention", "output"), 0.12
    tall, wide = T * cell, 3 * cell  # of one head's queries, keys, values or results
    rows, middle = (3.4, 2.2, 1.0), 2.2

    def tensor(x, y, *parts):
        """Features of T tokens; each part is three features wide and has its color."""
        for place, component in enumerate(parts):
            grid(ax, x + place * wide, y - tall / 2, T, 3, (cell, cell), component, strength=0.45)

    tensor(0.1, middle, "text", "text")
    label(ax, 0.46, middle + 0.4, "x", mono=True)
    label(ax, 0.46, middle - 0.4, "(T, D)", size=SMALL, mono=True)
    for row, (y, name) in enumerate(zip(rows, ("W_query", "W_key", "W_value"), strict=True)):
        box(ax, 1.52, y, 0.84, 0.34, "block", name, size=SMALL, mono=True)
        arrow(ax, (0.84, middle), (1.08, y))
        across(ax, y, (1.96, 2.18))
        tensor(2.2, y, *heads)
        label(ax, 2.56, y + 0.38, "qkv"[row], mono=True)
        for number, component in enumerate(heads):
            entry = 3.17 - 1.94 * number + 0.56 * (1 - row)
            start = (2.94, y + 0.12 - 0.24 * number)
            arrow(ax, start, (3.5, entry), color=edge(component), line=1.5)
            tensor(3.52, entry, component)
            label(ax, 4.0, entry, "qkv"[row], mono=True, size=SMALL)
    for number, component in enumerate(heads):
        y, times = 3.17 - 1.94 * number, (4.5, 2.61 - 1.94 * number)
        frame(ax, 3.44, y - 0.86, 5.2, y + 1.02, component, strength=0.08, line=0.8)
        label(ax, 4.7, y + 0.86, f"head {number}", size=SMALL, bold=True)
        for start in (y + 0.56, y):
            arrow(ax, (4.08, start), (4.24, y + 0.28))
        for i in range(T):
            for j in range(i + 1):
                corner = (4.26 + j * cell, y + 0.28 + tall / 2 - (i + 1) * cell)
                rectangle(ax, *corner, cell, cell, component, 0.45)
        label(ax, 4.7, y + 0.62, "weights", size=SMALL)
        arrow(ax, (4.5, y + 0.04), (4.5, times[1] + 0.1))
        label(ax, *times, "×", size=13)
        across(ax, times[1], (4.08, 4.4), (4.6, 4.74))
        tensor(4.76, times[1], component)
        arrow(ax, (5.12, times[1]), (5.36, middle + 0.12 - 0.24 * number), color=edge(component), line=1.5)
    tensor(5.38, middle, *heads)
    label(ax, 5.74, middle + 0.4, "joined", size=SMALL)
    box(ax, 6.29, middle, 0.1, 0.94, "block", strength=0.25)
    across(ax, middle, (6.1, 6.24), (6.34, 6.52))
    label(ax, 6.29, middle + 0.6, "out_proj", size=SMALL, mono=True)
    tensor(6.52, middle, "text", "text")
    label(ax, 6.88, middle - 0.4, "(T, D)", size=SMALL, mono=True)
    notes = [(1.52, "project"), (2.56, "cut into heads"), (4.32, "attention in each head")]
    for x, words in [*notes, (6.25, "join, project")]:
        label(ax, x, 0.12, words, size=SMALL)
    return fig


SINGLE = (architecture, text_to_logits, feed_forward, expand_contract)
SINGLE += (shortcuts, multi_head_attention, transformer_block, block_shapes, gpt_model)
DIAGRAMS = {draw.__name__: draw for draw in SINGLE}
DIAGRAMS |= {f"course_map_{notebook}": partial(course_map, notebook) for notebook in [*SECTIONS, *BEYOND]}


def draw_all(folder):
    """Write every diagram to `folder`."""
    for name, draw in DIAGRAMS.items():
        save(draw(), Path(folder) / f"{name}.svg")
