"""Answers to the exercises of 4.3, on GELU and the feed-forward network."""

import functools
import math
from collections import OrderedDict

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from helpers import GELU, GPT_CONFIG_124M, FeedForward

from .variants import forward, init, normalized

RIGHT, WRONG = {}, {}

RIGHT["collapsed_layers"] = [
    590_592,
    590_592.0,
    768**2 + 768,
    sum(p.numel() for p in nn.Linear(768, 768).parameters()),
    torch.tensor(590_592),
    np.int32(590_592),
    [590_592],
]
WRONG["collapsed_layers"] = [
    ((590, 592), "A comma makes a tuple"),
    (700, "700 is too small"),
    ("590592", "Answer with one number, not '590592'"),
]
RIGHT["hidden_memory"] = [
    48,
    48.5,
    torch.tensor([48.0]),
    np.float64(48),
    4 * 1024 * 4 * GPT_CONFIG_124M["emb_dim"] * 4 / 1024 / 1024,
    torch.empty(4, 1024, 3072).nbytes / 2**20,
]
WRONG["hidden_memory"] = [
    (60, "60 is too large"),
]


def activation(function):
    return type("Activation", (nn.Module,), {"forward": lambda self, x: function(x)})


def gelu(root=(2 / math.pi) ** 0.5, factor=0.044715, power=3, half=0.5, one=1):
    return activation(lambda x: half * x * (one + torch.tanh(root * (x + factor * x**power))))


class GELUByExp(nn.Module):
    """The same with the exponential function: 0.5 (1 + tanh z) = 1 / (1 + e^(-2z))."""

    def forward(self, inputs):
        z = math.sqrt(2 / math.pi) * (inputs + 0.044715 * torch.pow(inputs, 3))
        return inputs * torch.sigmoid(2 * z)


