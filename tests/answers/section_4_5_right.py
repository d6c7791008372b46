"""Right answers to the exercises of 4.5, in many styles."""

import functools
import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers import GELU, FeedForward, LayerNorm, MultiHeadAttention, TransformerBlock

from .variants import INF

RIGHT = {
    "what_the_mask_hides": ["c", "C", " c ", "(c)", "c)", "c."],
    "open_pairs": [
        524_800,
        524_800.0,
        sum(range(1, 1025)),
        torch.ones(1024, 1024).tril().sum(),
        np.int64(1024 * 1025 // 2),
        (1024**2 + 1024) / 2,
        (524_800,),
    ],
}


# 4.5.3: one head


def attend(q, k, v, factor=None, offset=1, fill=-INF, dim=-1, after=False, flipped=False):
    """Attention in which each step can be replaced."""
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


def attend_by_einsum(q: Tensor, k: Tensor, v: Tensor, *, causal: bool = True) -> Tensor:
    scores = torch.einsum("...qd,...kd->...qk", q, k).div(math.sqrt(q.shape[-1]))
    if causal:
        scores = scores + torch.full(scores.shape[-2:], -INF, dtype=q.dtype).triu(1)
    return torch.einsum("...qk,...kd->...qd", F.softmax(scores, dim=-1), v)


def attend_by_exp(q, k, v):
    seen = torch.tril(torch.ones(q.size(-2), q.size(-2))) == 1
    scores = torch.where(seen, q @ k.mT / q.size(-1) ** 0.5, torch.finfo(q.dtype).min)
    weights = torch.exp(scores - scores.amax(-1, keepdim=True)) * seen
    return weights @ v / weights.sum(-1, keepdim=True)


def attend_by_positions(q, k, v):
    t = torch.arange(q.shape[-2])
    scores = torch.matmul(q * q.shape[-1] ** -0.5, torch.swapaxes(k, -1, -2))
    scores[..., t[:, None] < t] = -1e9
    return scores.log_softmax(-1).exp().matmul(v)


class Attention:
    def __init__(self, scale=None):
        self.scale = scale

    def __call__(self, q, k, v):
        return attend(q, k, v, factor=self.scale)


class AttentionModule(nn.Module):
    def __init__(self, longest=64):
        super().__init__()
        self.register_buffer("mask", torch.triu(torch.ones(longest, longest), diagonal=1))
        self.dropout = nn.Dropout(0.0)

    def forward(self, q, k, v):
        T = q.shape[-2]
        scores = q @ k.transpose(-1, -2)
        scores.masked_fill_(self.mask.bool()[:T, :T], -torch.inf)
        return self.dropout(torch.softmax(scores / k.shape[-1] ** 0.5, dim=-1)) @ v


RIGHT["attention_head"] = [
    attend,
    attend_one_by_one,
    attend_by_einsum,
    attend_by_exp,
    attend_by_positions,
    Attention(),
    AttentionModule(),
    functools.partial(attend, fill=-1e9),
    lambda *qkv: attend_by_einsum(*qkv),
]


# 4.5.4: the block


class BlockInOneLine(TransformerBlock):
    """Both sublayers alike; the parts are inherited."""

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


class BlockOfTheBook(nn.Module):
    """Long hand, with arguments by name."""

    def __init__(self, cfg: dict) -> None:
        super().__init__()
        self.att = MultiHeadAttention(
            d_in=cfg["emb_dim"],
            d_out=cfg["emb_dim"],
            context_length=cfg["context_length"],
            num_heads=cfg["n_heads"],
            dropout=cfg["drop_rate"],
            qkv_bias=cfg.get("qkv_bias", False),
        )
        self.ff = FeedForward(cfg)
        self.norm1 = LayerNorm(cfg["emb_dim"])
        self.norm2 = LayerNorm(cfg["emb_dim"])
        self.drop_shortcut = nn.Dropout(cfg["drop_rate"])

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        x = self.norm1(x)
        x = self.att(x)
        x = self.drop_shortcut(x)
        x = x + shortcut
        shortcut = x
        x = self.norm2(x)
        x = self.ff(x)
        x = self.drop_shortcut(x)
        return x + shortcut


class BlockWithAMethod(BlockOfTheBook):
    """The shortcut in a method of its own, and an argument more."""

    def __init__(self, cfg, verbose=False):
        super().__init__(cfg)
        self.verbose = verbose

    def around(self, x, norm_, sublayer):
        return x + self.drop_shortcut(sublayer(norm_(x)))

    def forward(self, x):
        return self.around(self.around(x, self.norm1, self.att), self.norm2, self.ff)


class ShiftAndScale(nn.Module):
    """A norm whose parameters have another order."""

    def __init__(self, width):
        super().__init__()
        self.shift, self.scale = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.ones(width))

    def forward(self, x):
        return F.layer_norm(x, x.shape[-1:]) * self.scale + self.shift


class DownAndUp(nn.Module):
    """A feed-forward network whose layers have another order."""

    def __init__(self, width):
        super().__init__()
        self.down, self.up = nn.Linear(4 * width, width), nn.Linear(width, 4 * width)

    def forward(self, x):
        return self.down(F.gelu(self.up(x), approximate="tanh"))


