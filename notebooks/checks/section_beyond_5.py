"""The exercises of the notebook that looks inside a model, beyond the chapter."""

import torch

from llama import LlamaModel  # the shipped one, whatever `use` puts in its place

from .require import is_close, number_exercise, randomized, require, require_equal, require_result
from .runner import exercise

T = 15  # tokens


def mean_of(shares):
    return sum(shares) / len(shares)


even_head = number_exercise(
    "beyond 5.1",
    right=mean_of([1 / (i + 1) for i in range(1, T)]),
    tolerance=0.004,
    praise="The later the token, the less is left for each of those before it.",
    mistakes={
        "Under the causal mask, token i can't see all 15 tokens": 1 / T,
        "Token i sees itself, too: i + 1 tokens": mean_of([1 / i for i in range(1, T)]),
        "The first token has no previous one, so divide by 14 instead of 15": (
            sum(1 / (i + 1) for i in range(1, T)) / T
        ),
        "The first token has no previous one, so the mean begins at token 1": mean_of(
            [1 / (i + 1) for i in range(T)]
        ),
        "That is the sum; divide it by the number of tokens that have a previous one": sum(
            1 / (i + 1) for i in range(1, T)
        ),
        "That is the score of a head that gives all its weight to the previous token": 1.0,
    },
)


@exercise("beyond 5.2", "Now score SmolLM2's heads with it, on a text that repeats words.")
def repeats(answer):
    for size, heads, words in ((9, 3, 4), (12, 2, 3), (5, 1, 4)):
        ids = torch.randint(words, (size,))
        ids[-1], ids[1] = ids[0], words  # one token is repeated at least, and one is new
        weights = (3 * torch.randn(heads, size, size)).tril().exp().tril()
        weights = weights / weights.sum(dim=-1, keepdim=True)
        same = ids[:, None] == ids
        earlier = same.tril(-1)
        counts, again = earlier.sum(dim=-1), earlier.any(dim=-1)
        sums = (weights * earlier).sum(dim=-1)  # (H, T)
        last = earlier & (earlier.flip(-1).cumsum(dim=-1).flip(-1) == 1)
        first = earlier & (earlier.cumsum(dim=-1) == 1)

        def mean(table, weights=weights, again=again):
            return (weights * table).sum(dim=-1)[:, again].mean(dim=-1)

        mistakes = {
            "A position is no earlier occurrence of itself": [
                mean(same.tril()),
                (weights * same.tril()).sum(dim=-1).mean(dim=-1),
            ],
            "Positions whose token is new don't count; the mean is over the others": sums.mean(dim=-1),
            "Add up the weights on all earlier occurrences, instead of their mean": [
                (sums / counts.clamp(min=1))[:, again].mean(dim=-1),
                (weights * earlier).sum(dim=(-2, -1)) / counts.sum(),
            ],
            "Only the last occurrence counts; take all earlier ones": mean(last),
            "Only the first occurrence counts; take all earlier ones": mean(first),
            "That is the sum over the positions; take their mean": sums.sum(dim=-1),
            "That is one value for all heads; give one for each": sums[:, again].mean(),
            "That is the weight on the token after each earlier occurrence: an induction score": mean(
                earlier.roll(1, dims=-1)
            ),
        }
        result = require_result(answer, weights, ids)
        require_equal(result, sums[:, again].mean(dim=-1), mistakes, f"For ids {ids.tolist()}")


@exercise("beyond 5.3", "The last change counts, not the first hit.")
def settled(answer):
    for depths, size in ((8, 6), (5, 4), (2, 3), (6, 1)):
        best = torch.randint(3, (depths, size))
        best[:, 0] = best[-1, 0]  # one position is settled from the start
        different = best != best[-1]
        if size > 1:
            best[-2, 1] = (best[-1, 1] + 1) % 3  # and one settles only at the end
            best[0, 1] = best[-1, 1]
            different = best != best[-1]
        rows = torch.arange(depths)[:, None]
        right = ((rows + 1) * different).amax(dim=0)
        changes = torch.cat([best[1:] != best[:-1], torch.zeros(1, size, dtype=torch.bool)])
        mistakes = {
            "That is the first row with the final guess; it may go away again": (~different)
            .int()
            .argmax(dim=0),
            "That is the last row with another guess; the next one is asked for": right - 1,
            "Rows count from 0": right + 1,
            "That is how many rows have the final guess": (~different).sum(dim=0),
            "That is how many rows have another guess, and some may come before it settles": different.sum(
                dim=0
            ),
            "That is how often the guess changes": changes.sum(dim=0),
            "That counts from the end": depths - 1 - right,
        }
        given = f"For best = {best.tolist()}"
        require_equal(require_result(answer, best), right, mistakes, given)


