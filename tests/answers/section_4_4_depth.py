"""Answers to exercise 4.4.5, stochastic depth."""

import random

import torch
from torch import nn
from torch.nn import functional as F

from .variants import init

RIGHT, WRONG = {}, {}


def depth(mask, scale=lambda rate: 1 / (1 - rate)):
    """A module that adds mask(x, rate) * f(x) * scale(rate) to x in training mode."""

    def make(self, layer, rate):
        self.layer, self.rate = layer, rate

    def forward(self, x):
        if not self.training:
            return x + self.layer(x)
        return x + mask(x, self.rate) * self.layer(x) * scale(self.rate)

    return init(make, forward)


def each(x, rate):
    """1 for a text that takes the layer, else 0."""
    return (torch.rand(x.shape[0], *[1] * (x.ndim - 1)) >= rate).float()


def other(function):
    """A module whose forward pass is function(x, layer, rate, training)."""

    def make(self, layer, rate):
        self.layer, self.rate = layer, rate

    return init(make, lambda self, x: function(x, self.layer, self.rate, self.training))


class DepthByDropout(nn.Module):
    """Dropout on a one for each text."""

    def __init__(self, layer, drop_rate):
        super().__init__()
        self.layer, self.dropout = layer, nn.Dropout(drop_rate)

    def forward(self, x):
        return x + self.dropout(x.new_ones(x.size(0))).view(-1, *[1] * (x.dim() - 1)) * self.layer(x)


class DepthByIndex(nn.Module):
    """The layer sees only the texts that take it."""

    def __init__(self, layer: nn.Module, rate: float = 0.0):
        super().__init__()
        self.layer, self.keep = layer, 1 - rate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or self.keep == 1:
            return x + self.layer(x)
        chosen = torch.bernoulli(torch.full((len(x),), self.keep)).bool()
        result = x.clone()
        result[chosen] = result[chosen] + self.layer(x[chosen]) / self.keep
        return result


class DepthTextByText(nn.Module):
    """With Python's random numbers."""

    def __init__(self, layer, rate):
        super().__init__()
        self.layer, self.rate = layer, rate

    def forward(self, x):
        out, keep = self.layer(x), 1 - self.rate * self.training
        taken = [random.random() < keep for _ in x]
        return torch.stack([x[i] + out[i] / keep if taken[i] else x[i] for i in range(len(x))])


def by_dropout(x, f, rate, training):
    mask = F.dropout(torch.ones(len(x)), rate, training)
    return torch.einsum("b...,b->b...", f(x), mask) + x


def by_where(x, f, rate, training):
    take = torch.empty(x.shape[0]).uniform_() > (rate if training else 0.0)
    return torch.where(take.reshape(-1, *[1] * (x.ndim - 1)), x + f(x) / ((1 - rate) if training else 1), x)


class OneDraw(nn.Module):
    """Draws once, when it is made."""

    def __init__(self, layer, rate):
        super().__init__()
        self.layer, self.rate, self.draws = layer, rate, torch.rand(4000)

    def forward(self, x):
        if not self.training:
            return x + self.layer(x)
        mask = self.draws[: len(x)].view(-1, *[1] * (x.ndim - 1)) >= self.rate
        return x + mask * self.layer(x) / (1 - self.rate)


class DepthInAList(nn.Module):
    def __init__(self, layer, rate):
        super().__init__()
        self.layers = [layer]

    def forward(self, x):
        return x + self.layers[0](x)


class DepthWithMore(DepthByDropout):
    def __init__(self, layer, rate):
        super().__init__(layer, rate)
        self.more = nn.Parameter(torch.zeros(1))


class DepthInPlace(DepthByDropout):
    def forward(self, x):
        out = self.layer(x)
        out *= self.dropout(torch.ones(len(x))).view(-1, *[1] * (x.dim() - 1))
        return x + out


def whole_batch(x, rate):
    return float(random.random() >= rate)


def scaled_at_test(x, f, rate, training):
    return x + f(x) * (each(x, rate) if training else 1 - rate)


