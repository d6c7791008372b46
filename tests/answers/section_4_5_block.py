"""Wrong answers to exercise 4.5.4, the transformer block."""

import torch
from torch import nn
from torch.nn import functional as F

from helpers import GELU, MultiHeadAttention, TransformerBlock

from .section_4_5_right import BlockOfTheBook
from .variants import forward

WRONG = {}


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


class BlockWithoutNames(BlockOfTheBook):
    def __init__(self, cfg):
        super().__init__(cfg)
        self.attention = self.att
        del self.att

    def forward(self, x):
        x = x + self.drop_shortcut(self.attention(self.norm1(x)))
        return x + self.drop_shortcut(self.ff(self.norm2(x)))


class BlockInPlace(BlockOfTheBook):
    def forward(self, x):
        y = x.clone()
        y += self.drop_shortcut(self.att(self.norm1(y)))
        y += self.drop_shortcut(self.ff(self.norm2(y)))
        return y


class BlockAround(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.block = TransformerBlock(cfg)

    def forward(self, x):
        return self.block(x)


class BlockBySuper(TransformerBlock):
    def forward(self, x):
        return super().forward(x)


def dropped(norm_, drop):
    """A norm of what dropout leaves."""
    return lambda x: norm_(drop(x))


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
        (BlockOfTheBook,),
        {"__init__": lambda self, cfg: BlockOfTheBook.__init__(self, change(cfg))},
    )


def with_parts(**parts):
    """A block in which some parts, each a function of the configuration, are others."""

    def __init__(self, cfg):
        BlockOfTheBook.__init__(self, cfg)
        for name, make in parts.items():
            setattr(self, name, make(cfg))

    return type("Other", (BlockOfTheBook,), {"__init__": __init__})


def sequential(activation, widening=4, dropout=0.0):
    """A feed-forward network with another activation, width, or a dropout in it."""

    def make(cfg):
        D = cfg["emb_dim"]
        last = nn.Linear(widening * D, D)
        return nn.Sequential(nn.Linear(D, widening * D), activation, last, nn.Dropout(dropout))

    return make


def attention_with(**named):
    """Attention with other arguments."""

    def make(cfg):
        usual = {"context_length": 7, "dropout": cfg["drop_rate"], "num_heads": cfg["n_heads"]}
        return MultiHeadAttention(
            cfg["emb_dim"], cfg["emb_dim"], **{**usual, "qkv_bias": cfg["qkv_bias"], **named}
        )

    return make


class OneNorm(BlockOfTheBook):
    def __init__(self, cfg):
        super().__init__(cfg)
        self.norm2 = self.norm1


class PyTorchsAttention(nn.MultiheadAttention):
    def __init__(self, cfg):
        super().__init__(cfg["emb_dim"], cfg["n_heads"], batch_first=True)


class MaskedBlock(BlockOfTheBook):
    """With PyTorch's attention, called as it must be."""

    def __init__(self, cfg):
        super().__init__(cfg)
        self.att = PyTorchsAttention(cfg)

    def forward(self, x):
        n = self.norm1(x)
        x = x + self.drop_shortcut(self.att(n, n, n, need_weights=False)[0])
        return x + self.drop_shortcut(self.ff(self.norm2(x)))


class RawFeedForward(nn.Module):
    """All the numbers, and no layers."""

    def __init__(self, cfg):
        super().__init__()
        D = cfg["emb_dim"]
        shapes = ((4 * D, D), (4 * D,), (D, 4 * D), (D,))
        self.numbers = nn.ParameterList(torch.zeros(shape) for shape in shapes)

    def forward(self, x):
        first, bias, last, last_bias = self.numbers
        return F.linear(F.gelu(F.linear(x, first, bias), approximate="tanh"), last, last_bias)


