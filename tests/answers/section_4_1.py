"""Answers to the exercises of 4.1, on the architecture."""

import functools
import itertools
import math
from fractions import Fraction

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from helpers import GPT2_CONFIGS, GPT_CONFIG_124M

from .variants import INF, init

RIGHT, WRONG = {}, {}

RIGHT["logits_shape"] = [
    (3, 7, GPT_CONFIG_124M["vocab_size"]),
    [3, 7, 50257],
    torch.Size([3, 7, 50257]),
    torch.tensor([3, 7, 50257]),
    np.zeros((3, 7, 50257), dtype=bool).shape,
    np.array([3, 7, 50257]),
    (*torch.zeros(3, 7).shape, GPT2_CONFIGS["gpt2-medium"]["vocab_size"]),
]
WRONG["logits_shape"] = [
    ((3, 7, 50256), "The third number, 50,256, is too small"),
    ((3, 7, 1, 50257), "Answer with a tuple of 3 numbers, not 4"),
    ("(3, 7, 50257)", "Answer with a tuple of 3 numbers, not '(3, 7, 50257)'"),
    (3 * 7 * 50257, "Answer with a tuple of 3 numbers, not 1"),
]
RIGHT["longer_context"] = [
    786_432,
    1024 * 768.0,
    torch.tensor(786_432),
    np.int64(786_432),
    (2048 - 1024) * GPT_CONFIG_124M["emb_dim"],
    [786_432],
    Fraction(786_432),
]
WRONG["longer_context"] = [
    (700_000, "700,000 is too small"),
    (math.nan, "The answer is nan"),
    ((786, 432), "A comma makes a tuple"),
    (True, "Answer with one number, not True"),
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


def by_numpy(texts: list[list[int]], length: int, filler: int) -> torch.Tensor:
    rows = np.full((len(texts), length), filler)
    for i, text in enumerate(texts):
        kept = min(len(text), length)
        rows[i, :kept] = text[:kept]
    return torch.from_numpy(rows)


def by_iterators(texts, length, filler, *, dtype=torch.int64):
    endless = (itertools.chain(text, itertools.repeat(filler)) for text in texts)
    return torch.tensor([list(itertools.islice(tokens, length)) for tokens in endless], dtype=dtype)


def by_padding(texts, length, filler):
    rows = [torch.tensor(text[:length], dtype=torch.long) for text in texts]
    return torch.stack([F.pad(row, (0, length - len(row)), value=filler) for row in rows])


def one_by_one(texts, length, filler):
    return torch.tensor([[t[i] if i < len(t) else filler for i in range(length)] for t in texts])


class Filler:
    """A callable object."""

    def __call__(self, texts, length, filler):
        rows = []
        for text in texts:
            row = list(text)
            while len(row) < length:
                row.append(filler)
            rows.append(torch.as_tensor(row[:length]))
        return torch.stack(rows)


class FillerModule(nn.Module):
    def forward(self, batch, size, token):
        return by_lists(batch, size, token)


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


def last_repeated(texts, length, filler):
    return torch.tensor([(t + (t[-1:] or [filler]) * length)[:length] for t in texts])


def for_four(texts, length, filler):
    return by_lists(texts, 4, filler)


RIGHT["same_length"] = [
    by_lists,
    by_hand,
    by_numpy,
    by_iterators,
    by_padding,
    one_by_one,
    functools.partial(by_hand, front=False),
    Filler(),
    FillerModule(),
    torch.inference_mode()(by_hand),
]
WRONG["same_length"] = [
    (lambda *a: by_hand(*a, front=True), "The filler is in front; each row should"),
    (lambda *a: by_hand(*a, end=True), "keeps its last tokens"),
    (lambda *a: by_hand(*a, front=True, end=True), "both belong at the other end"),
    (lambda *a: by_hand(*a, fill=False), "fills up with 0"),
    (lambda texts, length, filler: by_hand(texts, length, 50256), "fills up with 50256"),
    (lambda texts, length, filler: by_hand(texts, max(map(len, texts)), filler), "the longest text"),
    (lambda *a: by_hand(*a).T, "The texts are in columns"),
    (lambda *a: by_hand(*a).flatten(), "in a single row"),
    (lambda *a: by_hand(*a).float(), "values of type torch.float32"),
    (lambda *a: by_hand(*a).int(), "gives the right values, but of type torch.int32"),
    (lambda *a: by_hand(*a).tolist(), "returns a list; it should return a tensor"),
    (lambda *a: None, "None (is a `return` missing?)"),
    (in_place, "changes its input in place"),
    (gap_at_zero, "It takes token 0 for a gap"),
    (last_repeated, "It repeats the last token"),
    (lambda texts, *a: by_hand([t for t in texts if t], *a), "An empty text needs a row"),
    (
        lambda texts, length, filler: torch.tensor([t[:length] for t in texts]),
        "expected sequence of length 2",
    ),
    (by_longest, "For a single text of 2 tokens and length 5 it gives the shape (1, 2)"),
    (for_four, "For a single text of 2 tokens and length 5 it gives the shape (1, 4)"),
    (lambda texts, length, filler: by_lists(texts, length, 99), "length 5 it gives [5, 0, 99, 99, 99]"),
    (by_hand(texts=[[5, 0]], length=4, filler=99), "Hand over the function or class itself"),
]


def embed(tok_emb, pos_emb, ids):
    return tok_emb(ids) + pos_emb(torch.arange(ids.shape[1]))


def embed_in_place(tokens, positions, idx: torch.Tensor) -> torch.Tensor:
    B, T = idx.size()
    x = tokens(idx)
    x += positions(torch.arange(T, device=tokens.weight.device))[None].expand(B, -1, -1)
    return x


def embed_one_hot(tok_emb, pos_emb, ids):
    hot = F.one_hot(ids, tok_emb.num_embeddings).to(tok_emb.weight.dtype)
    return hot @ tok_emb.weight + pos_emb.weight.narrow(0, 0, ids.shape[1])


def embed_step_by_step(tok_emb, pos_emb, ids):
    columns = [tok_emb(ids[:, t]) + pos_emb(torch.tensor(t)) for t in range(ids.shape[1])]
    return torch.stack(columns, dim=1)


class Embedder(nn.Module):
    def forward(self, tok_emb, pos_emb, ids, dropout=0.0):
        where = torch.ones_like(ids).cumsum(dim=1) - 1
        return F.dropout(torch.add(tok_emb.forward(ids), pos_emb.forward(where)), dropout, self.training)


def embed_changing(tok_emb, pos_emb, ids):
    result = embed(tok_emb, pos_emb, ids)
    with torch.no_grad():
        pos_emb.weight += 1
    return result


def embed_on(tok, pos, ids):
    """The positions go on from text to text."""
    return tok(ids) + pos(torch.arange(ids.numel()).view_as(ids) % pos.num_embeddings)


RIGHT["embed"] = [
    lambda tok, pos, ids: tok(ids) + pos(torch.arange(ids.shape[1]).expand_as(ids)),
    lambda tok, pos, ids: F.embedding(ids, tok.weight) + pos.weight[: ids.size(1)],
    embed_in_place,
    embed_one_hot,
    embed_step_by_step,
    Embedder(),
    lambda tok, pos, ids: torch.stack([tok.weight[row] + pos.weight[: len(row)] for row in ids]),
]
WRONG["embed"] = [
    (lambda tok, pos, ids: tok(ids), "The positions are missing"),
    (lambda tok, pos, ids: pos(torch.arange(5)).repeat(3, 1, 1), "The tokens are missing"),
    (lambda tok, pos, ids: tok(ids) + pos(torch.arange(1, 6)), "start at 1"),
    (lambda tok, pos, ids: tok(ids) + pos(ids), "looked up by token id"),
    (lambda tok, pos, ids: tok(ids) + pos(torch.tensor(ids.shape[1])), "Every token gets the same position"),
    (lambda tok, pos, ids: tok(ids) + pos(torch.tensor(0)), "Every token gets position 0"),
    (lambda tok, pos, ids: tok(ids) + pos(torch.arange(4, -1, -1)), "The positions run backward"),
    (lambda tok, pos, ids: tok(ids) + pos(torch.arange(3))[:, None], "Each text gets one position"),
    (embed_on, "The positions go on from text to text"),
    (lambda tok, pos, ids: tok(ids) * pos(torch.arange(5)), "The two are multiplied"),
    (lambda tok, pos, ids: torch.cat([tok(ids), pos(torch.arange(5)).repeat(3, 1, 1)], -1), "side by side"),
    (
        lambda tok, pos, ids: embed(tok, pos, ids).double(),
        "it gives the right values, but of type torch.float64",
    ),
    (lambda tok, pos, ids: embed(tok, pos, ids)[0], "the shape (5, 4)"),
    (lambda tok, pos, ids: tok(ids) - pos(torch.arange(5)), "The two are subtracted"),
    (lambda tok, pos, ids: embed(tok, pos, ids) / 2, "That is the mean of the two"),
    (lambda tok, pos, ids: tok(ids) + embed(tok, pos, ids), "multiplied by the root of D"),
    (lambda tok, pos, ids: embed(pos, tok, ids), "The two tables are swapped"),
    (torch.no_grad()(embed), "no gradient flows back"),
    (lambda tok, pos, ids: embed(tok, pos, ids) - tok(ids) + tok(ids).detach(), "gradient of tok_emb.weight"),
    (lambda tok, pos, ids: tok(ids) + pos(torch.arange(5)).detach(), "no gradient reaches pos_emb.weight"),
    (lambda tok, pos, ids: embed(tok, pos, ids).squeeze(0), "For a single text it gives the shape (5, 4)"),
    (lambda tok, pos, ids: tok(ids) + pos(torch.arange(ids.shape[0])), "must match the size"),
    (lambda tok, pos, ids: 2 * embed(tok, pos, ids), "it gives result["),
    (embed_changing, "It changes the weights of the embeddings"),
    (lambda tok, pos, ids: tok(ids) + pos(torch.arange(5)), "must match the size"),
    (lambda tok, pos, ids: embed(tok, pos, ids).squeeze(1), "For T = 1"),
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


def attention_average(self, x):
    zero = torch.zeros_like(x)
    return F.scaled_dot_product_attention(zero, zero, x, is_causal=True)


class MaskedAverage(nn.Module):
    """Attention whose scores are all equal, with a mask made once."""

    def __init__(self, cfg: dict, name: str = "mask"):
        super().__init__()
        T = cfg["context_length"]
        self.register_buffer(name, torch.full((T, T), -INF).triu(1), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        T = x.size(-2)
        return torch.einsum("ts,bsd->btd", self.mask[:T, :T].softmax(dim=-1), x)


class RunningAverage(nn.Module):
    """From one token to the next, with the width from the configuration."""

    def __init__(self, cfg):
        super().__init__()
        self.emb_dim = cfg["emb_dim"]

    def forward(self, x):
        total, averages = torch.zeros(x.shape[0], self.emb_dim), []
        for t, token in enumerate(x.unbind(dim=1)):
            total = total + token
            averages.append(total / (t + 1))
        return torch.stack(averages, dim=1)


def exclusive_average(self, x):
    return torch.stack([x[:, :t].mean(dim=1) if t else 0 * x[:, 0] for t in range(x.shape[1])], dim=1)


def pair_average(self, x):
    return torch.cat([x[:, :1], (x[:, 1:] + x[:, :-1]) / 2], dim=1)


def in_place_average(self, x):
    y = x.clone()
    for t in range(x.shape[1]):
        y[:, t] = y[:, : t + 1].mean(dim=1)
    return y


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


class Dropping(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.dropout = nn.Dropout(cfg["drop_rate"])

    def forward(self, x):
        return self.dropout(loop_average(self, x))


RIGHT["average_block"] = [
    average(matrix_average),
    average(loop_average),
    average(attention_average),
    average(lambda self, x: x.cumsum(-2).div(steps(x))),
    MaskedAverage,
    RunningAverage,
]
WRONG["average_block"] = [
    (average(lambda self, x: x), "It returns its input"),
    (average(lambda self, x: x.cumsum(1)), "adds up and doesn't divide"),
    (average(lambda self, x: x.mean(1, keepdim=True).expand_as(x)), "Later tokens leak in"),
    (average(lambda self, x: x.cumsum(1) / x.shape[1]), "It divides by T everywhere"),
    (average(exclusive_average), "A token leaves itself out"),
    (average(lambda self, x: x.cumsum(1) / (steps(x) - 1)), "It divides by t;"),
    (average(lambda self, x: x.cumsum(1) / (steps(x) + 1)), "It divides by t + 2"),
    (average(pair_average), "Each token is averaged with the one before it only"),
    (average(in_place_average), "averaged again and again"),
    (average(lambda self, x: x.mean(-1, keepdim=True).expand_as(x)), "averages a token's features"),
    (average(lambda self, x: x.cumsum(-1) / torch.arange(1, 5)), "It runs along the features"),
    (average(lambda self, x: x.cumsum(0) / torch.arange(1, 5)[:, None, None]), "It runs along the batch"),
    (average(lambda self, x: loop_average(self, x.flip(1)).flip(1)), "It averages later tokens"),
    (average(lambda self, x: x.cumsum_(1) / steps(x)), "changes its input in place"),
    (average(lambda self, x: x.cumsum(1) / torch.arange(1, x.shape[1] + 1)), "It divides along the features"),
    (average(lambda self, x: x.cumsum(1).cumsum(0) / steps(x)), "doesn't start over for each text"),
    (average(lambda self, x: x + loop_average(self, x)), "The input is added"),
    (average(lambda self, x: x.cumsum(1) / torch.arange(1, 5)[:, None]), "must match the size"),
    (average(lambda self, x: loop_average(self, x) if x.shape[1] < 7 else x), "For the shape (2, 7, 4)"),
    (average(lambda self, x: loop_average(self, x).squeeze(1)), "For the shape (3, 1, 4)"),
    (Remembering, "When it runs for the second time"),
    (Learned, "It has parameters"),
    (Dropping, "Is there a dropout? None belongs here"),
    (average(torch.no_grad()(loop_average)), "no gradient flows back"),
    (loop_average, "The answer should be a class derived from nn.Module, not a function"),
    (Remembering({}), "Hand over the class itself"),
    (Filler, "The class must be derived from nn.Module"),
]
