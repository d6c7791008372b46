"""Answers to the exercises, as data: right ones in another style than the solutions, and wrong ones.

RIGHT has, for each check, answers that must pass. WRONG has pairs: an answer that must be rejected, and words
that the verdict must contain, so that every mistake which a check claims to name is made here once.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from helpers import (
    GELU,
    FeedForward,
    GPTModel,
    LayerNorm,
    MultiHeadAttention,
    TransformerBlock,
    count_parameters,
    generate_text_simple,
)
from notebooks.checks import SMALL

INF = float("inf")
RIGHT, WRONG = {}, {}


def forward(base, function):
    """The class `base` with another forward method."""
    return type(f"Other{base.__name__}", (base,), {"forward": function})


def init(function, forward, base=nn.Module):
    """A class with this `__init__`, which runs after that of `base`, and this forward method."""

    def __init__(self, *arguments):
        base.__init__(self)
        function(self, *arguments)

    return type("Other", (base,), {"__init__": __init__, "forward": forward})


# ---- 4.1 ---------------------------------------------------------------------------------------------------

RIGHT["logits_shape"] = [[3, 7, 50257], torch.Size([3, 7, 50257])]
WRONG["logits_shape"] = [
    ((3, 50257), "at every position, not only at the last"),
    ((3, 7), "the ids that go in"),
    ((3, 7, 1024), "the shape inside the model"),
    ((3, 7, 768), "768 is the width of gpt2-small"),
    ((7, 3, 50257), "texts come first"),
    ((7, 50257), "scores of its own"),
    ((3, 7, 50256), "The third number, 50,256, is too small"),
    ((3, 7, 1, 50257), "A tuple of 3 numbers is wanted, not 4"),
    ("(3, 7, 50257)", "A tuple of 3 numbers is wanted"),
    ((3, 50257, 7), "The scores come last"),
]
RIGHT["longer_context"] = [786_432, 1024 * 768.0, torch.tensor(786_432)]
WRONG["longer_context"] = [
    (2048 * 768, "the whole new table"),
    (1024 * 50257, "not of vocab_size"),
    (0, "a row for each position"),
    (1024, "the number of new rows"),
    (700_000, "700,000 is too small"),
    (math.nan, "The answer is nan"),
    ((786, 432), "A comma makes a tuple"),
    (True, "One number is wanted, not True"),
    (1024**768, "is there a ** in place of a *?"),
]


def by_lists(texts, length, filler):
    return torch.tensor([[*text[:length], *[filler] * (length - len(text))] for text in texts])


def by_hand(texts, length, filler, front=False, end=False, fill=True):
    rows = torch.full((len(texts), length), filler if fill else 0)
    for row, text in zip(rows, texts, strict=True):
        text = text[-length:] if end else text[:length]
        row[length - len(text) if front else 0 :][: len(text)] = torch.tensor(text)
    return rows


def in_place(texts, length, filler):
    for text in texts:
        text += [filler] * (length - len(text))
    return torch.tensor([text[:length] for text in texts])


def gap_at_zero(texts, length, filler):
    rows = by_hand(texts, length, 0)
    return rows.masked_fill(rows == 0, filler)


def by_longest(texts, length, filler):
    rows = [torch.tensor(text[:length], dtype=torch.long) for text in texts]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=filler)


RIGHT["same_length"] = [by_lists, by_hand]
WRONG["same_length"] = [
    (lambda *a: by_hand(*a, front=True), "The filler stands in front"),
    (lambda *a: by_hand(*a, end=True), "keeps its last tokens"),
    (lambda *a: by_hand(*a, front=True, end=True), "both at the wrong end"),
    (lambda *a: by_hand(*a, fill=False), "fills with 0"),
    (lambda texts, length, filler: by_hand(texts, max(map(len, texts)), filler), "the longest text"),
    (lambda *a: by_hand(*a).T, "Texts stand in columns"),
    (lambda *a: by_hand(*a).flatten(), "in one row"),
    (lambda *a: by_hand(*a).float(), "numbers of type torch.float32"),
    (lambda *a: by_hand(*a).int(), "numbers are right, but of type torch.int32"),
    (lambda *a: by_hand(*a).tolist(), "returns a list"),
    (in_place, "changes its input in place"),
    (gap_at_zero, "Token 0 is taken for a gap"),
    (lambda texts, *a: by_hand([t for t in texts if t], *a), "An empty text gets no row"),
    (
        lambda texts, length, filler: torch.tensor([t[:length] for t in texts]),
        "expected sequence of length 2",
    ),
    (by_longest, "If all texts are shorter than `length`, it gives the shape (1, 2)"),
]


def embed(tok_emb, pos_emb, ids):
    return tok_emb(ids) + pos_emb(torch.arange(ids.shape[1]))


RIGHT["embed"] = [
    lambda tok, pos, ids: tok(ids) + pos(torch.arange(ids.shape[1]).expand_as(ids)),
    lambda tok, pos, ids: F.embedding(ids, tok.weight) + pos.weight[: ids.size(1)],
]
WRONG["embed"] = [
    (lambda tok, pos, ids: tok(ids), "The positions are missing"),
    (lambda tok, pos, ids: pos(torch.arange(5)).repeat(3, 1, 1), "The tokens are missing"),
    (lambda tok, pos, ids: tok(ids) + pos(torch.arange(1, 6)), "start at 1"),
    (lambda tok, pos, ids: tok(ids) + pos(ids), "looked up by token id"),
    (lambda tok, pos, ids: tok(ids) + pos(torch.tensor(ids.shape[1])), "Every token gets the same position"),
    (lambda tok, pos, ids: tok(ids) + pos(torch.tensor(0)), "Every token gets position 0"),
    (lambda tok, pos, ids: tok(ids) + pos(torch.arange(3))[:, None], "Each text gets a position"),
    (lambda tok, pos, ids: tok(ids) * pos(torch.arange(5)), "The two are multiplied"),
    (lambda tok, pos, ids: torch.cat([tok(ids), pos(torch.arange(5)).repeat(3, 1, 1)], -1), "side by side"),
    (lambda tok, pos, ids: embed(tok, pos, ids).double(), "right, but of type torch.float64"),
    (lambda tok, pos, ids: embed(tok, pos, ids)[0], "the shape (5, 4)"),
    (lambda tok, pos, ids: tok(ids) - pos(torch.arange(5)), "The two are subtracted"),
    (lambda tok, pos, ids: embed(pos, tok, ids), "The two tables are exchanged"),
    (torch.no_grad()(embed), "no gradient flows back"),
    (lambda tok, pos, ids: embed(tok, pos, ids) - tok(ids) + tok(ids).detach(), "gradient of tok_emb.weight"),
    (lambda tok, pos, ids: tok(ids) + pos(torch.arange(5)).detach(), "no gradient reaches pos_emb.weight"),
    (lambda tok, pos, ids: embed(tok, pos, ids).squeeze(0), "For a single text it gives the shape (5, 4)"),
    (lambda tok, pos, ids: tok(ids) + pos(torch.arange(ids.shape[0])), "must match the size"),
    (lambda tok, pos, ids: 2 * embed(tok, pos, ids), "It gives result["),
]


def average(forward):
    return init(lambda self, cfg: None, forward)


def steps(x):
    return torch.arange(1, x.shape[1] + 1)[:, None]


def matrix_average(self, x):
    T = x.shape[1]
    weights = torch.ones(T, T).tril()
    return weights / weights.sum(dim=1, keepdim=True) @ x


def loop_average(self, x):
    return torch.stack([x[:, : t + 1].mean(dim=1) for t in range(x.shape[1])], dim=1)


def exclusive_average(self, x):
    return torch.stack([x[:, :t].mean(dim=1) if t else 0 * x[:, 0] for t in range(x.shape[1])], dim=1)


class Remembering(nn.Module):
    """Adds up in an attribute, and never starts anew."""

    def __init__(self, cfg):
        super().__init__()
        self.sum = 0

    def forward(self, x):
        self.sum = self.sum + x.cumsum(1)
        return self.sum / steps(x)


class Learnt(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return loop_average(self, x) * self.weight


RIGHT["average_block"] = [average(matrix_average), average(loop_average)]
WRONG["average_block"] = [
    (average(lambda self, x: x), "It returns its input"),
    (average(lambda self, x: x.cumsum(1)), "adds up and does not divide"),
    (average(lambda self, x: x.mean(1, keepdim=True).expand_as(x)), "Later tokens enter too"),
    (average(lambda self, x: x.cumsum(1) / x.shape[1]), "It divides by T everywhere"),
    (average(exclusive_average), "A token leaves itself out"),
    (average(lambda self, x: x.cumsum(1) / (steps(x) - 1)), "It divides by t;"),
    (average(lambda self, x: x.mean(-1, keepdim=True).expand_as(x)), "averages the features"),
    (average(lambda self, x: x.cumsum(-1) / torch.arange(1, 5)), "It runs along the features"),
    (average(lambda self, x: x.cumsum(0) / torch.arange(1, 5)[:, None, None]), "It runs along the batch"),
    (average(lambda self, x: loop_average(self, x.flip(1)).flip(1)), "It averages later tokens"),
    (average(lambda self, x: x.cumsum_(1) / steps(x)), "changes its input in place"),
    (average(lambda self, x: x.cumsum(1) / torch.arange(1, x.shape[1] + 1)), "It divides along the features"),
    (average(lambda self, x: x.cumsum(1).cumsum(0) / steps(x)), "does not start anew for each text"),
    (average(lambda self, x: x.cumsum(1) / torch.arange(1, 5)[:, None]), "must match the size"),
    (average(lambda self, x: loop_average(self, x) if x.shape[1] < 7 else x), "For 7 tokens"),
    (Remembering, "When it runs for the second time"),
    (Learnt, "It has parameters"),
    (average(torch.no_grad()(loop_average)), "no gradient flows back"),
]

# ---- 4.2 ---------------------------------------------------------------------------------------------------

RIGHT["mean_and_variance"] = [[3, 4], torch.tensor([3.0, 4.0]), (torch.tensor(3.05), 3.95)]
WRONG["mean_and_variance"] = [
    ((0, 1), "before the scale and the shift"),
    ((3, 2), "what is the variance?"),
    ((0, 4), "what does the shift do"),
    ((6, 4), "the scale does not double it"),
    ((4, 3), "Mean first"),
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
        centred = inputs.sub(mean)
        return torch.addcmul(
            self.shift, centred * torch.rsqrt((centred**2).mean(-1, True) + 1e-5), self.scale
        )


class ByPyTorch(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.ones(d)), nn.Parameter(torch.zeros(d))

    def forward(self, x):
        return F.layer_norm(x, x.shape[-1:], self.scale, self.shift, eps=1e-5)


def centred(x, dim=-1):
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
        return self.scale * centred(x) / (variance(x) + 0.1 * x.var() + 1e-5).sqrt() + self.shift


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
    (layer_norm(centred), "subtracts the mean and does not divide"),
    (layer_norm(lambda x: norm(x, unbiased=True)), "the unbiased one, which divides by D - 1"),
    (layer_norm(lambda x: centred(x) / (variance(x) + 1e-5)), "divides by the variance and not by its root"),
    (layer_norm(lambda x: centred(x) / (variance(x, unbiased=True) + 1e-5)), "both are wrong"),
    (layer_norm(lambda x: x / (variance(x) + 1e-5).sqrt()), "The mean is not subtracted. For"),
    (layer_norm(lambda x: x / x.std(-1, keepdim=True)), "not subtracted, and the variance is the unbiased"),
    (layer_norm(lambda x: x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()), "RMSNorm"),
    (layer_norm(lambda x: centred(x) / (variance(x).sqrt() + 1e-5)), "eps stands outside of the root"),
    (layer_norm(lambda x: centred(x) / variance(x).sqrt()), "eps is missing"),
    (layer_norm(lambda x: centred(x) / (variance(x) - 1e-5).sqrt()), "eps is subtracted"),
    (layer_norm(lambda x: norm(x, eps=1e-6)), "eps is 1e-6"),
    (layer_norm(lambda x: norm(x, eps=1e-8)), "eps is 1e-8"),
    (layer_norm(lambda x: norm(x).where(variance(x) > 0, 1.0)), "For a token of equal numbers"),
    (scaled(lambda n, scale, shift: n + shift), "The scale is not applied"),
    (scaled(lambda n, scale, shift: n * scale), "The shift is not applied"),
    (scaled(lambda n, scale, shift: n), "Neither scale nor shift is applied"),
    (scaled(lambda n, scale, shift: (n + shift) * scale), "added before the scale is applied"),
    (scaled(lambda n, scale, shift: n * shift + scale), "Scale and shift are exchanged"),
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
    (without_shift, "self.shift must be an nn.Parameter, so that it is learnt; there is none"),
    (with_more, "yours has 9"),
    (without_super, "Is super().__init__() missing?"),
]

RIGHT["tiny_token"] = [0.5345, 0.53, torch.tensor(0.55)]
WRONG["tiny_token"] = [
    (1, "eps is more than twice the variance"),
    (0.995, "eps is more than twice the variance"),
    (0.632, "Under the root there is the variance"),
    (142.9, "The root is missing: divide"),
    (0.2857, "the variance after normalization"),
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
    (rms_norm(lambda x: x / (mean_square(x).sqrt() + 1e-5)), "eps stands outside"),
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

# ---- 4.3 ---------------------------------------------------------------------------------------------------

RIGHT["collapsed_layers"] = [590_592, 590_592.0]
WRONG["collapsed_layers"] = [
    (59_059_200, "How many has the one layer"),
    (589_824, "The bias is missing"),
    ((590, 592), "A comma makes a tuple"),
    (2 * 590_592, "Those are two layers"),
    (769, "a single output"),
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


class with_a_learnt_root(nn.Module):
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
    (gelu(root=(2 * math.pi) ** 0.5), "sqrt(2π) in place"),
    (gelu(factor=0.44715), "0.44715 and not"),
    (activation(lambda x: x), "It returns its input"),
    (activation(lambda x: x.mul_(0.5 * (1 + torch.tanh(x)))), "changes its input in place"),
    (activation(lambda x: tanh_gelu(x).detach()), "no gradient flows back"),
    (activation(lambda x: tanh_gelu(x.detach()) + 0 * x), "as the gradient of the input"),
    (activation(lambda x: tanh_gelu(x).flatten()), "the shape (24,)"),
    (gelu(root=(math.pi / 2) ** 0.5), "sqrt(π/2) in place"),
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
    (with_a_learnt_root, "It has parameters"),
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
        return self.layers[2](norm(self.layers[1](self.layers[0](x))))


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
    (network(expand, bend, contract, bend), "behind the second layer, too"),
    (network(expand, contract, bend), "behind the second layer, not between"),
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
    (12, "A factor of 4 is missing"),
    (50.3, "not a million"),
    (24, "4 bytes, not 2"),
    (96, "4 bytes, not 8"),
    (384, "the number of bits"),
    (576, "all twelve blocks"),
    (50_331_648, "looks like bytes"),
    (49_152, "looks like KB"),
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

# ---- 4.4 ---------------------------------------------------------------------------------------------------

RIGHT["sum_or_product"] = ["b", " B ", "(b)"]
WRONG["sum_or_product"] = [
    ("a", "A factor of 2 for each layer"),
    ("c", "A product needs no parameters"),
    ("d", "Products have derivatives too"),
    ("e", "Choose one of 'a', 'b', 'c', 'd'"),
    (2, "Choose one of"),
    ("(d)", "Products have derivatives too"),
]
RIGHT["gradient_through_twelve"] = [3.138, 3.0, torch.tensor(3.2), (torch.tensor(3.138),)]
WRONG["gradient_through_twelve"] = [
    (1e-12, "without the shortcuts"),
    (1.1, "That is one layer"),
    (2.2, "multiply, and do not add"),
    (13.2, "The factors multiply"),
    (1, "passes through no layer"),
    (4096, "it does not double"),
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

    return init(start, lambda self, x: function(x, self.layer, self.norms[0] if count else norm))


class PreNormOther(nn.Module):
    def __init__(self, layer, emb_dim):
        super().__init__()
        self.path = nn.Sequential(nn.LayerNorm(emb_dim), layer)

    def forward(self, x):
        return self.path(x) + x


RIGHT["pre_norm"] = [
    with_norm(lambda x, f, n: x + f(n(x))),
    with_norm(lambda x, f, n: x + f(n(x)), base=ByMoments),
    PreNormOther,
]
WRONG["pre_norm"] = [
    (with_norm(lambda x, f, n: x + f(x)), "There is no norm"),
    (with_norm(lambda x, f, n: f(n(x))), "There is no shortcut"),
    (with_norm(lambda x, f, n: n(x) + f(n(x))), "starts at the normalized copy"),
    (with_norm(lambda x, f, n: n(x + f(x))), "(post-norm)"),
    (with_norm(lambda x, f, n: x + n(f(x))), "The norm stands behind the layer"),
    (with_norm(lambda x, f, n: n(x + f(n(x)))), "normalized once more"),
    (with_norm(lambda x, f, n: x + n(x) + f(x)), "side by side"),
    (with_norm(lambda x, f, n: x + n(x)), "The layer is not used"),
    (
        init(
            lambda self, layer, D: self.__dict__.update(kept=[layer]),
            lambda self, x: x + self.kept[0](norm(x)),
        ),
        "would not be trained",
    ),
    (with_norm(lambda x, f, n: x + f(n(x)), count=0), "Besides the layer it has 0 parameters"),
    (with_norm(lambda x, f, n: x + f(n(x)), count=2), "Besides the layer it has 24 parameters"),
    (with_norm(lambda x, f, n: x + 2 * f(n(x))), "With a random layer it gives"),
    (with_norm(lambda x, f, n: x * f(n(x))), "The two are multiplied"),
    (with_norm(lambda x, f, n: x.detach() + f(n(x))), "gradient of the input"),
    (with_norm(lambda x, f, n: x + f(n(x).detach())), "gradient of the input"),
    (with_norm(lambda x, f, n: x + f(norm(x))), "no gradient reaches self.norms.0.scale"),
    (
        with_norm(lambda x, f, n: x + f(n(x)), base=lambda D: LayerNorm(4 * D)),
        "ValueError: the input must have 24",
    ),
]


def rezero(function, start=0.0, size=1, learnt=True):
    def make(self, layer):
        alpha = torch.full((size,), start)
        self.layer, self.alpha = layer, nn.Parameter(alpha) if learnt else alpha

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
    (rezero(lambda x, f, alpha: x + alpha * f(x), learnt=False), "self.alpha must be an nn.Parameter"),
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

# ---- 4.5 ---------------------------------------------------------------------------------------------------

RIGHT["what_the_mask_hides"] = ["c", "C"]
WRONG["what_the_mask_hides"] = [
    ("a", "A token sees itself"),
    ("b", "The other texts of a batch"),
    ("d", "That is dropout"),
    ("", "Choose one of"),
]


def attend(q, k, v, factor=None, offset=1, fill=-INF, dim=-1, after=False, flipped=False):
    T, Dh = q.shape[-2:]
    hidden = torch.ones(T, T, dtype=torch.bool).triu(offset)
    hidden = hidden.T if flipped else hidden
    scores = q @ k.transpose(-2, -1) * (Dh**-0.5 if factor is None else factor)
    if after:
        return scores.softmax(-1).masked_fill(hidden, 0) @ v
    return scores.masked_fill(hidden, fill).softmax(dim) @ v


def attend_one_by_one(query, key, value):
    """Token after token, with the softmax written out; each sees only what is there by then."""
    rows = []
    for t in range(query.size(-2)):
        scores = (key[..., : t + 1, :] @ query[..., t, :, None]).squeeze(-1) / math.sqrt(query.size(-1))
        weights = torch.exp(scores - scores.max(dim=-1, keepdim=True).values)
        weights = weights / weights.sum(dim=-1, keepdim=True)
        rows.append((weights[..., None] * value[..., : t + 1, :]).sum(dim=-2))
    return torch.stack(rows, dim=-2)


def attend_unnormalized(q, k, v):
    T, Dh = q.shape[-2:]
    return (q @ k.transpose(-2, -1) / Dh**0.5).tril().exp().tril() @ v


def attend_spoiled_alone(q, k, v):
    return attend(q, k, v) if q.shape[-2] > 1 else 2 * v


def attend_times_infinity(q, k, v):
    T = q.shape[-2]
    return (q @ k.mT / 6**0.5 + torch.ones(T, T).triu(1) * -INF).softmax(-1) @ v


def attend_by_fixed_dimensions(q, k, v):
    T = q.shape[-2]
    scores = (q @ k.mT / 6**0.5).masked_fill(torch.ones(T, T).triu(1).bool(), -INF)
    return scores.softmax(2) @ v if q.ndim == 3 else scores.softmax(1).nan_to_num() @ v


RIGHT["attention_head"] = [
    attend,
    attend_one_by_one,
    lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
]
ATTENTION = [
    ({"offset": 99}, "The mask is missing"),
    ({"offset": 2}, "off by one: each token sees the next"),
    ({"offset": 0}, "hides the diagonal as well"),
    ({"offset": 1, "flipped": True}, "upside down"),
    ({"offset": 0, "flipped": True}, "upside down"),
    ({"after": True}, "The mask comes after the softmax"),
    ({"fill": 0.0}, "writes 0 into the scores"),
    ({"factor": 1}, "The division by the root of Dh is missing"),
    ({"factor": 5**-0.5}, "divided by the root of T"),
    ({"dim": -2}, "runs over the queries"),
]
WRONG["attention_head"] = [
    *[(lambda q, k, v, slip=slip: attend(q, k, v, **slip), words) for slip, words in ATTENTION],
    (lambda q, k, v: attend(q, k, v, factor=1 / 6), "divided by Dh and not by its root"),
    (lambda q, k, v: attend(q, k, v, factor=6**0.5), "multiplied by the root of Dh"),
    (lambda q, k, v: attend(q, v, k), "Keys and values are exchanged"),
    (lambda q, k, v: attend(k, q, v), "Queries and keys are exchanged"),
    (lambda q, k, v: attend(q, q, v), "compared with themselves"),
    (lambda q, k, v: attend(q, k, k), "applied to the keys"),
    (lambda q, k, v: attend(q, k, v, factor=1, offset=99), "What can be seen: changing the last token"),
    (attend_unnormalized, "if all values are 1, a token does not get 1"),
    (attend_spoiled_alone, "For a single token"),
    (lambda q, k, v: attend(q, k, v)[0], "the shape (5, 6)"),
    (lambda q, k, v: attend(q, k, v) * INF, "It gives result[0, 0] = ["),
    (lambda q, k, v: attend(q, k, v, factor=1 / (2 * 6)), "Dh**1/2 is half of Dh"),
    (attend_times_infinity, "0 times infinity is nan"),
    (lambda q, k, v: (q @ k.mT / 6**0.5).tril() @ v, "The softmax is missing"),
    (
        lambda q, k, v: (q @ k.mT / 6**0.5 + torch.full((q.shape[-2],) * 2, -INF).triu(1)) @ v,
        "softmax is missing",
    ),
    (lambda q, k, v: attend(q, k, q), "applied to the queries"),
    (lambda q, k, v: attend(q + torch.rand(1), k, v), "two runs on the same input differ"),
    (lambda q, k, v: attend(q, k, v) if q.ndim == 3 else [][0], "but not for (B, H, T, Dh). It fails"),
    (attend_by_fixed_dimensions, "It works for (B, T, Dh); but for (B, H, T, Dh) it gives"),
    (torch.no_grad()(attend), "no gradient flows back"),
    (lambda q, k, v: attend(q.detach(), k, v), "no gradient reaches the queries"),
]
RIGHT["open_pairs"] = [524_800, 524_800.0]
WRONG["open_pairs"] = [
    (1_048_576, "the whole table"),
    (524_288, "nearly right; the diagonal"),
    (523_776, "a token sees itself"),
    (12 * 524_800, "all twelve heads"),
    (500_000, "500,000 is too small"),
]


class Heads(MultiHeadAttention):
    """Attention in which each step can be replaced."""

    def split(self, x):
        return x.view(*x.shape[:2], self.num_heads, self.head_dim).transpose(1, 2)

    def merge(self, x):
        return x.transpose(1, 2).flatten(2)

    def attend(self, q, k, v):
        return attend(q, k, v)

    def forward(self, x):
        heads = (self.split(w(x)) for w in (self.W_query, self.W_key, self.W_value))
        return self.out_proj(self.merge(self.attend(*heads)))


def heads(base=Heads, **methods):
    return type("OtherHeads", (base,), methods)


def cut(self, x):
    return x.reshape(x.shape[0], self.num_heads, x.shape[1], self.head_dim)


def join(self, x):
    return x.reshape(x.shape[0], x.shape[2], -1)


def with_dropout(self, q, k, v):
    T = q.shape[2]
    scores = q @ k.mT / self.head_dim**0.5 + torch.full((T, T), -INF).triu(1)
    return self.dropout(scores.softmax(-1)) @ v


def drop_scores(self, q, k, v):
    T = q.shape[2]
    scores = self.dropout(q @ k.mT / self.head_dim**0.5) + torch.full((T, T), -INF).triu(1)
    return scores.softmax(-1) @ v


def always_dropping(self, q, k, v):
    return F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout.p, is_causal=True)


class OtherArguments(MultiHeadAttention):
    def __init__(self, width, out, length, rate, heads, bias=False):
        super().__init__(width, out, length, rate, heads, bias)


class HeadByHead(MultiHeadAttention):
    """In another style: one head after the other, by PyTorch's own function."""

    def forward(self, x):
        q, k, v = self.W_query(x), self.W_key(x), self.W_value(x)
        p = self.dropout.p if self.training else 0.0
        found = [
            F.scaled_dot_product_attention(*parts, dropout_p=p, is_causal=True)
            for parts in zip(*(t.chunk(self.num_heads, dim=-1) for t in (q, k, v)), strict=True)
        ]
        return self.out_proj(torch.cat(found, dim=-1))


