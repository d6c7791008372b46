"""The exercises of 4.6, on the GPT model."""

import torch
from torch import nn

from helpers import (
    GPT2_CONFIGS,
    GPT_CONFIG_124M,
    GPTModel,  # the shipped one, whatever `use` puts in its place
    count_parameters,
)

from .require import (
    SMALL,
    choice_exercise,
    describe_type,
    is_close,
    randomized,
    require,
    require_equal,
    require_gradients,
    require_module,
    require_number,
    require_own_forward,
    require_parts,
    require_result,
)
from .runner import NotAttempted, Wrong, exercise

why_124m = choice_exercise(
    "4.6.1",
    right="d",
    praise="One tensor of 38.6 million numbers does two jobs in GPT-2, and is counted once.",
    options={
        "a": "Dropout has no parameters, and removes none: it sets activations to zero, in training.",
        "b": "The biases of query, key and value are 27,648 numbers, and GPT-2 has them: without them our "
        "model is smaller, not larger.",
        "c": "Buffers are not parameters, and our model has none: the mask is made when it is needed.",
    },
)


def first_on_meta():
    """The first embedding made on "meta" loads much of PyTorch; the answer shall not pay for it."""
    nn.Embedding(1, 1, device="meta")


def counts_by_part(cfg):
    """Parameters of attention and of the feed-forward networks, over all blocks."""
    D, L = cfg["emb_dim"], cfg["n_layers"]
    return L * (4 * D * D + D + (3 * D if cfg["qkv_bias"] else 0)), L * (8 * D * D + 5 * D)


def require_counts(given, result, right, tolerance, mistakes):
    """As require_number, for what a function gives; the words begin with what was given to it."""
    require(result is not None, f"It returns {describe_type(result)}, where two numbers are wanted.")
    try:
        require_number(result, right, tolerance, mistakes)
    except Wrong as wrong:
        raise Wrong(f"For {given} it gives {str(result)[:60]}. {wrong}") from None


