"""The exercises of 4.1, on the architecture."""

import torch
from torch import nn

from helpers import GPT_CONFIG_124M

from .require import (
    SMALL,
    number_exercise,
    require,
    require_equal,
    require_gradients,
    require_module,
    require_result,
    require_trains_like,
)
from .runner import exercise

logits_shape = number_exercise(
    "4.1.1",
    right=(3, 7, 50257),
    praise="A score for every token in the vocabulary, at every position of every text.",
    mistakes={
        "The model scores what comes next at every position, not only at the last": (3, 50257),
        "That is the shape of the ids that go in": (3, 7),
        "That is the shape inside the model; the output head turns 1,024 features into scores": (3, 7, 1024),
        "768 is the width of gpt2-small; besides, the head turns the width into scores": (3, 7, 768),
        "The texts come first, then the positions": (7, 3, 50257),
        "Each text has its own scores": (7, 50257),
        "The scores come last": (3, 50257, 7),
        "The texts stay apart: batch and positions are two dimensions": (21, 50257),
        "The model returns scores for the 7 tokens it gets, not for the longest text it could read": (
            3,
            1024,
            50257,
        ),
    },
)


ROWS, WIDTH = GPT_CONFIG_124M["context_length"], GPT_CONFIG_124M["emb_dim"]

longer_context = number_exercise(
    "4.1.2",
    right=ROWS * WIDTH,
    tolerance=0.01,
    praise="The positional embedding gets 1,024 new rows of 768 weights. Nothing else changes.",
    mistakes={
        "That is the whole new table; the first half was already there": 2 * ROWS * WIDTH,
        "A position is a row of emb_dim weights, not of vocab_size": ROWS * GPT_CONFIG_124M["vocab_size"],
        "One of the tables has a row for each position": 0,
        "That is the number of new rows; each has emb_dim weights": ROWS,
        "That is a single row; how many new positions are there?": WIDTH,
        "The table stands once, below the blocks, and not once in each": 12 * ROWS * WIDTH,
        "Count the parameters, not their bytes": 4 * ROWS * WIDTH,
        "Give the number itself, not millions": ROWS * WIDTH / 1e6,
    },
)


@exercise("4.1.3", "One row per text: long ones lose their end, short ones are filled up at the end.")
def same_length(answer):
    texts, filler = [[5, 0], [1, 2, 3, 4, 5, 6], [7, 99, 9, 10], []], 99
    short, long, full, empty = [5, 0, 99, 99], [1, 2, 3, 4], [7, 99, 9, 10], [99, 99, 99, 99]
    right = torch.tensor([short, long, full, empty])
    front = [99, 99, 5, 0]
    mistakes = {
        "The filler is in front; each row should begin with the text": [front, long, full, empty],
        "A long text keeps its last tokens; keep the first ones": [short, [3, 4, 5, 6], full, empty],
        "The filler is in front, and long texts lose their start: both belong at the other end": [
            front,
            [3, 4, 5, 6],
            full,
            empty,
        ],
        "It fills up with 0, which is a token like any other, and not with `filler`": [
            [5, 0, 0, 0],
            long,
            full,
            [0, 0, 0, 0],
        ],
        "It fills up with 50256, whatever `filler` is": [
            [5, 0, 50256, 50256],
            long,
            full,
            [50256, 50256, 50256, 50256],
        ],
        "It takes token 0 for a gap; 0 is a token like any other": [[5, 99, 99, 99], long, full, empty],
        "It repeats the last token; fill up with `filler`": [[5, 0, 0, 0], long, full, empty],
        "An empty text needs a row, too": [short, long, full],
        "All rows are as long as the longest text; they should have `length` tokens": [
            text + [99] * (6 - len(text)) for text in texts
        ],
    }
    mistakes = {words: torch.tensor(wrong) for words, wrong in mistakes.items()}
    mistakes["The texts are in columns; give each a row, (B, length)"] = right.T
    mistakes["The texts follow one another in a single row"] = right.flatten()
    result = require_result(answer, texts, 4, filler)
    require_equal(result, right, mistakes, "For texts of 2, 6, 4, and 0 tokens and length 4")
    for length, filler in ((5, 11), (2, 50256)):
        result = require_result(answer, texts[:1], length, filler)
        right = torch.tensor([[5, 0, 11, 11, 11]]) if length == 5 else torch.tensor([[5, 0]])
        require_equal(result, right, given=f"For a single text of 2 tokens and length {length}")


