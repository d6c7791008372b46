"""Answers to the exercises of 4.2, on layer normalization."""

from fractions import Fraction

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from helpers import LayerNorm

from .variants import forward, init

RIGHT, WRONG = {}, {}

RIGHT["mean_and_variance"] = [
    (0 + 3, 2**2),
    [3, 4],
    torch.tensor([3.0, 4.0]),
    (torch.tensor(3.05), 3.95),
    np.array([3, 4]),
    (np.float32(3), Fraction(4)),
]
WRONG["mean_and_variance"] = [
    (3, "Answer with a tuple of 2 numbers, not 1"),
    ((3, 4.5), "The second number, 4.5, is too large"),
]


class Base(nn.Module):
    """Scale and shift, as in the course's class, which itself is out of reach."""

    def __init__(self, emb_dim):
        super().__init__()
        self.scale, self.shift = ones(emb_dim), zeros(emb_dim)


def norm(x, dim=-1, unbiased=False, eps=1e-5):
    return (x - x.mean(dim, keepdim=True)) / (x.var(dim, keepdim=True, unbiased=unbiased) + eps).sqrt()


def layer_norm(formula):
    """A layer norm whose normalization is `formula`."""
    return forward(Base, lambda self, x: self.scale * formula(x) + self.shift)


def scaled(formula):
    """A layer norm with another use of scale and shift: formula(norm, scale, shift)."""
    return forward(Base, lambda self, x: formula(norm(x), self.scale, self.shift))


def with_parameters(scale, shift):
    def function(self, emb_dim):
        self.scale, self.shift = scale(emb_dim), shift(emb_dim)

    return init(function, plain_forward)


def plain_forward(self, x):
    return self.scale * norm(x) + self.shift


def ones(D):
    return nn.Parameter(torch.ones(D))


def zeros(D):
    return nn.Parameter(torch.zeros(D))


class ByMoments(nn.Module):
    """By sums and reciprocal roots, with a parameter that needs no name."""

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


class ByVarMean(nn.Module):
    """Mean and variance in one call, with optional parameters."""

    def __init__(self, d: int, eps: float = 1e-5):
        super().__init__()
        self.eps = eps
        self.scale, self.shift = nn.Parameter(torch.ones(d)), nn.Parameter(torch.zeros(d))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        variance, mean = torch.var_mean(x, dim=-1, correction=0, keepdim=True)
        return (x - mean) / (variance + self.eps) ** 0.5 * self.scale + self.shift


class InDouble(Base):
    """Computed in float64, with the type of the input at the end."""

    def forward(self, x):
        return plain_forward(self, x.double()).type_as(x)


class ByMatrix(Base):
    """Centering as a matrix product, and the eps as a buffer."""

    def __init__(self, emb_dim):
        super().__init__(emb_dim)
        self.register_buffer("eps", torch.tensor(1e-5))

    def forward(self, x):
        D = x.shape[-1]
        centered = x @ (torch.eye(D) - 1 / D).to(x.dtype)
        square = torch.linalg.vecdot(centered, centered).unsqueeze(-1)
        return torch.rsqrt(square / D + self.eps) * centered * self.scale + self.shift


class ByPyTorch(Base):
    def forward(self, x):
        return F.layer_norm(x, x.shape[-1:], self.scale, self.shift, eps=1e-5)


class ByHolding(nn.Module):
    """Hands its input to the course's class."""

    def __init__(self, emb_dim):
        super().__init__()
        self.inner = LayerNorm(emb_dim)

    def forward(self, x):
        return self.inner(x)


def centered(x, dim=-1):
    return x - x.mean(dim, keepdim=True)


def variance(x, dim=-1, unbiased=False):
    return x.var(dim, keepdim=True, unbiased=unbiased)


def detached(mean, var):
    def formula(x):
        m, v = x.mean(-1, keepdim=True), variance(x)
        return (x - (m.detach() if mean else m)) / ((v.detach() if var else v) + 1e-5).sqrt()

    return layer_norm(formula)


class BySmoothing(Base):
    """Each token's variance is mixed with that of all tokens: no classic, but it looks at others."""

    def forward(self, x):
        return self.scale * centered(x) / (variance(x) + 0.1 * x.var() + 1e-5).sqrt() + self.shift


def by_difference(x):
    mean = x.mean(-1, keepdim=True)
    return (x - mean) / (x.square().mean(-1, keepdim=True) - mean**2 + 1e-5).sqrt()