def over_heads(self, x):
    B, T, _ = x.shape
    q, k, v = (w(x).view(B, T, self.num_heads, -1) for w in (self.W_query, self.W_key, self.W_value))
    return self.out_proj(attend(q, k, v).reshape(B, T, -1))


def one_head(self, x):
    return self.out_proj(attend(self.W_query(x), self.W_key(x), self.W_value(x)))


def no_projection(self, x):
    return self.merge(self.attend(*(self.split(w(x)) for w in (self.W_query, self.W_key, self.W_value))))


class OtherNames(Heads):
    def __init__(self, *arguments, **named):
        super().__init__(*arguments, **named)
        self.q = self.W_query
        del self.W_query

    def forward(self, x):
        return self.out_proj(
            self.merge(self.attend(*(self.split(w(x)) for w in (self.q, self.W_key, self.W_value))))
        )


def no_narrow(self, x):
    result = Heads.forward(self, x)
    return result if x.shape[-1] == result.shape[-1] else result[..., : x.shape[-1]]


RIGHT["multi_head_attention"] = [MultiHeadAttention, HeadByHead, heads(attend=with_dropout)]
WRONG["multi_head_attention"] = [
    *[
        (heads(attend=lambda self, q, k, v, slip=slip: attend(q, k, v, **slip)), words)
        for slip, words in ATTENTION
    ],
    (heads(attend=lambda self, q, k, v: attend(q, k, v, factor=1 / 4)), "divided by Dh and not by its root"),
    (heads(attend=lambda self, q, k, v: attend(q, k, v, factor=8**-0.5)), "the root of D, the whole width"),
    (heads(attend=lambda self, q, k, v: attend(q, v, k)), "Keys and values are exchanged"),
    (heads(split=cut), "cut by view without a transpose"),
    (heads(split=cut, merge=join), "cut by view without a transpose"),
    (heads(merge=join), "put together without transposing back"),
    (heads(forward=one_head), "There is only one head"),
    (heads(forward=no_projection), "out_proj, is missing"),
    (heads(forward=over_heads), "attends over the heads of one token"),
    (OtherNames, "missing: W_query"),
    (
        heads(attend=lambda self, q, k, v: attend(q, k, v, offset=99, factor=1)),
        "What can be seen: changing the last token",
    ),
    (Heads, "Dropout has no effect in training"),
    (
        heads(forward=no_narrow, attend=with_dropout),
        "With d_in = 6, d_out = 8 and 12 tokens it gives the shape (1, 12, 6)",
    ),
    (type("Misspelt", (MultiHeadAttention,), {"foward": Heads.forward}), "is the name misspelt?"),
    (heads(attend=lambda self, q, k, v: attend(q, k, v, dim=1)), "The softmax runs over the heads (dim=1)"),
    (
        heads(attend=lambda self, q, k, v: attend(q + torch.rand(1), k, v)),
        "two runs on the same input differ",
    ),
    (heads(attend=drop_scores), "Dropout must strike the attention weights"),
    (
        heads(attend=lambda self, q, k, v: attend(q, k, self.dropout(v))),
        "Dropout must strike the attention weights",
    ),
    (
        heads(attend=lambda self, q, k, v: self.dropout(attend(q, k, v))),
        "Dropout must strike the attention weights",
    ),
    (heads(attend=always_dropping), "Dropout acts in eval mode, too"),
    (heads(forward=torch.no_grad()(Heads.forward)), "no gradient flows back"),
]


