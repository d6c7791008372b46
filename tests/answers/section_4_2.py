"""Answers to the exercises of 4.2, on layer normalization."""

import torch
from torch import nn
from torch.nn import functional as F

from helpers import LayerNorm

from .variants import forward, init

RIGHT, WRONG = {}, {}

RIGHT["mean_and_variance"] = [[3, 4], torch.tensor([3.0, 4.0]), (torch.tensor(3.05), 3.95)]
WRONG["mean_and_variance"] = [
    (3, "A tuple of 2 numbers is wanted, not 1"),
    ((3, 4.5), "The second number, 4.5, is too large"),
]


def norm(x, dim=-1, unbiased=False, eps=1e-5):
    return (x - x.mean(dim, keepdim=True)) / (x.var(dim, keepdim=True, unbiased=unbiased) + eps).sqrt()


def layer_norm(formula):
    """A layer norm whose normalization is `formula`."""
    return forward(LayerNorm, lambda self, x: self.scale * formula(x) + self.shift)


def scaled(formula):
    """A layer norm with another use of scale and shift: formula(norm, scale, shift)."""
    return forward(LayerNorm, lambda self, x: formula(norm(x), self.scale, self.shift))


def with_parameters(scale, shift):
    def __init__(self, emb_dim):
        nn.Module.__init__(self)
        self.scale, self.shift = scale(emb_dim), shift(emb_dim)

    return type("Other", (LayerNorm,), {"__init__": __init__, "forward": plain_forward})


def plain_forward(self, x):
    return self.scale * norm(x) + self.shift


def ones(D):
    return nn.Parameter(torch.ones(D))


def zeros(D):
    return nn.Parameter(torch.zeros(D))


class ByMoments(nn.Module):
    """By the mean of the square less the square of the mean, with a parameter that needs no name."""

    def __init__(self, emb_dim):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(emb_dim))
        self.register_parameter("scale", nn.Parameter(torch.ones(emb_dim)))

    def forward(self, inputs):
        mean = torch.sum(inputs, -1, True) / inputs.size(-1)
        centered = inputs.sub(mean)
        return torch.addcmul(
            self.shift, centered * torch.rsqrt((centered**2).mean(-1, True) + 1e-5), self.scale
        )


class ByPyTorch(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.ones(d)), nn.Parameter(torch.zeros(d))

    def forward(self, x):
        return F.layer_norm(x, x.shape[-1:], self.scale, self.shift, eps=1e-5)


def centered(x, dim=-1):
    return x - x.mean(dim, keepdim=True)


def variance(x, dim=-1, unbiased=False):
    return x.var(dim, keepdim=True, unbiased=unbiased)


def detached(mean, var):
    def formula(x):
        m, v = x.mean(-1, keepdim=True), variance(x)
        return (x - (m.detach() if mean else m)) / ((v.detach() if var else v) + 1e-5).sqrt()

    return layer_norm(formula)


class BySmoothing(LayerNorm):
    """Each token's variance is mixed with that of all tokens: no classic, but it looks at others."""

    def forward(self, x):
        return self.scale * centered(x) / (variance(x) + 0.1 * x.var() + 1e-5).sqrt() + self.shift


class with_more(LayerNorm):
    def __init__(self, emb_dim):
        super().__init__(emb_dim)
        self.more = ones(1)


class without_shift(nn.Module):
    def __init__(self, emb_dim):
        super().__init__()
        self.scale = ones(emb_dim)

    def forward(self, x):
        return self.scale * norm(x)


class without_super(nn.Module):
    def __init__(self, emb_dim):
        self.scale = ones(emb_dim)

    def forward(self, x):
        return x


