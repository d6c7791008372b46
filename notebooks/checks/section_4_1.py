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
    praise="One score for each token of the vocabulary, at each position of each text.",
    mistakes={
        "The model scores what comes next at every position, not only at the last": (3, 50257),
        "That is the shape of the ids that go in": (3, 7),
        "That is the shape inside the model; the output head turns 1,024 numbers into scores": (3, 7, 1024),
        "768 is the width of gpt2-small; besides, the head turns the width into scores": (3, 7, 768),
        "The texts come first, then the positions": (7, 3, 50257),
        "Each text has scores of its own": (7, 50257),
        "The scores come last": (3, 50257, 7),
    },
)


ROWS, WIDTH = GPT_CONFIG_124M["context_length"], GPT_CONFIG_124M["emb_dim"]

longer_context = number_exercise(
    "4.1.2",
    right=ROWS * WIDTH,
    tolerance=0.01,
    praise="1,024 new rows of 768 numbers in the positional embedding, and nothing else.",
    mistakes={
        "That is the whole new table; the first half was there before": 2 * ROWS * WIDTH,
        "A position is a row of emb_dim numbers, not of vocab_size": ROWS * GPT_CONFIG_124M["vocab_size"],
        "One of the tables has a row for each position": 0,
        "That is the number of new rows; each has emb_dim numbers": ROWS,
    },
)


@exercise("4.1.3", "Cut at the end, filled at the end, one row for each text.")
def same_length(answer):
    texts, filler = [[5, 0], [1, 2, 3, 4, 5, 6], [7, 8, 9, 10], []], 99
    first, long, full, empty = [5, 0, 99, 99], [1, 2, 3, 4], [7, 8, 9, 10], [99, 99, 99, 99]
    right = torch.tensor([first, long, full, empty])
    mistakes = {
        "The filler stands in front; the text must begin the row": [[99, 99, 5, 0], long, full, empty],
        "A long text keeps its last tokens; keep the first": [first, [3, 4, 5, 6], full, empty],
        "Filler in front and the last tokens of long texts: both at the wrong end": [
            [99, 99, 5, 0],
            [3, 4, 5, 6],
            full,
            empty,
        ],
        "It fills with 0, which is a token like any other, and not with `filler`": [
            [5, 0, 0, 0],
            long,
            full,
            [0, 0, 0, 0],
        ],
        "Token 0 is taken for a gap; it is a token like any other": [[5, 99, 99, 99], long, full, empty],
        "An empty text gets no row": [first, long, full],
        "All rows have the length of the longest text and not `length`": [
            text + [99] * (6 - len(text)) for text in texts
        ],
    }
    mistakes = {words: torch.tensor(wrong) for words, wrong in mistakes.items()}
    mistakes["Texts stand in columns; a row for each is wanted, (B, T)"] = right.T
    mistakes["The texts follow one another in one row"] = right.flatten()
    require_equal(
        require_result(answer, texts, 4, filler), right, mistakes, "For texts of 2, 6, 4 and 0 tokens"
    )
    short = torch.tensor([[5, 0, 99, 99, 99]])
    require_equal(
        require_result(answer, texts[:1], 5, filler), short, given="If all texts are shorter than `length`,"
    )


@exercise("4.1.4", "Token plus position, added, the same positions for every text.")
def embed(answer):
    tok_emb, pos_emb = nn.Embedding(12, 4), nn.Embedding(12, 4)
    tok, pos = tok_emb.weight, pos_emb.weight
    ids = torch.tensor([[3, 1, 3, 7, 0], [2, 2, 5, 11, 4], [8, 6, 1, 0, 9]])
    right = tok[ids] + pos[:5]
    mistakes = {
        "The positions are missing": tok[ids],
        "The tokens are missing": pos[:5].expand(3, 5, 4),
        "The positions start at 1, and row 0 of the table is never used": tok[ids] + pos[1:6],
        "The positional embedding is looked up by token id, not by position": tok[ids] + pos[ids],
        "Every token gets the same position": tok[ids] + pos[5],
        "Every token gets position 0": tok[ids] + pos[0],
        "Each text gets a position, where each token in it should": tok[ids] + pos[:3, None],
        "The two are multiplied; add them": tok[ids] * pos[:5],
        "They are set side by side; add them": torch.cat([tok[ids], pos[:5].expand(3, 5, 4)], dim=-1),
        "The two are subtracted; add them": tok[ids] - pos[:5],
        "The two tables are swapped": pos[ids] + tok[:5],
    }
    result = require_result(answer, tok_emb, pos_emb, ids)
    require_equal(result, right, mistakes)
    require_gradients(result, right, {"tok_emb.weight": tok, "pos_emb.weight": pos})
    require_equal(require_result(answer, tok_emb, pos_emb, ids[:1]), right[:1], given="For a single text")


def running_mean(x):
    """The mean of each token and all earlier ones, for x of shape (B, T, D)."""
    return x.cumsum(dim=1) / torch.arange(1, x.shape[1] + 1)[:, None]


@exercise("4.1.5", "Each token now knows what came before it, and nothing of what comes after.")
def average_block(answer):
    block, x = require_module(answer, SMALL), torch.randn(4, 4, 4)
    sums, earlier = x.cumsum(dim=1), torch.arange(1, 5)[:, None]
    before = (sums - x) / (earlier - 1).clamp(min=1)
    mistakes = {
        "It returns its input: no token sees another": x,
        "It adds up and does not divide": sums,
        "Later tokens enter too; token t may only see tokens 0 ... t": x.mean(1, keepdim=True).expand(
            4, 4, 4
        ),
        "It divides by T everywhere; at position t there are t + 1 tokens": sums / 4,
        "A token leaves itself out of its average": before,
        "It divides by t; at position t there are t + 1 tokens": sums / (earlier - 1),
        "It averages the features of a token, not the tokens": x.mean(-1, keepdim=True).expand(4, 4, 4),
        "It runs along the features; the tokens are dimension 1": x.cumsum(-1) / torch.arange(1, 5),
        "It runs along the batch; the tokens are dimension 1": x.cumsum(0) / earlier[:, None],
        "It averages later tokens instead of earlier ones": x.flip(1).cumsum(1).flip(1) / earlier.flip(0),
        "It divides along the features: the numbers of tokens need the shape (T, 1)": sums
        / torch.arange(1, 5),
        "The average does not start over for each text": sums.cumsum(0) / earlier,
    }
    require_equal(require_result(block, x), sums / earlier, mistakes)
    require_equal(require_result(block, x), sums / earlier, given="When it runs for the second time")
    for T in (7, 1):
        x = torch.randn(2, T, 5)
        require_equal(require_result(block, x), running_mean(x), given=f"For {T} tokens")
    require(not list(block.parameters()), "It has parameters; an average needs none.")
    require_trains_like(block, running_mean, x)
