"""The exercises of the notebook on released weights, beyond the chapter."""

import torch

from helpers import GPTModel, tie_weights  # the shipped ones, whatever `use` puts in their place

from .require import (
    SMALL,
    describe_type,
    number_exercise,
    randomized,
    require,
    require_equal,
    require_result,
)
from .runner import Wrong, exercise

tensors_in_file = number_exercise(
    "beyond 1.1",
    right=48 * 12 + 4,
    praise="Twelve for each block, and four outside. The width doesn't matter.",
    mistakes={
        "That is the small model; gpt2-xl has 48 blocks": 12 * 12 + 4,
        "The two embeddings and the final norm are missing": 48 * 12,
        "The final norm has two tensors, a weight and a bias": 48 * 12 + 3,
        "The final norm is missing": 48 * 12 + 2,
        "The head is not in the file: it is the token embedding": 48 * 12 + 5,
        "The file keeps query, key, and value together, in one weight and one bias": 48 * 16 + 4,
        "The file keeps query, key, and value together, and has no head": 48 * 16 + 5,
        "Each layer of a block has a bias, too": 48 * 6 + 4,
        "That is how many layers there are; each has a weight, and most a bias": 48 * 6 + 3,
        "The norms have biases, too": 48 * 10 + 4,
        "Each block has two norms": 48 * 8 + 4,
        "The masks don't count": 48 * 13 + 4,
        "That is a single block": 12,
    },
)


@exercise("beyond 1.2", "The weights of one head, as the file stores them.")
def one_head(answer):
    for D, n_heads, head in ((12, 3, 1), (12, 3, 0), (12, 3, 2), (8, 2, 1), (6, 1, 0)):
        c_attn, Dh = torch.randn(D, 3 * D), D // n_heads
        given = f"For head {head} of {n_heads} with {Dh} features each"
        result = require_result(answer, c_attn, n_heads, head)
        if not isinstance(result, torch.Tensor | tuple | list) or len(result) != 3:
            what = f"{len(result)} parts" if isinstance(result, tuple | list) else describe_type(result)
            raise Wrong(f"It returns {what}; it should return three tensors.")
        parts = c_attn.chunk(3, dim=1)
        by_head = c_attn.unflatten(1, (n_heads, 3, Dh))[:, head]  # as if the head came first

        def cut(part, head=head, Dh=Dh):
            return part[:, head * Dh : (head + 1) * Dh]

        for place, (name, part) in enumerate(zip(("queries", "keys", "values"), parts, strict=True)):
            mistakes = {
                "The columns are ordered by query, key, and value first, then by head": by_head[:, place],
                "Heads count from 0": cut(part, head - 1),
                "The features of a head are side by side": part[:, head::n_heads],
                "The order is queries, keys, values": [cut(other) for other in parts if other is not part],
                "That is transposed: in the file, each output has a column": cut(part).t(),
                "That is all heads together": part,
                "That cuts the rows; each output has a column": part[head * Dh : (head + 1) * Dh],
            }
            require_equal(result[place], cut(part), mistakes, f"{given}, for the {name},")


def dot(rows, target, dim):
    return (rows * target).sum(dim)


def nearness(rows, target, dim):
    return -(rows - target).norm(dim=dim)


def best_matches(embedding, triples, combine, score=torch.cosine_similarity):
    """For each triple, the token that scores highest with what `combine` makes of the three rows."""
    best = []
    for triple in triples:
        scores = score(embedding, combine(*embedding[triple])[None], dim=-1)
        scores[triple] = float("-inf")
        best.append(scores.argmax().item())
    return best


@exercise("beyond 1.3", "Arithmetic on words. Now ask your model.")
def analogy(answer):
    embedding = torch.randn(60, 6) * (0.4 + 2 * torch.rand(60, 1))
    triples = torch.stack([torch.randperm(60)[:3] for _ in range(40)]).tolist()
    right = best_matches(embedding, triples, lambda a, b, c: b - a + c)
    mistakes = {
        "That has the highest dot product, which depends on the length": best_matches(
            embedding, triples, lambda a, b, c: b - a + c, dot
        ),
        "That is the shortest distance, which depends on the length": best_matches(
            embedding, triples, lambda a, b, c: b - a + c, nearness
        ),
        "That fits a - b + c": best_matches(embedding, triples, lambda a, b, c: a - b + c),
        "That fits a + b - c": best_matches(embedding, triples, lambda a, b, c: a + b - c),
        "That fits b + c; subtract a": best_matches(embedding, triples, lambda a, b, c: b + c),
        "That is the lowest cosine": best_matches(embedding, triples, lambda a, b, c: a - b - c),
        "Add the rows as they are, not scaled to length 1": best_matches(
            embedding / embedding.norm(dim=-1, keepdim=True), triples, lambda a, b, c: b - a + c
        ),
    }
    found = []
    for triple, wanted in zip(triples, right, strict=True):
        token = require_result(answer, embedding, *triple)
        token = token.item() if isinstance(token, torch.Tensor) and token.numel() == 1 else token
        if not hasattr(token, "__index__") or isinstance(token, bool | torch.Tensor):
            raise Wrong(f"It returns {describe_type(token)}; it should return one token id.")
        require(token not in triple, "It returns a, b, or c, which can't be the answer.")
        found.append(int(token))
        if found[-1] != wanted:
            case = f"For a, b, c = {triple}, it gives {token}; {wanted} is right."
    for words, wrong in mistakes.items():
        require(found != wrong, f"{words}. {case if found != right else ''}")
    require(found == right, case if found != right else "")


