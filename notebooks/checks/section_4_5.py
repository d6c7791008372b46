"""The exercises of 4.5, on attention and the transformer block."""

import functools

import torch
from torch import nn
from torch.nn import functional as F

# the shipped ones, whatever `use` puts in their place
from helpers import MultiHeadAttention, TransformerBlock, count_parameters

from .require import (
    SMALL,
    as_list,
    choice_exercise,
    is_close,
    number_exercise,
    randomized,
    require,
    require_equal,
    require_gradients,
    require_module,
    require_own_forward,
    require_parts,
    require_result,
    require_trains_like,
)
from .runner import Wrong, describe_error, exercise, within_reach

what_the_mask_hides = choice_exercise(
    "4.5.1",
    right="c",
    praise="The later tokens are what the model must predict, so each may see only itself and earlier ones.",
    options={
        "a": "A token sees itself: its own key lies on the diagonal of the table, which the mask leaves "
        "open. Otherwise the first token would see nothing.",
        "b": "The other texts of a batch are never in the same table; the mask has nothing to do with them.",
        "d": "That is dropout, in training. The mask is always the same, in training and at inference.",
    },
)

open_pairs = number_exercise(
    "4.5.2",
    right=1024 * 1025 // 2,
    tolerance=0.0002,
    praise="T(T + 1)/2: the triangle with its diagonal.",
    mistakes={
        "That is the whole table; the mask hides nearly half of it": 1024 * 1024,
        "Half the table is nearly right; the diagonal is open too": 1024 * 1024 / 2,
        "The diagonal is open too: a token sees itself": 1024 * 1023 / 2,
        "That is all twelve heads; one is asked for": 12 * 1024 * 1025 / 2,
    },
)

SEEN = "No single classic mistake fits. What can be seen: "


def require_steady_and_causal(result, again, with_another_end):
    """Raise Wrong if two runs differ, or if changing the last token changed an earlier one."""
    require(is_close(result, again), SEEN + "two runs on the same input differ.")
    words = SEEN + "changing the last token changes what earlier ones get."
    require(is_close(result[:, :-1], with_another_end[:, :-1]), words)


def attention_mistakes(q, k, v, width):
    """What the classic mistakes of attention give, for q, k and v of shape (..., T, Dh) cut from `width`."""
    T, Dh = q.shape[-2:]
    future = torch.ones(T, T, dtype=torch.bool).triu(1)

    def attend(q=q, k=k, v=v, factor=Dh**-0.5, hidden=future, fill=float("-inf"), dim=-1):
        return (q @ k.transpose(-2, -1) * factor).masked_fill(hidden, fill).softmax(dim) @ v

    itself = torch.eye(T, dtype=torch.bool)
    scores = q @ k.transpose(-2, -1) / Dh**0.5
    all_weights = scores.softmax(-1)
    mistakes = {
        "The mask is missing: tokens see later ones": attend(hidden=future & ~future),
        "The mask is off by one: each token sees the next one": attend(hidden=future.triu(2)),
        "The mask hides the diagonal as well; a token sees itself": attend(hidden=future | itself),
        "The mask is upside down: it hides the past": [
            attend(hidden=future.T),
            attend(hidden=future.T | itself),
        ],
        "The mask comes after the softmax, so a row no longer sums to 1": all_weights.masked_fill(future, 0)
        @ v,
        "The mask writes 0 into the scores; e to the 0 is 1, so write -inf": attend(fill=0.0),
        "All is nan: 0 times infinity is nan; use masked_fill": torch.full_like(v, torch.nan),
        "The division by the root of Dh is missing": attend(factor=1),
        "The scores are divided by Dh and not by its root": attend(factor=1 / Dh),
        "Dh**1/2 is half of Dh; the root is Dh**0.5": attend(factor=0.5 / Dh),
        "The scores are multiplied by the root of Dh; divide": attend(factor=Dh**0.5),
        "The scores are divided by the root of T, not of Dh": attend(factor=T**-0.5),
        "The softmax runs over the queries (dim=-2); each row must sum to 1": attend(dim=-2),
        "The softmax is missing": [scores.masked_fill(future, fill) @ v for fill in (0.0, float("-inf"))],
        "Keys and values are swapped": attend(k=v, v=k),
        "Queries and keys are swapped": attend(q=k, k=q),
        "The queries are compared with themselves, not with the keys": attend(k=q),
        "The weights are applied to the keys, not the values": attend(v=k),
        "The weights are applied to the queries, not the values": attend(v=q),
    }
    if q.ndim == 4:
        mistakes["The softmax runs over the heads (dim=1); each row must sum to 1"] = attend(dim=1)
    if width != Dh:  # of one head the width is the whole
        words = "The scores are divided by the root of D, the whole width, not of Dh"
        mistakes[words] = attend(factor=width**-0.5)
    return mistakes


