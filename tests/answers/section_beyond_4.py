"""Answers to the exercises of the notebook on the parts that came after GPT-2."""

import math
import struct
from fractions import Fraction

import numpy as np
import torch

from llama import SMOLLM2_135M

RIGHT, WRONG = {}, {}

RIGHT["llama_cache"] = [
    1024,
    1024.0,
    2 * 32 * 8 * 128 * 8192 * 2 / 2**20,
    torch.empty(2, 32, 8, 8192, 128, dtype=torch.bfloat16, device="meta").nbytes / 2**20,
    torch.tensor(1024),
    np.float32(1.02e3),
    Fraction(2**30, 2**20),
]
WRONG["llama_cache"] = [
    (900, "900 is too small"),
    (1100, "1,100 is too large"),
    ((1, 24), "Answer with one number"),
]


def by_parts(cfg):
    D, shared = cfg["emb_dim"], cfg["n_kv_heads"] * cfg["emb_dim"] // cfg["n_heads"]
    block = 2 * D * D + 2 * D * shared + 3 * D * cfg["hidden_dim"] + 2 * D
    return (1 if cfg["tied"] else 2) * cfg["vocab_size"] * D + cfg["n_layers"] * block + D


def by_width(cfg):
    heads = 2 + 2 * Fraction(cfg["n_kv_heads"], cfg["n_heads"])
    per_feature = cfg["n_layers"] * (heads * cfg["emb_dim"] + 3 * cfg["hidden_dim"] + 2) + 1
    return cfg["emb_dim"] * (per_feature + cfg["vocab_size"] * (2 - cfg["tied"]))


def by_shapes(cfg):
    D, V, hidden = cfg["emb_dim"], cfg["vocab_size"], cfg["hidden_dim"]
    shared = D // cfg["n_heads"] * cfg["n_kv_heads"]
    block = [(D, D), (D, shared), (D, shared), (D, D), (D, hidden), (D, hidden), (hidden, D), (D,), (D,)]
    shapes = [(V, D), *([] if cfg["tied"] else [(V, D)]), *block * cfg["n_layers"], (D,)]
    return sum(math.prod(shape) for shape in shapes)


def in_a_tensor(cfg):
    D = torch.tensor(cfg["emb_dim"])
    kept = D * cfg["n_kv_heads"] // cfg["n_heads"]
    block = D * (2 * D + 2 * kept + 3 * cfg["hidden_dim"] + 2)
    return D * cfg["vocab_size"] * (2 - int(cfg["tied"])) + cfg["n_layers"] * block + D


class Counter:
    def __call__(self, cfg):
        total = cfg["emb_dim"] * cfg["vocab_size"] + cfg["emb_dim"]
        if not cfg["tied"]:
            total += cfg["emb_dim"] * cfg["vocab_size"]
        for _ in range(cfg["n_layers"]):
            total += by_parts({**cfg, "vocab_size": 0, "n_layers": 1}) - cfg["emb_dim"]
        return total


def changed(words):
    """A right answer for a configuration that is changed first."""
    return lambda cfg: by_parts({**cfg, **words(cfg)})


