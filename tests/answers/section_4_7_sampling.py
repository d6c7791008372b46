"""Answers to the exercises of 4.7 that shape the distribution of the next token: top-k and min-p."""

import functools

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import helpers
from helpers import next_token_probabilities

from .variants import INF

RIGHT, WRONG = {}, {}


def probabilities(logits, temperature, top_k):
    values, places = torch.topk(logits, top_k)
    kept = torch.full_like(logits, -INF).scatter(-1, places, values)
    return torch.softmax(kept / temperature, dim=-1)


def by_threshold(logits, t, k):
    limit = logits.sort(dim=-1, descending=True).values[:, k - 1].unsqueeze(-1)
    weights = torch.where(logits < limit, 0.0, torch.exp((logits - logits.max(-1, keepdim=True).values) / t))
    return weights / weights.sum(-1, keepdim=True)


def by_hand(logits: torch.Tensor, temperature: float = 1.0, top_k: int = 50) -> torch.Tensor:
    result = torch.zeros_like(logits)
    for row, scores in enumerate(logits):
        best, places = scores.sort(descending=True)
        weights = torch.exp((best[:top_k] - best[0]) / temperature)
        result[row, places[:top_k]] = weights / weights.sum()
    return result


def by_ranks(logits, temperature, top_k):
    ranks = logits.argsort(dim=-1, descending=True).argsort(dim=-1)
    return F.softmax(logits.div(temperature).where(ranks < top_k, torch.tensor(-INF)), dim=-1)


class TopK(nn.Module):
    def forward(self, logits, temperature, top_k):
        logits = logits.clone()
        logits[logits < torch.kthvalue(logits, logits.shape[-1] - top_k + 1, keepdim=True).values] = -INF
        return nn.Softmax(dim=-1)(logits / temperature)


def after_the_softmax(logits, temperature, top_k):
    probabilities = (logits.double() / temperature).softmax(-1)
    kept = torch.zeros_like(probabilities).scatter(-1, logits.topk(top_k).indices, 1.0) * probabilities
    return (kept / kept.sum(-1, keepdim=True)).to(logits.dtype)


def by_values(logits, temperature, top_k):
    """Takes a logit that is 0 for one that has been cut."""
    kept = keep(logits, top_k, fill=0.0)
    return (kept.masked_fill(kept == 0, -INF) / temperature).softmax(-1)


def exploding(logits, temperature, top_k):
    weights = keep(logits / temperature, top_k).exp()
    return weights / weights.sum(-1, keepdim=True)


def keep(logits, k, fill=-INF, largest=True):
    values, places = logits.topk(k, largest=largest)
    return torch.full_like(logits, fill).scatter(-1, places, values)


def keep_anywhere(logits, k):
    return logits.masked_fill(logits < logits.flatten().topk(k).values[-1], -INF)


RIGHT["top_k"] = [probabilities, by_threshold, by_hand, by_ranks, TopK(), after_the_softmax]
WRONG["top_k"] = [
    (lambda z, t, k: keep(z, k).softmax(-1), "The temperature is not used"),
    (lambda z, t, k: keep(z * t, k).softmax(-1), "multiplied by the temperature"),
    (lambda z, t, k: keep(z, k).softmax(-1) / t, "The probabilities are divided"),
    (lambda z, t, k: (z / t).softmax(-1), "top_k is not used"),
    (lambda z, t, k: keep(z / t, k, fill=0.0).softmax(-1), "set to 0; e to the 0 is 1"),
    (lambda z, t, k: keep((z / t).softmax(-1), k, fill=0.0), "comes after the softmax"),
    (lambda z, t, k: keep(z / t, k, largest=False).softmax(-1), "the k lowest"),
    (lambda z, t, k: keep(z / t, max(1, k - 1)).softmax(-1), "keeps k - 1"),
    (lambda z, t, k: keep(z / t, k + 1).softmax(-1), "keeps k + 1"),
    (lambda z, t, k: keep_anywhere(z / t, k).softmax(-1), "in all rows together"),
    (lambda z, t, k: keep(z / t, k).softmax(0), "The softmax runs over the rows"),
    (lambda z, t, k: keep(z / t, k), "It returns logits"),
    (lambda z, t, k: z.softmax(-1), "Neither temperature nor top_k is used"),
    (lambda z, t, k: keep((z / t).softmax(-1), k).softmax(-1), "There is a second softmax"),
    (lambda z, t, k: probabilities(z, t, k).squeeze(0), "For a single row of nine tokens it gives the shape"),
    (exploding, "For logits in the thousands it gives nan: exp overflows or underflows"),
    (lambda z, t, k: keep(z / t, k, fill=-15.0).softmax(-1), "must be exactly 0"),
    (lambda z, t, k: keep(z / t, k, fill=z.min().item() / t - 30).softmax(-1), "must be exactly 0"),
    (lambda z, t, k: probabilities(z.float(), t, k), "the right values, but of type torch.float32"),
    (
        lambda z, t, k: (lambda s: s.masked_fill(s == 0, -INF))(keep(z, k, fill=0.0) / t).softmax(-1),
        "logits of 0",
    ),
    (lambda z, t, k: probabilities(z, t, k).argmax(-1), "the right type is torch.float32"),
    (next_token_probabilities, "the course's next_token_probabilities is out of reach"),
    (lambda z, t, k: helpers.next_token_probabilities(z, t, k), "Write it yourself"),
    (lambda z, t, k: (z / t).topk(k).values.softmax(-1), "only the k best"),
    (lambda z, t, k: keep((z / t).T, min(k, 4)).T.softmax(-1), "among the rows (dim=0)"),
    (lambda z, t, k: probabilities(z.div_(t), 1, k), "changes its input in place"),
    (lambda z, t, k: probabilities(z, t, min(k, 5)), "temperature 1 and all seven"),
    (lambda z, t, k: probabilities(z, max(t, 1), k) if k > 1 else (z / t).softmax(-1), "top_k 1"),
]


