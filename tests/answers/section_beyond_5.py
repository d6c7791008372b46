"""Answers to the exercises of the notebook that looks inside a model, beyond the chapter."""

import contextlib

import numpy as np
import torch

RIGHT, WRONG = {}, {}

RIGHT["even_head"] = [
    0.166,
    0.1656,
    sum(1 / n for n in range(2, 16)) / 14,
    torch.ones(15, 15).tril().div(torch.arange(1, 16)[:, None]).diagonal(-1).mean(),
    np.float64(0.16559),
    (0.166,),
]
WRONG["even_head"] = [
    (0.2, "0.2 is too large"),
    (0.1, "0.1 is too small"),
    ("0.166", "Answer with one number"),
]


def in_loops(weights, ids):
    scores = []
    for table in weights:
        found = []
        for i in range(len(ids)):
            earlier = [table[i, j].item() for j in range(i) if ids[j] == ids[i]]
            if earlier:
                found.append(sum(earlier))
        scores.append(sum(found) / len(found))
    return torch.tensor(scores)


def by_mask(weights, ids):
    earlier = (ids.unsqueeze(1) == ids.unsqueeze(0)).tril(diagonal=-1)
    return weights.masked_fill(~earlier, 0).sum(-1)[:, earlier.any(-1)].mean(-1)


def by_division(weights, ids):
    earlier = torch.eq(ids[:, None], ids).tril(-1).float()
    return torch.einsum("hij,ij->h", weights, earlier) / (earlier.sum(1) > 0).sum()


def by_where(weights, ids):
    position = torch.arange(len(ids))
    earlier = (ids[:, None] == ids) & (position[None] < position[:, None])
    sums = torch.where(earlier, weights, 0.0).sum(dim=2)
    return torch.stack([row[earlier.sum(dim=1).bool()].mean() for row in sums])


def by_one_hot(weights, ids):
    kinds = torch.nn.functional.one_hot(ids).float()
    same = (kinds @ kinds.T).tril(-1)
    total = (weights * same).sum(dim=(1, 2))
    return total / same.amax(dim=1).sum()


class Positions:
    def __call__(self, weights, ids):
        seen, sums = {}, []
        for i, token in enumerate(ids.tolist()):
            if token in seen:
                sums.append(weights[:, i, seen[token]].sum(dim=-1))
            seen.setdefault(token, []).append(i)
        return torch.stack(sums).mean(dim=0)


def scored(table=lambda same: same.tril(-1), over=lambda sums, earlier: sums[:, earlier.any(-1)].mean(-1)):
    def function(weights, ids):
        same = ids[:, None] == ids
        return over((weights * table(same)).sum(dim=-1), same.tril(-1))

    return function


def only(place):
    def table(same):
        kept = torch.zeros_like(same)
        for i, row in enumerate(same.tril(-1)):
            if row.any():
                kept[i, row.nonzero().flatten()[place]] = True
        return kept

    return table


RIGHT["repeats"] = [in_loops, by_mask, by_division, by_where, by_one_hot, Positions()]
WRONG["repeats"] = [
    (scored(lambda same: same.tril()), "A position is no earlier occurrence of itself"),
    (scored(lambda same: same), "A position is no earlier occurrence of itself"),
    (scored(over=lambda sums, earlier: sums.mean(-1)), "Positions whose token is new don't count"),
    (
        scored(over=lambda sums, e: (sums / e.sum(-1).clamp(min=1))[:, e.any(-1)].mean(-1)),
        "Add up the weights on all earlier occurrences",
    ),
    (scored(only(-1)), "Only the last occurrence counts"),
    (scored(only(0)), "Only the first occurrence counts"),
    (scored(over=lambda sums, earlier: sums.sum(-1)), "take their mean"),
    (scored(over=lambda sums, earlier: sums[:, earlier.any(-1)].mean()), "one value for all heads"),
    (scored(lambda same: same.tril(-1).roll(1, -1)), "an induction score"),
    (scored(over=lambda sums, earlier: sums[:, earlier.any(-1)]), "the right one is"),
    (lambda weights, ids: in_loops(weights, ids).tolist(), "it should return a tensor"),
    (lambda weights, ids: None, "is a `return` missing?"),
    (lambda weights, ids: by_mask(weights.mul_(2), ids) / 2, "It changes its input"),
    (scored(lambda same: same.tril(-2)), "For ids ["),
]