@exercise("4.1.4", "A vector for the token plus one for its position, the same positions in every text.")
def embed(answer):
    tok_emb, pos_emb = nn.Embedding(12, 4), nn.Embedding(12, 4)
    tok, pos = tok_emb.weight, pos_emb.weight
    ids = torch.tensor([[3, 1, 3, 7, 0], [2, 2, 5, 11, 4], [8, 6, 1, 0, 9]])
    right = tok[ids] + pos[:5]
    mistakes = {
        "The positions are missing": tok[ids],
        "The tokens are missing": pos[:5].expand(3, 5, 4),
        "The positions start at 1, so row 0 of the table is never used": tok[ids] + pos[1:6],
        "The positional embedding is looked up by token id; look it up by position": tok[ids] + pos[ids],
        "Every token gets the same position": tok[ids] + pos[5],
        "Every token gets position 0": tok[ids] + pos[0],
        "The positions run backward": tok[ids] + pos[:5].flip(0),
        "Each text gets one position; each of its tokens should have its own": tok[ids] + pos[:3, None],
        "The positions go on from text to text; they start at 0 in each": tok[ids]
        + torch.cat([pos, pos[:3]]).view(3, 5, 4),
        "The two are multiplied; add them": tok[ids] * pos[:5],
        "The two are placed side by side; add them": torch.cat([tok[ids], pos[:5].expand(3, 5, 4)], dim=-1),
        "The two are subtracted; add them": tok[ids] - pos[:5],
        "That is the mean of the two; GPT-2 takes the sum": (tok[ids] + pos[:5]) / 2,
        "The token vector is multiplied by the root of D, which GPT-2 doesn't do": 2 * tok[ids] + pos[:5],
        "The two tables are swapped": pos[ids] + tok[:5],
    }
    before = tok.detach().clone(), pos.detach().clone()
    result = require_result(answer, tok_emb, pos_emb, ids)
    require_equal(result, right, mistakes, "For 3 texts of 5 tokens", tolerance=1e-6)
    require_gradients(result, right, {"tok_emb.weight": tok, "pos_emb.weight": pos})
    unchanged = torch.equal(tok, before[0]) and torch.equal(pos, before[1])
    require(unchanged, "It changes the weights of the embeddings; make a new tensor.")
    require_equal(require_result(answer, tok_emb, pos_emb, ids[:1]), right[:1], given="For a single text")

    tok_emb, pos_emb = nn.Embedding(30, 6), nn.Embedding(7, 6)
    for T in (7, 1):  # all positions that there are, and one
        ids = torch.randint(30, (2, T))
        result, right = require_result(answer, tok_emb, pos_emb, ids), tok_emb(ids) + pos_emb.weight[:T]
        require_equal(result, right, given=f"For T = {T} and 7 positions in the table", tolerance=1e-6)


def running_mean(x):
    """The mean of each token and all earlier ones, for x of shape (B, T, D)."""
    return x.cumsum(dim=1) / torch.arange(1, x.shape[1] + 1)[:, None]


@exercise("4.1.5", "Each token now knows what came before it, and nothing about what comes after.")
def average_block(answer):
    block, x = require_module(answer, {**SMALL, "emb_dim": 4, "drop_rate": 0.5}), torch.randn(4, 4, 4)
    sums, so_far = x.cumsum(dim=1), torch.arange(1, 5)[:, None]
    mistakes = {
        "It returns its input: no token sees another": x,
        "It adds up and doesn't divide": sums,
        "Later tokens leak in; token t may see only tokens 0 ... t": x.mean(1, keepdim=True).expand(4, 4, 4),
        "It divides by T everywhere; at position t there are t + 1 tokens": sums / 4,
        "A token leaves itself out of its average": [
            (sums - x) / (so_far - 1).clamp(min=1),
            (sums - x) / (so_far - 1),
        ],
        "It divides by t; at position t there are t + 1 tokens": [
            sums / (so_far - 1),
            sums / (so_far - 1).clamp(min=1),
        ],
        "It divides by t + 2; at position t there are t + 1 tokens": sums / (so_far + 1),
        "Each token is averaged with the one before it only; all earlier ones count": torch.cat(
            [x[:, :1], (x[:, 1:] + x[:, :-1]) / 2], dim=1
        ),
        "The earlier tokens are averaged again and again: average the vectors that came in": loop(x),
        "It averages a token's features; average the tokens": x.mean(-1, keepdim=True).expand(4, 4, 4),
        "It runs along the features; the tokens are dimension 1": x.cumsum(-1) / torch.arange(1, 5),
        "It runs along the batch; the tokens are dimension 1": x.cumsum(0) / so_far[:, None],
        "It averages later tokens instead of earlier ones": x.flip(1).cumsum(1).flip(1) / so_far.flip(0),
        "It divides along the features: the token counts need the shape (T, 1)": sums / torch.arange(1, 5),
        "The average doesn't start over for each text": sums.cumsum(0) / so_far,
        "The input is added: that shortcut comes in 4.4": x + sums / so_far,
    }
    require_equal(require_result(block, x), sums / so_far, mistakes, tolerance=1e-5)
    require_equal(require_result(block, x), sums / so_far, given="When it runs for the second time")
    for B, T in ((2, 7), (3, 1), (1, 12)):
        x = torch.randn(B, T, 4)
        result = require_result(block, x)
        require_equal(result, running_mean(x), given=f"For the shape {B, T, 4}", tolerance=1e-5)
    require(not list(block.parameters()), "It has parameters; an average needs none.")
    x = torch.randn(2, 5, 6)
    require_trains_like(require_module(answer, {**SMALL, "emb_dim": 6, "drop_rate": 0.5}), running_mean, x)


def loop(x):
    """The mean of each token and all earlier results."""
    results = []
    for t in range(x.shape[1]):
        results.append(torch.stack([*results, x[:, t]]).mean(dim=0))
    return torch.stack(results, dim=1)