class GELUWithBuffer(nn.Module):
    """In steps of its own, with the root as a buffer."""

    def __init__(self, factor: float = 0.044715):
        super().__init__()
        self.factor = factor
        self.register_buffer("root", torch.sqrt(torch.tensor(2.0 / torch.pi)), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = torch.mul(self.root, torch.add(x, x * x * x, alpha=self.factor))
        return x.mul(inner.tanh().add(1)).div(2)


class GELUByNumpy(nn.Module):
    def forward(self, x, *, pi=np.pi):
        return x * 0.5 * (1.0 + torch.tanh(float(np.sqrt(2 / pi)) * x * (1 + 0.044715 * x.square())))


def tanh_gelu(x):
    return F.gelu(x, approximate="tanh")


def inner(x):
    return (2 / math.pi) ** 0.5 * (x + 0.044715 * x**3)


def tanh_by_exp(z):
    return (torch.exp(z) - torch.exp(-z)) / (torch.exp(z) + torch.exp(-z))


class with_a_learned_root(nn.Module):
    def __init__(self):
        super().__init__()
        self.root = nn.Parameter(torch.tensor((2 / math.pi) ** 0.5))

    def forward(self, x):
        return 0.5 * x * (1 + torch.tanh(self.root * (x + 0.044715 * x**3)))


exact = gelu()().forward

RIGHT["gelu"] = [
    gelu(),
    gelu(root=0.7978845608),
    GELUByExp,
    GELUWithBuffer,
    GELUByNumpy,
    activation(lambda x: 0.5 * x + 0.5 * x * inner(x).tanh()),
    activation(lambda x: exact(x.double()).type_as(x)),
]
WRONG["gelu"] = [
    (GELU, "Write it yourself: the course's GELU.forward is out of reach"),
    (type("MyGELU", (GELU,), {}), "Write it yourself"),
    (activation(lambda x: GELU()(x)), "Write it yourself"),
    (type("MyGELU", (nn.GELU,), {}), "Write it by hand: PyTorch's gelu is out of reach"),
    (activation(tanh_gelu), "Write it by hand: PyTorch's gelu is out of reach"),
    (activation(nn.GELU("tanh")), "Write it by hand: PyTorch's gelu is out of reach"),
    (activation(F.relu), "That is ReLU"),
    (activation(lambda x: x * 0.5 * (1 + torch.erf(x / 2**0.5))), "the exact form"),
    (activation(lambda x: x * torch.sigmoid(1.702 * x)), "the sigmoid form"),
    (activation(F.silu), "That is SiLU"),
    (gelu(half=1), "The factor 0.5 is missing"),
    (activation(lambda x: 0.5 * (1 + torch.tanh(inner(x)))), "The factor x in front"),
    (gelu(one=0), "The 1 + is missing"),
    (activation(lambda x: 0.5 * x * (1 - torch.tanh(inner(x)))), "It subtracts the tanh"),
    (gelu(factor=0), "The cubic term is missing"),
    (gelu(factor=-0.044715), "The cubic term is subtracted"),
    (gelu(factor=1), "The cubic term lacks its factor"),
    (gelu(power=2), "x is squared"),
    (gelu(root=2 / math.pi), "The root of 2/π is missing"),
    (gelu(root=1), "The factor sqrt(2/π) is missing"),
    (gelu(root=(2 * math.pi) ** 0.5), "sqrt(2π) instead"),
    (gelu(factor=0.44715), "The factor is 0.44715;"),
    (activation(lambda x: x), "It returns its input"),
    (activation(lambda x: x.mul_(0.5 * (1 + torch.tanh(x)))), "changes its input in place"),
    (activation(lambda x: exact(x).detach()), "no gradient flows back"),
    (activation(lambda x: exact(x.detach()) + 0 * x), "as the gradient of the input"),
    (activation(lambda x: exact(x).flatten()), "In training mode it gives the shape (1,)"),
    (gelu(root=(math.pi / 2) ** 0.5), "sqrt(π/2) instead"),
    (gelu(root=1 / math.pi), "** 1/2 is not ** 0.5"),
    (
        activation(lambda x: 0.5 * x * (1 + torch.tanh((2 / math.pi) ** 0.5 * x + 0.044715 * x**3))),
        "whole bracket",
    ),
    (
        activation(lambda x: 0.5 * x * (1 + torch.tanh((2 / math.pi) ** 0.5 * (x + 0.044715 * x * 3)))),
        "multiplied by 3",
    ),
    (gelu(root=0.75), "0.5, ... it gives [-0.005"),
    (gelu(root=0.7975), "Very close, but not equal"),
    (gelu(root=0.7979), "Very close, but not equal"),
    (gelu(factor=0.0447), "Very close, but not equal"),
    (
        activation(lambda x: exact(x).float()),
        "In float64 it gives the right values, but of type torch.float32",
    ),
    (activation(lambda x: 0.5 * x * (1 + tanh_by_exp(inner(x)))), "it gives nan or infinity: exp overflows"),
    (activation(lambda x: x / (1 + torch.exp(-2 * inner(x)))), "its derivative is nan or infinity"),
    (activation(lambda x: exact(x.clamp(-9, 9))), "For x = -1000, -30, -12, 12, ... it gives"),
    (with_a_learned_root, "It has parameters"),
]


class Base(nn.Module):
    """The layers of the course's class, which itself is out of reach."""

    def __init__(self, cfg):
        super().__init__()
        self.layers = nn.Sequential(*(make(cfg["emb_dim"]) for make in (expand, bend, contract)))


class TwoNames(nn.Module):
    """Without a Sequential, and with names of its own."""

    def __init__(self, config):
        super().__init__()
        self.down = nn.Linear(config["emb_dim"] * 4, config["emb_dim"])
        self.up = nn.Linear(config["emb_dim"], config["emb_dim"] * 4)
        self.register_module("middle", nn.GELU("tanh"))

    def forward(self, tokens):
        return self.down(self.middle(self.up(tokens)))


class NamedLayers(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        parts = {"expand": expand, "bend": bend, "contract": contract}
        self.layers = nn.Sequential(OrderedDict((name, f(cfg["emb_dim"])) for name, f in parts.items()))

    def forward(self, x):
        return self.layers(x)


class InALoop(nn.Module):
    """In a ModuleList, made from the last to the first."""

    def __init__(self, config):
        super().__init__()
        D = config["emb_dim"]
        narrow, wide = nn.Linear(D * 4, D), nn.Linear(D, D * 4)
        self.layers = nn.ModuleList([wide, nn.GELU("tanh"), narrow])

    def forward(self, tokens):
        for layer in self.layers:
            tokens = layer(tokens)
        return tokens


class Appended(nn.Module):
    """A Sequential that grows, another GELU, and optional parameters."""

    def __init__(self, cfg: dict, factor: int = 4):
        super().__init__()
        width = cfg.get("emb_dim")
        self.layers = nn.Sequential()
        self.layers.append(nn.Linear(width, factor * width, bias=True))
        self.layers.append(GELUByExp())
        self.layers.append(nn.Linear(factor * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, bent, second = self.layers
        return second(bent(first(x)))


class Lazy(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        cfg["used"] = True  # its own copy
        self.layers = nn.Sequential(nn.LazyLinear(4 * cfg["emb_dim"]), GELU(), nn.LazyLinear(cfg["emb_dim"]))

    def forward(self, x):
        return self.layers.forward(x)


class ByMatrices(Base):
    """Without calling the layers."""

    def forward(self, x):
        (W1, b1), (W2, b2) = ((layer.weight, layer.bias) for layer in (self.layers[0], self.layers[2]))
        return F.linear(tanh_gelu(x @ W1.T + b1), W2, b2)


class PlainList(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.layers = [expand(cfg["emb_dim"]), GELU(), contract(cfg["emb_dim"])]

    forward = InALoop.forward


class Stolen(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.layers = FeedForward(cfg).layers

    def forward(self, x):
        return self.layers(x)


def network(*layers):
    """A feed-forward network of the layers that functions of D make, run one after the other."""

    def function(self, cfg):
        self.layers = nn.Sequential(*[layer(cfg["emb_dim"]) for layer in layers])

    return init(function, lambda self, x: self.layers(x))


def expand(D):
    return nn.Linear(D, 4 * D)


def contract(D):
    return nn.Linear(4 * D, D)


def bend(D):
    return GELU()


class NormInside(Base):
    def forward(self, x):
        return self.layers[2](normalized(self.layers[1](self.layers[0](x))))


class dropping_too(Base):
    def __init__(self, cfg):
        super().__init__(cfg)
        self.layers.append(nn.Dropout(cfg["drop_rate"]))

    def forward(self, x):
        return self.layers(x)


def plain_forward(self, x):
    return self.layers(x)


# the course's name, and the same forward
SameName = type("FeedForward", (Base,), {"forward": plain_forward})

RIGHT["feed_forward"] = [network(expand, bend, contract), InALoop, Appended, Lazy, ByMatrices, SameName]
WRONG["feed_forward"] = [
    (FeedForward, "Write it yourself: the course's FeedForward.__init__ is out of reach"),
    (type("MyFeedForward", (FeedForward,), {}), "Write it yourself"),
    (forward(FeedForward, plain_forward), "Write it yourself"),
    (Stolen, "Write it yourself: the course's FeedForward.__init__"),
    (forward(Base, FeedForward.forward), "Write it yourself: the course's FeedForward.forward"),
    (network(expand, bend, contract, bend, lambda D: nn.Linear(D, D)), "It has 3 nn.Linear layers"),
    (
        network(lambda D: nn.Linear(D, D), bend, lambda D: nn.Linear(D, D)),
        "The hidden layer should be four times as wide",
    ),
    (network(lambda D: nn.Linear(D, 2 * D), bend, lambda D: nn.Linear(2 * D, D)), "from 6 to 12 and 12 to 6"),
    (network(lambda D: nn.Linear(D, 27), bend, lambda D: nn.Linear(27, D)), "from 6 to 24 and back"),
    (network(lambda D: expand(768), bend, lambda D: contract(768)), "from 768 to 3072 and 3072 to 768"),
    (network(lambda D: nn.Linear(D, 24), bend, lambda D: nn.Linear(24, D)), "For emb_dim = 10 the layers go"),
    (network(lambda D: nn.Linear(D, 4 * D, bias=False), bend, contract), "A bias is missing"),
    (network(expand, contract), "no activation between"),
    (network(expand, lambda D: nn.ReLU(), contract), "The activation is ReLU"),
    (network(expand, lambda D: nn.GELU(), contract), "The activation is the exact GELU"),
    (network(expand, lambda D: nn.SiLU(), contract), "The activation is SiLU"),
    (network(expand, bend, contract, bend), "also an activation after the second layer"),
    (network(expand, contract, bend), "The activation comes after the second layer"),
    (network(bend, expand, contract), "before the first layer"),
    (forward(Base, lambda self, x: x + self.layers(x)), "The input is added"),
    (NormInside, "The hidden features are normalized"),
    (forward(Base, lambda self, x: self.layers(normalized(x))), "The input is normalized"),
    (forward(Base, lambda self, x: self.layers[0](x)), "the shape (2, 3, 24)"),
    (forward(Base, lambda self, x: self.layers(x).mean(1)), "the shape (2, 6)"),
    (forward(Base, lambda self, x: 2 * self.layers(x)), "With random weights it gives"),
    (forward(Base, lambda self, x: self.layers[2](self.layers[1](self.layers[0](x).relu()))), "With random"),
    (forward(Base, lambda self, x: None), "None (is a `return` missing?)"),
    (
        TwoNames,
        "Weights saved with our class wouldn't fit: yours are called down.weight, down.bias, up.weight",
    ),
    (NamedLayers, "yours are called layers.expand.weight"),
    (PlainList, "A plain list hides its layers"),
    (forward(Base, lambda self, x: self.layers(x.data)), "no gradient reaches the input"),
    (forward(Base, torch.no_grad()(plain_forward)), "no gradient flows back"),
    (network(expand, bend, contract, lambda D: nn.Dropout(0.5)), "Is there a dropout? None belongs here"),
    (network(expand, bend, lambda D: nn.Dropout(0.1), contract), "Is there a dropout? None belongs here"),
    (dropping_too, "Is there a dropout? None belongs here"),
]


def pieces(function):
    """Runs `function` on the joined rows of all texts, with the shape of x at the end."""

    def in_pieces(ff, x, size):
        return function(ff, x.flatten(0, 1), size).view(x.shape)

    return in_pieces


def by_split(ff, rows, size):
    return torch.cat([ff(piece) for piece in rows.split(size)])


def by_slices(ff: nn.Module, x: torch.Tensor, size: int = 512) -> torch.Tensor:
    rows = x.reshape(-1, x.size(-1))
    result = torch.empty_like(rows)
    for start in range(0, len(rows), size):
        result[start : start + size] = ff(rows[start : start + size])
    return result.reshape_as(x)


@torch.no_grad()
def text_by_text(ff, x, size):
    return torch.stack([torch.cat(list(map(ff, text.split(size)))) for text in x])


@torch.inference_mode()
def by_chunks(ff, x, size):
    B, T, D = x.shape
    rows = x.view(B * T, D)
    return torch.vstack([ff(chunk) for chunk in rows.tensor_split([*range(size, B * T, size)])]).view(B, T, D)


def token_by_token(ff, x, size):
    return torch.stack([torch.stack([ff(token) for token in text]) for text in x])


class InPieces(nn.Module):
    def forward(self, ff, x, size, *, dim=-1):
        rows, done = list(x.unflatten(1, (-1, 1)).flatten(0, 2)), []
        while rows:
            piece, rows = rows[:size], rows[size:]
            done.extend(ff(torch.stack(piece)))
        return torch.stack(done).unflatten(0, x.shape[:2])


def only_full_pieces(ff, rows, size):
    result = torch.zeros_like(rows)
    for n in range(len(rows) // size):
        result[n * size : (n + 1) * size] = ff(rows[n * size : (n + 1) * size])
    return result


def only_the_last(ff, x, size):
    for piece in x.flatten(0, 1).split(size):
        result = ff(piece)
    return result


def padded(ff, rows, size):
    missing = -len(rows) % size
    return by_split(ff, torch.cat([rows, rows.new_zeros(missing, rows.shape[1])]), size)[: len(rows)]


def in_another_order(ff, x, size):
    return by_split(ff, x.transpose(0, 1).flatten(0, 1), size).view(x.shape)


RIGHT["in_pieces"] = [
    pieces(by_split),
    by_slices,
    text_by_text,
    by_chunks,
    token_by_token,
    InPieces(),
    functools.partial(pieces(by_split)),
]
WRONG["in_pieces"] = [
    (lambda ff, x, size: ff(x), "a piece has 10 tokens; at most 3 may go through"),
    (
        lambda ff, x, size: torch.cat([ff(p) for p in x.split(size, 1)], 1),
        "`size` counts the tokens of all texts",
    ),
    (
        pieces(lambda ff, r, size: torch.cat([ff(p) for p in r.chunk(size)])),
        "a piece has 4 tokens; at most 3",
    ),
    (lambda ff, x, size: by_split(ff, x.flatten(0, 1), size), "The rows of all texts are still in one"),
    (
        lambda ff, x, size: [ff(p) for p in x.flatten(0, 1).split(size)],
        "returns a list; it should return a tensor",
    ),
    (pieces(only_full_pieces), "The last tokens are missing"),
    (only_the_last, "That is the last piece only"),
    (in_another_order, "The tokens come back in another order"),
    (lambda ff, x, size: x, "It returns its input"),
    (lambda ff, x, size: pieces(by_split)(lambda r: F.relu(ff(r)), x, size), "it gives result["),
    (lambda ff, x, size: F.linear(tanh_gelu(ff.layers[0](x)), *ff.layers[2].parameters()), "a piece has 10"),
    (
        lambda ff, x, size: F.linear(
            tanh_gelu(F.linear(x, *ff.layers[0].parameters())), *ff.layers[2].parameters()
        ),
        "The network never runs",
    ),
    (pieces(padded), "12 tokens go through `ff`; there are 10"),
    (
        lambda ff, x, size: pieces(by_split)(ff, x, 3),
        "For x of shape (2, 5, 6) and size 1 a piece has 3 tokens",
    ),
    (
        lambda ff, x, size: pieces(by_split)(ff, x.mul_(2), size),
        "It changes its input in place",
    ),
]