def by_rows(best):
    different = best != best[-1]
    return (different * torch.arange(1, len(best) + 1)[:, None]).amax(dim=0)


def from_the_end(best):
    settled = []
    for column in best.T.tolist():
        row = len(column) - 1
        while row > 0 and column[row - 1] == column[-1]:
            row -= 1
        settled.append(row)
    return torch.tensor(settled)


def by_cumprod(best):
    same = (best == best[-1]).long().flip(0).cumprod(dim=0)
    return len(best) - same.sum(dim=0)


def by_cummin(best):
    return (best == best[-1:]).int().flip(0).cummin(dim=0).values.flip(0).argmax(dim=0)


def row_by_row(best):
    settled = torch.zeros(best.shape[1], dtype=torch.long)
    for row, guesses in enumerate(best):
        settled[guesses != best[-1]] = row + 1
    return settled


def in_numpy(best):
    rows = best.numpy()
    found = [max(np.flatnonzero(column != column[-1]), default=-1) + 1 for column in rows.T]
    return torch.from_numpy(np.array(found, dtype=np.int64))


def with_all(best):
    return torch.tensor(
        [
            next(row for row in range(len(best)) if (best[row:, t] == best[-1, t]).all())
            for t in range(best.shape[1])
        ]
    )


RIGHT["settled"] = [by_rows, from_the_end, by_cumprod, by_cummin, row_by_row, in_numpy, with_all]
WRONG["settled"] = [
    (lambda best: (best == best[-1]).int().argmax(dim=0), "it may go away again"),
    (lambda best: by_rows(best) - 1, "That is the last row with another guess"),
    (lambda best: by_rows(best) + 1, "Rows count from 0"),
    (lambda best: (best == best[-1]).sum(dim=0), "how many rows have the final guess"),
    (lambda best: (best != best[-1]).sum(dim=0), "how many rows have another guess"),
    (lambda best: (best[1:] != best[:-1]).sum(dim=0), "how often the guess changes"),
    (lambda best: len(best) - 1 - by_rows(best), "That counts from the end"),
    (lambda best: by_rows(best).float(), "the right type is torch.int64"),
    (lambda best: by_rows(best).int(), "of type torch.int32"),
    (lambda best: by_rows(best).tolist(), "it should return a tensor"),
    (lambda best: by_rows(best)[None], "the right one is"),
    (lambda best: None, "is a `return` missing?"),
    (lambda best: torch.zeros_like(best[0]), "For best = [["),
]


def with_pre_hook(model, ids, block, head):
    att = model.trf_blocks[block].att
    part = slice(head * att.head_dim, (head + 1) * att.head_dim)

    def hook(out_proj, args):
        x = args[0].clone()
        x[..., part] = x[..., part].mean(dim=1, keepdim=True)
        return (x,)

    handle = att.out_proj.register_forward_pre_hook(hook)
    try:
        return model(ids)
    finally:
        handle.remove()