@exercise(
    "4.5.3",
    "Equal to F.scaled_dot_product_attention.",
    by_hand=("scaled_dot_product_attention", "multi_head_attention_forward"),
)
def attention_head(answer):
    q, k, v = (1.5 * torch.randn(3, 2, 5, 6)).unbind(0)
    with within_reach():
        right = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    result = require_result(answer, q, k, v)

    def look_further():
        other_end = (torch.cat([t[:, :-1], t[:, -1:] + 3], dim=1) for t in (k, v))
        require_steady_and_causal(
            result, require_result(answer, q, k, v), require_result(answer, q, *other_end)
        )
        words = SEEN + "if all values are 1, a token does not get 1. Do its weights sum to 1?"
        require(is_close(require_result(answer, q, k, torch.ones_like(v)), torch.ones_like(v)), words)

    require_equal(result, right, attention_mistakes(q, k, v, 6), otherwise=look_further)
    one = [t[:, :1] for t in (q, k, v)]
    require_equal(
        require_result(answer, *one), v[:, :1], given="For a single token, which gets its own value,"
    )
    heads = [torch.stack([t, t.flip(0), 2 * t], dim=1) for t in (q, k, v)]  # (B, H, T, Dh)
    with within_reach():
        wanted = F.scaled_dot_product_attention(*heads, is_causal=True)
    try:
        result = require_result(answer, *heads)
    except Exception as error:
        raise Wrong(f"It works for (B, T, Dh), but not for (B, H, T, Dh). {describe_error(error)}") from None
    require_equal(result, wanted, given="It works for (B, T, Dh); but for (B, H, T, Dh)")
    leaves = [t.clone().requires_grad_() for t in (q, k, v)]
    with within_reach():
        right = F.scaled_dot_product_attention(*leaves, is_causal=True)
    require_gradients(
        answer(*leaves), right, dict(zip(("the queries", "the keys", "the values"), leaves, strict=True))
    )