def in_three_dimensions(x):
    return norm(x, dim=2 if x.ndim > 2 else -1)


class with_more(Base):
    def __init__(self, emb_dim):
        super().__init__(emb_dim)
        self.more = ones(1)

    forward = plain_forward


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


class with_dropout(Base):
    def forward(self, x):
        return F.dropout(plain_forward(self, x), 0.1, self.training)


class BatchNorm(nn.BatchNorm1d):
    def forward(self, x):
        return super().forward(x.flatten(0, -2)).view(x.shape)


RIGHT["layer_norm"] = [
    layer_norm(norm),
    layer_norm(lambda x: centered(x) / (x.std(-1, unbiased=False, keepdim=True) ** 2 + 1e-5).sqrt()),
    ByMoments,
    ByVarMean,
    InDouble,
    ByMatrix,
    scaled(lambda n, scale, shift: torch.addcmul(shift, n, scale)),
]
WRONG["layer_norm"] = [
    (LayerNorm, "Write it yourself: the course's LayerNorm.__init__ is out of reach"),
    (type("MyLayerNorm", (LayerNorm,), {}), "Write it yourself"),
    (forward(LayerNorm, plain_forward), "Write it yourself"),
    (ByHolding, "Write it yourself"),
    (forward(Base, LayerNorm.forward), "the course's LayerNorm.forward is out of reach"),
    (ByPyTorch, "Write it by hand: PyTorch's layer_norm is out of reach"),
    (nn.LayerNorm, "Write it by hand: PyTorch's layer_norm"),
    (BatchNorm, "Write it by hand: PyTorch's batch_norm"),
    (layer_norm(lambda x: norm(x, 1)), "over the tokens (dim=1)"),
    (layer_norm(lambda x: norm(x, 0)), "over the batch (dim=0)"),
    (layer_norm(lambda x: norm(x, (1, 2)) if x.ndim > 2 else norm(x)), "over tokens and features together"),
    (layer_norm(lambda x: norm(x, tuple(range(x.ndim)))), "over the whole tensor"),
    (layer_norm(lambda x: (x - x.mean(-1)) / (variance(x) + 1e-5).sqrt()), "The mean has lost its dimension"),
    (layer_norm(lambda x: (x - x.mean(-1)) / (x.var(-1, correction=0) + 1e-5).sqrt()), "The mean has lost"),
    (layer_norm(lambda x: centered(x) / (x.var(-1, correction=0) + 1e-5).sqrt()), "The variance has lost"),
    (BySmoothing, "changes when only other tokens change"),
    (with_parameters(torch.ones, zeros), "self.scale must be an nn.Parameter"),
    (with_parameters(ones, lambda D: 0.0), "self.shift must be an nn.Parameter"),
    (with_parameters(zeros, zeros), "At the start, for self.scale"),
    (with_parameters(ones, ones), "At the start, for self.shift"),
    (layer_norm(lambda x: x), "It returns its input"),
    (layer_norm(centered), "subtracts the mean and doesn't divide"),
    (layer_norm(lambda x: norm(x, unbiased=True)), "the unbiased one, which divides by D - 1"),
    (layer_norm(lambda x: centered(x) / (variance(x) + 1e-5)), "divides by the variance, not by its root"),
    (layer_norm(lambda x: centered(x) / (variance(x, unbiased=True) + 1e-5)), "both are wrong"),
    (layer_norm(lambda x: x / (variance(x) + 1e-5).sqrt()), "The mean isn't subtracted. For"),
    (layer_norm(lambda x: x / x.std(-1, keepdim=True)), "isn't subtracted, and the variance is the unbiased"),
    (layer_norm(lambda x: x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()), "RMSNorm"),
    (layer_norm(lambda x: F.normalize(centered(x), dim=-1)), "It divides by the sum of the squares"),
    (layer_norm(lambda x: centered(x) / centered(x).abs().mean(-1, keepdim=True)), "the mean of |x - mean|"),
    (layer_norm(lambda x: centered(x) * variance(x).sqrt()), "The root of the variance is multiplied"),
    (layer_norm(lambda x: centered(x) / (variance(x).sqrt() + 1e-5)), "eps is outside the root"),
    (layer_norm(lambda x: centered(x) / variance(x).sqrt()), "eps is missing"),
    (layer_norm(lambda x: centered(x) / (variance(x) - 1e-5).sqrt()), "eps is subtracted"),
    (layer_norm(lambda x: centered(x) / variance(x).sqrt().clamp(min=1e-5)), "a lower limit of the root"),
    (layer_norm(lambda x: centered(x) / variance(x).clamp(min=1e-5).sqrt()), "a lower limit of the variance"),
    (layer_norm(lambda x: norm(x, eps=1e-6)), "eps is 1e-6, not 1e-5"),
    (layer_norm(lambda x: norm(x, eps=1e-8)), "eps is 1e-8, not 1e-5"),
    (layer_norm(lambda x: norm(x, eps=1e-12)), "eps is 1e-12, not 1e-5"),
    (layer_norm(lambda x: norm(x, eps=0.001)), "eps is 0.001, not 1e-5"),
    (layer_norm(lambda x: centered(x) / ((variance(x) + 1e-5).sqrt() + 1e-5)), "For the token [0.001"),
    (layer_norm(lambda x: norm(x).where(variance(x) > 0, 1.0)), "For a token of equal features"),
    (layer_norm(lambda x: centered(x) / (variance(x).sqrt() ** 2 + 1e-5).sqrt()), "Add eps before you take"),
    (layer_norm(by_difference), "not E[x**2] - E[x]**2"),
    (scaled(lambda n, scale, shift: n + shift), "The scale isn't applied"),
    (scaled(lambda n, scale, shift: n * scale), "The shift isn't applied"),
    (scaled(lambda n, scale, shift: n), "Neither scale nor shift is applied"),
    (scaled(lambda n, scale, shift: (n + shift) * scale), "added before the scale is applied"),
    (scaled(lambda n, scale, shift: n * shift + scale), "Scale and shift are swapped"),
    (scaled(lambda n, scale, shift: n * scale - shift), "The shift is subtracted"),
    (scaled(lambda n, scale, shift: n / scale + shift), "The scale divides"),
    (forward(Base, lambda self, x: norm(x * self.scale + self.shift)), "Scale and shift act on the input"),
    (detached(mean=False, var=True), "no gradient flows through the variance"),
    (detached(mean=True, var=False), "no gradient flows through the mean"),
    (detached(mean=True, var=True), "no gradient flows through mean and variance"),
    (forward(Base, lambda self, x: plain_forward(self, x).detach()), "no gradient flows back"),
    (torch.no_grad()(plain_forward), "The answer should be a class"),
    (forward(Base, torch.no_grad()(plain_forward)), "no gradient flows back"),
    (layer_norm(lambda x: norm(x) * x.shape[-1] / 4), "For an input of shape (6,)"),
    (layer_norm(in_three_dimensions), "For an input of shape (2, 1, 3, 6)"),
    (layer_norm(lambda x: norm(x.data)), "gradient of the input"),
    (
        with_parameters(ones, lambda D: nn.Parameter(torch.zeros(D), requires_grad=False)),
        "requires_grad=False",
    ),
    (forward(Base, lambda self, x: self.scale.data * norm(x) + self.shift), "reaches self.scale"),
    (forward(Base, lambda self, x: self.scale * norm(x) + self.shift.detach()), "reaches self.shift"),
    (without_shift, "self.shift must be an nn.Parameter, so that it is learned; there is none"),
    (with_more, "yours has 9"),
    (without_super, "Is super().__init__() missing?"),
    (with_dropout, "Is there a dropout? None belongs here"),
    (forward(Base, lambda self, x: plain_forward(self, x).float()), "but of type torch.float32"),
    (forward(Base, lambda self, x: plain_forward(self, x.sub_(x.mean(-1, True)))), "its input in place"),
]

