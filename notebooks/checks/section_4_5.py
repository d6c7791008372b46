"""The exercises of 4.5, on attention and the transformer block."""

import torch
from torch import nn
from torch.nn import functional as F

from helpers import (
    MultiHeadAttention,
    TransformerBlock,
)  # the shipped ones, whatever `use` puts in their place

from .require import (
    SMALL,
    Dropouts,
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
from .runner import NotAttempted, Wrong, describe_error, exercise, within_reach

what_the_mask_hides = choice_exercise(
    "4.5.1",
    right="c",
    praise="The model has to predict the later tokens, so a token may see only itself and what came before.",
    options={
        "a": "A token does see itself: the mask leaves the diagonal open. Otherwise the first token would "
        "see nothing at all.",
        "b": "The texts of a batch never share a table of weights, so no mask is needed between them.",
        "d": "That is dropout, which acts only in training. The mask is always the same.",
    },
)

T = 1024
open_pairs = number_exercise(
    "4.5.2",
    right=T * (T + 1) // 2,
    tolerance=0.0002,
    praise="T(T + 1)/2: the triangle with its diagonal.",
    mistakes={
        "That is the whole table; the mask hides nearly half of it": T * T,
        "Half the table is close, but the whole diagonal is open": T * T / 2,
        "The diagonal is open, too: a token sees itself": T * (T - 1) / 2,
        "That is one row too many: the table has 1,024": (T + 1) * (T + 2) / 2,
        "That is one row: each row opens one more weight than the row above": T,
        "That is all twelve heads; the question is about one": 12 * T * (T + 1) / 2,
    },
)


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
        "Every value is nan: 0 times infinity is nan; use masked_fill": torch.full_like(v, torch.nan),
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
        "The weights are divided; divide the scores, before the softmax": attend(factor=1) / Dh**0.5,
        "All visible tokens count alike: the scores are not used": attend(factor=0),
    }
    if q.ndim == 4:
        mistakes["The softmax runs over the heads (dim=1); each row must sum to 1"] = attend(dim=1)
    else:
        words = "It returns the weights; apply them to the values"
        mistakes[words] = attend(v=itself.to(v.dtype).expand(*v.shape[:-2], T, T))
    if width != Dh:  # of one head the width is the whole
        words = "The scores are divided by the root of D, the whole width, not of Dh"
        mistakes[words] = attend(factor=width**-0.5)
    return mistakes


def right_attention(q, k, v):
    """Causal attention of (..., T, Dh), within reach of these checks only."""
    with within_reach():
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def require_case(given, function, inputs, right, tolerance=1e-4):
    """Raise Wrong unless function(*inputs) is `right`; the message begins with what was `given`."""
    try:
        result = require_result(function, *inputs)
    except (Wrong, NotAttempted):
        raise
    except Exception as error:
        raise Wrong(f"{given}: {describe_error(error)}") from None
    require_equal(result, right, given=given, tolerance=tolerance)


def require_finite(given, result, words):
    """Raise Wrong if there is a value in `result` that is nan or infinite."""
    finite = not isinstance(result, torch.Tensor) or bool(result.isfinite().all())
    require(finite, f"{given} gives values that are nan or infinite. {words}")


NO_ROOM = (
    "exp overflows there, or what is visible underflows to 0: mask the scores first, and then use softmax."
)
MASKED_ZERO = "A score may be 0 without being masked: make the mask from positions, not from the scores."
SEEN = "This is none of the classic mistakes, but "


def require_steady_and_causal(result, again, with_another_end):
    """Raise Wrong if two runs differ, or if changing the last token changed an earlier one."""
    require(is_close(result, again), SEEN + "two runs on the same input differ.")
    words = SEEN + "the results of earlier tokens change with the last token."
    require(is_close(result[:, :-1], with_another_end[:, :-1]), words)


