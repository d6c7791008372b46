"""Answers to the exercises of the notebook on released weights, beyond the chapter."""

import numpy as np
import torch
from torch.nn import functional as F

from beyond import gpt2_tensors

RIGHT, WRONG = {}, {}

RIGHT["tensors_in_file"] = [580, 580.0, 48 * 12 + 4, torch.tensor(580), np.int64(580), (580,)]
WRONG["tensors_in_file"] = [
    (560, "560 is too small"),
    ("580", "Answer with one number"),
    (1_557_611_200, "is too large"),
]


def by_slices(c_attn, n_heads, head):
    D = len(c_attn)
    Dh = D // n_heads
    starts = [third * D + head * Dh for third in range(3)]
    return [c_attn[:, start : start + Dh] for start in starts]


def by_chunks(c_attn, n_heads, head):
    return tuple(part.chunk(n_heads, dim=1)[head] for part in c_attn.chunk(3, dim=1))


def by_view(c_attn: torch.Tensor, n_heads: int, head: int):
    D = c_attn.shape[0]
    return c_attn.view(D, 3, n_heads, D // n_heads)[:, :, head].permute(1, 0, 2)


def by_split(c_attn, n_heads, head):
    pieces = c_attn.split(c_attn.size(0) // n_heads, dim=-1)
    return pieces[head], pieces[head + n_heads], pieces[head + 2 * n_heads]


def by_rows(c_attn, n_heads, head):
    weights = c_attn.T.reshape(3, n_heads, -1, c_attn.shape[0])
    q, k, v = weights[:, head]
    return q.T, k.T, v.T


class ByIndex:
    def __call__(self, c_attn, n_heads, head):
        Dh = c_attn.shape[0] // n_heads
        columns = torch.arange(head * Dh, (head + 1) * Dh)
        return [c_attn.index_select(1, columns + third * len(c_attn)) for third in range(3)]


RIGHT["one_head"] = [by_slices, by_chunks, by_view, by_split, by_rows, ByIndex()]
WRONG["one_head"] = [
    (lambda w, n, h: w.unflatten(1, (n, 3, -1))[:, h].unbind(1), "ordered by query, key, and value first"),
    (lambda w, n, h: by_chunks(w, n, h - 1), "Heads count from 0"),
    (lambda w, n, h: [part[:, h::n] for part in w.chunk(3, 1)], "The features of a head are side by side"),
    (lambda w, n, h: by_slices(w, n, h)[::-1], "The order is queries, keys, values"),
    (lambda w, n, h: [by_slices(w, n, h)[i] for i in (1, 0, 2)], "The order is queries, keys, values"),
    (lambda w, n, h: [part.T for part in by_slices(w, n, h)], "That is transposed"),
    (lambda w, n, h: w.chunk(3, dim=1), "That is all heads together"),
    (lambda w, n, h: [part.chunk(n)[h] for part in w.chunk(3, dim=1)], "That cuts the rows"),
    (lambda w, n, h: by_slices(w, n, h)[0], "it should return three tensors"),
    (lambda w, n, h: torch.cat(by_slices(w, n, h), dim=1), "it should return three tensors"),
    (lambda w, n, h: None, "it should return three tensors"),
    (lambda w, n, h: by_slices(w, n, h)[:2], "It returns 2 parts"),
    (lambda w, n, h: by_slices(w, 3, h), "For head 1 of 2 with 4 features each"),
    (lambda w, n, h: [part.clone() * 8**-0.5 for part in by_slices(w, n, h)], "for the queries, it gives"),
    (lambda w, n, h: [w.mul_(2), *by_slices(w, n, h)[1:]], "It changes its input"),
]


def with_matrix(embedding, a, b, c):
    target = F.normalize(embedding[b] - embedding[a] + embedding[c], dim=0)
    scores = F.normalize(embedding, dim=1) @ target
    scores[torch.tensor([a, b, c])] = -torch.inf
    return scores.argmax()


def in_order(embedding, a, b, c):
    target = embedding[b] + (embedding[c] - embedding[a])
    order = torch.cosine_similarity(embedding, target.unsqueeze(0)).argsort(descending=True)
    return next(token for token in order.tolist() if token not in (a, b, c))


def in_a_loop(embedding, a, b, c):
    target, best, answer = embedding[[b, c]].sum(dim=0) - embedding[a], -2.0, None
    for token, row in enumerate(embedding):
        cosine = torch.dot(row, target) / (row.norm() * target.norm())
        if token not in {a, b, c} and cosine > best:
            best, answer = cosine, token
    return answer


def from_four(embedding, a, b, c):
    target = embedding[b] - embedding[a] + embedding[c]
    places = torch.nn.CosineSimilarity(dim=-1)(embedding, target).topk(4).indices
    return int([i for i in places if i not in (a, b, c)][0])


def in_numpy(embedding, a, b, c):
    rows = embedding.numpy()
    scores = (
        rows @ (rows[b] - rows[a] + rows[c]) / np.linalg.norm(rows, axis=1)
    )  # the target's length is shared
    scores[[a, b, c]] = -np.inf
    return np.argmax(scores)


def nearest(combine, similarity=torch.cosine_similarity, left_out=True, prepare=lambda rows: rows):
    def function(embedding, a, b, c):
        rows = prepare(embedding)
        scores = similarity(rows, combine(*rows[[a, b, c]])[None])
        if left_out:
            scores[[a, b, c]] = -torch.inf
        return scores.argmax().item()

    return function


def right_sum(a, b, c):
    return b - a + c


RIGHT["analogy"] = [with_matrix, in_order, in_a_loop, from_four, in_numpy, nearest(right_sum)]
WRONG["analogy"] = [
    (nearest(right_sum, lambda rows, t: (rows * t).sum(-1)), "That has the highest dot product"),
    (nearest(right_sum, lambda rows, t: -(rows - t).norm(dim=-1)), "That is the shortest distance"),
    (nearest(right_sum, left_out=False), "It returns a, b, or c, which can't be the answer"),
    (nearest(lambda a, b, c: b), "For a, b, c = ["),
    (nearest(lambda a, b, c: a - b + c), "That fits a - b + c"),
    (nearest(lambda a, b, c: a + b - c), "That fits a + b - c"),
    (nearest(lambda a, b, c: b + c), "That fits b + c; subtract a"),
    (nearest(lambda a, b, c: a - b - c), "That is the lowest cosine"),
    (nearest(right_sum, prepare=lambda rows: F.normalize(rows, dim=-1)), "not scaled to length 1"),
    (lambda e, a, b, c: e[in_order(e, a, b, c)], "it should return one token id"),
    (lambda e, a, b, c: None, "it should return one token id"),
    (lambda e, a, b, c: float(in_order(e, a, b, c)), "a float; it should return one token id"),
    (lambda e, a, b, c: [in_order(e, a, b, c)], "a list; it should return one token id"),
    (lambda e, a, b, c: in_order(e.mul_(2), a, b, c), "It changes its input"),
    (lambda e, a, b, c: in_order(e[:50], a, b, c), "It fails at"),
    (lambda e, a, b, c: 7, "which can't be the answer"),
]


def written_out(model):
    file = {"wte.weight": model.tok_emb.weight.data, "wpe.weight": model.pos_emb.weight.data}
    file["ln_f.weight"], file["ln_f.bias"] = model.final_norm.scale.data, model.final_norm.shift.data
    for i, block in enumerate(model.trf_blocks):
        att, ff = block.att, block.ff.layers
        qkv = (att.W_query, att.W_key, att.W_value)
        file[f"h.{i}.attn.c_attn.weight"] = torch.cat([layer.weight.data.T for layer in qkv], dim=1)
        file[f"h.{i}.attn.c_attn.bias"] = torch.cat([layer.bias.data for layer in qkv])
        for name, layer in (("attn.c_proj", att.out_proj), ("mlp.c_fc", ff[0]), ("mlp.c_proj", ff[2])):
            file[f"h.{i}.{name}.weight"] = layer.weight.data.T.contiguous()
            file[f"h.{i}.{name}.bias"] = layer.bias.data
        for name, norm in (("ln_1", block.norm1), ("ln_2", block.norm2)):
            file[f"h.{i}.{name}.weight"], file[f"h.{i}.{name}.bias"] = norm.scale.data, norm.shift.data
    return file


RENAMED = {  # ends of our names -> ends of GPT-2's, in the order in which they are replaced
    "trf_blocks.": "h.",
    "tok_emb": "wte",
    "pos_emb": "wpe",
    "final_norm": "ln_f",
    "att.out_proj": "attn.c_proj",
    "ff.layers.0": "mlp.c_fc",
    "ff.layers.2": "mlp.c_proj",
    "norm1": "ln_1",
    "norm2": "ln_2",
    ".scale": ".weight",
    ".shift": ".bias",
}


def by_renaming(model):
    """Renames what is in the state dict, and joins what belongs together."""
    file, ours = (
        {},
        {name: tensor for name, tensor in model.state_dict().items() if name != "out_head.weight"},
    )
    for name, tensor in ours.items():
        if "W_key" in name or "W_value" in name:
            continue
        if "W_query" in name:
            tensor = torch.cat([ours[name.replace("query", part)] for part in ("query", "key", "value")])
            name = name.replace("att.W_query", "attn.c_attn")
        for old, new in RENAMED.items():
            name = name.replace(old, new)
        file[name] = tensor.t().clone(memory_format=torch.contiguous_format) if ".c_" in name else tensor
    return file


def as_copies(model):
    return {name: tensor.clone() for name, tensor in written_out(model).items()}


def with_gradients(model):
    """Parameters and results of them, which still have gradients."""
    file = written_out(model)
    file["wte.weight"], file["ln_f.bias"] = model.tok_emb.weight, model.final_norm.shift
    file["h.0.attn.c_proj.weight"] = model.trf_blocks[0].att.out_proj.weight.t().contiguous()
    return file


class Ordered:
    def __call__(self, model):
        import collections

        return collections.OrderedDict(sorted(by_renaming(model).items()))


def changed(change):
    """The right file, after `change` of its dict."""

    def function(model):
        file = written_out(model)
        return change(file) or file

    return function


def each(part, change):
    """The right file, but for the tensors whose name has `part`."""
    return changed(lambda file: {name: change(t) if part in name else t for name, t in file.items()})


def shuffled(*order):
    return each("c_attn", lambda t: torch.cat([t.chunk(3, dim=-1)[i] for i in order], dim=-1))


def scaled_in_place(model):
    model.final_norm.scale.data.mul_(2)
    return written_out(model)


def with_one_block(file):
    return {name: file[name.replace("h.1.", "h.0.")] for name in file}


def without_transposing(t):
    return torch.cat([part.t() for part in t.chunk(3, dim=1)], dim=1) if t.ndim > 1 else t


RIGHT["checkpoint"] = [written_out, by_renaming, as_copies, with_gradients, Ordered()]
WRONG["checkpoint"] = [
    (lambda model: model.state_dict(), "It lacks 28 of the names"),
    (lambda model: list(written_out(model).items()), "it should return a dict of tensors"),
    (lambda model: None, "it should return a dict of tensors"),
    (changed(lambda f: f | {"lm_head.weight": f["wte.weight"]}), "The head is the token embedding"),
    (
        changed(lambda f: {f"transformer.{name}": t for name, t in f.items()}),
        "it has 'transformer.wte.weight'.",
    ),
    (
        changed(lambda f: {name: f[name] for name in f if not name.endswith("bias")}),
        "It lacks 13 of the names",
    ),
    (changed(lambda f: f | {"h.0.attn.bias": torch.ones(12, 12).tril()}), "such as 'h.0.attn.bias'"),
    (each("attn.c_proj.weight", lambda t: t.t().contiguous()), "h.0.attn.c_proj.weight is not transposed"),
    (each("mlp.c_fc.weight", lambda t: t.t().contiguous()), "h.0.mlp.c_fc.weight is not transposed"),
    (each("c_attn.weight", lambda t: t.t().contiguous()), "h.0.attn.c_attn.weight is not transposed"),
    (each("wte", lambda t: t.t().contiguous()), "wte.weight is transposed; only those"),
    (shuffled(1, 0, 2), "the order is queries, keys, values"),
    (shuffled(0, 2, 1), "the order is queries, keys, values"),
    (shuffled(2, 1, 0), "the order is queries, keys, values"),
    (each("c_attn", without_transposing), "side by side, but none is transposed"),
    (changed(with_one_block), "h.1.ln_1.weight has the values of h.0.ln_1.weight"),
    (changed(lambda f: f | {"ln_f.bias": f["ln_f.weight"]}), "ln_f.bias has the values of ln_f.weight"),
    (each("c_fc.weight", lambda t: t.t().contiguous().t()), "h.0.mlp.c_fc.weight is not contiguous"),
    (each("wpe", lambda t: t[:5]), "For wpe.weight, it gives the shape (5, 8)"),
    (each("wpe", lambda t: t.tolist()), "It returns a list; it should return a tensor"),
    (each("wpe", lambda t: t.half()), "For wpe.weight, it gives result"),
    (scaled_in_place, "It changes the weights of the model"),
    (
        lambda model: {
            name: torch.cat(parts, dim=0).t().contiguous() if ".c_" in name else parts[0]
            for name, parts in gpt2_tensors(model).items()
        },
        "gpt2_tensors is out of reach",
    ),
]