@exercise(
    "4.5.4",
    "Two sublayers, each after a norm and with a shortcut; dropout on what is added.",
    write=(TransformerBlock,),
)
def transformer_block(answer):
    block, x = require_module(answer, SMALL), 2 * torch.randn(2, 4, 8) + 1
    require_result(block, x)
    att, ff, norm1, norm2, _ = require_parts(block, ("att", "ff", "norm1", "norm2", "drop_shortcut"))
    randomized(block, size=0.4)
    a = x + att(norm1(x))
    n1 = norm1(x)
    right = a + ff(norm2(a))
    post = norm1(x + att(x))
    first_lost, b = att(n1), n1 + att(n1)
    ff_first = x + ff(norm2(x))
    ff_first1 = x + ff(norm1(x))
    mistakes = {
        "The norms come after the additions (post-norm); GPT-2 has them before the sublayers": norm2(
            post + ff(post)
        ),
        "Both shortcuts start at normalized copies; they must carry x itself": norm2(b) + ff(norm2(b)),
        "The first shortcut starts at the normalized copy; it must carry x itself": b + ff(norm2(b)),
        "The second shortcut starts at the normalized copy; it must carry x itself": norm2(a) + ff(norm2(a)),
        "The first shortcut is missing": first_lost + ff(norm2(first_lost)),
        "The second shortcut is missing": ff(norm2(a)),
        "Both shortcuts are missing": ff(norm2(att(n1))),
        "The second shortcut starts at the block's input, not after the first addition": x + ff(norm2(a)),
        "Attention and feed-forward stand side by side, not in a row": x + att(n1) + ff(norm2(x)),
        "norm1 is used twice; the second sublayer has norm2": a + ff(norm1(a)),
        "The norms are swapped": (x + att(norm2(x))) + ff(norm1(x + att(norm2(x)))),
        "The feed-forward network comes first; attention does": [
            ff_first + att(norm1(ff_first)),
            ff_first1 + att(norm2(ff_first1)),
        ],
        "There are no norms": (x + att(x)) + ff(x + att(x)),
        "The first norm is missing": (x + att(x)) + ff(norm2(x + att(x))),
        "The second norm is missing": a + ff(a),
        "The feed-forward network is missing": a,
        "Attention is missing": ff_first,
    }
    require_equal(require_result(block, x), right, mistakes, "With random weights", tolerance=1e-3)

    require(norm1 is not norm2, "norm1 and norm2 are one and the same module.")
    for qkv_bias in (True, False):
        cfg = {**SMALL, "qkv_bias": qkv_bias, "drop_rate": 0.3}
        block, shipped = require_module(answer, cfg), TransformerBlock(cfg)
        mine, ours = (count_parameters(b.att) for b in (block, shipped))
        require(mine == ours, f"With qkv_bias {qkv_bias} attention has {mine} parameters; {ours} are right.")
    heads = getattr(block.att, "num_heads", 2)
    require(heads == 2, f"With n_heads 2 attention has {heads} heads.")
    require(is_close(require_result(block, x), require_result(block, x)), "Dropout acts in eval mode, too.")
    limit = getattr(block.att, "context_length", 12)
    require(limit == 12, f"With a context_length of 12 attention has {limit}.")
    dropouts = [m for m in block.modules() if isinstance(m, nn.Dropout)]
    rates = {m.p for m in dropouts}
    require(
        rates <= {0.3},
        f"With a drop_rate of 0.3 there is dropout with the rate {max(rates - {0.3}, default=0)}.",
    )
    att, ff, norm1, norm2 = block.att, block.ff, block.norm1, block.norm2
    for dropout in dropouts:
        if dropout is not getattr(att, "dropout", None):
            dropout.train().p = 1.0  # nothing is left of what is dropped
    a = x + att(norm1(x))
    mistakes = {
        "Dropout has no effect in training: drop_shortcut belongs on what each sublayer adds": a
        + ff(norm2(a)),
        "What attention adds is not dropped": a,
        "What the feed-forward network adds is not dropped": x + ff(norm2(x)),
        "Dropout acts on the shortcut itself; it belongs on what each sublayer adds": [
            0 * x,
            att(norm1(x)),
            ff(norm2(0 * x)),
        ],
        "Dropout comes before the sublayers; it belongs after them": x + att(0 * x) + ff(0 * x),
    }
    require_equal(
        require_result(block, x),
        x,
        mistakes,
        "If dropout lets nothing through, x must come out as it went in; but",
    )

    block = randomized(require_module(answer, SMALL))

    def reference(x):
        x = x + block.att(block.norm1(x))
        return x + block.ff(block.norm2(x))

    require_trains_like(block, reference, x)


