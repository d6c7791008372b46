"""Answers to the exercises of 4.6, on the GPT model."""

import functools
import itertools
import math
import time

import numpy as np
import torch
from torch import nn

from helpers import GPTModel, LayerNorm, TransformerBlock, count_parameters

from . import section_4_6_model

RIGHT, WRONG = {**section_4_6_model.RIGHT}, {**section_4_6_model.WRONG}

RIGHT["why_124m"] = ["d", "D", " d", "(d)", "d)"]
WRONG["why_124m"] = [
    (None, "Choose one of"),
    ("d or a", "Choose one of"),
]


def by_formula(cfg):
    D, L = cfg["emb_dim"], cfg["n_layers"]
    return L * (4 * D * D + D + 3 * D * cfg["qkv_bias"]), L * (8 * D * D + 5 * D)


def by_building(cfg):
    with torch.device("meta"):
        blocks = [TransformerBlock(cfg) for _ in range(cfg["n_layers"])]
    return [sum(count_parameters(getattr(b, part)) for b in blocks) for part in ("att", "ff")]


def by_names(cfg: dict) -> tuple[int, int]:
    """The whole model, whose parameters are counted by what their names say."""
    with torch.device("meta"):
        model = GPTModel(cfg)
    counts = {".att.": 0, ".ff.": 0}
    for name, parameter in model.named_parameters():
        for part in counts:
            counts[part] += parameter.numel() * (part in name)
    return tuple(counts.values())


def by_tensor(cfg):
    return torch.tensor(by_formula(cfg))


class ByShapes:
    """A callable object, for which the shapes are enough."""

    def __call__(self, cfg):
        D, L = cfg["emb_dim"], cfg["n_layers"]
        att = [(D, D)] * 4 + [(D,)] * (4 if cfg["qkv_bias"] else 1)
        ff = [(D, 4 * D), (4 * D,), (4 * D, D), (D,)]
        return tuple(sum(math.prod(shape) for shape in shapes) * L for shapes in (att, ff))


def parts(attention=lambda cfg: 0, feed_forward=lambda cfg: 0):
    """The right counts, less what the two functions say for one block."""

    def function(cfg):
        att, ff = by_formula(cfg)
        return att - cfg["n_layers"] * attention(cfg), ff - cfg["n_layers"] * feed_forward(cfg)

    return function


def count_in_place(cfg):
    cfg["qkv_bias"] = True
    return by_formula(cfg)