@exercise(
    "4.5.3",
    "Equal to PyTorch's scaled_dot_product_attention.",
    write=("attention_heads_by_hand",),
    by_hand=("scaled_dot_product_attention", "multi_head_attention_forward"),
)
def attention_head(answer):
    q, k, v = (1.5 * torch.randn(3, 2, 5, 6)).unbind(0)
    result = require_result(answer, q, k, v)

    def look_further():
        other_end = (torch.cat([t[:, :-1], t[:, -1:] + 3], dim=1) for t in (k, v))
        require_steady_and_causal(
            result, require_result(answer, q, k, v), require_result(answer, q, *other_end)
        )
        words = SEEN + "where all values are 1, a token doesn't get 1. Do its weights sum to 1?"
        require(is_close(require_result(answer, q, k, torch.ones_like(v)), torch.ones_like(v)), words)

    mistakes = attention_mistakes(q, k, v, width=6)
    require_equal(result, right_attention(q, k, v), mistakes, otherwise=look_further)

    one = [t[:, :1] for t in (q, k, v)]
    require_case("For a single token, which gets its own value,", answer, one, v[:, :1])
    loud = 400 * q, k, v
    require_finite("With scores in the thousands it", require_result(answer, *loud), NO_ROOM)
    require_case("With scores in the thousands", answer, loud, right_attention(*loud), tolerance=1e-3)
    silent = 0 * q, k, v
    require_finite("With scores of 0 it", require_result(answer, *silent), MASKED_ZERO)
    require_case("With scores of 0", answer, silent, right_attention(*silent))
    for given, shape in (
        ("It works for (2, 5, 6); but for (B, T, Dh) = (1, 7, 3)", (1, 7, 3)),
        ("It works for (B, T, Dh); but for (B, H, T, Dh)", (2, 3, 5, 6)),
        ("It works for (B, T, Dh); but for (T, Dh)", (5, 6)),
    ):
        case = torch.randn(3, *shape).unbind(0)
        require_case(given, answer, case, right_attention(*case))
    doubles = [t.double() for t in (q, k, v)]
    require_case("With inputs in float64", answer, doubles, right_attention(*doubles))
    leaves = {
        "the queries": q.requires_grad_(),
        "the keys": k.requires_grad_(),
        "the values": v.requires_grad_(),
    }
    require_gradients(answer(q, k, v), right_attention(q, k, v), leaves)


def heads_of(t, n):
    """(B, T, n * Dh) -> (B, n, T, Dh)."""
    return t.unflatten(-1, (n, -1)).transpose(1, 2)


def joined(heads):
    """(B, H, T, Dh) -> (B, T, H * Dh)."""
    return heads.transpose(1, 2).flatten(2)


def right_heads(att, x, n, factor=1):
    """What multi-head attention gives with the layers of `att`, `factor` times its weights."""
    q, k, v = (heads_of(project(x), n) for project in (att.W_query, att.W_key, att.W_value))
    return att.out_proj(factor * joined(right_attention(q, k, v)))


OTHER = {**SMALL, "emb_dim": 12, "n_heads": 3, "context_length": 7, "qkv_bias": False, "drop_rate": 0.3}


def block_mistakes(x, att, ff, norm1, norm2):
    """What the classic mistakes give, in a block with these parts and without dropout."""

    def first(x):
        return x + att(norm1(x))

    def second(x):
        return x + ff(norm2(x))

    a, n1 = first(x), norm1(x)
    post, ahead = norm1(x + att(x)), x + ff(norm1(x))
    lost, moved, plain = att(n1), n1 + att(n1), x + att(x)
    late = x + att(norm2(x))
    return {
        "The norms come after the additions (post-norm); GPT-2 has them before the sublayers": norm2(
            post + ff(post)
        ),
        "Both shortcuts start at normalized copies; they must carry x itself": norm2(moved)
        + ff(norm2(moved)),
        "The first shortcut starts at the normalized copy; it must carry x itself": second(moved),
        "The second shortcut starts at the normalized copy; it must carry x itself": norm2(a) + ff(norm2(a)),
        "The first shortcut is missing": second(lost),
        "The second shortcut is missing": ff(norm2(a)),
        "Both shortcuts are missing": ff(norm2(lost)),
        "The second shortcut starts at the block's input; it must start after the first addition": x
        + ff(norm2(a)),
        "The first sum is added twice": a + second(a),
        "Attention and feed-forward stand side by side; they belong one after the other": a + ff(norm2(x)),
        "norm1 is used twice; the second sublayer has norm2": a + ff(norm1(a)),
        "norm2 is used twice; the first sublayer has norm1": second(late),
        "The norms are swapped": late + ff(norm1(late)),
        "The feed-forward network comes first; attention does": [
            first(second(x)),
            ahead + att(norm2(ahead)),
        ],
        "There are no norms": plain + ff(plain),
        "The first norm is missing": second(plain),
        "The second norm is missing": a + ff(a),
        "The feed-forward network is missing": a,
        "Attention is missing": second(x),
        "It returns its input": x,
    }


