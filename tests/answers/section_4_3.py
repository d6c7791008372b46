"""Answers to the exercises of 4.3, on GELU and the feed-forward network."""

import math

import torch
from torch import nn
from torch.nn import functional as F

from helpers import GELU, FeedForward

from .variants import forward, init, normalized

RIGHT, WRONG = {}, {}

RIGHT["collapsed_layers"] = [590_592, 590_592.0]
WRONG["collapsed_layers"] = [
    ((590, 592), "A comma makes a tuple"),
    (700, "700 is too small"),
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


tanh_gelu = GELU()


class with_a_learned_root(nn.Module):
    def __init__(self):
        super().__init__()
        self.root = nn.Parameter(torch.tensor((2 / math.pi) ** 0.5))

    def forward(self, x):
        return 0.5 * x * (1 + torch.tanh(self.root * (x + 0.044715 * x**3)))


RIGHT["gelu"] = [GELU, GELUByExp, activation(lambda x: F.gelu(x, approximate="tanh"))]
WRONG["gelu"] = [
    (activation(F.relu), "That is ReLU"),
    (activation(F.gelu), "the exact form"),
    (activation(lambda x: x * torch.sigmoid(1.702 * x)), "the sigmoid form"),
    (activation(F.silu), "That is SiLU"),
    (gelu(half=1), "The factor 0.5 is missing"),
    (
        activation(lambda x: tanh_gelu(x).where(x == 0, tanh_gelu(x) / x).where(x != 0, 0.5)),
        "The factor x in front",
    ),
    (gelu(one=0), "The 1 + is missing"),
    (gelu(factor=0), "The cubic term is missing"),
    (gelu(power=2), "x is squared"),
    (gelu(root=2 / math.pi), "The root of 2/π is missing"),
    (gelu(root=1), "The factor sqrt(2/π) is missing"),
    (gelu(root=(2 * math.pi) ** 0.5), "sqrt(2π) instead"),
    (gelu(factor=0.44715), "0.44715 and not"),
    (activation(lambda x: x), "It returns its input"),
    (activation(lambda x: x.mul_(0.5 * (1 + torch.tanh(x)))), "changes its input in place"),
    (activation(lambda x: tanh_gelu(x).detach()), "no gradient flows back"),
    (activation(lambda x: tanh_gelu(x.detach()) + 0 * x), "as the gradient of the input"),
    (activation(lambda x: tanh_gelu(x).flatten()), "the shape (24,)"),
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
    (gelu(root=0.7975), "it gives [-0.003649"),
    (with_a_learned_root, "It has parameters"),
]


class TwoNames(nn.Module):
    """Without a Sequential, and with names of its own."""

    def __init__(self, config):
        super().__init__()
        self.down = nn.Linear(config["emb_dim"] * 4, config["emb_dim"])
        self.up = nn.Linear(config["emb_dim"], config["emb_dim"] * 4)
        self.register_module("middle", nn.GELU("tanh"))

    def forward(self, tokens):
        return self.down(self.middle(self.up(tokens)))


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


class PlainList(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.layers = [expand(cfg["emb_dim"]), GELU(), contract(cfg["emb_dim"])]

    forward = InALoop.forward


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


class NormInside(FeedForward):
    def forward(self, x):
        return self.layers[2](normalized(self.layers[1](self.layers[0](x))))


class dropping_too(FeedForward):
    def __init__(self, cfg):
        super().__init__(cfg)
        self.layers.append(nn.Dropout(cfg["drop_rate"]))


RIGHT["feed_forward"] = [FeedForward, InALoop]
WRONG["feed_forward"] = [
    (network(expand, bend, contract, bend, lambda D: nn.Linear(D, D)), "Two nn.Linear layers are wanted"),
    (
        network(lambda D: nn.Linear(D, D), bend, lambda D: nn.Linear(D, D)),
        "as wide as the input; it should be",
    ),
    (network(lambda D: nn.Linear(D, 2 * D), bend, lambda D: nn.Linear(2 * D, D)), "2 times as wide"),
    (network(lambda D: nn.Linear(D, 27), bend, lambda D: nn.Linear(27, D)), "from 6 to 24 and back to 6"),
    (network(lambda D: nn.Linear(D, 4 * D, bias=False), bend, contract), "A bias is missing"),
    (network(expand, contract), "no activation between"),
    (network(expand, lambda D: nn.ReLU(), contract), "The activation is ReLU"),
    (network(expand, lambda D: nn.GELU(), contract), "The activation is the exact GELU"),
    (network(expand, lambda D: nn.SiLU(), contract), "The activation is SiLU"),
    (network(expand, bend, contract, bend), "after the second layer, too"),
    (network(expand, contract, bend), "after the second layer, not between"),
    (network(bend, expand, contract), "before the first layer"),
    (forward(FeedForward, lambda self, x: x + self.layers(x)), "The input is added"),
    (NormInside, "The hidden numbers are normalized"),
    (forward(FeedForward, lambda self, x: self.layers[0](x)), "the shape (2, 3, 24)"),
    (forward(FeedForward, lambda self, x: self.layers(x).mean(1)), "the shape (2, 6)"),
    (forward(FeedForward, lambda self, x: 2 * self.layers(x)), "With random weights it gives"),
    (TwoNames, "Weights saved with our class would not fit"),
    (PlainList, "A plain list hides its layers"),
    (forward(FeedForward, lambda self, x: self.layers(x.data)), "no gradient reaches the input"),
    (forward(FeedForward, torch.no_grad()(FeedForward.forward)), "no gradient flows back"),
    (network(expand, bend, contract, lambda D: nn.Dropout(0.5)), "In training mode"),
    (dropping_too, "In training mode"),
]

RIGHT["hidden_memory"] = [48, 48.5, torch.tensor([48.0])]
WRONG["hidden_memory"] = [
    (60, "60 is too large"),
]


def swiglu(formula, hidden=8 / 3, names=("gate", "up", "down"), bias=False):
    def function(self, D):
        width = int(hidden * D)
        for name, sizes in zip(names, ((D, width), (D, width), (width, D)), strict=True):
            setattr(self, name, nn.Linear(*sizes, bias=bias))

    return init(function, lambda self, x: self.down(formula(self.gate(x), self.up(x))))


def gated(gate, up):
    return F.silu(gate) * up


class SwiGLUByHand(nn.Module):
    def __init__(self, emb_dim):
        super().__init__()
        hidden = round(emb_dim * 8 / 3)
        self.down, self.up = nn.Linear(hidden, emb_dim, False), nn.Linear(emb_dim, hidden, False)
        self.gate = nn.Linear(emb_dim, hidden, False)

    def forward(self, x):
        g = x @ self.gate.weight.T
        return (g / (1 + (-g).exp()) * (x @ self.up.weight.T)) @ self.down.weight.T


fixed_width = init(
    lambda self, D: [
        setattr(self, n, nn.Linear(*s, bias=False))
        for n, s in zip(("gate", "up", "down"), ((D, 256), (D, 256), (256, D)), strict=True)
    ],
    lambda self, x: self.down(gated(self.gate(x), self.up(x))),
)


RIGHT["swiglu"] = [swiglu(gated), SwiGLUByHand]
WRONG["swiglu"] = [
    (init(lambda self, D: setattr(self, "gate", nn.Linear(D, D)), lambda self, x: x), "missing: up, down"),
    (swiglu(gated, hidden=4), "one and a half times as many"),
    (swiglu(gated, hidden=2), "FeedForward has"),
    (swiglu(lambda gate, up: F.silu(gate) + up), "Gate and path are added"),
    (swiglu(lambda gate, up: F.silu(gate)), "The path `up` is not used"),
    (swiglu(lambda gate, up: up), "The gate is not used"),
    (swiglu(lambda gate, up: gate * F.silu(up)), "SiLU acts on `up`"),
    (swiglu(lambda gate, up: F.silu(gate) * F.silu(up)), "SiLU acts on both paths"),
    (swiglu(lambda gate, up: F.silu(gate * up)), "SiLU acts on the product"),
    (swiglu(lambda gate, up: gate * up), "no activation on the gate"),
    (swiglu(lambda gate, up: torch.sigmoid(gate) * up), "a plain sigmoid"),
    (swiglu(lambda gate, up: tanh_gelu(gate) * up), "has a GELU"),
    (swiglu(lambda gate, up: F.gelu(gate) * up), "has an exact GELU"),
    (swiglu(lambda gate, up: F.relu(gate) * up), "has a ReLU"),
    (swiglu(lambda gate, up: 2 * gated(gate, up)), "With random weights it gives"),
    (swiglu(gated, bias=True), "have no bias"),
    (fixed_width, "FeedForward has"),
    (
        forward(swiglu(gated), lambda self, x: x + self.down(gated(self.gate(x), self.up(x)))),
        "The input is added",
    ),
    (swiglu(lambda gate, up: F.silu(gate).detach() * up), "gradient of the input"),
]