def layers_of(model):
    """The parts of a GPTModel that each layer of GPT-2's file fills, by its name."""
    layers = {"wte": [model.tok_emb], "wpe": [model.pos_emb], "ln_f": [model.final_norm]}
    for i, block in enumerate(model.trf_blocks):
        att, (wide, _, narrow) = block.att, block.ff.layers
        layers |= {f"h.{i}.ln_1": [block.norm1], f"h.{i}.attn.c_attn": [att.W_query, att.W_key, att.W_value]}
        layers |= {f"h.{i}.attn.c_proj": [att.out_proj], f"h.{i}.ln_2": [block.norm2]}
        layers |= {f"h.{i}.mlp.c_fc": [wide], f"h.{i}.mlp.c_proj": [narrow]}
    return layers


def pieces_of_file(model):
    """GPT-2's names of a model's tensors, each with the pieces that stand side by side in it."""
    pieces = {}
    for name, layers in layers_of(model).items():
        kinds = zip(*[layer.parameters() for layer in layers], strict=True)
        for kind, parameters in zip(("weight", "bias"), kinds, strict=False):
            pieces[f"{name}.{kind}"] = [p.detach().t() if ".c_" in name else p.detach() for p in parameters]
    return pieces


def require_names(result, wanted):
    """Raise Wrong unless the dict has the wanted names."""
    missing, unknown = sorted(wanted.keys() - result.keys()), [name for name in result if name not in wanted]
    head = "The head is the token embedding, so the file has it once, as wte.weight."
    require("lm_head.weight" not in unknown, head)
    lacks = f"It lacks {len(missing)} of the names, such as {str(missing[:1])[1:-1]}"
    require(not missing, f"{lacks}; it has {str(unknown[:1])[1:-1][:60]}." if unknown else f"{lacks}.")
    require(not unknown, f"It has names that the file doesn't have, such as {str(unknown[:1])[1:-1][:60]}.")


def require_tensor(name, tensor, pieces, others):
    """Raise Wrong unless `tensor` is made of `pieces`; `others` has the file's other tensors of its shape."""
    right, mistakes = torch.cat(pieces, dim=-1), {}
    if right.ndim > 1:
        turned = "is not transposed" if ".c_" in name else "is transposed; only those with .c_ are"
        mistakes[f"{name} {turned}"] = torch.cat([piece.t() for piece in pieces])
    if len(pieces) == 3:
        orders = [
            [pieces[i] for i in order] for order in ((0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
        ]
        mistakes[f"In {name}, the order is queries, keys, values"] = [torch.cat(o, dim=-1) for o in orders]
        if right.ndim > 1:
            sideways = torch.cat([piece.t() for piece in pieces], dim=-1)
            mistakes[f"{name} joins the three side by side, but none is transposed"] = sideways
    for other, wrong in others.items():
        mistakes.setdefault(f"{name} has the values of {other}", wrong)
    require_equal(tensor, right, mistakes, f"For {name},")
    require(tensor.is_contiguous(), f"{name} is not contiguous, so safetensors can't store it.")


@exercise(
    "beyond 1.4", "Now every program that reads GPT-2 can read your models.", write=("beyond.gpt2_tensors",)
)
def checkpoint(answer):
    for cfg in ({**SMALL, "n_layers": 2}, {**SMALL, "n_layers": 11, "emb_dim": 12, "n_heads": 3}):
        model = randomized(GPTModel(cfg))
        tie_weights(model)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        result, wanted = require_result(answer, model), pieces_of_file(model)
        if not isinstance(result, dict):
            raise Wrong(f"It returns {describe_type(result)}; it should return a dict of tensors.")
        unchanged = all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
        require(unchanged, "It changes the weights of the model.")
        require_names(result, wanted)
        whole = {name: torch.cat(pieces, dim=-1) for name, pieces in wanted.items()}
        for name, pieces in wanted.items():
            others = {n: t for n, t in whole.items() if n != name and t.shape == whole[name].shape}
            require_tensor(name, result[name], pieces, others)