def cut(logits, min_p):
    probabilities = logits.softmax(dim=-1)
    limit = min_p * probabilities.max(dim=-1, keepdim=True).values
    kept = probabilities.masked_fill(probabilities < limit, 0.0)
    return kept / kept.sum(dim=-1, keepdim=True)


def cut_logits(logits: torch.Tensor, min_p: float = 0.1, temperature: float = 1.0) -> torch.Tensor:
    """The same limit, for the logits: a share of the best is a distance from it."""
    lowest = logits.amax(-1, keepdim=True) + np.log(min_p)
    return torch.softmax(torch.where(logits < lowest, -torch.inf, logits / temperature), -1)


def cut_by_rows(logits, min_p):
    rows = []
    for scores in logits:
        p = F.softmax(scores, dim=0)
        p = torch.stack([x if x >= p.max() * min_p else 0 * x for x in p])
        rows.append(p / p.sum())
    return torch.stack(rows)


def cut_by_weights(logits, min_p):
    weights = torch.exp(logits - logits.max(1, keepdim=True)[0])  # the best has 1
    weights = weights * (weights >= min_p)
    return F.normalize(weights, p=1, dim=-1)


class MinP:
    def __call__(self, logits, p):
        return cut(logits, p)


def cut_variant(
    limit=lambda p, m: m * p.amax(-1, keepdim=True),
    scale=lambda p: p / p.sum(-1, keepdim=True),
    softmax=lambda z: z.softmax(-1),
):
    """Each step of the cut can be replaced."""

    def function(logits, min_p):
        p = softmax(logits)
        p = p.masked_fill(p < limit(p, min_p), 0.0)
        return scale(p)

    return function


def plain_softmax(logits):
    return logits.exp() / logits.exp().sum(-1, keepdim=True)


def cut_strictly(logits, min_p):
    p = logits.softmax(-1)
    p = p * (p > min_p * p.amax(-1, keepdim=True))
    return p / p.sum(-1, keepdim=True)


def cut_by_the_logit(logits, min_p):
    return logits.masked_fill(logits < min_p * logits.amax(-1, keepdim=True), -INF).softmax(-1)


def cut_inverted(logits, min_p):
    p = logits.softmax(-1)
    p = p * (p < min_p * p.amax(-1, keepdim=True))
    return p / p.sum(-1, keepdim=True)


def top_p(logits, p):
    return next_token_probabilities(logits, top_p=p)


def masked(logits, min_p, fill=-INF):
    p = logits.softmax(-1)
    return logits.masked_fill(p < min_p * p.amax(-1, keepdim=True), fill)


RIGHT["min_p"] = [
    cut,
    cut_logits,
    cut_by_rows,
    cut_by_weights,
    MinP(),
    functools.partial(cut_logits),
    cut_variant(),
]
WRONG["min_p"] = [
    (lambda z, m: z.softmax(-1), "Nothing is cut"),
    (cut_variant(scale=lambda p: p), "What is left must be divided by its sum"),
    (
        lambda z, m: cut_variant(scale=lambda p: p)(z, m) / cut_variant(scale=lambda p: p)(z, m).sum(),
        "the sum of all rows",
    ),
    (cut_variant(limit=lambda p, m: m), "It cuts below min_p itself"),
    (cut_variant(limit=lambda p, m: m, scale=lambda p: p), "It cuts below min_p itself"),
    (cut_variant(limit=lambda p, m: m * p.max()), "of all rows is used"),
    (cut_variant(limit=lambda p, m: m * p.mean(-1, keepdim=True)), "For min_p = 0.3 it gives"),
    (cut_variant(limit=lambda p, m: m * p.amax(0)), "For min_p = 0.3 it gives"),
    (cut_inverted, "It keeps what lies below the limit"),
    (lambda z, m: F.one_hot(z.argmax(-1), z.shape[-1]).to(z.dtype), "It keeps only the best token"),
    (
        lambda z, m: z.masked_fill(z < m * z.amax(-1, keepdim=True), -INF).softmax(-1),
        "times the largest logit",
    ),
    (lambda z, m: masked(z, m, 0.0).softmax(-1), "set to 0; e to the 0 is 1"),
    (lambda z, m: cut_variant(scale=lambda p: p.softmax(-1))(z, m), "There is a second softmax"),
    (cut_variant(softmax=lambda z: z.softmax(0)), "The softmax runs over the rows"),
    (masked, "It returns logits"),
    (top_p, "That is top-p"),
    (lambda z, m: (cut(z, m) > 0).to(z.dtype), "It returns which tokens stay"),
    (cut_strictly, "For min_p = 1 it gives nan: the best token itself is cut"),
    (cut_variant(softmax=plain_softmax), "For logits in the thousands it gives nan"),
    (lambda z, m: cut(z.float(), m), "the right values, but of type torch.float32"),
    (lambda z, m: (cut(z, m) + 1e-6) / (1 + 1e-6 * z.shape[-1]), "must be exactly 0"),
    (lambda z, m: cut(z.sub_(z.amax(-1, keepdim=True)), m), "It changes its input in place"),
    (lambda z, m: cut(z, max(m, 0.01)), "For min_p = 0.000001"),
]
