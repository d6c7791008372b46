"""The exercises of the notebook on the parts that came after GPT-2."""

import struct

import torch

from .require import number_exercise, require_equal, require_float, require_result
from .runner import Wrong, exercise

MEGABYTES = 2 * 32 * 8 * 128 * 8192 * 2 / 2**20

llama_cache = number_exercise(
    "beyond 4.1",
    right=MEGABYTES,
    tolerance=0.01,
    praise="A gigabyte for a single text, and four without grouped queries.",
    mistakes={
        "That is with 32 heads of keys and values; Llama 3 has 8": MEGABYTES * 4,
        "That is one block, not 32": MEGABYTES / 32,
        "That is one head of keys and values, not 8": MEGABYTES / 8,
        "That is half of it: there are keys and values, and each value takes 2 bytes": MEGABYTES / 2,
        "That is a quarter of it: there are keys and values, and each value takes 2 bytes": MEGABYTES / 4,
        "That is with 4 bytes for each value": MEGABYTES * 2,
        "That counts the queries of all heads, too, which no later token needs": MEGABYTES * 3,
        "That is in millions of bytes; in this course an MB is 2^20 bytes": MEGABYTES * 2**20 / 1e6,
        "Is that in GB?": 1,
        "That is in bytes; we want MB": MEGABYTES * 2**20,
        "That is one token, not 8,192": MEGABYTES / 8192,
    },
)


SIZES = (  # vocabulary, width, query heads, key heads, blocks, features inside SwiGLU, tied
    (31, 24, 6, 2, 3, 40, True),
    (31, 24, 6, 2, 3, 40, False),
    (50, 16, 4, 4, 1, 9, True),
    (29, 40, 4, 1, 2, 107, False),
)