def dropout_mistakes(x, att, ff, norm1, norm2, drop):
    """And those with dropout, in training."""

    def same(x):
        return x

    def block(*drops):
        """Each drop acts in its place: before a sublayer, on what it adds, and on the sum."""
        (before1, on1, after1), (before2, on2, after2) = drops
        a = after1(x + on1(att(before1(norm1(x)))))
        return after2(a + on2(ff(before2(norm2(a)))))

    def twice(y):
        return drop(drop(y))

    right, none, sums, before = (same, drop, same), (same,) * 3, (same, same, drop), (drop, same, same)
    too_many = [(same, twice, same), (drop, drop, same), (same, drop, drop)]
    return {
        "What attention adds is not dropped": block(none, right),
        "What the feed-forward network adds is not dropped": block(right, none),
        "Dropout acts on the shortcut as well; it belongs on what each sublayer adds": [
            block(sums, sums),
            block(sums, right),
            block(right, sums),
        ],
        "Dropout comes before the sublayers; it belongs after them": block(before, before),
        "There is one dropout too many: it belongs on what each sublayer adds, once": [
            *(block(extra, right) for extra in too_many),
            *(block(right, extra) for extra in too_many),
            *(block(extra, extra) for extra in too_many),
        ],
    }


def require_parts_of_gpt2(block, cfg):
    """Raise Wrong unless the parts are those of GPT-2, in training, where dropout triples."""
    D, n, x = cfg["emb_dim"], cfg["n_heads"], torch.randn(2, cfg["context_length"], cfg["emb_dim"])
    require_parts(block.att, ("W_query", "W_key", "W_value", "out_proj"), nn.Linear)
    layers = [module for module in block.ff.modules() if isinstance(module, nn.Linear)]
    require(len(layers) == 2, f"self.ff has {len(layers)} linear layers, where FeedForward has 2.")
    for name, norm in (("norm1", block.norm1), ("norm2", block.norm2)):
        learned, result = list(norm.parameters()), norm(x)
        require(len(learned) == 2, f"self.{name} has no scale and shift; it must be a LayerNorm.")
        wanted = [F.layer_norm(x, (D,), *pair) for pair in (learned, learned[::-1])]
        wanted = wanted[1] if is_close(result, wanted[1]) else wanted[0]
        require_equal(result, wanted, given=f"self.{name} is not layer normalization: for a random x")
    expand, contract = sorted(layers, key=lambda layer: layer.in_features)
    mistakes = {
        "That is the exact GELU; GPT-2 has its tanh form": contract(F.gelu(expand(x))),
        "That is ReLU; GPT-2 has GELU": contract(expand(x).relu()),
        "An activation is missing between the two layers": contract(expand(x)),
    }
    wanted = contract(F.gelu(expand(x), approximate="tanh"))
    require_equal(block.ff(x), wanted, mistakes, "self.ff is not GPT-2's FeedForward: for a random x")
    mistakes = {
        f"With n_heads = {n}, attention has another number of heads": [
            right_heads(block.att, x, other, 3) for other in range(1, D + 1) if D % other == 0 and other != n
        ],
        "Attention doesn't drop any weights: the fourth argument is the dropout rate": right_heads(
            block.att, x, n
        ),
    }
    wanted = right_heads(block.att, x, n, 3)
    require_equal(block.att(x), wanted, mistakes, "self.att is not causal attention: for a random x")
    limit = getattr(block.att, "context_length", cfg["context_length"])
    words = f"With a context_length of {cfg['context_length']}, attention is made for {limit} tokens."
    require(limit == cfg["context_length"], words)


