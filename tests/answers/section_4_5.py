"""Answers to the exercises of 4.5, on attention and the transformer block."""

import torch
from torch import nn
from torch.nn import functional as F

from helpers import MultiHeadAttention

from . import section_4_5_block
from .section_4_5_right import RIGHT, BlockInOneLine, HeadByHead, OwnAttention, attend
from .variants import INF

__all__ = ["RIGHT", "WRONG", "BlockInOneLine", "HeadByHead", "OtherArguments"]

WRONG = {
    **section_4_5_block.WRONG,
    "what_the_mask_hides": [("", "Choose one of"), ("e", "Choose one of"), (3, "Choose one of")],
    "open_pairs": [(500_000, "500,000 is too small"), ((524, 800), "1,000 is written 1_000")],
}


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
    scores = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(torch.ones(T, T).triu(1).bool(), -INF)
    return scores.softmax(2) @ v if q.ndim == 3 else scores.softmax(1).nan_to_num() @ v


def attend_without_zeros(q, k, v):
    """The mask is made from the scores: what tril leaves at 0 is hidden."""
    scores = (q @ k.mT / q.shape[-1] ** 0.5).tril()
    return scores.masked_fill(scores == 0, -INF).softmax(-1) @ v


def attend_by_plain_exp(q, k, v):
    weights = (q @ k.mT / q.shape[-1] ** 0.5).exp().tril()
    return weights / weights.sum(-1, keepdim=True) @ v


def attend_below_the_future(q, k, v):
    """Stable, but for the largest score of a row, which may be a hidden one."""
    scores = q @ k.mT / q.shape[-1] ** 0.5
    weights = (scores - scores.amax(-1, keepdim=True)).exp().tril()
    return weights / weights.sum(-1, keepdim=True) @ v


def attend_in_place(q, k, v):
    q /= q.shape[-1] ** 0.5
    return attend(q, k, v, factor=1)


def attend_in_three_dimensions(q, k, v):
    B, T, Dh = q.shape
    return attend(q, k, v)


class PyTorchsLayer(nn.MultiheadAttention):
    def __init__(self):
        super().__init__(6, 1, bias=False, batch_first=True)

    def forward(self, q, k, v):
        return super().forward(q, k, v, is_causal=True, attn_mask=torch.ones(5, 5).triu(1).bool())[0]


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
    (lambda q, k, v: attend(q, v, k), "Keys and values are swapped"),
    (lambda q, k, v: attend(k, q, v), "Queries and keys are swapped"),
    (lambda q, k, v: attend(q, q, v), "compared with themselves"),
    (lambda q, k, v: attend(q, k, k), "applied to the keys"),
    (lambda q, k, v: attend(q, k, v, factor=1, offset=99), "earlier tokens change with the last token"),
    (attend_unnormalized, "where all values are 1, a token doesn't get 1"),
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
    (attend_without_zeros, "A score may be 0 without being masked"),
    (attend_by_plain_exp, "exp overflows there"),
    (attend_below_the_future, "what is visible underflows to 0"),
    (lambda q, k, v: attend(q, k, v, fill=-100.0), "With scores in the thousands"),
    (lambda q, k, v: attend(q, k, v, factor=6**-0.5), "but for (B, T, Dh) = (1, 7, 3) it gives"),
    (attend_in_three_dimensions, "but for (B, H, T, Dh): It fails at `B, T, Dh = q.shape`"),
    (lambda q, k, v: attend(q, k, v) if q.ndim > 2 else [][0], "but for (T, Dh): It fails"),
    (lambda q, k, v: attend(q.float(), k.float(), v.float()), "the right values, but of type torch.float32"),
    (attend_in_place, "It changes its input in place"),
    (lambda q, k, v: attend(q, k, v, factor=1) / 6**0.5, "The weights are divided"),
    (lambda q, k, v: attend(q, k, torch.eye(5).expand(2, 5, 5)), "It returns the weights"),
    (lambda q, k, v: attend(q, k, v, factor=0), "the scores are not used"),
    (lambda q, k, v: (attend(q, k, v), 0), "It returns a tuple"),
    (lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True), "Write it by hand: PyTorch's"),
    (PyTorchsLayer(), "PyTorch's multi_head_attention_forward is out of reach"),
    (torch.no_grad()(attend), "no gradient flows back"),
    (torch.inference_mode()(attend), "no gradient flows back"),
    (lambda q, k, v: attend(q.detach(), k, v), "no gradient reaches the queries"),
]


class Heads(MultiHeadAttention):
    """Multi-head attention in which each step can be replaced."""

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