def count(V, D, H, G, L, hidden, tied, norms=2, last=1, matrices=3, shared=2):
    """The parameters of a LlamaModel; what follows `tied` differs where a mistake is made."""
    attention = (4 - shared) * D * D + shared * D * (D // H * G)
    block = attention + matrices * D * hidden + norms * D
    return (1 if tied else 2) * V * D + L * block + last * D


def count_mistakes(V, D, H, G, L, hidden, tied):
    """What the classic mistakes give."""
    size, right = (V, D, H, G, L, hidden, tied), count(V, D, H, G, L, hidden, tied)
    return {
        "The final norm is missing": count(*size, last=0),
        "A block has two norms": count(*size, norms=1),
        "The norms are missing": count(*size, norms=0, last=0),
        "The norms have a scale, but no shift": count(*size, norms=4, last=2),
        "SwiGLU has three matrices, not two": count(*size, matrices=2),
        "Keys and values are narrower than queries: n_kv_heads heads, not n_heads": count(*size, shared=0),
        "The output projection is as wide as the model: only keys and values are narrower": count(
            *size, shared=3
        ),
        "All four matrices of attention are counted as narrow; queries and output are square": count(
            *size, shared=4
        ),
        "It ignores `tied`: tied, the head is the embedding and counts once; untied, it counts, too": (
            count(V, D, H, G, L, hidden, not tied)
        ),
        "The embedding is missing": right - V * D,
        "That is a single block; multiply by n_layers": count(V, D, H, G, 1, hidden, tied),
        "There are no biases": right + L * (2 * D + 2 * (D // H * G) + 2 * hidden + D),
    }


@exercise("beyond 4.2", "Now you can read the size of a model off its configuration.")
def llama_parameters(answer):
    names = ("vocab_size", "emb_dim", "n_heads", "n_kv_heads", "n_layers", "hidden_dim", "tied")
    settings = {"context_length": 12, "rope_base": 10_000.0, "norm_eps": 1e-5}
    found = [
        require_float(require_result(answer, dict(zip(names, size, strict=True)) | settings))
        for size in SIZES
    ]
    right, wrong = [count(*size) for size in SIZES], [count_mistakes(*size) for size in SIZES]
    if found == right:
        return
    for words in wrong[0]:
        if all(n in (a, b[words]) for n, a, b in zip(found, right, wrong, strict=True)):
            raise Wrong(f"{words}.")
    place = next(i for i, pair in enumerate(zip(found, right, strict=True)) if pair[0] != pair[1])
    cfg = ", ".join(f"{name} {value}" for name, value in zip(names, SIZES[place], strict=True))
    raise Wrong(f"For {cfg}, it gives {found[place]:,.0f}; {right[place]:,} is right.")


def turn(x, position, base, exponent=2.0, sign=1, pairs="neighbors", speeds=None):
    """`x`, (Dh,), turned in each plane; what follows `base` differs where a mistake is made."""
    Dh = len(x)
    angles = (
        position * (base ** (-exponent * torch.arange(Dh // 2) / Dh) if speeds is None else speeds) * sign
    )
    a, b = (x[0::2], x[1::2]) if pairs == "neighbors" else x.chunk(2)
    turned = a * angles.cos() - b * angles.sin(), a * angles.sin() + b * angles.cos()
    return torch.stack(turned, dim=1).flatten() if pairs == "neighbors" else torch.cat(turned)


# How many features, which position, and which base.
PLACES = ((8, 3, 10_000.0), (8, 3, 50.0), (2, 5, 10_000.0), (12, 700, 100_000.0), (6, 0, 9.0))


@exercise("beyond 4.3", "That is how the file's queries and keys want to be turned.", write=("rotate",))
def rotate_neighbors(answer):
    for Dh, position, base in PLACES:
        x = torch.randn(Dh)
        right, halves = turn(x, position, base), turn(x, position, base, pairs="halves")
        mistakes = {
            "It turns the other way": turn(x, position, base, sign=-1),
            "It pairs feature i with i + Dh/2; here, neighbors make a plane": halves,
            "The features come back in another order: first all a, then all b": torch.cat(
                (right[0::2], right[1::2])
            ),
            "The exponent is -2i/Dh, where i is the number of the plane": [
                turn(x, position, base, exponent=1),
                turn(x, position, base, exponent=4),
            ],
            "The exponent is negative: later planes turn more slowly": turn(x, position, base, exponent=-2),
            "All planes turn at the same speed": turn(x, position, base, exponent=0),
            "It ignores `base`": turn(x, position, 10_000.0),
            "It returns its input": x,
            "It turns by the angle for position + 1": turn(x, position + 1, base),
        }
        if base == 10_000.0:
            del mistakes["It ignores `base`"]
        if position == 0:
            mistakes = {"It turns by the angle for position + 1": turn(x, 1, base)}
        given = f"For Dh = {Dh}, position {position}, and base {base:,.0f},"
        require_equal(require_result(answer, x, position, base), right, mistakes, given, 1e-3)


def q4_1(block, order="halves", swap=False, offset=0, lowest=1):
    """The weights of a block of 20 bytes; what follows `block` differs where a mistake is made."""
    step, low = struct.unpack("<ee", block[:4])
    step, low = (low, step) if swap else (step, low)
    codes = torch.tensor(list(block[4:]))
    small, large = codes & 15, codes >> 4
    if order == "neighbors":
        codes = torch.stack((small, large), dim=1).flatten()
    else:
        codes = torch.cat((large, small) if order == "large first" else (small, large))
    return lowest * low + step * (codes - offset).float()


@exercise("beyond 4.4", "Now you can read what nearly all of SmolLM2 is stored in.")
def decode_block(answer):
    for _ in range(3):
        step, low = 0.01 + torch.rand(1).item(), -3 * torch.rand(1).item()
        codes = torch.randint(256, (16,)).tolist()
        block = struct.pack("<ee", step, low) + bytes(codes)
        mistakes = {
            "The first 16 weights are in the lower halves of the bytes, the others in the upper halves": [
                q4_1(block, "large first"),
                q4_1(block, "neighbors"),
            ],
            "The step comes first, then the lowest level": q4_1(block, swap=True),
            "The lowest level isn't added": q4_1(block, lowest=0),
            "The lowest level is subtracted; add it": q4_1(block, lowest=-1),
            "The codes count from 0, from the lowest level on": q4_1(block, offset=8),
        }
        require_equal(require_result(answer, block), q4_1(block), mistakes, "For a random block", 1e-4)
