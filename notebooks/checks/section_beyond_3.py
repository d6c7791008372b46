"""The exercises of the notebook on fast generation, beyond the chapter."""

import torch
from torch import nn

from helpers import GPTModel  # the shipped one, whatever `use` puts in its place

from .require import (
    SMALL,
    describe_type,
    is_close,
    number_exercise,
    randomized,
    require,
    require_equal,
    require_result,
)
from .runner import NotAttempted, exercise

MEGABYTES = 2 * 48 * 1600 * 1024 * 2 * 8 / 2**20

cache_memory = number_exercise(
    "beyond 3.1",
    right=MEGABYTES,
    tolerance=0.01,
    praise="A key and a value for every token, in every block, for every text.",
    mistakes={
        "That is one text, not 8": MEGABYTES / 8,
        "That is one block, not 48": MEGABYTES / 48,
        "That is one of 25 heads": MEGABYTES / 25,
        "That is 25 times too much: the heads share the width of 1,600": MEGABYTES * 25,
        "That is with 4 bytes for each value; a bfloat16 takes 2": MEGABYTES * 2,
        "That is half of it: there are keys and values, and each number takes 2 bytes": MEGABYTES / 2,
        "That is a quarter of it: there are keys and values, and each number takes 2 bytes": MEGABYTES / 4,
        "That counts queries, too, which no later token needs": MEGABYTES * 1.5,
        "That is in millions of bytes; in this course an MB is 2^20 bytes": MEGABYTES * 2**20 / 1e6,
        "Is that in GB, or for one token of the 1,024?": MEGABYTES / 1024,
        "That is in bytes; we want MB": MEGABYTES * 2**20,
    },
)


APPENDS = (  # room, places in use, new tokens
    (4, 0, 3),
    (4, 3, 1),
    (4, 4, 1),
    (4, 3, 2),
    (3, 1, 7),
    (1, 1, 1),
)


@exercise("beyond 3.2", "It copies only when the room runs out.")
def append_to_cache(answer):
    require(callable(answer), f"Hand over the function itself; this is {describe_type(answer)}.")
    for room, length, T in APPENDS:
        old, new, end = torch.randn(2, 3, room, 5).double(), torch.randn(2, 3, T, 5).double(), length + T
        given = f"With room for {room}, of which {length} are in use, and {T} new"
        buffer, kept = old.clone(), new.clone()
        result = answer(buffer, length, kept)
        if result is ... or (isinstance(result, tuple) and ... in map(type_or_ellipsis, result)):
            raise NotAttempted
        pair = isinstance(result, (tuple, list)) and len(result) == 2 and isinstance(result[0], torch.Tensor)
        require(pair, f"It returns {describe_type(result)}; it should return the buffer and the new length.")
        require(torch.equal(new, kept), "It changes `new`, which the caller still needs.")
        after, n = result
        words = f"{given}, it returns the length {n}; {end} is right."
        require(isinstance(n, int) and n == end or torch.is_tensor(n) and n.item() == end, words)
        fits = end <= room
        right = room if fits else max(2 * room, end)
        shape = (2, 3, right, 5)
        require(after.dtype == old.dtype, f"The buffer was {old.dtype}; now it is {after.dtype}.")
        moved = after.data_ptr() != buffer.data_ptr()
        words = f"{given}, there is room, but it makes a new buffer: write into the one you have."
        require(not (fits and moved), words)
        words = f"{given}, it returns only what is in use; return the whole buffer."
        require(not (fits and after.shape[2] < room), words)
        words = f"{given}, the new buffer has the shape {tuple(after.shape)}; {shape} is right."
        if after.shape[2:3] == (end,) and end < right:
            words = f"{given}, the new buffer is full at once: it should have twice the room, {right}."
        require(after.shape == shape, words)
        mistakes = {
            f"{given}, the old tokens get lost": is_close(after[:, :, length:end], new) and length > 0,
            f"{given}, the new tokens don't stand right behind the old ones": True,
        }
        whole = torch.cat([old[:, :, :length], new], dim=2)
        if not torch.equal(after[:, :, :end], whole):
            require(False, f"{next(words for words, found in mistakes.items() if found)}.")


def type_or_ellipsis(thing):
    return ... if thing is ... else type(thing)