def block(function, base=TransformerBlock):
    """A block whose forward pass is function(x, att, ff, norm1, norm2, drop)."""
    return forward(
        base, lambda self, x: function(x, self.att, self.ff, self.norm1, self.norm2, self.drop_shortcut)
    )


def good_block(x, att, ff, n1, n2, drop):
    x = x + drop(att(n1(x)))
    return x + drop(ff(n2(x)))


def post_norm_block(x, att, ff, n1, n2, drop):
    x = n1(x + att(x))
    return n2(x + ff(x))


class BlockInOneLine(TransformerBlock):
    """In another style: names of its own for nothing, the sum written once."""

    def forward(self, tokens):
        for part, norm_ in ((self.att, self.norm1), (self.ff, self.norm2)):
            tokens = tokens.add(self.drop_shortcut(part(norm_(tokens))))
        return tokens


class BlockOfPyTorch(nn.Module):
    """With PyTorch's own norms and one dropout module for each place."""

    def __init__(self, cfg):
        super().__init__()
        D, p = cfg["emb_dim"], cfg["drop_rate"]
        self.norm1, self.norm2 = nn.LayerNorm(D), nn.LayerNorm(D)
        self.att = MultiHeadAttention(D, D, cfg["context_length"], p, cfg["n_heads"], cfg["qkv_bias"])
        self.ff, self.drop_shortcut, self.drop_2 = FeedForward(cfg), nn.Dropout(p), nn.Dropout(p)

    def forward(self, x):
        shortcut = x
        x = self.drop_shortcut(self.att(self.norm1(x))) + shortcut
        return self.drop_2(self.ff(self.norm2(x))) + x


