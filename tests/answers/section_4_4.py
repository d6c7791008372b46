"""Answers to the exercises of 4.4, on shortcut connections."""

import torch
from torch import nn
from torch.nn import functional as F

from helpers import LayerNorm

from .variants import init, normalized

RIGHT, WRONG = {}, {}

RIGHT["sum_or_product"] = ["b", " B ", "(b)"]
WRONG["sum_or_product"] = [
    ("e", "Choose one of 'a', 'b', 'c', 'd'"),
    (2, "Choose one of"),
    ("(d)", "Products have derivatives too"),
]
RIGHT["gradient_through_twelve"] = [3.138, 3.0, torch.tensor(3.2), (torch.tensor(3.138),)]
WRONG["gradient_through_twelve"] = [
    (5, "5 is too large"),
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


frozen = init(
    lambda self, layer: setattr(self, "layer", layer.requires_grad_(False)),
    lambda self, x: residual(x, self.layer),
)


RIGHT["residual"] = [wrapper(residual), ResidualByHook]
WRONG["residual"] = [
    (wrapper(lambda x, f: f(x)), "The input is not added"),
    (wrapper(lambda x, f: x), "The layer is not used"),
    (wrapper(lambda x, f: x * f(x)), "multiplied"),
    (wrapper(lambda x, f: f(x) - x), "The input is subtracted"),
    (wrapper(lambda x, f: x - f(x)), "The output is subtracted"),
    (wrapper(lambda x, f: f(x) + f(x)), "The output is added to itself"),
    (wrapper(lambda x, f: (x + f(x)) / 2), "The mean is taken"),
    (wrapper(lambda x, f: f(x + f(x))), "once more on the sum"),
    (wrapper(lambda x, f: x + f(f(x))), "The layer acts twice"),
    (wrapper(lambda x, f: 2 * x + f(x)), "The input is added twice"),
    (refusing(lambda x, f: x + f(x)), "The layer runs 2 times"),
    (init(lambda self, layer: setattr(self, "layer", [layer]), in_a_list), "would not be trained"),
    (wrapper(lambda x, f: x + f(x)), "must raise ValueError; without it, (2, 3, 4) comes out"),
    (wrapper(lambda x, f: x.add_(f(x))), "changes its input in place"),
    (wrapper(lambda x, f: 1 / 0), "ZeroDivisionError"),
    (wrapper(no_shortcut), "without it, (2, 3, 1) comes out"),
    (wrapper(by_rest), "A layer that makes (1, 3, 4) of"),
    (wrapper(by_number), "A layer that makes (2, 1, 3, 4) of"),
    (wrapper(by_width), "A layer that makes (1, 3, 4) of (2, 3, 4) must raise ValueError"),
    (wrapper(asserting), "this raises AssertionError"),
    (wrapper(returning), "It returns the ValueError; raise it"),
    (wrapper(lambda x, f: residual(x, f.forward)), "The layer itself never runs"),
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


RIGHT["pre_norm"] = [
    with_norm(lambda x, f, n: x + f(n(x))),
    with_norm(lambda x, f, n: x + f(n(x)), base=ShiftFirst),
    PreNormOther,
]
WRONG["pre_norm"] = [
    (with_norm(lambda x, f, n: x + f(x)), "There is no norm"),
    (with_norm(lambda x, f, n: f(n(x))), "There is no shortcut"),
    (with_norm(lambda x, f, n: n(x) + f(n(x))), "starts at the normalized copy"),
    (with_norm(lambda x, f, n: n(x + f(x))), "(post-norm)"),
    (with_norm(lambda x, f, n: x + n(f(x))), "The norm comes after the layer"),
    (with_norm(lambda x, f, n: n(x + f(n(x)))), "normalized once more"),
    (with_norm(lambda x, f, n: x + n(x) + f(x)), "side by side"),
    (with_norm(lambda x, f, n: x + n(x)), "The layer is not used"),
    (
        init(
            lambda self, layer, D: self.__dict__.update(kept=[layer]),
            lambda self, x: x + self.kept[0](normalized(x)),
        ),
        "would not be trained",
    ),
    (with_norm(lambda x, f, n: x + f(n(x)), count=0), "Besides the layer it has 0 parameters"),
    (with_norm(lambda x, f, n: x + f(n(x)), count=2), "Besides the layer it has 24 parameters"),
    (with_norm(lambda x, f, n: x + 2 * f(n(x))), "With a random layer it gives"),
    (with_norm(lambda x, f, n: x * f(n(x))), "The two are multiplied"),
    (with_norm(lambda x, f, n: x.detach() + f(n(x))), "gradient of the input"),
    (with_norm(lambda x, f, n: x + f(n(x).detach())), "gradient of the input"),
    (with_norm(lambda x, f, n: x + f(normalized(x))), "no gradient reaches self.norms.0.scale"),
    (
        with_norm(lambda x, f, n: x + f(n(x)), base=lambda D: LayerNorm(4 * D)),
        "ValueError: the input must have 24",
    ),
]


def rezero(function, start=0.0, size=1, learned=True):
    def make(self, layer):
        alpha = torch.full((size,), start)
        self.layer, self.alpha = layer, nn.Parameter(alpha) if learned else alpha

    return init(make, lambda self, x: function(x, self.layer, self.alpha))


class ReZeroScalar(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.add_module("inner", inner)
        self.alpha = nn.Parameter(torch.tensor(0.0))

    def forward(self, x):
        return torch.addcmul(x, self.alpha, self.inner(x))


class ReZeroUnregistered(ReZeroScalar):
    def __init__(self, inner):
        nn.Module.__init__(self)
        self.__dict__["inner"] = inner
        self.alpha = nn.Parameter(torch.tensor(0.0))


class rezero_frozen(ReZeroScalar):
    def __init__(self, inner):
        super().__init__(inner)
        self.alpha.requires_grad_(False)


class rezero_more(ReZeroScalar):
    def __init__(self, inner):
        super().__init__(inner)
        self.beta = nn.Parameter(torch.zeros(1))


RIGHT["rezero"] = [rezero(lambda x, f, alpha: x + alpha * f(x)), ReZeroScalar]
WRONG["rezero"] = [
    (rezero(lambda x, f, alpha: x + alpha * f(x), start=1.0), "alpha starts at 1"),
    (rezero(lambda x, f, alpha: alpha * (x + f(x))), "nothing comes out"),
    (rezero(lambda x, f, alpha: alpha * x + f(x)), "the layer alone comes out"),
    (rezero(lambda x, f, alpha: x + f(alpha * x)), "multiplies the input of the layer"),
    (rezero(lambda x, f, alpha: x + alpha * f(x), learned=False), "self.alpha must be an nn.Parameter"),
    (wrapper(lambda x, f: x + 0 * f(x)), "there is none."),
    (rezero(lambda x, f, alpha: x + alpha * f(x), size=4), "this has 4"),
    (ReZeroUnregistered, "would not be trained"),
    (rezero(lambda x, f, alpha: x + 0 * f(x)), "alpha has no effect"),
    (rezero(lambda x, f, alpha: x + alpha**2 * f(x)), "alpha is squared"),
    (rezero(lambda x, f, alpha: (1 - alpha) * x + alpha * f(x)), "weighs the layer against x"),
    (rezero(lambda x, f, alpha: x + alpha.detach() * f(x)), "no gradient reaches self.alpha"),
    (rezero(lambda x, f, alpha: (x + alpha * f(x)).detach()), "no gradient flows back"),
    (rezero(lambda x, f, alpha: x + 2 * alpha * f(x)), "With alpha = 0.5 it gives"),
    (rezero(lambda x, f, alpha: x + alpha + f(x)), "the layer comes in as a whole"),
    (rezero(lambda x, f, alpha: alpha * f(x)), "nothing comes out"),
    (rezero(lambda x, f, alpha: x + alpha * f(x) if alpha else x), "no gradient reaches self.alpha"),
    (rezero(lambda x, f, alpha: x.detach() + alpha * f(x)), "gradient of the input"),
    (rezero_frozen, "self.alpha has requires_grad=False"),
    (rezero_more, "self.beta is a parameter that is not needed"),
]