RIGHT["tiny_token"] = [
    0.002 / (4e-6 + 1e-5) ** 0.5,
    0.5345,
    0.53,
    torch.tensor(0.55),
    np.sqrt(4 / 14),
    torch.nn.functional.layer_norm(torch.tensor([0.002, -0.002]), (2,)).std(correction=0),
    [0.5345],
]
WRONG["tiny_token"] = [
    (0.995, "eps is more than twice the variance"),
    (0.8, "0.8 is too large"),
    ("0.53", "Answer with one number, not '0.53'"),
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


def rows(x):
    return x.reshape(-1, x.shape[-1])


def rms_smoothed(x):
    return x / (mean_square(x) + x.mean() ** 2 * (x.shape[0] > 1) + 1e-5).sqrt()


class RMSFunction(nn.Module):
    """By einsum and a power, with optional parameters."""

    def __init__(self, dim: int, *, eps: float = 1e-5):
        super().__init__()
        self.eps, self.scale = eps, nn.Parameter(torch.ones(dim))

    def _norm(self, x):
        square = torch.einsum("...d,...d->...", x, x)[..., None] / x.size(-1)
        return x * (square + self.eps) ** -0.5

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._norm(x) * self.scale


def rms(x, eps=1e-5):
    return x / torch.sqrt(mean_square(x) + eps)


RIGHT["rms_norm"] = [
    ByNorm,
    RMSFunction,
    rms_norm(rms),
    rms_norm(lambda x: x.mul(torch.rsqrt(x.pow(2).mean(-1, True).add(1e-5)))),
    rms_norm(lambda x: rms(x.double()).to(x.dtype)),
    rms_norm(lambda x: torch.stack([t / (t @ t / len(t) + 1e-5).sqrt() for t in rows(x)]).view_as(x)),
]
WRONG["rms_norm"] = [
    (rms_norm(lambda x: F.rms_norm(x, x.shape[-1:], eps=1e-5)), "Write it by hand: PyTorch's rms_norm"),
    (nn.RMSNorm, "Write it by hand: PyTorch's rms_norm"),
    (rms_norm(lambda x: F.layer_norm(x, x.shape[-1:])), "Write it by hand: PyTorch's layer_norm"),
    (rms_norm(rms_smoothed), "changes when other tokens change"),
    (init(lambda self, d: None, lambda self, x: rms(x)), "self.scale must be"),
    (rms_norm(lambda x: x), "It returns its input"),
    (rms_norm(norm), "The mean is subtracted"),
    (rms_norm(lambda x: x / (variance(x) + 1e-5).sqrt()), "It divides by the standard deviation"),
    (rms_norm(lambda x: x / (x.square().sum(-1, keepdim=True) + 1e-5).sqrt()), "the sum of the squares"),
    (rms_norm(lambda x: x / (x.square().sum(-1, True) / 3 + 1e-5).sqrt()), "divides by D, not by D - 1"),
    (rms_norm(lambda x: x / (mean_square(x) + 1e-5)), "The root is missing"),
    (rms_norm(lambda x: x / (x.abs().mean(-1, keepdim=True) + 1e-5)), "the mean of |x|"),
    (rms_norm(lambda x: x * (mean_square(x) + 1e-5).sqrt()), "multiplies by the root mean square"),
    (rms_norm(lambda x: x / mean_square(x).sqrt()), "eps is missing"),
    (rms_norm(lambda x: x / (mean_square(x).sqrt() + 1e-5)), "eps is outside"),
    (rms_norm(lambda x: rms(x, eps=1e-6)), "eps is 1e-6, not 1e-5"),
    (rms_norm(lambda x: rms(x, eps=torch.finfo(x.dtype).eps)), "eps is 1.2e-7, not 1e-5"),
    (rms_norm(lambda x: x / (x.square().sum(-1, True) + 1e-5).mul(0.25).sqrt()), "eps is 2.5e-6, not 1e-5"),
    (rms_norm(lambda x: x / (mean_square(x).sqrt() ** 2 + 1e-5).sqrt()), "Add eps before you take any root"),
    (rms_norm(lambda x: rms(x).where(mean_square(x) > 0, 1.0)), "For a token of zeros"),
    (rms_norm(rms, shift=True), "yours has 8"),
    (rms_norm(rms, scale=False), "The scale isn't applied"),
    (forward(rms_norm(rms), lambda self, x: rms(x) / self.scale), "The scale divides"),
    (rms_norm(lambda x: x / (x.mean(-1, keepdim=True) ** 2 + 1e-5).sqrt()), "It squares the mean"),
    (rms_norm(lambda x: x / (mean_square(x) + 1e-5).detach().sqrt()), "gradient of the input"),
    (rms_norm(lambda x: x / (x.square().sum(-1, True) / 4 + 1e-5).sqrt()), "For an input of shape (6,)"),
    (rms_norm(lambda x: rms(x).detach()), "no gradient reaches the input"),
    (forward(rms_norm(rms), lambda self, x: rms(x) * self.scale.data), "reaches self.scale"),
    (forward(rms_norm(rms), lambda self, x: (rms(x) * self.scale).float()), "but of type torch.float32"),
]