def sum_divided(x, f, rate, training):
    return (x + each(x, rate) * f(x)) / (1 - rate) if training else x + f(x)


RIGHT["stochastic_depth"] = [
    depth(each),
    DepthByDropout,
    DepthByIndex,
    DepthTextByText,
    other(by_dropout),
    other(by_where),
]
WRONG["stochastic_depth"] = [
    (other(lambda x, f, rate, training: x), "In eval mode it gives"),
    (other(lambda x, f, rate, training: x + f(x) if training else x), "The layer is skipped"),
    (other(lambda x, f, rate, training: f(x)), "There is no shortcut"),
    (other(lambda x, f, rate, training: f(x + f(x))), "The layer acts once more on the sum"),
    (other(lambda x, f, rate, training: x + f(x) / (1 - rate)), "do that in training only"),
    (other(scaled_at_test), "is multiplied by 1 - rate; divide in training instead"),
    (other(lambda x, f, rate, training: (x + f(x)) * (1 - rate)), "The sum is multiplied by 1 - rate"),
    (other(lambda x, f, rate, training: x + each(x, rate) * f(x)), "In eval mode two runs on the same"),
    (other(lambda x, f, rate, training: by_where(x, f, rate, not training)), "In eval mode two runs"),
    (
        other(lambda x, f, rate, training: x + f(x)),
        "In training mode no text of a large batch skips the layer",
    ),
    (other(lambda x, f, rate, training: F.dropout(x + f(x), rate, training)), "some of x itself is lost"),
    (other(lambda x, f, rate, training: (x + f(x)) * each(x, rate * training)), "some of x itself is lost"),
    (other(lambda x, f, rate, training: x + F.dropout(f(x), rate, training)), "Within one text"),
    (other(lambda x, f, rate, training: x + F.dropout1d(f(x), rate, training)), "Within one text"),
    (depth(lambda x, rate: (torch.rand(x.shape[:2]) >= rate)[..., None]), "a mask of shape (B, 1, 1)"),
    (depth(whole_batch), "All texts of a batch skip the layer, or none does"),
    (depth(lambda x, rate: 1), "All texts of a batch skip the layer, or none does"),
    (depth(lambda x, rate: 1 - each(x, rate)), "`rate` is the share that skips it"),
    (depth(lambda x, rate: each(x, rate**0.5)), "% of the texts skip the layer; about 25% should."),
    (depth(each, scale=lambda rate: 1), "isn't divided by 1 - rate"),
    (depth(each, scale=lambda rate: 1 / rate), "is divided by rate, not by 1 - rate"),
    (depth(each, scale=lambda rate: 1 - rate), "is multiplied by 1 - rate; divide"),
    (depth(each, scale=lambda rate: 2), "In training mode it gives"),
    (other(sum_divided), "the whole sum is divided by 1 - rate"),
    (OneDraw, "The same texts skip the layer in every pass"),
    (depth(lambda x, rate: torch.manual_seed(1) and each(x, rate)), "The same texts skip the layer in every"),
    (depth(lambda x, rate: (torch.rand(x.shape[0], 1, 1) >= rate).float()), "the shape (40, 40, 4)"),
    (DepthInAList, "An optimizer wouldn't find"),
    (DepthWithMore, "self.more is a parameter that this module doesn't need"),
    (DepthInPlace, "changes its input in place"),
    (
        other(torch.no_grad()(by_where)),
        "no gradient flows back",
    ),
    (
        other(lambda x, f, *rest: by_where(x, lambda y: f(y).detach(), *rest)),
        "gradient of the input",
    ),
    (other(lambda x, f, rate, training: by_where(x, f, 0.25, training)), "with a rate of 0, it gives"),
    (depth(lambda x, rate: each(x, rate)[0]), "All texts of a batch skip the layer"),
    (other(lambda x, f, rate, training: None), "None (is a `return` missing?)"),
    (other(lambda x, f, rate, training: None if training else x + f(x)), "None (is a `return` missing?)"),
]