RIGHT["part_counts"] = [
    by_formula,
    by_building,
    by_names,
    by_tensor,
    ByShapes(),
    lambda cfg: np.array(by_formula(cfg)),
    functools.partial(by_formula),
]
WRONG["part_counts"] = [
    (lambda cfg: tuple(n // cfg["n_layers"] for n in by_formula(cfg)), "That is one block"),
    (lambda cfg: by_formula(cfg)[::-1], "Attention comes first"),
    (parts(lambda cfg: -3 * cfg["emb_dim"] * (not cfg["qkv_bias"])), "With qkv_bias False"),
    (parts(lambda cfg: 3 * cfg["emb_dim"] * cfg["qkv_bias"]), "With qkv_bias True, query"),
    (parts(lambda cfg: cfg["emb_dim"]), "out_proj has a bias"),
    (parts(lambda cfg: cfg["emb_dim"] ** 2 + cfg["emb_dim"]), "out_proj is one of them"),
    (parts(feed_forward=lambda cfg: 5 * cfg["emb_dim"]), "have biases, 4D and D"),
    (
        lambda cfg: (4 * cfg["n_layers"] * cfg["emb_dim"] ** 2, 8 * cfg["n_layers"] * cfg["emb_dim"] ** 2),
        "Biases",
    ),
    (parts(feed_forward=lambda cfg: -4 * cfg["emb_dim"]), "belong to neither, so don't count"),
    (parts(lambda cfg: -2 * cfg["emb_dim"], lambda cfg: -2 * cfg["emb_dim"]), "belong to neither part"),
    (parts(feed_forward=lambda cfg: 4 * cfg["emb_dim"] ** 2 + cfg["emb_dim"]), "has two matrices"),
    (lambda cfg: (by_formula(cfg)[0], size(cfg)[0] - by_formula(cfg)[0]), "That is the whole model"),
    (lambda cfg: by_formula({**cfg, "n_layers": 12}), "For a model with 3 blocks of width 480 it gives"),
    (lambda cfg: by_formula({**cfg, "qkv_bias": False}), "With qkv_bias True, query"),
    (lambda cfg: by_formula({**cfg, "emb_dim": cfg["emb_dim"] // 64 * 64}), "For a model with 3 blocks"),
    (lambda cfg: tuple(n / 1e6 for n in by_formula(cfg)), "is too small"),
    (lambda cfg: dict(zip("af", by_formula(cfg), strict=True)), "Answer with a tuple of 2 numbers"),
    (lambda cfg: None, "is a `return` missing?"),
    (lambda cfg: sum(by_formula(cfg)), "Answer with a tuple of 2 numbers"),
    (count_in_place, "It changes cfg; work on a copy"),
]
MB = 2**20


def size(cfg):
    with torch.device("meta"):
        n = count_parameters(GPTModel(cfg))
    return n, n * 4 / MB


def size_by_formula(cfg):
    V, T, D, L = (cfg[key] for key in ("vocab_size", "context_length", "emb_dim", "n_layers"))
    n = (2 * V + T + 2) * D + L * (12 * D * D + (10 + 3 * cfg["qkv_bias"]) * D)
    return [n, round(n / 262_144, 2)]


def size_by_layers(cfg):
    """One block on meta, and the rest by formula."""
    with torch.device("meta"):
        block, norm, tok = (
            TransformerBlock(cfg),
            LayerNorm(cfg["emb_dim"]),
            nn.Embedding(cfg["vocab_size"], cfg["emb_dim"]),
        )
    total = cfg["n_layers"] * count_parameters(block) + count_parameters(norm) + 2 * count_parameters(tok)
    total += cfg["context_length"] * cfg["emb_dim"]
    return total, round(total * torch.finfo(torch.float32).bits / 8 / MB)


def size_by_tensors(cfg):
    with torch.device("meta"):
        model = GPTModel({**cfg, "drop_rate": 0})
    tensors = list(model.state_dict().values())
    numbers = [sum(t.numel() for t in tensors), sum(t.numel() * t.element_size() for t in tensors) / 1024**2]
    return torch.tensor(numbers, dtype=torch.float64)


def size_in_words(cfg: dict, bytes_each: int = 4) -> tuple[int, float]:
    *_, n = itertools.accumulate(p.numel() for p in on_meta(cfg).parameters())
    return n, n / 2**20 * bytes_each


def on_meta(cfg):
    with torch.device("meta"):
        return GPTModel(cfg)


def smaller(difference):
    """The size of a model in which difference(V, T, D, L) parameters are forgotten."""

    def function(cfg):
        n = size(cfg)[0] - difference(
            cfg["vocab_size"], cfg["context_length"], cfg["emb_dim"], cfg["n_layers"]
        )
        return n, n * 4 / MB

    return function


def other_unit(factor):
    return lambda cfg: (size(cfg)[0], size(cfg)[0] * factor)


RIGHT["model_size"] = [size, size_by_formula, size_by_layers, size_by_tensors, size_in_words]
WRONG["model_size"] = [
    (smaller(lambda V, T, D, L: V * D), "The head is tied"),
    (smaller(lambda V, T, D, L: T * D), "The positional embedding is not counted"),
    (smaller(lambda V, T, D, L: 2 * D), "The final norm is not counted"),
    (smaller(lambda V, T, D, L: 4 * L * D), "The norms of the blocks"),
    (smaller(lambda V, T, D, L: (2 * V + T + 2) * D), "Only the blocks are counted"),
    (other_unit(4 / 1e6), "not a million"),
    (other_unit(2 / MB), "takes 4 bytes, not 2"),
    (other_unit(4 / 2**30), "That is in GB"),
    (other_unit(4), "That is in bytes"),
    (other_unit(8 / MB), "takes 4 bytes, not 8"),
    (other_unit(1 / MB), "Each parameter takes 4 bytes"),
    (lambda cfg: size(cfg)[::-1], "First the parameters"),
    (other_unit(16 / MB), "Training takes 16 bytes"),
    (lambda cfg: None, "it should return two numbers"),
    (lambda cfg: size(cfg)[0], "Answer with a tuple of 2 numbers, not 1"),
    (lambda cfg: size({**cfg, "qkv_bias": False}), "With qkv_bias True, query, key, and value have biases"),
    (lambda cfg: size({**cfg, "vocab_size": 50257}), "not always 50,257"),
    (lambda cfg: size({**cfg, "context_length": 1024}), "For a model with 3 blocks of width 480 it gives"),
    (lambda cfg: size({**cfg, "n_layers": 12}), "For a model with 3 blocks of width 480 it gives"),
    (lambda cfg: (size(cfg)[0] / 1e6, size(cfg)[1]), "is too small"),
    (lambda cfg: (size(cfg)[0] + 1, size(cfg)[1]), "is too large"),
    (lambda cfg: time.sleep(3), "a loop that never ends, or too much work?"),
]