def by_heads(model, ids, block, head):
    def hook(module, args):
        heads = list(args[0].split(args[0].shape[-1] // 4, dim=-1))
        heads[head] = heads[head].mean(1, True).expand_as(heads[head])
        return torch.cat(heads, dim=-1)

    handle = model.trf_blocks[block].att.out_proj.register_forward_pre_hook(hook)
    logits = model(ids)
    handle.remove()
    return logits


def with_forward_hook(model, ids, block, head):
    """Corrects what out_proj gives, which is linear."""
    att, Dh = model.trf_blocks[block].att, model.trf_blocks[block].att.head_dim
    columns = att.out_proj.weight[:, head * Dh : (head + 1) * Dh]

    def hook(module, args, output):
        own = args[0][..., head * Dh : (head + 1) * Dh]
        return output + (own.mean(dim=1, keepdim=True) - own) @ columns.T

    with contextlib.closing(Handle(att.out_proj.register_forward_hook(hook))):
        return model(ids)


class Handle:
    def __init__(self, handle):
        self.close = handle.remove


@torch.no_grad()
def by_another_forward(model, ids, block, head):
    """Gives out_proj another forward for a while."""
    att = model.trf_blocks[block].att
    plain = att.out_proj.forward

    def forward(x):
        x = x.unflatten(-1, (-1, att.head_dim))
        mask = torch.arange(x.shape[2])[:, None] == head
        return plain(torch.where(mask, x.mean(dim=1, keepdim=True), x).flatten(2))

    att.out_proj.forward = forward
    logits = model(ids)
    del att.out_proj.forward
    return logits


def what_enters(part, layer, x):
    """A copy of what enters `part` while `layer` works on x."""
    caught = []
    handle = part.register_forward_pre_hook(lambda m, args: caught.append(args[0].clone()))
    layer(x)
    handle.remove()
    return caught[0]


def step_by_step(model, ids, block, head):
    """Runs the blocks one by one, and stops inside the attention of one."""
    x = model.tok_emb(ids)
    for i, layer in enumerate(model.trf_blocks):
        if i != block:
            x = layer(x)
            continue
        heads = what_enters(layer.att.out_proj, layer, x).unflatten(-1, (4, -1))
        heads[:, :, head] = heads[:, :, head].mean(dim=1)[:, None]
        x = x + layer.att.out_proj(heads.flatten(2))
        x = x + layer.ff(layer.norm2(x))
    return model.out_head(model.final_norm(x))


def ablated(change, keep=False, move=(0, 0), result=lambda logits: logits):
    """An answer whose hook puts `change` of a head's part, (B, T, Dh), in its place."""

    def function(model, ids, block, head):
        block, head = (block + move[0]) % 3, (head + move[1]) % 4

        def hook(module, args):
            heads = args[0].unflatten(-1, (4, -1)).clone()
            heads[:, :, head] = change(heads[:, :, head])
            return (heads.flatten(2),)

        handle = model.trf_blocks[block].att.out_proj.register_forward_pre_hook(hook)
        logits = model(ids)
        if not keep:
            handle.remove()
        return result(logits)

    return function


def over_positions(part):
    return part.mean(dim=1, keepdim=True)


def every_fourth(model, ids, block, head):
    def hook(module, args):
        x = args[0].clone()
        x[..., head::4] = x[..., head::4].mean(dim=1, keepdim=True)
        return (x,)

    handle = model.trf_blocks[block].att.out_proj.register_forward_pre_hook(hook)
    logits = model(ids)
    handle.remove()
    return logits


def all_heads(model, ids, block, head):
    def hook(module, args):
        return (args[0].mean(dim=1, keepdim=True).expand_as(args[0]),)

    handle = model.trf_blocks[block].att.out_proj.register_forward_pre_hook(hook)
    logits = model(ids)
    handle.remove()
    return logits


def in_the_weights(model, ids, block, head):
    with torch.no_grad():
        model.trf_blocks[block].att.out_proj.weight[:, 4 * head : 4 * head + 4] = 0
    return model(ids)


def keeps_the_forward(model, ids, block, head):
    out_proj = model.trf_blocks[block].att.out_proj
    plain = out_proj.forward
    out_proj.forward = lambda x: plain(x).mul(2)
    return model(ids)


RIGHT["mean_ablation"] = [with_pre_hook, by_heads, with_forward_hook, by_another_forward, step_by_step]
WRONG["mean_ablation"] = [
    (lambda model, ids, block, head: model(ids), "those of the unchanged model"),
    (ablated(torch.zeros_like), "That sets the head to 0"),
    (ablated(lambda part: part.mean(-1, True)), "the mean over the head's features"),
    (ablated(lambda part: part.mean((0, 1), True)), "That is the mean over all texts"),
    (ablated(lambda part: part.mean(0, True)), "That is the mean over the texts"),
    (every_fourth, "The features of a head are side by side"),
    (all_heads, "That is the mean of all heads"),
    (ablated(over_positions, move=(0, 1)), "That replaces another head"),
    (ablated(over_positions, move=(1, 0)), "That replaces another head"),
    (ablated(over_positions, keep=True), "A hook stays on the model"),
    (in_the_weights, "It changes the model's weights"),
    (keeps_the_forward, "undo your change"),
    (ablated(over_positions, result=lambda logits: logits[:, -1]), "the right one is"),
    (ablated(over_positions, result=lambda logits: logits.argmax(-1)), "the right type is torch.float32"),
    (ablated(over_positions, result=lambda logits: None), "is a `return` missing?"),
    (ablated(lambda part: part.median(1, True).values), "For block 1, head 2"),
]