def require_parameter_counts(block, cfg):
    """Raise Wrong unless the block has the right number of parameters."""
    D, bias = cfg["emb_dim"], 3 * cfg["emb_dim"] * cfg["qkv_bias"]
    given = f"With qkv_bias {cfg['qkv_bias']}"
    for what, module, right in (
        ("attention", block.att, 4 * D * D + D + bias),
        ("the block", block, 12 * D * D + 10 * D + bias),
    ):
        count = sum(p.numel() for p in module.parameters())
        require(count == right, f"{given}, {what} has {count} parameters; {right} are right.")


@exercise(
    "4.5.4",
    "Two sublayers, each with a norm before it, a shortcut around it, and dropout on what it adds.",
    write=(TransformerBlock,),
)
def transformer_block(answer):
    def parts_of(block):
        return require_parts(block, ("att", "ff", "norm1", "norm2", "drop_shortcut"))

    block, x = require_module(answer, SMALL), 2 * torch.randn(2, 4, 8) + 1
    parts = parts_of(block) if hasattr(block, "att") else []
    words = (
        "self.att must be the course's MultiHeadAttention; PyTorch's nn.MultiheadAttention works differently."
    )
    require(not any(isinstance(part, nn.MultiheadAttention) for part in parts), words)
    require_result(block, x)
    att, ff, norm1, norm2, drop = parts_of(block)
    require(norm1 is not norm2, "norm1 and norm2 are one and the same module.")
    require(isinstance(drop, nn.Dropout), "drop_shortcut must be an nn.Dropout.")
    randomized(block, size=0.4)

    def right(x, factor=1):
        a = x + factor * block.att(block.norm1(x))
        return a + factor * block.ff(block.norm2(a))

    mistakes = block_mistakes(x, att, ff, norm1, norm2)
    require_equal(require_result(block, x), right(x), mistakes, "With random weights", tolerance=1e-3)
    require_parameter_counts(block, SMALL)

    block = randomized(require_module(answer, OTHER), size=0.4)
    require_parameter_counts(block, OTHER)
    with Dropouts() as dropouts:
        x = torch.randn(2, 7, 12)
        result = require_result(block, x)
        require(not dropouts.rates, "Dropout acts in eval mode, too.")
        require_equal(result, right(x), given="With 12 features in 3 heads", tolerance=1e-3)
        require_parts_of_gpt2(block.train(), OTHER)
        mistakes = dropout_mistakes(x, block.att, block.ff, block.norm1, block.norm2, lambda y: 3 * y)
        wanted = right(x, 3)
        given = "In training, where the check lets dropout multiply by 3,"
        dropouts.rates.clear()
        block.att(x)
        inside = len(dropouts.rates)
        result = require_result(block, x)
        places = len(dropouts.rates) - 2 * inside
        plain = right(x)
        words = "Dropout comes before the norms; it belongs on what each sublayer adds"
        words = (
            words
            if places
            else "Dropout has no effect in training: use drop_shortcut on what each sublayer adds"
        )
        require_equal(result, wanted, {words: plain, **mistakes}, given, tolerance=1e-3)
        require(places == 2, "There is one dropout too many: it belongs on what each sublayer adds, once.")
        rates = set(dropouts.rates) - {0.3}
        require(
            not rates, f"With a drop_rate of 0.3, there is dropout with the rate {max(rates, default=0)}."
        )

    block = randomized(require_module(answer, SMALL), size=0.4)
    require_trains_like(block, right, torch.randn(2, 4, 8))