@exercise(
    "4.5.5",
    "Equal to PyTorch's attention, head by head, dropout in its place.",
    write=(MultiHeadAttention,),
    by_hand=("multi_head_attention_forward",),
)
def multi_head_attention(answer):
    D, H, T = 8, 2, 5
    named = {"d_in": D, "d_out": D, "context_length": 12, "dropout": 0.0, "num_heads": H, "qkv_bias": True}
    att = randomized(require_module(answer, **named))
    x = torch.randn(2, T, D)
    result = require_result(att, x)
    require_own_forward(answer, "MultiHeadAttention")
    *projections, out = require_parts(att, ("W_query", "W_key", "W_value", "out_proj"), nn.Linear)
    q, k, v = (project(x) for project in projections)

    def split(t):
        return t.view(2, T, H, D // H).transpose(1, 2)

    def cut(t):
        return t.reshape(2, H, T, D // H)

    def merge(t):
        return t.transpose(1, 2).reshape(2, T, -1)

    sdpa = functools.partial(F.scaled_dot_product_attention, is_causal=True)
    context = sdpa(split(q), split(k), split(v))
    mixed = sdpa(cut(q), cut(k), cut(v))
    mistakes = {
        "The heads are cut by view without a transpose, which mixes up the tokens": [
            out(merge(mixed)),
            out(mixed.reshape(2, T, D)),
        ],
        "The heads are put together without transposing back, which mixes up the tokens": out(
            context.reshape(2, T, D)
        ),
        "There is only one head: the features are not split": out(sdpa(q, k, v)),
        "The last projection, out_proj, is missing": merge(context),
        "Each head attends over the heads of one token: the tokens must be the last dimension but one": out(
            sdpa(*(t.view(2, T, H, D // H) for t in (q, k, v))).reshape(2, T, D)
        ),
    }
    for words, wrong in attention_mistakes(split(q), split(k), split(v), D).items():
        mistakes[words] = [out(merge(w)) for w in as_list(wrong)]

    def look_further():
        require_steady_and_causal(
            result, require_result(att, x), require_result(att, torch.cat([x[:, :-1], x[:, -1:] + 3], dim=1))
        )

    require_equal(result, out(merge(context)), mistakes, "With random weights", otherwise=look_further)

    # Now d_in is not d_out, and the number of tokens is another.
    narrow = randomized(require_module(answer, 6, D, 12, 0.0, H))

    def reference(x):
        q, k, v = (
            project(x).unflatten(-1, (H, -1)).transpose(1, 2)
            for project in (narrow.W_query, narrow.W_key, narrow.W_value)
        )
        return narrow.out_proj(sdpa(q, k, v).transpose(1, 2).flatten(2))

    for B, T in ((1, 12), (3, 1)):
        x = torch.randn(B, T, 6)
        require_equal(
            require_result(narrow, x),
            reference(x),
            given=f"With d_in = 6, d_out = 8 and {T} tokens",
            tolerance=1e-3,
        )
    require_trains_like(narrow, reference, torch.randn(2, 5, 6))

    dropping, x = randomized(require_module(answer, D, D, 12, 0.5, H)), torch.randn(64, 1, D)
    require(
        is_close(require_result(dropping, x), require_result(dropping, x)), "Dropout acts in eval mode, too."
    )
    dropping.train()
    long = torch.randn(2, 5, D)
    require(
        not is_close(require_result(dropping, long), require_result(dropping, long)),
        "Dropout has no effect in training.",
    )
    with torch.no_grad():
        dropping.out_proj.weight.copy_(torch.eye(D))
        dropping.out_proj.bias.zero_()
    # A single token has one weight in each head, 1. Dropped by half it is 0 or 2, for the whole head.
    weights = (require_result(dropping, x) / dropping.W_value(x)).view(64, H, D // H)
    whole = is_close(weights.amin(-1), weights.amax(-1)) and is_close(
        weights * (weights - 2), 0 * weights, 1e-3
    )
    require(whole, "Dropout must act on the attention weights, after the softmax, and nothing else.")
