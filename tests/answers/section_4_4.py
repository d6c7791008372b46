"""Answers to the exercises of 4.4, on shortcut connections."""

import copy
import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from helpers import LayerNorm

from .variants import init, normalized

RIGHT, WRONG = {}, {}

RIGHT["sum_or_product"] = ["b", " B ", "(b)", "b)", "B.", "'b'", "(B):"]
WRONG["sum_or_product"] = [
    ("e", "Choose one of 'a', 'b', 'c', 'd'"),
    (2, "Choose one of"),
    (("b",), "Choose one of"),
    ("the sum", "not 'the sum'"),
    ("(d)", "A product has a derivative, too"),
]
RIGHT["gradient_through_twelve"] = [
    3.138,
    3.0,
    1.1**12,
    torch.tensor(3.2),
    (torch.tensor(3.138),),
    np.prod([1 + 0.1] * 12),
    math.exp(12 * math.log(1.1)),
    Fraction(11, 10) ** 12,
    Decimal("1.1") ** 12,
]
WRONG["gradient_through_twelve"] = [
    (5, "5 is too large"),
    (Decimal(5), "5.0 is too large"),
    ("1.1**12", "Answer with one number, not '1.1**12'"),
    (3.1 + 1j, "Answer with one number"),
]


def wrapper(function):
    """A module that keeps a layer and runs function(x, layer)."""
    return init(lambda self, layer: setattr(self, "layer", layer), lambda self, x: function(x, self.layer))


def refusing(function):
    """The same, but it refuses another shape."""

    def run(x, layer):
        if layer(x).shape != x.shape:
            raise ValueError("another shape")
        return function(x, layer)

    return wrapper(run)


class ResidualByHook(nn.Module):
    """In another style: the layer in a list, the sum by torch.add."""

    def __init__(self, sublayer):
        super().__init__()
        self.inner = nn.ModuleList([sublayer])

    def forward(self, inputs):
        (sublayer,) = self.inner
        change = sublayer(inputs)
        if change.size() != inputs.size():
            raise ValueError(f"{change.size()} is not {inputs.size()}")
        return torch.add(inputs, change)


def in_a_list(self, x):
    output = self.layer[0](x)
    if output.shape != x.shape:
        raise ValueError
    return x + output


def residual(x, layer):
    output = layer(x)
    if output.shape != x.shape:
        raise ValueError(f"the layer changes the shape from {tuple(x.shape)} to {tuple(output.shape)}")
    return x + output


def no_shortcut(x, layer):
    output = layer(x)
    return x + output if output.shape == x.shape else output


def by_width(x, layer):
    output = layer(x)
    if output.shape[-1] != x.shape[-1]:
        raise ValueError
    return x + output


def by_rest(x, layer):
    output = layer(x)
    if output.shape[1:] != x.shape[1:]:
        raise ValueError
    return x + output


def by_number(x, layer):
    output = layer(x)
    if output.numel() != x.numel():
        raise ValueError
    return x + output


def asserting(x, layer):
    output = layer(x)
    assert output.shape == x.shape
    return x + output


def returning(x, layer):
    output = layer(x)
    return x + output if output.shape == x.shape else ValueError("no")


class refusing_once(nn.Module):
    """With a function for the check, and the shapes as lists."""

    def __init__(self, layer):
        super().__init__()
        self.f = layer

    @staticmethod
    def same(a, b):
        if list(a.shape) != list(b.shape):
            raise ValueError(f"shapes {list(a.shape)} and {list(b.shape)}")
        return b

    def forward(self, x):
        return x.add(self.same(x, self.f(x)))


frozen = init(
    lambda self, layer: setattr(self, "layer", layer.requires_grad_(False)),
    lambda self, x: residual(x, self.layer),
)
copied = init(
    lambda self, layer: setattr(self, "layer", copy.deepcopy(layer)), lambda self, x: residual(x, self.layer)
)


class ResidualSequential(nn.Sequential):
    """The layer is the only one of a Sequential."""

    def __init__(self, layer):
        super().__init__(layer)

    def forward(self, x):
        change = super().forward(x)
        if tuple(change.shape) != tuple(x.shape):
            raise ValueError(f"{tuple(x.shape)} -> {tuple(change.shape)}")
        return change + x


class ShapeError(ValueError):
    pass


class ResidualStrict(nn.Module):
    def __init__(self, layer: nn.Module, *, scale: float = 1.0):
        super().__init__()
        self.add_module("wrapped", layer)
        self.register_buffer("scale", torch.tensor(scale))

    def forward(self, x: torch.Tensor, *extra) -> torch.Tensor:
        y = self.wrapped(x, *extra)
        if y.ndim != x.ndim or any(a != b for a, b in zip(y.shape, x.shape, strict=True)):
            raise ShapeError("no shortcut fits")
        return torch.stack([x, self.scale * y]).sum(dim=0)