@exercise(
    "4.5.5",
    "Equal to PyTorch's attention in every head, with dropout in its place.",
    write=(MultiHeadAttention,),
    by_hand=("multi_head_attention_forward",),
)
def multi_head_attention(answer):
    B, T, D, H = 3, 5, 8, 2
    named = {"d_in": D, "d_out": D, "context_length": 12, "dropout": 0.0, "num_heads": H, "qkv_bias": True}
    att = randomized(require_module(answer, **named))
    x = torch.randn(B, T, D)
    require_own_forward(answer, "MultiHeadAttention")
    result = require_result(att, x)
    *projections, out = require_parts(att, ("W_query", "W_key", "W_value", "out_proj"), nn.Linear)
    q, k, v = (project(x) for project in projections)
    heads = [heads_of(t, H) for t in (q, k, v)]
    context = right_attention(*heads)
    mixed = right_attention(*(t.reshape(B, H, T, -1) for t in (q, k, v)))
    mistakes = {
        "The heads are cut by view without a transpose, which mixes up the tokens": [
            out(joined(mixed)),
            out(mixed.reshape(B, T, D)),
        ],
        "The heads are put together without transposing back, which mixes up the tokens": out(
            context.reshape(B, T, D)
        ),
        "There is only one head: the features are not split": out(right_attention(q, k, v)),
        "out_proj, the last projection, is missing": joined(context),
        "Each token attends over its own heads: the last dimension but one must be that of the tokens": out(
            right_attention(*(t.view(B, T, H, -1) for t in (q, k, v))).flatten(2)
        ),
    }
    for words, wrong in attention_mistakes(*heads, width=D).items():
        mistakes[words] = [out(joined(w)) for w in as_list(wrong)]

    def look_further():
        another_end = torch.cat([x[:, :-1], x[:, -1:] + 3], dim=1)
        require_steady_and_causal(result, require_result(att, x), require_result(att, another_end))

    require_equal(result, out(joined(context)), mistakes, "With random weights", otherwise=look_further)
    with torch.no_grad():
        for given, size, words in (
            ("scores in the thousands", 3000, NO_ROOM),
            ("scores of 0", 0, MASKED_ZERO),
        ):
            for parameter in att.W_query.parameters():
                parameter.mul_(size)
            require_finite(f"With {given} it", require_result(att, x), words)
            wanted = right_heads(att, x, H)
            require_equal(require_result(att, x), wanted, given=f"With {given}", tolerance=1e-2)

    # Now d_in is not d_out, and the number of heads and tokens is another.
    narrow = randomized(require_module(answer, 6, 9, 12, 0.0, 3))
    for B, T in ((1, 12), (2, 1)):
        x, given = torch.randn(B, T, 6), f"With d_in = 6, d_out = 9, 3 heads, and {T} token{'s' * (T > 1)}"
        require_case(given, narrow, [x], right_heads(narrow, x, 3), tolerance=1e-3)

    dropping, x = randomized(require_module(answer, D, D, 12, 0.3, H)), torch.randn(3, 5, D)
    with Dropouts() as dropouts:
        require_result(dropping, x)
        require(not dropouts.rates, "Dropout acts in eval mode, too.")
        result = require_result(dropping.train(), x)
    require(dropouts.rates, "Dropout has no effect in training.")
    elsewhere = [shape for shape in dropouts.shapes if shape.count(5) < 2]  # of 5 tokens
    shape = (*elsewhere, ())[0]
    words = f"Dropout acts on a tensor of shape {shape}; it belongs on the attention weights, (B, H, T, T)."
    require(not elsewhere, words)
    words = f"With a dropout rate of 0.3, it drops at a rate of {max(dropouts.rates)}."
    require(set(dropouts.rates) == {0.3}, words)
    q, k, v = (heads_of(project(x), H) for project in (dropping.W_query, dropping.W_key, dropping.W_value))
    mistakes = {
        "Dropout acts on the scores; it belongs after the softmax": dropping.out_proj(
            joined(right_attention(3 * q, k, v))
        ),
        "Dropout acts on the weights twice": right_heads(dropping, x, H, 9),
    }
    given = "In training, where the check lets dropout multiply by 3,"
    require_equal(result, right_heads(dropping, x, H, 3), mistakes, given, tolerance=1e-3)
    require_trains_like(narrow, lambda x: right_heads(narrow, x, 3), torch.randn(2, 5, 6))
