"""Answers to the exercises of 4.5, on attention and the transformer block."""

import math

import torch
from torch import nn
from torch.nn import functional as F

from helpers import FeedForward, MultiHeadAttention, TransformerBlock

from .variants import INF, forward

RIGHT, WRONG = {}, {}

RIGHT["what_the_mask_hides"] = ["c", "C"]
WRONG["what_the_mask_hides"] = [
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
    (lambda q, k, v: attend(q, v, k), "Keys and values are swapped"),
    (lambda q, k, v: attend(k, q, v), "Queries and keys are swapped"),
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
    (heads(attend=lambda self, q, k, v: attend(q, v, k)), "Keys and values are swapped"),
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
    (type("Misspelt", (MultiHeadAttention,), {"foward": Heads.forward}), "is the name misspelled?"),
    (heads(attend=lambda self, q, k, v: attend(q, k, v, dim=1)), "The softmax runs over the heads (dim=1)"),
    (
        heads(attend=lambda self, q, k, v: attend(q + torch.rand(1), k, v)),
        "two runs on the same input differ",
    ),
    (heads(attend=drop_scores), "Dropout must act on the attention weights"),
    (
        heads(attend=lambda self, q, k, v: attend(q, k, self.dropout(v))),
        "Dropout must act on the attention weights",
    ),
    (
        heads(attend=lambda self, q, k, v: self.dropout(attend(q, k, v))),
        "Dropout must act on the attention weights",
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
    (then(lambda x, a, f, n1, n2, d: x + a(n2(x)), lambda x, a, f, n1, n2, d: x + f(n1(x))), "swapped"),
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
        "Dropout acts on the shortcut itself",
    ),
    (then(first, lambda x, a, f, n1, n2, d: x + 2 * f(n2(x))), "With random weights it gives"),
    (block(lambda x, *parts: good_block(x, *parts).double()), "type torch.float64"),
    (block(lambda x, a, f, n1, n2, d: second(x + d(a(n1(x))), a, f, n1, n2, d)), "What the feed-forward"),
    (block(lambda x, a, f, n1, n2, d: (x + a(n1(x))) + d(f(n2(x + a(n1(x)))))), "What attention adds is not"),
    (
        block(lambda x, a, f, n1, n2, d: second(x + a(d(n1(x))), a, lambda y: f(d(y)), n1, n2, d)),
        "before the sublayers",
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