class BlockOfOwnParts(BlockOfTheBook):
    def __init__(self, cfg):
        super().__init__(cfg)
        self.norm1, self.norm2, self.ff = (
            part(cfg["emb_dim"]) for part in (ShiftAndScale, ShiftAndScale, DownAndUp)
        )


class BlockByFunctions(nn.Module):
    """Dropout by function, with the flag of the block itself, and a feed-forward network of its own."""

    def __init__(self, cfg):
        super().__init__()
        D = cfg["emb_dim"]
        rate, heads = cfg["drop_rate"], cfg["n_heads"]
        self.att = OwnAttention(D, D, cfg["context_length"], rate, heads, cfg["qkv_bias"])
        self.ff = nn.Sequential(nn.Linear(D, 4 * D), GELU(), nn.Linear(4 * D, D))
        self.norm1, self.norm2 = LayerNorm(D), LayerNorm(D)
        self.drop_shortcut = nn.Dropout(rate)

    def forward(self, x):
        p = self.drop_shortcut.p
        x = torch.add(x, F.dropout(self.att(self.norm1(x)), p, self.training))
        return torch.add(x, F.dropout(self.ff(self.norm2(x)), p=p, training=self.training))


RIGHT["transformer_block"] = [
    BlockInOneLine,
    BlockOfPyTorch,
    BlockOfTheBook,
    BlockWithAMethod,
    BlockByFunctions,
    BlockOfOwnParts,
]


# 4.5.5: many heads


class OwnAttention(MultiHeadAttention):
    def forward(self, x):
        B, T, _ = x.shape
        q, k, v = (
            project(x).view(B, T, self.num_heads, self.head_dim).transpose(1, 2)
            for project in (self.W_query, self.W_key, self.W_value)
        )
        scores = q @ k.transpose(2, 3) / self.head_dim**0.5
        future = torch.ones(T, T, dtype=torch.bool, device=x.device).triu(diagonal=1)
        weights = self.dropout(scores.masked_fill(future, float("-inf")).softmax(dim=-1))
        return self.out_proj((weights @ v).transpose(1, 2).reshape(B, T, -1))


class HeadByHead(MultiHeadAttention):
    """One head after the other, by PyTorch's own function."""

    def forward(self, x):
        q, k, v = self.W_query(x), self.W_key(x), self.W_value(x)
        p = self.dropout.p if self.training else 0.0
        found = [
            F.scaled_dot_product_attention(*parts, dropout_p=p, is_causal=True)
            for parts in zip(*(t.chunk(self.num_heads, dim=-1) for t in (q, k, v)), strict=True)
        ]
        return self.out_proj(torch.cat(found, dim=-1))


class HeadsByEinsum(MultiHeadAttention):
    """Heads stay behind the tokens: no transpose at all."""

    def forward(self, x):
        q, k, v = (w(x).unflatten(-1, (self.num_heads, -1)) for w in (self.W_query, self.W_key, self.W_value))
        scores = torch.einsum("bqhd,bkhd->bqhk", q, k) / math.sqrt(self.head_dim)
        t = torch.arange(x.shape[1])
        weights = scores.masked_fill((t[:, None] < t)[None, :, None], -INF).softmax(-1)
        return self.out_proj(torch.einsum("bqhk,bkhd->bqhd", self.dropout(weights), v).flatten(2))


class HeadsAsBatch(MultiHeadAttention):
    """Batch and heads in one dimension, and a mask that is made once."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.register_buffer("hidden", torch.ones(self.context_length, self.context_length).triu(1).bool())

    def forward(self, x):
        B, T, _ = x.size()
        H, Dh = self.num_heads, self.head_dim

        def cut(y):
            return y.reshape(B, T, H, Dh).permute(0, 2, 1, 3).reshape(B * H, T, Dh)

        q, k, v = cut(self.W_query(x)), cut(self.W_key(x)), cut(self.W_value(x))
        scores = torch.bmm(q, k.transpose(1, 2)) * Dh**-0.5
        scores = scores.masked_fill(self.hidden[:T, :T], torch.finfo(scores.dtype).min)
        context = torch.bmm(self.dropout(scores.softmax(dim=2)), v)
        return self.out_proj(context.reshape(B, H, T, Dh).permute(0, 2, 1, 3).contiguous().view(B, T, H * Dh))


class HeadsOfTheKernel(MultiHeadAttention):
    """PyTorch's function with a mask that is added."""

    def forward(self, x: Tensor, scale: float | None = None) -> Tensor:
        q, k, v = (
            torch.stack(torch.split(w(x), self.head_dim, dim=-1), dim=1)
            for w in (self.W_query, self.W_key, self.W_value)
        )
        mask = torch.full((x.shape[1],) * 2, -INF).triu(1)
        rate = self.dropout.p * self.training
        context = F.scaled_dot_product_attention(q, k, v, mask, rate, scale=scale)
        return self.out_proj(torch.cat(context.unbind(1), dim=-1))


RIGHT["multi_head_attention"] = [
    OwnAttention,
    HeadByHead,
    HeadsByEinsum,
    HeadsAsBatch,
    HeadsOfTheKernel,
]