class BlockWithoutNames(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.block = TransformerBlock(cfg)

    def forward(self, x):
        return self.block(x)


def both_from_norm(x, att, ff, n1, n2, drop):
    x = n1(x) + att(n1(x))
    return n2(x) + ff(n2(x))


def then(first, second):
    """A block of two steps, each a function of x and the parts."""
    return block(lambda x, *parts: second(first(x, *parts), *parts))


def first(x, att, ff, n1, n2, drop):
    return x + att(n1(x))


def second(x, att, ff, n1, n2, drop):
    return x + ff(n2(x))


def made_with(change):
    """A block that is made with another configuration."""
    return type(
        "Other",
        (TransformerBlock,),
        {"__init__": lambda self, cfg: TransformerBlock.__init__(self, change(cfg))},
    )


class OneNorm(TransformerBlock):
    def __init__(self, cfg):
        super().__init__(cfg)
        self.norm2 = self.norm1


RIGHT["transformer_block"] = [TransformerBlock, BlockInOneLine, BlockOfPyTorch]
WRONG["transformer_block"] = [
    (block(post_norm_block), "(post-norm)"),
    (block(both_from_norm), "Both shortcuts start at normalized copies"),
    (then(lambda x, a, f, n1, n2, d: n1(x) + a(n1(x)), second), "The first shortcut starts"),
    (
        then(first, lambda x, a, f, n1, n2, d: n2(x) + f(n2(x))),
        "The second shortcut starts at the normalized",
    ),
    (then(lambda x, a, f, n1, n2, d: a(n1(x)), second), "The first shortcut is missing"),
    (then(first, lambda x, a, f, n1, n2, d: f(n2(x))), "The second shortcut is missing"),
    (
        then(lambda x, a, f, n1, n2, d: a(n1(x)), lambda x, a, f, n1, n2, d: f(n2(x))),
        "Both shortcuts are miss",
    ),
    (block(lambda x, a, f, n1, n2, d: x + f(n2(x + a(n1(x))))), "starts at the block's input"),
    (block(lambda x, a, f, n1, n2, d: x + a(n1(x)) + f(n2(x))), "side by side"),
    (then(first, lambda x, a, f, n1, n2, d: x + f(n1(x))), "norm1 is used twice"),
    (then(lambda x, a, f, n1, n2, d: x + a(n2(x)), lambda x, a, f, n1, n2, d: x + f(n1(x))), "exchanged"),
    (then(second, first), "The feed-forward network comes first"),
    (then(lambda x, a, f, n1, n2, d: x + f(n1(x)), lambda x, a, f, n1, n2, d: x + a(n2(x))), "comes first"),
    (then(lambda x, a, f, n1, n2, d: x + a(x), lambda x, a, f, n1, n2, d: x + f(x)), "There are no norms"),
    (then(lambda x, a, f, n1, n2, d: x + a(x), second), "The first norm is missing"),
    (then(first, lambda x, a, f, n1, n2, d: x + f(x)), "The second norm is missing"),
    (block(first), "The feed-forward network is missing"),
    (block(second), "Attention is missing"),
    (BlockWithoutNames, "missing: att, ff, norm1, norm2, drop_shortcut"),
    (then(first, second), "Dropout has no effect"),
    (
        then(lambda x, a, f, n1, n2, d: d(x + a(n1(x))), lambda x, a, f, n1, n2, d: d(x + f(n2(x)))),
        "Dropout strikes the shortcut itself",
    ),
    (then(first, lambda x, a, f, n1, n2, d: x + 2 * f(n2(x))), "With random weights it gives"),
    (block(lambda x, *parts: good_block(x, *parts).double()), "type torch.float64"),
    (block(lambda x, a, f, n1, n2, d: second(x + d(a(n1(x))), a, f, n1, n2, d)), "What the feed-forward"),
    (block(lambda x, a, f, n1, n2, d: (x + a(n1(x))) + d(f(n2(x + a(n1(x)))))), "What attention adds is not"),
    (
        block(lambda x, a, f, n1, n2, d: second(x + a(d(n1(x))), a, lambda y: f(d(y)), n1, n2, d)),
        "in front of the",
    ),
    (made_with(lambda cfg: {**cfg, "qkv_bias": True}), "With qkv_bias False attention has"),
    (made_with(lambda cfg: {**cfg, "drop_rate": 0.1}), "there is dropout with the rate 0.1"),
    (made_with(lambda cfg: {**cfg, "context_length": 31}), "attention has 31"),
    (OneNorm, "one and the same module"),
    (block(torch.no_grad()(good_block)), "no gradient flows back"),
    (made_with(lambda cfg: {**cfg, "n_heads": 1}), "With n_heads 2 attention has 1 heads"),
    (
        block(lambda x, a, f, n1, n2, d: good_block(x, a, f, n1, n2, lambda y: F.dropout(y, d.p))),
        "in eval mode, too",
    ),
]

# ---- 4.6 ---------------------------------------------------------------------------------------------------

RIGHT["why_124m"] = ["d"]
WRONG["why_124m"] = [
    ("a", "Dropout has no parameters"),
    ("b", "27,648 numbers"),
    ("c", "Buffers are no parameters"),
    (None, "Choose one of"),
]


def by_formula(cfg):
    D, L = cfg["emb_dim"], cfg["n_layers"]
    return L * (4 * D * D + D + 3 * D * cfg["qkv_bias"]), L * (8 * D * D + 5 * D)


def by_building(cfg):
    with torch.device("meta"):
        blocks = [TransformerBlock(cfg) for _ in range(cfg["n_layers"])]
    return [sum(count_parameters(getattr(b, part)) for b in blocks) for part in ("att", "ff")]


def parts(attention=lambda cfg: 0, feed_forward=lambda cfg: 0):
    """The right counts, less what the two functions say for one block."""

    def function(cfg):
        att, ff = by_formula(cfg)
        return att - cfg["n_layers"] * attention(cfg), ff - cfg["n_layers"] * feed_forward(cfg)

    return function


def count_in_place(cfg):
    cfg["qkv_bias"] = True
    return by_formula(cfg)


RIGHT["part_counts"] = [by_formula, by_building]
WRONG["part_counts"] = [
    (lambda cfg: tuple(n // cfg["n_layers"] for n in by_formula(cfg)), "That is one block"),
    (lambda cfg: by_formula(cfg)[::-1], "Attention first"),
    (parts(lambda cfg: -3 * cfg["emb_dim"] * (not cfg["qkv_bias"])), "With qkv_bias False"),
    (parts(lambda cfg: 3 * cfg["emb_dim"] * cfg["qkv_bias"]), "With qkv_bias True, query"),
    (parts(lambda cfg: cfg["emb_dim"]), "out_proj has a bias"),
    (parts(lambda cfg: cfg["emb_dim"] ** 2 + cfg["emb_dim"]), "out_proj is one of them"),
    (parts(feed_forward=lambda cfg: 5 * cfg["emb_dim"]), "have biases, 4D and D"),
    (
        lambda cfg: (4 * cfg["n_layers"] * cfg["emb_dim"] ** 2, 8 * cfg["n_layers"] * cfg["emb_dim"] ** 2),
        "Biases",
    ),
    (parts(feed_forward=lambda cfg: -4 * cfg["emb_dim"]), "they belong to neither"),
    (lambda cfg: None, "is a `return` missing?"),
    (lambda cfg: sum(by_formula(cfg)), "A tuple of 2 numbers is wanted"),
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


RIGHT["model_size"] = [size, size_by_formula]
WRONG["model_size"] = [
    (smaller(lambda V, T, D, L: V * D), "The head is tied"),
    (smaller(lambda V, T, D, L: T * D), "The positional embedding is not counted"),
    (smaller(lambda V, T, D, L: 2 * D), "The final norm is not counted"),
    (smaller(lambda V, T, D, L: 4 * L * D), "The norms of the blocks"),
    (smaller(lambda V, T, D, L: (2 * V + T + 2) * D), "Only the blocks are counted"),
    (other_unit(4 / 1e6), "not a million"),
    (other_unit(2 / MB), "4 bytes, not 2"),
    (other_unit(4 / 2**30), "That is GB"),
    (other_unit(4), "the number of bytes"),
    (other_unit(1 / MB), "Each parameter takes 4 bytes"),
    (lambda cfg: size(cfg)[::-1], "First the parameters"),
    (other_unit(16 / MB), "16 bytes are for training"),
    (lambda cfg: None, "where two numbers are wanted"),
    (lambda cfg: size(cfg)[0], "A tuple of 2 numbers is wanted, not 1"),
    (lambda cfg: size({**cfg, "qkv_bias": False}), "For a smaller configuration it gives"),
]


def gpt(function):
    """A model whose forward pass is function(self, tokens, positions), both embedded."""

    def run(self, ids):
        return function(self, self.tok_emb(ids), self.pos_emb(torch.arange(ids.shape[1])))

    return forward(GPTModel, run)


def rest(self, x):
    return self.out_head(self.final_norm(self.trf_blocks(self.drop_emb(x))))


class GPTInOtherStyle(GPTModel):
    """The blocks in a loop, the positions written out, the head by F.linear."""

    def forward(self, in_idx):
        batch, length = in_idx.shape
        positions = torch.arange(length).unsqueeze(0).expand(batch, length)
        hidden = self.drop_emb(torch.add(self.pos_emb(positions), self.tok_emb(in_idx)))
        for layer in self.trf_blocks:
            hidden = layer(hidden)
        return F.linear(self.final_norm(hidden), self.out_head.weight)


class GPTOfLists(GPTModel):
    def __init__(self, cfg):
        super().__init__(cfg)
        self.trf_blocks = nn.ModuleList(self.trf_blocks)

    forward = GPTInOtherStyle.forward


def reverse(self, t, p):
    x = t + p
    for layer in reversed(self.trf_blocks):
        x = layer(x)
    return self.out_head(self.final_norm(x))


def shifted(self, ids):
    return rest(self, self.tok_emb(ids) + self.pos_emb(torch.arange(1, ids.shape[1] + 1)))


def last_position_row(self, ids):
    return rest(self, self.tok_emb(ids) + self.pos_emb(torch.tensor(ids.shape[1])))


def undropped(self, x):
    return self.out_head(self.final_norm(self.trf_blocks(x)))


def late_dropout(self, x):
    return self.out_head(self.final_norm(self.drop_emb(self.trf_blocks(x))))


RIGHT["gpt_model"] = [GPTModel, GPTInOtherStyle, GPTOfLists]
WRONG["gpt_model"] = [
    (gpt(lambda self, t, p: rest(self, t)), "The positions are missing"),
    (forward(GPTModel, shifted), "The positions start at 1"),
    (forward(GPTModel, last_position_row), "Every token gets the same position"),
    (gpt(lambda self, t, p: rest(self, t * p)), "is multiplied; add it"),
    (gpt(lambda self, t, p: self.out_head(self.trf_blocks(t + p))), "The final norm is missing"),
    (gpt(lambda self, t, p: self.out_head(self.trf_blocks(self.final_norm(t + p)))), "before the blocks"),
    (gpt(lambda self, t, p: self.final_norm(self.trf_blocks(t + p))), "The output head is missing"),
    (gpt(lambda self, t, p: self.trf_blocks(t + p)), "The output head and the final norm are missing"),
    (gpt(lambda self, t, p: self.out_head(self.final_norm(t + p))), "The blocks are missing"),
    (
        gpt(lambda self, t, p: self.out_head(self.final_norm(self.trf_blocks[0](t + p)))),
        "Only the first block",
    ),
    (
        gpt(lambda self, t, p: self.out_head(self.final_norm(self.trf_blocks[-1](t + p)))),
        "Only the last block",
    ),
    (gpt(reverse), "in reverse order"),
    (gpt(lambda self, t, p: rest(self, t + p).softmax(-1)), "It returns probabilities"),
    (gpt(lambda self, t, p: rest(self, t + p).log_softmax(-1)), "It returns log-probabilities"),
    (gpt(lambda self, t, p: rest(self, t + p)[:, -1]), "the last position only"),
    (gpt(lambda self, t, p: rest(self, t + p)[:, -1:]), "the last position only"),
    (
        gpt(lambda self, t, p: self.final_norm(self.trf_blocks(t + p)) @ self.tok_emb.weight.T),
        "The scores come from the embedding",
    ),
    (
        gpt(lambda self, t, p: self.out_head(self.final_norm(self.trf_blocks(t + p)))),
        "Dropout on the embeddings",
    ),
    (init(lambda self, cfg: None, lambda self, ids: torch.zeros(2, 5, 31)), "missing: tok_emb, pos_emb"),
    (gpt(lambda self, t, p: 2 * rest(self, t + p)), "With random weights it gives"),
    (type("Misspelt", (GPTModel,), {"foward": GPTModel.forward}), "is the name misspelt?"),
    (
        gpt(lambda self, t, p: rest(self, t + p).squeeze(0)),
        "For a batch of one text it gives the shape (5, 31)",
    ),
    (gpt(lambda self, t, p: late_dropout(self, t + p)), "drop_emb stands behind the blocks"),
    (gpt(lambda self, t, p: undropped(self, self.drop_emb(t) + p)), "Only the tokens are dropped"),
    (gpt(lambda self, t, p: undropped(self, t + self.drop_emb(p))), "Only the positions are dropped"),
    (forward(GPTModel, torch.no_grad()(GPTInOtherStyle.forward)), "no gradient flows back"),
    (gpt(lambda self, t, p: undropped(self, F.dropout(t + p, self.drop_emb.p))), "Dropout acts in eval mode"),
]


def tie(model):
    model.out_head.weight = model.tok_emb.weight


def tie_by_register(gpt):
    gpt.out_head.register_parameter("weight", gpt.tok_emb.weight)
    return gpt


def tie_data(model):
    model.out_head.weight.data = model.tok_emb.weight.data


def tie_copy(model):
    with torch.no_grad():
        model.out_head.weight.copy_(model.tok_emb.weight)


def tie_backwards(model):
    model.tok_emb.weight = model.out_head.weight


def tie_scaled(model):
    tie(model)
    model.tok_emb.weight.data.mul_(0.02)


def tie_another(model):
    return tie(GPTModel(SMALL))


def tie_random(model):
    nn.init.normal_(model.out_head.weight)


def tie_and_extend(model):
    tie(model)
    model.extra = nn.Parameter(torch.zeros(3))


RIGHT["tie_weights"] = [tie, tie_by_register, lambda model: (tie(model), ...)[1]]
WRONG["tie_weights"] = [
    (tie_data, "They share memory, but are still two parameters"),
    (tie_copy, "The numbers are copied"),
    (tie_backwards, "Tied the wrong way round"),
    (tie_another, "The head still has its own weight"),
    (tie_random, "out_head.weight is not tok_emb.weight"),
    (tie_scaled, "The numbers of the embedding have changed"),
    (tie_and_extend, "The model has"),
    (None, "Hand over the function"),
    (lambda model: setattr(model, "out_head", model.tok_emb), "out_head is no linear layer any more"),
]


def with_rates(emb=None, att=None, shortcut=None, blocks=slice(None)):
    """Builds a model and sets its rates: each an index into the three given ones, or None to leave it."""

    def function(cfg, *rates):
        model = GPTModel(cfg)
        if emb is not None:
            model.drop_emb.p = rates[emb]
        for one in model.trf_blocks[blocks]:
            if att is not None:
                one.att.dropout.p = rates[att]
            if shortcut is not None:
                one.drop_shortcut.p = rates[shortcut]
        return model

    return function


def new_dropouts(cfg, emb, att, shortcut):
    """In another style: new modules in place of the old ones."""
    model = GPTModel({**cfg, "drop_rate": shortcut})
    model.drop_emb = nn.Dropout(emb)
    for one in model.trf_blocks.children():
        one.att.dropout = nn.Dropout(att)
    return model


def without_blocks(cfg, *rates):
    model = with_rates(0, 1, 2)(cfg, *rates)
    model.trf_blocks = model.trf_blocks[:2]
    return model


def without_shortcut_dropout(cfg, *rates):
    model = with_rates(0, 1, 2)(cfg, *rates)
    del model.trf_blocks[1].drop_shortcut
    return model


def without_head(cfg, *rates):
    model = with_rates(0, 1, 2)(cfg, *rates)
    model.out_head = nn.Identity()
    return model


def rates_in_place(cfg, *rates):
    cfg["drop_rate"] = rates[2]
    return with_rates(0, 1)(cfg, *rates)


def one_block(cfg, *rates):
    model = with_rates(0, 1, 2)(cfg, *rates)
    model.trf_blocks = nn.Sequential(*[model.trf_blocks[0]] * cfg["n_layers"])
    return model


RIGHT["separate_dropout"] = [with_rates(0, 1, 2), new_dropouts]
WRONG["separate_dropout"] = [
    (with_rates(0, 2, 1), "attention and shortcut are exchanged"),
    (with_rates(None, 1, 2), "The embedding keeps"),
    (with_rates(0, 0, 0), "The first rate is used everywhere"),
    (with_rates(), "The configuration's rate is used everywhere"),
    (with_rates(0), "Only the embedding gets its rate"),
    (with_rates(0, 1, 2, slice(0, 1)), "Only the first block"),
    (with_rates(0, 1, 2, slice(-1, None)), "Only the last block"),
    (with_rates(0, 1, None), "The shortcuts keep"),
    (with_rates(0, None, 2), "Attention keeps"),
    (with_rates(1, 0, 2), "Embedding and attention are exchanged"),
    (with_rates(2, 1, 0), "Embedding and shortcut are exchanged"),
    (with_rates(1, 1, 1), "With 0.1, 0.2, 0.3"),
    (lambda *a: None, "where a GPTModel is wanted"),
    (without_blocks, "The model has 2 blocks"),
    (without_shortcut_dropout, "A part is missing"),
    (without_head, "The model has 2976 parameters; 3224 are right"),
    (rates_in_place, "It changes cfg; work on a copy"),
    (one_block, "Is each block one of its own?"),
]

# ---- 4.7 ---------------------------------------------------------------------------------------------------

RIGHT["what_eval_changes"] = ["b"]
WRONG["what_eval_changes"] = [
    ("a", "That is torch.no_grad()"),
    ("c", "always; batch normalization switches"),
    ("d", "changes no number"),
    ("ab", "Choose one of"),
]
RIGHT["tokens_processed"] = [5950, 5950.0]
WRONG["tokens_processed"] = [
    (110, "That is the length at the end"),
    (100, "That is how many are made"),
    (1000, "grows by one token"),
    (6050, "reads 10 tokens, and not 11"),
    (4950, "The prompt is read"),
    (11_000, "only at the end"),
    (7000, "7,000 is too large"),
]


RIGHT["cache_memory"] = [2400, 2 * 48 * 1600 * 1024 * 2 * 8 / 2**20]
WRONG["cache_memory"] = [
    (1200, "That is half of it"),
    (300, "That is for one text"),
    (50, "That is for one block"),
    (4800, "That is for 4 bytes a number"),
    (2516.6, "millions of bytes"),
    (2000, "too small"),
]


def greedy(
    see=lambda idx, size: idx[:, -size:],
    choose=lambda z: z[:, -1].argmax(-1, keepdim=True),
    more=0,
    give=lambda new, start, size: new,
    grow=lambda idx, new, size: torch.cat([idx, new], 1),
):
    """The loop, each step of which can be replaced."""

    @torch.no_grad()
    def function(model, idx, max_new_tokens, context_size):
        start = idx.shape[1]
        for _ in range(max_new_tokens + more):
            idx = grow(idx, choose(model(see(idx, context_size))), context_size)
        return give(idx, start, context_size)

    return function


def greedy_in_a_list(model, idx, max_new_tokens, context_size):
    """In another style: a list of columns, and while."""
    columns = list(idx.unbind(dim=1))
    with torch.inference_mode():
        while len(columns) < idx.size(1) + max_new_tokens:
            window = torch.stack(columns[-context_size:], dim=1)
            columns.append(model(window)[:, -1].softmax(dim=-1).max(dim=-1).indices)
    return torch.stack(columns, dim=1).clone()


def greedy_once(model, idx, max_new_tokens, context_size):
    with torch.no_grad():
        new = model(idx[:, -context_size:])[:, -1].argmax(-1, keepdim=True)
    return torch.cat([idx, *[new] * max_new_tokens], dim=1)


def greedy_at_random(model, idx, max_new_tokens, context_size):
    return greedy(choose=lambda z: torch.multinomial(z[:, -1].softmax(-1), 1))(
        model, idx, max_new_tokens, context_size
    )


def greedy_forever(model, idx, max_new_tokens, context_size):
    n = 0
    while n < max_new_tokens:
        idx = greedy()(model, idx, 1, context_size)
    return idx


def greedy_with_graph(model, idx, max_new_tokens, context_size):
    for _ in range(max_new_tokens):
        idx = torch.cat([idx, model(idx[:, -context_size:])[:, -1].argmax(-1, keepdim=True)], dim=1)
    return idx


def greedy_without_zero(model, idx, max_new_tokens, context_size):
    return greedy()(model, idx, max(1, max_new_tokens), context_size)


def greedy_within(model, idx, max_new_tokens, context_size):
    """Right until the text is longer than the window by more than the first prompt ever is."""
    return greedy(see=lambda idx, size: idx[:, -size:] if idx.shape[1] < 13 else idx[:, 1 : 1 + size])(
        model, idx, max_new_tokens, context_size
    )


RIGHT["greedy"] = [generate_text_simple, greedy(), greedy_in_a_list]
WRONG["greedy"] = [
    (greedy(choose=lambda z: z[:, 0].argmax(-1, keepdim=True)), "It reads the first position"),
    (greedy(choose=lambda z: z[:, -2].argmax(-1, keepdim=True)), "The last token is not used"),
    (greedy(see=lambda idx, size: idx[:, -size:-1]), "The last token is not used"),
    (greedy(choose=lambda z: z[:, -1].argmin(-1, keepdim=True)), "It takes the lowest logit"),
    (greedy(give=lambda idx, start, size: idx[:, start:]), "the new tokens only"),
    (greedy(more=-1), "one token too few"),
    (greedy(more=1), "one token too many"),
    (lambda m, i, n, c: greedy()(m, i, 1, c), "makes one token and stops"),
    (lambda m, i, n, c: i, "the prompt as it was"),
    (greedy(choose=lambda z: z[:1, -1].argmax(-1, keepdim=True).expand(2, 1)), "the token of the first row"),
    (greedy_once, "computed once, before the loop"),
    (greedy(give=lambda idx, start, size: idx[:, -size:] if size == 12 else idx), "outgrows the window"),
    (greedy_at_random, "Two runs on the same prompt differ"),
    (greedy(see=lambda idx, size: idx), "never cut to the window"),
    (greedy(see=lambda idx, size: idx[:, :size]), "cut at the wrong end"),
    (greedy(see=lambda idx, size: idx[:, -12:]), "The window is not used"),
    (greedy(grow=lambda idx, new, size: torch.cat([idx[:, -size:], new], 1)), "crop a copy"),
    (greedy(grow=lambda idx, new, size: torch.cat([idx, new], 1)[:, -size:]), "crop a copy"),
    (greedy(see=lambda idx, size: idx[:, -size + 1 :]), "one token too short"),
    (
        greedy(see=lambda idx, size: idx[:, -size - 1 :] if size < 12 else idx[:, -size:]),
        "one token too long",
    ),
    (greedy_within, "outgrows the window of 12"),
    (greedy_with_graph, "a graph for gradients is built"),
    (greedy_without_zero, "For max_new_tokens = 0"),
    (lambda *a: greedy.__wrapped__(*a), "AttributeError"),
    (greedy_forever, "a loop that never ends, or too much work?"),
    (
        greedy(give=lambda idx, start, size: idx.squeeze(0)),
        "For a batch of one text it gives the shape (11,)",
    ),
]


def until(model, idx, max_new_tokens, context_size, eos_id):
    for _ in range(max_new_tokens):
        idx = generate_text_simple(model, idx, 1, context_size)
        if idx[0, -1] == eos_id:
            break
    return idx


def cut_afterwards(model, idx, max_new_tokens, context_size, eos_id):
    """In another style: everything is generated, and then cut."""
    whole = generate_text_simple(model, idx, max_new_tokens, context_size)
    new = whole[0, idx.shape[1] :].tolist()
    keep = new.index(eos_id) + 1 if eos_id in new else len(new)
    return whole[:, : idx.shape[1] + keep]


def until_other(after=1, limit=0, inside=False, new_only=False):
    """Stops `after` tokens around the stop token, or at one in the prompt, or too late without any."""

    def function(model, idx, max_new_tokens, context_size, eos_id):
        if inside and eos_id in idx[0]:
            return idx
        whole = generate_text_simple(model, idx, max_new_tokens + limit, context_size)
        new = whole[0, idx.shape[1] :].tolist()
        keep = new.index(eos_id) + after if eos_id in new else len(new)
        return whole[:, idx.shape[1] if new_only else 0 : idx.shape[1] + keep]

    return function


def until_in_text(model, idx, max_new_tokens, context_size, eos_id):
    for _ in range(max_new_tokens):
        idx = generate_text_simple(model, idx, 1, context_size)
        if (idx == eos_id).any():
            break
    return idx


def until_last(model, idx, max_new_tokens, context_size, eos_id):
    for _ in range(max_new_tokens):
        if idx[0, -1] == eos_id:
            break
        idx = generate_text_simple(model, idx, 1, context_size)
    return idx


RIGHT["stop_token"] = [until, cut_afterwards]
WRONG["stop_token"] = [
    (lambda model, idx, n, size, eos: generate_text_simple(model, idx, n, size), "It never stops"),
    (until_other(after=0), "stops before appending"),
    (until_other(after=2), "one token too late"),
    (lambda model, idx, n, size, eos: idx, "the prompt as it was"),
    (lambda model, idx, n, size, eos: generate_text_simple(model, idx, 1, size), "after the first token"),
    (until_other(new_only=True), "the new tokens only"),
    (until_other(limit=1), "goes beyond max_new_tokens"),
    (until_other(inside=True), "A stop token in the prompt ends it"),
    (until_in_text, "A stop token in the prompt ends it"),
    (until_last, "A stop token in the prompt ends it"),
    (lambda m, i, n, c, e: i if i[0, 0] == e else until(m, i, n, c, e), "token in the prompt only it gives"),
]


def probabilities(logits, temperature, top_k):
    values, places = torch.topk(logits, top_k)
    kept = torch.full_like(logits, -INF).scatter(-1, places, values)
    return torch.softmax(kept / temperature, dim=-1)


def by_threshold(logits, t, k):
    limit = logits.sort(dim=-1, descending=True).values[:, k - 1].unsqueeze(-1)
    weights = torch.where(logits < limit, 0.0, torch.exp((logits - logits.max(-1, keepdim=True).values) / t))
    return weights / weights.sum(-1, keepdim=True)


def keep(logits, k, fill=-INF, largest=True):
    values, places = logits.topk(k, largest=largest)
    return torch.full_like(logits, fill).scatter(-1, places, values)


def keep_anywhere(logits, k):
    return logits.masked_fill(logits < logits.flatten().topk(k).values[-1], -INF)


RIGHT["top_k"] = [probabilities, by_threshold]
WRONG["top_k"] = [
    (lambda z, t, k: keep(z, k).softmax(-1), "The temperature is not used"),
    (lambda z, t, k: keep(z * t, k).softmax(-1), "multiplied by the temperature"),
    (lambda z, t, k: keep(z, k).softmax(-1) / t, "The probabilities are divided"),
    (lambda z, t, k: (z / t).softmax(-1), "top_k is not used"),
    (lambda z, t, k: keep(z / t, k, fill=0.0).softmax(-1), "set to 0; e to the 0 is 1"),
    (lambda z, t, k: keep((z / t).softmax(-1), k, fill=0.0), "after the softmax"),
    (lambda z, t, k: keep(z / t, k, largest=False).softmax(-1), "the k lowest"),
    (lambda z, t, k: keep(z / t, max(1, k - 1)).softmax(-1), "keeps k - 1"),
    (lambda z, t, k: keep(z / t, k + 1).softmax(-1), "keeps k + 1"),
    (lambda z, t, k: keep_anywhere(z / t, k).softmax(-1), "in all rows together"),
    (lambda z, t, k: keep(z / t, k).softmax(0), "The softmax runs over the rows"),
    (lambda z, t, k: keep(z / t, k), "It returns logits"),
    (lambda z, t, k: (z / t).topk(k).values.softmax(-1), "only the k best"),
    (lambda z, t, k: keep((z / t).T, min(k, 4)).T.softmax(-1), "among the rows (dim=0)"),
    (lambda z, t, k: probabilities(z.div_(t), 1, k), "changes its input in place"),
    (lambda z, t, k: probabilities(z, t, min(k, 5)), "temperature 1 and all seven"),
    (lambda z, t, k: probabilities(z, max(t, 1), k) if k > 1 else (z / t).softmax(-1), "top_k 1"),
]