def overwriting(x, layer):
    output = layer(x)
    if output.shape != x.shape:
        raise ValueError
    output += x
    return output


def by_zip(x, layer):
    output = layer(x)
    if any(a != b for a, b in zip(x.shape, output.shape, strict=False)):
        raise ValueError
    return x + output


def by_ndim(x, layer):
    output = layer(x)
    if output.ndim != x.ndim:
        raise ValueError
    return x + output


def by_sum(x, layer):
    output = layer(x)
    if (x + output).shape != x.shape:
        raise ValueError
    return x + output


RIGHT["residual"] = [
    wrapper(residual),
    wrapper(lambda x, f: residual(x, lambda y: f(y).clone())),
    ResidualByHook,
    ResidualSequential,
    ResidualStrict,
    refusing_once,
]
WRONG["residual"] = [
    (wrapper(lambda x, f: f(x)), "The input isn't added"),
    (wrapper(lambda x, f: x), "The layer isn't used"),
    (wrapper(lambda x, f: x * f(x)), "multiplied"),
    (wrapper(lambda x, f: f(x) - x), "The input is subtracted"),
    (wrapper(lambda x, f: x - f(x)), "The output is subtracted"),
    (wrapper(lambda x, f: f(x) + f(x)), "The output is added to itself"),
    (wrapper(lambda x, f: (x + f(x)) / 2), "That is the mean of the two"),
    (wrapper(lambda x, f: f(x + f(x))), "once more on the sum"),
    (wrapper(lambda x, f: x + f(f(x))), "The layer acts twice"),
    (wrapper(lambda x, f: 2 * x + f(x)), "The input is added twice"),
    (wrapper(lambda x, f: F.relu(x + f(x))), "There is an activation that nobody asked for"),
    (wrapper(lambda x, f: torch.cat([x, f(x)], dim=-1)), "placed side by side"),
    (wrapper(lambda x, f: x + 0.5 * f(x)), "With a random layer it gives"),
    (wrapper(lambda x, f: x + F.dropout(f(x), 0.5, training=f.training)), "Is there a dropout? None belongs"),
    (refusing(lambda x, f: x + f(x)), "The layer runs 2 times"),
    (copied, "The layer itself never runs"),
    (init(lambda self, layer: setattr(self, "layer", [layer]), in_a_list), "An optimizer wouldn't find"),
    (
        wrapper(lambda x, f: x + f(x)),
        "(2, 3, 1) must raise ValueError; yours returns (2, 3, 4)",
    ),
    (wrapper(lambda x, f: x.add_(f(x))), "changes its input in place"),
    (wrapper(overwriting), "changes its input in place"),
    (wrapper(lambda x, f: x if isinstance(f, nn.Identity) else residual(x, f)), "For nn.Identity(), which"),
    (wrapper(lambda x, f: 1 / 0), "ZeroDivisionError"),
    (wrapper(no_shortcut), "yours returns (2, 3, 1)"),
    (wrapper(by_rest), "A layer that turns (2, 3, 4) into (1, 3, 4)"),
    (wrapper(by_number), "A layer that turns (2, 3, 4) into (2, 1, 3, 4)"),
    (wrapper(by_width), "A layer that turns (2, 3, 4) into (2, 1, 4) must raise ValueError"),
    (wrapper(by_ndim), "into (2, 3, 1) must raise ValueError"),
    (wrapper(by_zip), "into () must raise ValueError; yours returns (2, 3, 4)"),
    (wrapper(by_sum), "into (2, 3, 1) must raise ValueError; yours returns (2, 3, 4)"),
    (wrapper(asserting), "this raises AssertionError"),
    (wrapper(returning), "It returns the ValueError; raise it"),
    (wrapper(lambda x, f: residual(x, f.forward)), "The layer itself never runs"),
    (wrapper(lambda x, f: residual(x.flatten(0, -2), f).view(x.shape)), "shape '[4]' is invalid"),
    (wrapper(lambda x, f: x.detach() + f(x)), "gradient of the input"),
    (wrapper(lambda x, f: x + f(x).detach()), "gradient of the input"),
    (wrapper(lambda x, f: x + f(x.detach())), "gradient of the input"),
    (wrapper(lambda x, f: (x + f(x)).detach()), "no gradient flows back"),
    (frozen, "self.layer.weight has requires_grad=False"),
]


def with_norm(function, count=1, base=LayerNorm):
    """A module that keeps a layer and `count` norms, and runs function(x, layer, norm)."""

    def start(self, layer, emb_dim):
        self.layer, self.norms = layer, nn.ModuleList(base(emb_dim) for _ in range(count))

    return init(start, lambda self, x: function(x, self.layer, self.norms[0] if count else normalized))