RIGHT["llama_parameters"] = [by_parts, by_width, by_shapes, in_a_tensor, Counter()]
WRONG["llama_parameters"] = [
    (lambda c: by_parts(c) - c["emb_dim"], "The final norm is missing"),
    (lambda c: by_parts(c) - c["n_layers"] * c["emb_dim"], "A block has two norms"),
    (lambda c: by_parts(c) - (2 * c["n_layers"] + 1) * c["emb_dim"], "The norms are missing"),
    (lambda c: by_parts(c) + (2 * c["n_layers"] + 1) * c["emb_dim"], "no shift"),
    (lambda c: by_parts(c) - c["n_layers"] * c["emb_dim"] * c["hidden_dim"], "three matrices"),
    (changed(lambda c: {"n_kv_heads": c["n_heads"]}), "Keys and values are narrower"),
    (
        lambda c: (
            by_parts(c)
            - c["n_layers"] * c["emb_dim"] ** 2
            + c["n_layers"] * c["emb_dim"] ** 2 * c["n_kv_heads"] // c["n_heads"]
        ),
        "The output projection is as wide as the model",
    ),
    (
        lambda c: (
            by_parts(c)
            - 2 * c["n_layers"] * c["emb_dim"] ** 2
            + 2 * c["n_layers"] * c["emb_dim"] ** 2 * c["n_kv_heads"] // c["n_heads"]
        ),
        "queries and output are square",
    ),
    (changed(lambda c: {"tied": True}), "It ignores `tied`"),
    (changed(lambda c: {"tied": False}), "It ignores `tied`"),
    (lambda c: by_parts(c) - c["vocab_size"] * c["emb_dim"], "The embedding is missing"),
    (changed(lambda c: {"n_layers": 1}), "a single block"),
    (
        lambda c: (
            by_parts(c)
            + c["n_layers"]
            * (3 * c["emb_dim"] + 2 * (c["emb_dim"] // c["n_heads"] * c["n_kv_heads"]) + 2 * c["hidden_dim"])
        ),
        "There are no biases",
    ),
    (lambda c: by_parts(c) + 1, "is right"),
    (lambda c: str(by_parts(c)), "It returns a str"),
    (134_515_008, "Hand over the function"),
]
assert by_parts(SMOLLM2_135M) == 134_515_008


def by_slices(x, position, base=10_000.0):
    angles = position * base ** (-torch.arange(0, len(x), 2) / len(x))
    a, b = x[0::2], x[1::2]
    turned = a * angles.cos() - b * angles.sin(), a * angles.sin() + b * angles.cos()
    return torch.stack(turned, dim=1).flatten()


def by_matrices(x, position, base=10_000.0):
    planes = []
    for i in range(len(x) // 2):
        angle = position * base ** (-2 * i / len(x))
        turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        planes.append(turn @ x[2 * i : 2 * i + 2])
    return torch.cat(planes)


def by_complex_numbers(x, position, base=10_000.0):
    z = torch.view_as_complex(x.reshape(-1, 2).contiguous())
    angles = position * base ** (-2 * torch.arange(len(z)) / len(x))
    return torch.view_as_real(z * torch.polar(torch.ones(len(z)), angles)).flatten()


def in_place_of_a_copy(x, position, base=10_000.0):
    out = x.clone()
    for i in range(0, len(x), 2):
        angle = torch.tensor(position / base ** (i / len(x)))
        out[i] = x[i] * angle.cos() - x[i + 1] * angle.sin()
        out[i + 1] = x[i + 1] * angle.cos() + x[i] * angle.sin()
    return out


def with_signs(x, position, base=10_000.0):
    angles = (position * base ** (-torch.arange(0, len(x), 2) / len(x))).repeat_interleave(2)
    swapped = torch.stack((-x[1::2], x[0::2]), dim=-1).reshape(len(x))
    return x * angles.cos() + swapped * angles.sin()


def halves(x, position, base):
    back = by_slices(torch.stack(x.chunk(2), dim=1).flatten(), position, base)
    return torch.cat((back[0::2], back[1::2]))


def with_speeds(speeds):
    """Neighbors turned by other speeds: a function of the plane, the width, and the base."""

    def answer(x, position, base):
        angles = torch.tensor([position * speeds(i, len(x), base) for i in range(len(x) // 2)])
        a, b = x[0::2], x[1::2]
        turned = a * angles.cos() - b * angles.sin(), a * angles.sin() + b * angles.cos()
        return torch.stack(turned, dim=1).flatten()

    return answer


def unsorted(x, position, base):
    out = by_slices(x, position, base)
    return torch.cat((out[0::2], out[1::2]))


RIGHT["rotate_neighbors"] = [by_slices, by_matrices, by_complex_numbers, in_place_of_a_copy, with_signs]
WRONG["rotate_neighbors"] = [
    (lambda x, p, b: by_slices(x, -p, b), "the other way"),
    (halves, "neighbors make a plane"),
    (unsorted, "in another order"),
    (with_speeds(lambda i, Dh, base: base ** (-i / Dh)), "The exponent is -2i/Dh"),
    (with_speeds(lambda i, Dh, base: base ** (-4 * i / Dh)), "The exponent is -2i/Dh"),
    (with_speeds(lambda i, Dh, base: base ** (2 * i / Dh)), "The exponent is negative"),
    (with_speeds(lambda i, Dh, base: 1.0), "the same speed"),
    (with_speeds(lambda i, Dh, base: 10_000.0 ** (-2 * i / Dh)), "It ignores `base`"),
    (lambda x, p, b: x, "It returns its input"),
    (lambda x, p, b: by_slices(x, p + 1, b), "position + 1"),
    (lambda x, p, b: by_slices(x, p, b)[: len(x) // 2], "shape"),
    (lambda x, p, b: by_slices(2 * x, p, b), "is right"),
    (lambda x, p, b: None, "is a `return` missing?"),
]


def by_cat(block):
    step, lowest = struct.unpack("<ee", block[:4])
    codes = torch.tensor(list(block[4:]))
    return lowest + step * torch.cat((codes & 15, codes >> 4)).float()


def by_numpy(block):
    step, lowest = np.frombuffer(block[:4], dtype="<f2").astype("float32")
    codes = np.frombuffer(block[4:], dtype="uint8")
    return torch.from_numpy(lowest + step * np.concatenate([codes % 16, codes // 16]).astype("float32"))


def in_a_loop(block):
    (step,), (lowest,) = struct.unpack("<e", block[0:2]), struct.unpack("<e", block[2:4])
    weights = [0.0] * 32
    for i, byte in enumerate(block[4:]):
        weights[i] = lowest + step * (byte & 0b1111)
        weights[i + 16] = lowest + step * (byte >> 4)
    return torch.tensor(weights)


def by_hexadecimals(block):
    step, lowest = struct.unpack_from("<2e", block)
    digits = block[4:].hex()
    codes = [int(digit, 16) for digit in digits[1::2] + digits[0::2]]
    return torch.tensor([lowest + step * code for code in codes])


def by_table(block):
    step, lowest = torch.frombuffer(bytearray(block[:4]), dtype=torch.float16).float()
    levels = torch.arange(16) * step + lowest
    codes = torch.frombuffer(bytearray(block[4:]), dtype=torch.uint8).long()
    return levels[torch.stack((codes.remainder(16), codes.div(16, rounding_mode="floor")))].flatten()


def in_other_order(order):
    def answer(block):
        return order(by_cat(block))

    return answer


def with_values(values):
    """Weights made by another formula of the step, the lowest level, and a code."""

    def answer(block):
        step, lowest = struct.unpack("<ee", block[:4])
        codes = torch.tensor(list(block[4:]))
        return values(step, lowest, torch.cat((codes & 15, codes >> 4)).float())

    return answer


RIGHT["decode_block"] = [by_cat, by_numpy, in_a_loop, by_hexadecimals, by_table]
WRONG["decode_block"] = [
    (in_other_order(lambda w: torch.cat((w[16:], w[:16]))), "in the lower halves"),
    (in_other_order(lambda w: torch.stack((w[:16], w[16:]), dim=1).flatten()), "in the lower halves"),
    (with_values(lambda step, lowest, code: step + lowest * code), "The step comes first"),
    (with_values(lambda step, lowest, code: step * code), "isn't added"),
    (with_values(lambda step, lowest, code: step * code - lowest), "is subtracted"),
    (with_values(lambda step, lowest, code: lowest + step * (code - 8)), "count from 0"),
    (with_values(lambda step, lowest, code: lowest + step * code + 0.1), "is right"),
    (with_values(lambda step, lowest, code: (lowest + step * code).double()), "of type torch.float64"),
    (in_other_order(lambda w: w[:16]), "shape"),
    (in_other_order(lambda w: w.tolist()), "It returns a list"),
]