TINY = {
    "vocab_size": 31,
    "context_length": 12,
    "emb_dim": 16,
    "n_heads": 4,
    "n_kv_heads": 2,
    "n_layers": 3,
    "hidden_dim": 24,
    "rope_base": 10_000.0,
    "norm_eps": 1e-5,
    "tied": False,
}


@torch.no_grad()
def logits_with(model, ids, block, change):
    """The logits if `change` replaces what enters a block's out_proj, cut into heads: (B, T, H, Dh)."""
    att = model.trf_blocks[block].att

    def hook(_, args):
        return (change(args[0].unflatten(-1, (-1, att.head_dim)).clone()).flatten(2),)

    handle = att.out_proj.register_forward_pre_hook(hook)
    try:
        return model(ids)
    finally:
        handle.remove()


def put(head, value):
    """A change of the heads: `value` of one head's part takes its place."""

    def change(heads):
        heads[:, :, head] = value(heads[:, :, head])
        return heads

    return change


def put_column_wise(head, size):
    """The change of an answer that takes every H-th feature for a head."""

    def change(heads):
        flat = heads.flatten(2)
        flat[..., head::size] = flat[..., head::size].mean(dim=1, keepdim=True)
        return flat.unflatten(2, heads.shape[2:])

    return change


def hooks_of(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@exercise("beyond 5.4", "What a head adds everywhere stays, and what depends on the text goes.")
def mean_ablation(answer):
    def mean(part):
        return part.mean(dim=1, keepdim=True).expand_as(part)

    for block, head, shape in ((1, 2, (2, 7)), (0, 0, (3, 5)), (2, 3, (1, 6))):
        model = randomized(LlamaModel(TINY), size=0.4).eval()
        ids = torch.randint(TINY["vocab_size"], shape)
        with torch.no_grad():
            plain = model(ids)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        result = require_result(answer, model, ids, block, head)
        unchanged = all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
        require(unchanged, "It changes the model's weights.")
        require(
            not hooks_of(model), "A hook stays on the model, and changes all that comes later: remove it."
        )
        with torch.no_grad():
            require(is_close(model(ids), plain), "Afterward, the model gives other logits: undo your change.")
        right = logits_with(model, ids, block, put(head, mean))
        heads = TINY["n_heads"]
        other = [logits_with(model, ids, b, put(h, mean)) for b in range(3) for h in range(heads)]
        mistakes = {
            "The logits are those of the unchanged model": plain,
            "That sets the head to 0; its mean belongs there": logits_with(
                model, ids, block, put(head, torch.zeros_like)
            ),
            "That is the mean over the head's features; take it over the positions": logits_with(
                model, ids, block, put(head, lambda part: part.mean(-1, keepdim=True).expand_as(part))
            ),
            "The features of a head are side by side, not every H-th one": logits_with(
                model, ids, block, put_column_wise(head, heads)
            ),
            "That is the mean of all heads; each head has its own": logits_with(
                model, ids, block, lambda x: x.mean(dim=1, keepdim=True).expand_as(x)
            ),
            "That replaces another head": other,
        }
        if shape[0] > 1:
            mistakes["That is the mean over all texts; each text has its own"] = logits_with(
                model, ids, block, put(head, lambda part: part.mean((0, 1), keepdim=True).expand_as(part))
            )
            mistakes["That is the mean over the texts; take it over the positions"] = logits_with(
                model, ids, block, put(head, lambda part: part.mean(0, keepdim=True).expand_as(part))
            )
        given = f"For block {block}, head {head}, and ids of shape {shape},"
        require_equal(result, right, mistakes, given, tolerance=1e-3)