class Reader:
    """A model with a cache, which writes down what it reads, as pairs (start, number of tokens)."""

    def __init__(self, model):
        self.model, self.text, self.passes = model, None, []

    def __call__(self, ids, start=None):
        require(start is not None, "read needs `start`, too: how many tokens came before?")
        require(torch.is_tensor(ids) and ids.ndim == 2, "read needs ids of shape (B, T).")
        n, start = 0 if self.text is None else self.text.shape[1], int(start)
        self.passes.append((start, ids.shape[1]))
        words = f"In its pass {len(self.passes) - 1}, it reads at start = {start}"
        require(start <= n, f"{words}, but the cache has only {n} tokens.")
        end = start + ids.shape[1]
        limit = SMALL["context_length"]
        require(end <= limit, f"{words} up to {end}, but the text never gets longer than {limit}.")
        whole = start == 0 and end > n
        again = f"{words}, where the cache has {n} tokens already: read only what is new."
        require(start == n or whole, again if ids.shape[1] > 1 else f"{again[:-1]}, at its place in the text.")
        require(not (whole and n), f"In its pass {len(self.passes) - 1}, it reads the whole text again.")
        self.text = ids if self.text is None else torch.cat([self.text[:, :start], ids], dim=1)
        return self.model(self.text)[:, -1:]


@exercise("beyond 3.3", "One pass over the prompt, and one for each token but the last.")
def cached_loop(answer):
    model = talking_model()
    for B, T, n in ((1, 4, 5), (2, 3, 4), (1, 1, 6), (2, 5, 1)):
        ids = torch.randint(SMALL["vocab_size"], (B, T))
        right = ids
        for _ in range(n):
            right = torch.cat([right, model(right)[:, -1:].argmax(dim=-1)], dim=1)
        read = Reader(model)
        result = require_result(lambda ids, n, read=read: answer(read, ids, n) if callable(answer) else answer(), ids, n)  # fmt: skip
        mistakes = {
            "It returns only the new tokens; return the whole text": right[:, T:],
            "It stops one token early": right[:, :-1],
            "It returns the prompt as it was": ids,
        }
        given = f"For a prompt of shape {(B, T)} and {n} new tokens"
        require(read.passes or not torch.is_tensor(result), "It never calls read.")
        require_equal(result, right, mistakes, given)
        words = "It reads the prompt token by token; one pass can read all of it."
        require(read.passes[0] == (0, T), words)
        require(len(read.passes) == n, "It reads the last token, too, for whose logits there is no use.")


def talking_model():
    """A small model with random parameters in which the tokens decide what comes next."""
    return randomized(GPTModel({**SMALL}), size=0.4).eval().requires_grad_(False)


def read_with_cache(model, ids, cache, place):
    """The function of exercise 3.4, whose new tokens begin at `place`."""
    B, T = ids.shape
    x = model.tok_emb(ids) + model.pos_emb(torch.arange(place, place + T))
    for block in model.trf_blocks:
        att, h = block.att, block.norm1(x)
        q, k, v = (
            layer(h).view(B, T, att.num_heads, att.head_dim).transpose(1, 2)
            for layer in (att.W_query, att.W_key, att.W_value)
        )
        if block in cache:
            k, v = (torch.cat(pair, dim=2) for pair in zip(cache[block], (k, v), strict=True))
        cache[block] = k, v
        context = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=T > 1)
        x = x + att.out_proj(context.transpose(1, 2).flatten(2))
        x = x + block.ff(block.norm2(x))
    return model.out_head(model.final_norm(x[:, -1:]))


PLACES = {  # where a mistake puts the token after `n` others
    "The prompt's logits are right, those of the next token aren't: the mistake is still there": lambda n: 0,
    "The new token is one place too far to the right": lambda n: n + 1,
    "The new token is one place too far to the left, where the token before it is": lambda n: n - 1,
    "The position is that of the blocks in the cache; count its tokens": lambda n: SMALL["n_layers"],
    "The position is the number of heads; the tokens are in dimension 2": lambda n: SMALL["n_heads"],
    "The position is the size of a head; the tokens are in dimension 2": lambda n: (
        SMALL["emb_dim"] // SMALL["n_heads"]
    ),
    "The position is that of the last token in the prompt, for all new tokens": lambda n: 4,
}


@exercise("beyond 3.4", "Each token gets the position that it has in the text.")
def mended_cache(answer):
    model = talking_model()
    require(callable(answer), f"Hand over the function itself; this is {describe_type(answer)}.")
    for again in (False, True):
        ids, cache = torch.randint(SMALL["vocab_size"], (1 + again, 9)), {}
        wrong = {words: {} for words in PLACES}
        for start, end in ((0, 5), (5, 6), (6, 7), (7, 8), (8, 9)):
            new = ids[:, start:end]
            result = answer(model, new.clone(), cache)
            if result is ...:
                raise NotAttempted
            mistakes = {
                words: read_with_cache(model, new, wrong[words], place(start) if start else 0)
                for words, place in PLACES.items()
            }
            given = f"For a new cache and a prompt of {end} tokens" if not start else f"For token {start}"
            if again and not start:
                given = "With a second, empty cache"
            right = model(ids[:, :end])[:, -1:]
            require_equal(result, right, mistakes if start else {}, given)