RIGHT["layer_norm"] = [LayerNorm, ByMoments, ByPyTorch]
WRONG["layer_norm"] = [
    (layer_norm(lambda x: norm(x, 1)), "over the tokens (dim=1)"),
    (layer_norm(lambda x: norm(x, 0)), "over the batch (dim=0)"),
    (layer_norm(lambda x: norm(x, (1, 2)) if x.ndim > 2 else norm(x)), "over tokens and features together"),
    (layer_norm(lambda x: norm(x, tuple(range(x.ndim)))), "over all numbers together"),
    (layer_norm(lambda x: (x - x.mean(-1)) / (variance(x) + 1e-5).sqrt()), "(keepdim)"),
    (layer_norm(lambda x: (x - x.mean(-1)) / (x.var(-1, correction=0) + 1e-5).sqrt()), "(keepdim)"),
    (BySmoothing, "changes when only other tokens change"),
    (with_parameters(torch.ones, zeros), "self.scale must be an nn.Parameter"),
    (with_parameters(ones, lambda D: 0.0), "self.shift must be an nn.Parameter"),
    (with_parameters(zeros, zeros), "At the start, for self.scale"),
    (with_parameters(ones, ones), "At the start, for self.shift"),
    (layer_norm(lambda x: x), "It returns its input"),
    (layer_norm(centered), "subtracts the mean and does not divide"),
    (layer_norm(lambda x: norm(x, unbiased=True)), "the unbiased one, which divides by D - 1"),
    (layer_norm(lambda x: centered(x) / (variance(x) + 1e-5)), "divides by the variance and not by its root"),
    (layer_norm(lambda x: centered(x) / (variance(x, unbiased=True) + 1e-5)), "both are wrong"),
    (layer_norm(lambda x: x / (variance(x) + 1e-5).sqrt()), "The mean is not subtracted. For"),
    (layer_norm(lambda x: x / x.std(-1, keepdim=True)), "not subtracted, and the variance is the unbiased"),
    (layer_norm(lambda x: x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()), "RMSNorm"),
    (layer_norm(lambda x: centered(x) / (variance(x).sqrt() + 1e-5)), "eps is outside the root"),
    (layer_norm(lambda x: centered(x) / variance(x).sqrt()), "eps is missing"),
    (layer_norm(lambda x: centered(x) / (variance(x) - 1e-5).sqrt()), "eps is subtracted"),
    (layer_norm(lambda x: norm(x, eps=1e-6)), "eps is 1e-6"),
    (layer_norm(lambda x: norm(x, eps=1e-8)), "eps is 1e-8"),
    (layer_norm(lambda x: norm(x).where(variance(x) > 0, 1.0)), "For a token of equal numbers"),
    (scaled(lambda n, scale, shift: n + shift), "The scale is not applied"),
    (scaled(lambda n, scale, shift: n * scale), "The shift is not applied"),
    (scaled(lambda n, scale, shift: n), "Neither scale nor shift is applied"),
    (scaled(lambda n, scale, shift: (n + shift) * scale), "added before the scale is applied"),
    (scaled(lambda n, scale, shift: n * shift + scale), "Scale and shift are swapped"),
    (scaled(lambda n, scale, shift: n * scale - shift), "The shift is subtracted"),
    (detached(mean=False, var=True), "no gradient flows through the variance"),
    (detached(mean=True, var=False), "no gradient flows through the mean"),
    (detached(mean=True, var=True), "no gradient flows through mean and variance"),
    (forward(LayerNorm, lambda self, x: plain_forward(self, x).detach()), "no gradient flows back"),
    (layer_norm(lambda x: norm(x) * x.shape[-1] / 4), "In training mode"),
    (layer_norm(lambda x: norm(x.data)), "gradient of the input"),
    (
        with_parameters(ones, lambda D: nn.Parameter(torch.zeros(D), requires_grad=False)),
        "requires_grad=False",
    ),
    (forward(LayerNorm, lambda self, x: self.scale.data * norm(x) + self.shift), "reaches self.scale"),
    (forward(LayerNorm, lambda self, x: self.scale * norm(x) + self.shift.detach()), "reaches self.shift"),
    (without_shift, "self.shift must be an nn.Parameter, so that it is learned; there is none"),
    (with_more, "yours has 9"),
    (without_super, "Is super().__init__() missing?"),
]

RIGHT["tiny_token"] = [0.5345, 0.53, torch.tensor(0.55)]
WRONG["tiny_token"] = [
    (0.995, "eps is more than twice the variance"),
    (0.8, "0.8 is too large"),
]


def rms_norm(formula, scale=True, shift=False):
    def function(self, emb_dim):
        self.scale = ones(emb_dim)
        if shift:
            self.shift = zeros(emb_dim)

    return init(function, lambda self, x: formula(x) * (self.scale if scale else 1))


def mean_square(x):
    return x.square().mean(dim=-1, keepdim=True)


class ByNorm(nn.Module):
    """By the length of the vector."""

    def __init__(self, emb_dim):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(emb_dim))

    def forward(self, x):
        square = torch.linalg.vector_norm(x, dim=-1, keepdim=True) ** 2 / x.shape[-1]
        return x * self.scale / torch.sqrt(square + 1e-5)


def rms_smoothed(x):
    return x / (mean_square(x) + x.mean() ** 2 * (x.shape[0] > 1) + 1e-5).sqrt()