class ShiftFirst(nn.Module):
    """A layer norm whose first parameter is the shift."""

    def __init__(self, emb_dim):
        super().__init__()
        self.shift, self.scale = nn.Parameter(torch.zeros(emb_dim)), nn.Parameter(torch.ones(emb_dim))

    def forward(self, x):
        return F.layer_norm(x, x.shape[-1:], self.scale, self.shift)


class PreNormOther(nn.Module):
    def __init__(self, layer, emb_dim):
        super().__init__()
        self.path = nn.Sequential(nn.LayerNorm(emb_dim), layer)

    def forward(self, x):
        return self.path(x) + x


class PreNormSequential(nn.Sequential):
    def __init__(self, layer: nn.Module, emb_dim: int, eps: float = 1e-5):
        super().__init__(nn.LayerNorm(emb_dim, eps=eps), layer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        change = super().forward(x)
        change += x
        return change


class PreNormByHand(nn.Module):
    """With a norm of its own."""

    def __init__(self, f, D):
        super().__init__()
        self.gain, self.offset = nn.Parameter(torch.ones(D)), nn.Parameter(torch.zeros(D))
        self.f = f

    def forward(self, x):
        variance, mean = torch.var_mean(x, -1, correction=0, keepdim=True)
        return torch.add(x, self.f((x - mean) * (variance + 1e-5).rsqrt() * self.gain + self.offset))


def rms_layer(D):
    return nn.RMSNorm(D, eps=1e-5)


def batch_norm(D):
    return nn.BatchNorm1d(D)


RIGHT["pre_norm"] = [
    with_norm(lambda x, f, n: x + f(n(x))),
    with_norm(lambda x, f, n: x + f(n(x)), base=ShiftFirst),
    with_norm(lambda x, f, n: f(n(x.clone())).add_(x), base=nn.LayerNorm),
    PreNormOther,
    PreNormSequential,
    PreNormByHand,
]
WRONG["pre_norm"] = [
    (with_norm(lambda x, f, n: x + f(x)), "There is no norm"),
    (with_norm(lambda x, f, n: x + f(n(x)), base=batch_norm), "BatchNorm1d normalizes over the batch"),
    (with_norm(lambda x, f, n: x + f(n(x)), base=rms_layer), "The norm is an RMSNorm"),
    (with_norm(lambda x, f, n: f(n(x))), "There is no shortcut"),
    (with_norm(lambda x, f, n: n(x) + f(n(x))), "starts at the normalized copy"),
    (with_norm(lambda x, f, n: n(x + f(x))), "(post-norm)"),
    (with_norm(lambda x, f, n: x + n(f(x))), "The norm comes after the layer"),
    (with_norm(lambda x, f, n: n(x + f(n(x)))), "normalized once more"),
    (with_norm(lambda x, f, n: x + n(x) + f(x)), "side by side"),
    (with_norm(lambda x, f, n: x + n(x)), "The layer isn't used"),
    (
        init(
            lambda self, layer, D: self.__dict__.update(kept=[layer]),
            lambda self, x: x + self.kept[0](normalized(x)),
        ),
        "An optimizer wouldn't find",
    ),
    (with_norm(lambda x, f, n: x + f(n(x)), count=0), "Besides the layer it has 0 parameters"),
    (with_norm(lambda x, f, n: x + f(n(x)), count=2), "Besides the layer it has 24 parameters"),
    (with_norm(lambda x, f, n: x + 2 * f(n(x))), "With a random layer it gives"),
    (with_norm(lambda x, f, n: x * f(n(x))), "The two are multiplied"),
    (with_norm(lambda x, f, n: x.detach() + f(n(x))), "gradient of the input"),
    (with_norm(lambda x, f, n: x + f(n(x).detach())), "gradient of the input"),
    (with_norm(lambda x, f, n: x + f(normalized(x))), "For an input of shape (6,) it gives"),
    (
        with_norm(lambda x, f, n: x + f(F.layer_norm(x, (6,), n.scale.data, n.shift))),
        "reaches self.norms.0",
    ),
    (with_norm(lambda x, f, n: x + f(n(x) if x.ndim < 3 else x)), "For an input of shape (2, 3, 6) it gives"),
    (with_norm(lambda x, f, n: x + f(n(x)), base=lambda D: nn.LayerNorm(D, eps=1e-3)), "With a random layer"),
    (
        with_norm(lambda x, f, n: x + f(n(x)), base=lambda D: nn.LayerNorm(D, eps=1e-6)),
        "In training mode",
    ),
    (
        with_norm(lambda x, f, n: x + F.dropout(f(n(x)), 0.1, f.training)),
        "Is there a dropout?",
    ),
    (with_norm(lambda x, f, n: x.add_(f(n(x)))), "changes its input in place"),
    (
        with_norm(lambda x, f, n: x + f(n(x)), base=lambda D: LayerNorm(4 * D)),
        "ValueError: the input must have 24",
    ),
]