@exercise("4.6.2", "Two to one for the feed-forward networks, in every size.", prepare=first_on_meta)
def part_counts(answer):
    for name, bias in (("gpt2-small", False), ("gpt2-small", True), ("gpt2-xl", True)):
        cfg = {**GPT2_CONFIGS[name], "qkv_bias": bias}
        D, L = cfg["emb_dim"], cfg["n_layers"]
        att, ff = counts_by_part(cfg)
        mistakes = {
            "That is one block; count all of them": (att // L, ff // L),
            "Attention first, then feed-forward": (ff, att),
            "With qkv_bias False, query, key and value have no biases": (att + (not bias) * 3 * L * D, ff),
            "With qkv_bias True, query, key and value have biases": (att - bias * 3 * L * D, ff),
            "out_proj has a bias": (att - L * D, ff),
            "Attention has four matrices: out_proj is one of them": (att - L * (D * D + D), ff),
            "The feed-forward layers have biases, 4D and D": (att, ff - 5 * L * D),
            "Biases are parameters too": (4 * L * D * D, 8 * L * D * D),
            "The norms are counted, too; they belong to neither": (att, ff + 4 * L * D),
        }
        result = require_result(answer, cfg)
        words = f"It returns {describe_type(result)}, where two numbers are wanted."
        require(not isinstance(result, torch.Tensor), words)
        require_counts(f"{name} with qkv_bias {bias}", result, (att, ff), 0.0, mistakes)


def untied_count(cfg):
    """Parameters of a GPTModel with a head of its own."""
    V, T, D = cfg["vocab_size"], cfg["context_length"], cfg["emb_dim"]
    return 2 * V * D + T * D + sum(counts_by_part(cfg)) + cfg["n_layers"] * 4 * D + 2 * D


SMALLER = {**GPT_CONFIG_124M, "context_length": 500, "emb_dim": 480, "n_heads": 8, "n_layers": 3}
SMALLER["qkv_bias"] = True


@exercise(
    "4.6.3", "Every size counted to the last parameter, and no large model built.", prepare=first_on_meta
)
def model_size(answer):
    for name, cfg in {"a smaller configuration": SMALLER, **GPT2_CONFIGS}.items():
        n = untied_count(cfg)
        V, T, D, L = (cfg[key] for key in ("vocab_size", "context_length", "emb_dim", "n_layers"))
        MB = 2**20
        mistakes = {
            "The head is tied to the embedding; with a head of its own the model has V·D more": n - V * D,
            "The positional embedding is not counted": n - T * D,
            "The final norm is not counted": n - 2 * D,
            "The norms of the blocks are not counted": n - 4 * L * D,
            "Only the blocks are counted": n - 2 * V * D - T * D - 2 * D,
        }
        mistakes = {words: (wrong, wrong * 4 / MB) for words, wrong in mistakes.items()}
        mistakes |= {
            "1 MB is 2**20 bytes here, not a million": (n, n * 4 / 1e6),
            "float32 takes 4 bytes, not 2": (n, n * 2 / MB),
            "That is GB; MB are wanted": (n, n * 4 / 2**30),
            "That is the number of bytes; MB are wanted": (n, n * 4),
            "Each parameter takes 4 bytes": (n, n / MB),
            "First the parameters, then the MB": (n * 4 / MB, n),
            "16 bytes are for training; 4 are enough to run": (n, n * 16 / MB),
        }
        result = require_result(answer, cfg)
        require_counts(name, result, (n, n * 4 / MB), (0.0, 0.01), mistakes)


@exercise("4.6.4", "Every part in its place: the logits are those of GPT-2.", write=(GPTModel,))
def gpt_model(answer):
    model, ids = require_module(answer, SMALL), torch.tensor([[3, 1, 3, 7, 0], [2, 2, 5, 30, 4]])
    require_result(model, ids)
    require_own_forward(answer, "GPTModel")
    names = ("tok_emb", "pos_emb", "drop_emb", "trf_blocks", "final_norm", "out_head")
    tok_emb, pos_emb, drop_emb, blocks, norm, head = require_parts(model, names)
    randomized(model, size=0.4)
    tok, pos = tok_emb(ids), pos_emb.weight
    x = tok + pos[:5]

    def through(x, blocks=blocks):
        for block in blocks:
            x = block(x)
        return x

    def logits(x):
        return head(norm(through(x)))

    right = logits(x)
    mistakes = {
        "The positions are missing": logits(tok),
        "The positions start at 1": logits(tok + pos[1:6]),
        "Every token gets the same position": logits(tok + pos[5]),
        "The positional embedding is multiplied; add it": logits(tok * pos[:5]),
        "The final norm is missing": head(through(x)),
        "The final norm comes before the blocks; it belongs after them": head(through(norm(x))),
        "The output head is missing": norm(through(x)),
        "The output head and the final norm are missing": through(x),
        "The blocks are missing": head(norm(x)),
        "Only the first block is used": head(norm(blocks[0](x))),
        "Only the last block is used": head(norm(blocks[-1](x))),
        "The blocks run in reverse order": head(norm(through(x, reversed(blocks)))),
        "It returns probabilities; the model gives logits, without a softmax": right.softmax(dim=-1),
        "It returns log-probabilities; the model gives logits, without a softmax": right.log_softmax(dim=-1),
        "It returns the last position only; the model scores every position": [right[:, -1], right[:, -1:]],
        "The scores come from the embedding (tied); out_head is a part of its own": norm(through(x))
        @ tok_emb.weight.T,
    }
    require_equal(require_result(model, ids), right, mistakes, "With random weights", tolerance=1e-3)
    require_equal(require_result(model, ids[:1]), right[:1], given="For a batch of one text", tolerance=1e-3)
    result = model.train()(ids)
    require_gradients(result, right, {f"self.{name}": p for name, p in model.named_parameters()})
    model.eval()
    drop_emb.p = 0.5
    require(
        is_close(require_result(model, ids), require_result(model, ids)), "Dropout acts in eval mode, too."
    )
    drop_emb.train().p = 1.0  # nothing is left of what is dropped
    nothing = torch.zeros(2, 5, SMALL["emb_dim"])
    mistakes = {
        "Dropout on the embeddings has no effect in training: drop_emb belongs after the addition": right,
        "Only the tokens are dropped, not the positions: drop_emb belongs after the addition": logits(
            pos[:5].expand_as(tok)
        ),
        "Only the positions are dropped, not the tokens: drop_emb belongs after the addition": logits(tok),
        "drop_emb comes after the blocks; it belongs before them": head(norm(nothing)),
    }
    require_equal(
        require_result(model, ids),
        logits(nothing),
        mistakes,
        "If dropout lets no embedding through,",
        tolerance=1e-3,
    )


@exercise("4.6.5", "One tensor under two names: fewer parameters, and a gradient from both places.")
def tie_weights(answer):
    model = GPTModel(SMALL)
    embedding, head = (p.detach().clone() for p in (model.tok_emb.weight, model.out_head.weight))
    try:
        require_result(answer, model)
    except NotAttempted:
        if model.out_head.weight is not model.tok_emb.weight:
            raise  # else only the `...` was left after the right line
    words = "out_head is no longer a linear layer, so it cannot score; share only its weight."
    require(isinstance(model.out_head, nn.Linear), words)
    tok, out = model.tok_emb.weight, model.out_head.weight
    if tok is not out:
        shares = tok.shape == out.shape and tok.data_ptr() == out.data_ptr()
        require(
            not shares,
            "They share memory, but are still two parameters, each with its own gradient. Make them one.",
        )
        require(
            not (tok.shape == out.shape and torch.equal(tok, out)),
            "The numbers are copied: after one step of training they differ. Make the two one nn.Parameter.",
        )
        require(
            not torch.equal(out, head), "The head still has its own weight; the model itself must change."
        )
        raise Wrong("out_head.weight is not tok_emb.weight.")
    require(
        not torch.equal(tok, head) or torch.equal(embedding, head),
        "Tied the wrong way round: the head's numbers have replaced the embedding's.",
    )
    require(torch.equal(tok, embedding), "The numbers of the embedding have changed.")
    count = count_parameters(model)
    right = untied_count(SMALL) - SMALL["vocab_size"] * SMALL["emb_dim"]
    require(count == right, f"The model has {count} parameters; {right} are right.")


@exercise("4.6.6", "Three rates in their three places, in every block.")
def separate_dropout(answer):
    cfg = {**SMALL, "drop_rate": 0.4}
    model = require_result(answer, cfg, 0.1, 0.2, 0.3)
    require(isinstance(model, nn.Module), f"It returns {describe_type(model)}, where a GPTModel is wanted.")
    try:
        rates = [model.drop_emb.p, *((b.att.dropout.p, b.drop_shortcut.p) for b in model.trf_blocks)]
    except AttributeError as error:
        raise Wrong(f"A part is missing: {error}.") from None
    require(
        len(rates) == 1 + SMALL["n_layers"],
        f"The model has {len(rates) - 1} blocks; {SMALL['n_layers']} are right.",
    )
    emb, *blocks = rates
    given = (
        f"With 0.1, 0.2, 0.3 for embedding, attention, shortcut the model has {emb} for the embedding "
        f"and, block by block, {blocks} for attention and shortcut."
    )
    mistakes = {
        "The rates of attention and shortcut are swapped": [0.1] + [(0.3, 0.2)] * 3,
        "The embedding keeps the configuration's rate": [0.4] + [(0.2, 0.3)] * 3,
        "The first rate is used everywhere": [0.1] + [(0.1, 0.1)] * 3,
        "The configuration's rate is used everywhere": [0.4] + [(0.4, 0.4)] * 3,
        "Only the embedding gets its rate": [0.1] + [(0.4, 0.4)] * 3,
        "Only the first block gets its rates": [0.1, (0.2, 0.3), (0.4, 0.4), (0.4, 0.4)],
        "Only the last block gets its rates": [0.1, (0.4, 0.4), (0.4, 0.4), (0.2, 0.3)],
        "The shortcuts keep the configuration's rate": [0.1] + [(0.2, 0.4)] * 3,
        "Attention keeps the configuration's rate": [0.1] + [(0.4, 0.3)] * 3,
        "Embedding and attention are swapped": [0.2] + [(0.1, 0.3)] * 3,
        "Embedding and shortcut are swapped": [0.3] + [(0.2, 0.1)] * 3,
    }
    for words, wrong in mistakes.items():
        require(rates != wrong, f"{words}. {given}")
    require(rates == [0.1] + [(0.2, 0.3)] * 3, given)
    count, wanted = (count_parameters(m) for m in (model, GPTModel(cfg)))
    require(
        count == wanted,
        f"The model has {count} parameters; {wanted} are right. Is each block one of its own?",
    )
