"""Answers to the exercises of 4.1, on the architecture."""

import math

import torch
from torch import nn
from torch.nn import functional as F

from .variants import init

RIGHT, WRONG = {}, {}

RIGHT["logits_shape"] = [[3, 7, 50257], torch.Size([3, 7, 50257])]
WRONG["logits_shape"] = [
    ((3, 7, 50256), "The third number, 50,256, is too small"),
    ((3, 7, 1, 50257), "A tuple of 3 numbers is wanted, not 4"),
    ("(3, 7, 50257)", "A tuple of 3 numbers is wanted"),
]
RIGHT["longer_context"] = [786_432, 1024 * 768.0, torch.tensor(786_432)]
WRONG["longer_context"] = [
    (700_000, "700,000 is too small"),
    (math.nan, "The answer is nan"),
    ((786, 432), "A comma makes a tuple"),
    (True, "One number is wanted, not True"),
    (1024**768, "is there a ** instead of a *?"),
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
    (lambda tok, pos, ids: embed(pos, tok, ids), "The two tables are swapped"),
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
    """Adds up in an attribute, and never starts over."""

    def __init__(self, cfg):
        super().__init__()
        self.sum = 0

    def forward(self, x):
        self.sum = self.sum + x.cumsum(1)
        return self.sum / steps(x)


class Learned(nn.Module):
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
    (average(lambda self, x: x.cumsum(1).cumsum(0) / steps(x)), "does not start over for each text"),
    (average(lambda self, x: x.cumsum(1) / torch.arange(1, 5)[:, None]), "must match the size"),
    (average(lambda self, x: loop_average(self, x) if x.shape[1] < 7 else x), "For 7 tokens"),
    (Remembering, "When it runs for the second time"),
    (Learned, "It has parameters"),
    (average(torch.no_grad()(loop_average)), "no gradient flows back"),
]