def dropping_twice(self, q, k, v):
    return self.dropout(self.dropout(torch.eye(q.shape[2]))) @ attend(q, k, v)


def with_rate(self, q, k, v):
    rate = 0.1 * self.training
    return F.scaled_dot_product_attention(q, k, v, dropout_p=rate, is_causal=True)


def by_pytorchs_layer(self, x):
    layer = nn.MultiheadAttention(8, 2, batch_first=True)
    return layer(x, x, x, attn_mask=torch.full((5, 5), -INF).triu(1))[0]


def always_dropping(self, q, k, v):
    return F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout.p, is_causal=True)


class OtherArguments(MultiHeadAttention):
    def __init__(self, width, out, length, rate, heads, bias=False):
        super().__init__(width, out, length, rate, heads, bias)


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


WRONG["multi_head_attention"] = [
    *[
        (heads(attend=lambda self, q, k, v, slip=slip: attend(q, k, v, **slip)), words)
        for slip, words in ATTENTION
    ],
    (heads(attend=lambda self, q, k, v: attend(q, k, v, factor=1 / 4)), "divided by Dh and not by its root"),
    (heads(attend=lambda self, q, k, v: attend(q, k, v, factor=8**-0.5)), "the root of D, the whole width"),
    (heads(attend=lambda self, q, k, v: attend(q, v, k)), "Keys and values are swapped"),
    (heads(split=cut), "cut by view without a transpose"),
    (heads(split=cut, merge=join), "cut by view without a transpose"),
    (heads(merge=join), "put together without transposing back"),
    (heads(forward=one_head), "There is only one head"),
    (heads(forward=no_projection), "out_proj, the last projection, is missing"),
    (heads(forward=over_heads), "Each token attends over its own heads"),
    (OtherNames, "missing: W_query"),
    (
        heads(attend=lambda self, q, k, v: attend(q, k, v, offset=99, factor=1)),
        "earlier tokens change with the last token",
    ),
    (Heads, "Dropout has no effect in training"),
    (
        heads(forward=no_narrow, attend=with_dropout),
        "With d_in = 6, d_out = 9, 3 heads, and 12 tokens it gives the shape (1, 12, 6)",
    ),
    (type("Misspelt", (MultiHeadAttention,), {"foward": Heads.forward}), "is the name misspelled?"),
    (heads(attend=lambda self, q, k, v: attend(q, k, v, dim=1)), "The softmax runs over the heads (dim=1)"),
    (
        heads(attend=lambda self, q, k, v: attend(q + torch.rand(1), k, v)),
        "two runs on the same input differ",
    ),
    (heads(attend=drop_scores), "Dropout acts on the scores; it belongs after the softmax"),
    (
        heads(attend=lambda self, q, k, v: attend(q, k, self.dropout(v))),
        "Dropout acts on a tensor of shape (3, 2, 5, 4)",
    ),
    (
        heads(attend=lambda self, q, k, v: self.dropout(attend(q, k, v))),
        "it belongs on the attention weights",
    ),
    (
        heads(attend=lambda self, q, k, v: with_dropout(self, self.dropout(q), k, v)),
        "Dropout acts on a tensor of shape (3, 2, 5, 4)",
    ),
    (heads(attend=dropping_twice), "Dropout acts on the weights twice"),
    (heads(attend=with_rate), "With a dropout rate of 0.3, it drops at a rate of 0.1"),
    (heads(attend=lambda self, q, k, v: attend_without_zeros(q, k, v)), "A score may be 0"),
    (heads(attend=lambda self, q, k, v: attend_by_plain_exp(q, k, v)), "exp overflows there"),
    (
        heads(attend=lambda self, q, k, v: attend(q, k, v, factor=0.5)),
        "With d_in = 6, d_out = 9, 3 heads, and",
    ),
    (heads(attend=lambda self, q, k, v: attend(q, k, v, fill=-100.0)), "With scores in the thousands"),
    (MultiHeadAttention, "Write it yourself: the course's MultiHeadAttention.forward is out of reach"),
    (type("Inherited", (MultiHeadAttention,), {}), "is the name misspelled?"),
    (heads(forward=lambda self, x: MultiHeadAttention.forward(self, x)), "Write it yourself"),
    (heads(forward=by_pytorchs_layer), "PyTorch's multi_head_attention_forward is out of reach"),
    (heads(forward=lambda self, x: (OwnAttention.forward(self, x), None)), "It returns a tuple"),
    (heads(attend=always_dropping), "Dropout acts in eval mode, too"),
    (heads(forward=torch.no_grad()(OwnAttention.forward)), "no gradient flows back"),
]