class RMSNorm(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.weight, self.bias = (
            nn.Parameter(torch.ones(cfg["emb_dim"])),
            nn.Parameter(torch.zeros(cfg["emb_dim"])),
        )

    def forward(self, x):
        return F.rms_norm(x, self.weight.shape, self.weight, 1e-5) + self.bias


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
    (TransformerBlock, "Write it yourself: the course's TransformerBlock.forward is out of reach"),
    (type("Inherited", (TransformerBlock,), {}), "Write it yourself"),
    (BlockBySuper, "Write it yourself"),
    (BlockAround, "Write it yourself"),
    (BlockWithoutNames, "missing: att"),
    (MaskedBlock, "PyTorch's nn.MultiheadAttention works differently"),
    (with_parts(drop_shortcut=lambda cfg: nn.Identity()), "drop_shortcut must be an nn.Dropout"),
    (with_parts(norm1=RMSNorm), "self.norm1 is not layer normalization"),
    (with_parts(norm2=lambda cfg: nn.LayerNorm(cfg["emb_dim"], eps=0.1)), "self.norm2 is not layer norm"),
    (with_parts(norm2=lambda cfg: nn.RMSNorm(cfg["emb_dim"])), "With qkv_bias True, the block has"),
    (
        with_parts(
            norm1=lambda cfg: nn.RMSNorm(cfg["emb_dim"]), extra=lambda cfg: nn.RMSNorm(cfg["emb_dim"])
        ),
        "self.norm1 has no scale and shift",
    ),
    (with_parts(ff=RawFeedForward), "self.ff has 0 linear layers, where FeedForward has 2"),
    (block(lambda x, *parts: good_block(x, *parts) * (1 + (x.shape[-1] > 8))), "With 12 features in 3 heads"),
    (with_parts(ff=sequential(nn.ReLU())), "That is ReLU; GPT-2 has GELU"),
    (with_parts(ff=sequential(nn.Identity())), "An activation is missing"),
    (with_parts(ff=sequential(nn.GELU())), "That is the exact GELU; GPT-2 has its tanh form"),
    (with_parts(ff=sequential(GELU(), 2)), "With qkv_bias True, the block has"),
    (with_parts(ff=sequential(GELU(), dropout=0.3)), "self.ff is not GPT-2's FeedForward"),
    (with_parts(att=attention_with(dropout=0.0, context_length=12)), "Attention doesn't drop any weights"),
    (with_parts(att=attention_with(num_heads=2, context_length=12)), "another number of heads"),
    (made_with(lambda cfg: {**cfg, "context_length": cfg["emb_dim"]}), "attention is made for 12 tokens"),
    (lambda cfg: BlockOfTheBook(cfg), "should be a class derived from nn.Module"),
    (block(lambda x, *parts: good_block(x, *parts)[:, -1:]), "the shape (2, 1, 8)"),
    (block(lambda x, *parts: (good_block(x, *parts), None)), "It returns a tuple"),
    (block(lambda x, *parts: good_block(x.mul_(1.5), *parts)), "It changes its input in place"),
    (
        block(lambda x, a, f, n1, n2, d: good_block(x, lambda y: a(y) * 0, f, n1, n2, d)),
        "Attention is missing",
    ),
    (then(lambda x, a, f, n1, n2, d: x + a(n2(x)), second), "norm2 is used twice"),
    (
        block(lambda x, a, f, n1, n2, d: first(x, a, f, n1, n2, d) + good_block(x, a, f, n1, n2, d)),
        "added twice",
    ),
    (block(lambda x, *parts: x), "It returns its input"),
    (BlockInPlace, "+= or the like has changed a tensor that the gradient needs"),
    (then(first, second), "Dropout has no effect"),
    (
        then(lambda x, a, f, n1, n2, d: d(x + a(n1(x))), lambda x, a, f, n1, n2, d: d(x + f(n2(x)))),
        "Dropout acts on the shortcut as well",
    ),
    (then(first, lambda x, a, f, n1, n2, d: x + 2 * f(n2(x))), "With random weights it gives"),
    (block(lambda x, *parts: good_block(x, *parts).double()), "the right values, but of type torch.float64"),
    (block(lambda x, a, f, n1, n2, d: second(x + d(a(n1(x))), a, f, n1, n2, d)), "What the feed-forward"),
    (block(lambda x, a, f, n1, n2, d: (x + a(n1(x))) + d(f(n2(x + a(n1(x)))))), "What attention adds is not"),
    (
        block(lambda x, a, f, n1, n2, d: second(x + a(d(n1(x))), a, lambda y: f(d(y)), n1, n2, d)),
        "before the sublayers",
    ),
    (made_with(lambda cfg: {**cfg, "qkv_bias": True}), "With qkv_bias False, attention has"),
    (made_with(lambda cfg: {**cfg, "drop_rate": 0.1}), "there is dropout with the rate 0.1"),
    (block(lambda x, *parts: good_block(parts[-1](x), *parts)), "Dropout acts on the shortcut as well"),
    (
        block(lambda x, a, f, n1, n2, d: second(first(d(x), a, f, n1, n2, d), a, f, n1, n2, d)),
        "In training, where the check",
    ),
    (
        block(lambda x, a, f, n1, n2, d: second(x + a(n1(d(x))), a, lambda y: f(y), n1, n2, d)),
        "before the norms",
    ),
    (
        block(lambda x, a, f, n1, n2, d: good_block(x, a, f, lambda y: n1(d(y)), n2, d)),
        "one dropout too many",
    ),
    (block(lambda x, *parts: parts[-1](good_block(x, *parts))), "one dropout too many"),
    (
        block(lambda x, a, f, n1, n2, d: good_block(x, a, f, n1, n2, lambda y: d(d(y)))),
        "one dropout too many",
    ),
    (
        block(
            lambda x, a, f, n1, n2, d: good_block(x, a, f, n1, n2, lambda y: F.dropout(y, 0.1, d.training))
        ),
        "rate 0.1",
    ),
    (OneNorm, "one and the same module"),
    (block(torch.no_grad()(good_block)), "no gradient flows back"),
    (made_with(lambda cfg: {**cfg, "n_heads": 1}), "With n_heads = 3, attention has another number of heads"),
    (
        block(lambda x, a, f, n1, n2, d: good_block(x, a, f, n1, n2, lambda y: F.dropout(y, d.p))),
        "in eval mode, too",
    ),
]