RIGHT["rms_norm"] = [
    ByNorm,
    init(
        lambda self, d: setattr(self, "scale", ones(d)),
        lambda self, x: F.rms_norm(x, x.shape[-1:], self.scale, 1e-5),
    ),
]
WRONG["rms_norm"] = [
    (rms_norm(rms_smoothed), "changes when other tokens change"),
    (init(lambda self, d: None, lambda self, x: x / (mean_square(x) + 1e-5).sqrt()), "self.scale must be"),
    (rms_norm(lambda x: x), "It returns its input"),
    (rms_norm(norm), "The mean is subtracted"),
    (rms_norm(lambda x: x / (variance(x) + 1e-5).sqrt()), "It divides by the standard deviation"),
    (rms_norm(lambda x: x / (x.square().sum(-1, keepdim=True) + 1e-5).sqrt()), "the sum of the squares"),
    (rms_norm(lambda x: x / (mean_square(x) + 1e-5)), "The root is missing"),
    (rms_norm(lambda x: x / (x.abs().mean(-1, keepdim=True) + 1e-5)), "the mean of |x|"),
    (rms_norm(lambda x: x * (mean_square(x) + 1e-5).sqrt()), "multiplies by the root mean square"),
    (rms_norm(lambda x: x / mean_square(x).sqrt()), "eps is missing"),
    (rms_norm(lambda x: x / (mean_square(x).sqrt() + 1e-5)), "eps is outside"),
    (rms_norm(lambda x: x / (mean_square(x) + 1e-6).sqrt()), "eps is 1e-6"),
    (rms_norm(lambda x: x / (mean_square(x) + 1e-8).sqrt()), "eps is 1e-8"),
    (rms_norm(lambda x: x / (mean_square(x) + 1e-5).sqrt(), shift=True), "yours has 8"),
    (rms_norm(lambda x: x / (mean_square(x) + 1e-5).sqrt(), scale=False), "The scale is not applied"),
    (rms_norm(lambda x: x / (x.mean(-1, keepdim=True) ** 2 + 1e-5).sqrt()), "It squares the mean"),
    (rms_norm(lambda x: x / (mean_square(x) + 1e-5).detach().sqrt()), "gradient of the input"),
    (rms_norm(lambda x: x / (x.square().sum(-1, keepdim=True) / 4 + 1e-5).sqrt()), "In training mode"),
    (rms_norm(lambda x: (x / (mean_square(x) + 1e-5).sqrt()).detach()), "no gradient reaches the input"),
    (
        forward(rms_norm(norm), lambda self, x: x / (mean_square(x) + 1e-5).sqrt() * self.scale.data),
        "reaches self.scale",
    ),
]


def fold(weight, bias):
    """A folding by the formulas weight(W, scale, shift) and bias(W, b, scale, shift)."""

    def function(norm, linear):
        new = nn.Linear(linear.in_features, linear.out_features)
        with torch.no_grad():
            new.weight.copy_(weight(linear.weight, norm.scale, norm.shift))
            new.bias.copy_(bias(linear.weight, linear.bias, norm.scale, norm.shift))
        return new

    return function


def good_weight(W, scale, shift):
    return W * scale


def good_bias(W, b, scale, shift):
    return b + W @ shift


def fold_in_place(norm, linear):
    with torch.no_grad():
        linear.bias += linear.weight @ norm.shift
        linear.weight *= norm.scale
    return linear


def fold_by_basis(norm, linear):
    """The new layer is found by sending zero and each basis vector through scale, shift and layer."""
    D = linear.in_features
    with torch.no_grad():
        new = nn.Linear(D, linear.out_features)
        new.bias.copy_(linear(norm.shift))
        new.weight.copy_((linear(torch.eye(D) * norm.scale + norm.shift) - new.bias).T)
    return new


def fold_without_bias(norm, linear):
    new = nn.Linear(linear.in_features, linear.out_features, bias=False)
    new.weight = nn.Parameter(linear.weight * norm.scale)
    return new


def fold_turned(norm, linear):
    new = nn.Linear(linear.out_features, linear.in_features)
    with torch.no_grad():
        new.weight.copy_(linear.weight * norm.scale)
        new.bias.copy_(linear(norm.shift))
    return new


def fold_replaced(norm, linear):
    linear.bias = nn.Parameter(linear.bias + linear.weight @ norm.shift)
    linear.weight = nn.Parameter(linear.weight * norm.scale)
    return linear


RIGHT["fold_norm"] = [fold(good_weight, good_bias), fold_by_basis]
WRONG["fold_norm"] = [
    (fold_in_place, "It changes the norm or the layer"),
    (lambda norm, linear: linear.weight * norm.scale, "where an nn.Linear is wanted"),
    (fold(lambda W, scale, shift: W, good_bias), "the scale is lost"),
    (fold(lambda W, scale, shift: W * scale[:, None], good_bias), "multiplies the rows"),
    (fold(lambda W, scale, shift: W / scale, good_bias), "divided by the scale"),
    (fold(lambda W, scale, shift: W * shift, good_bias), "The shift multiplies the weight"),
    (fold_without_bias, "has no bias, so the shift is lost"),
    (fold(good_weight, lambda W, b, scale, shift: b), "the shift is lost"),
    (fold(good_weight, lambda W, b, scale, shift: b + shift), "goes through the weight first"),
    (fold(good_weight, lambda W, b, scale, shift: W @ shift), "The old bias is lost"),
    (fold(good_weight, lambda W, b, scale, shift: b + (W * scale) @ shift), "goes through the new weight"),
    (fold(good_weight, lambda W, b, scale, shift: b + W.T @ shift), "the transposed weight"),
    (fold_turned, "must match the size"),
    (fold_replaced, "It changes the norm or the layer"),
]
