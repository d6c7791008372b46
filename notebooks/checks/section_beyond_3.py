"""The exercises of the notebook on fast generation, beyond the chapter."""

import torch
from torch import nn

from helpers import GPTModel  # the shipped one, whatever `use` puts in its place

from .require import (
    SMALL,
    describe_type,
    number_exercise,
    randomized,
    require,
    require_equal,
    require_result,
)
from .runner import NotAttempted, Wrong, exercise

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


APPENDS = ((4, 0, 3), (4, 3, 1), (4, 4, 1), (4, 3, 2), (3, 1, 7), (1, 1, 1))  # room, in use, new


@exercise("beyond 3.2", "It copies only when the room runs out.")
def append_to_cache(answer):
    require(callable(answer), f"Hand over the function itself; this is {describe_type(answer)}.")
    for room, length, T in APPENDS:
        end, given = length + T, f"With room for {room}, {length} in use, and {T} new, it"
        old, new = torch.randn(2, 3, room, 5).double(), torch.randn(2, 3, T, 5).double()
        buffer, copy = old.clone(), new.clone()
        result = answer(buffer, length, copy)
        if result is ...:
            raise NotAttempted
        is_pair = isinstance(result, (tuple, list)) and len(result) == 2
        words = f"It returns {describe_type(result)}; it should return the buffer and the new length."
        require(is_pair and isinstance(result[0], torch.Tensor), words)
        require(torch.equal(new, copy), "It changes `new`, which the caller still needs.")
        after, n = result
        require(after.dtype == old.dtype, f"The buffer was {old.dtype}; now it is {after.dtype}.")
        require(n == end, f"{given} returns the length {n}; {end} is right.")
        if end <= room:
            is_same = after.data_ptr() == buffer.data_ptr()
            require(is_same, f"{given} makes a new buffer, though there is room in the one it has.")
        right = (2, 3, room if end <= room else max(2 * room, end), 5)
        words = f"{given} returns a buffer of shape {tuple(after.shape)}; {right} is right."
        if after.shape == (2, 3, end, 5):
            words = f"{given} returns a buffer without any room to spare; it should have room for {right[2]}."
        require(after.shape == right, words)
        require(
            torch.equal(after[:, :, :length], old[:, :, :length]), f"{given} loses or moves the old ones."
        )
        place = f"{given} doesn't put the new ones at places {length} to {end - 1}, right behind the old."
        require(torch.equal(after[:, :, length:end], new), place)


class Reader:
    """A model that seems to have a cache. It knows what was read where, and how many passes it took."""

    def __init__(self, model, B):
        self.model, self.text, self.passes = model, torch.empty(B, 0, dtype=torch.long), []

    def __call__(self, ids, start=None):
        require(start is not None, "read needs `start`, too: how many tokens came before?")
        n, words = self.text.shape[1], f"Pass {len(self.passes)} reads at start = {start}"
        if start != n:
            require(start <= n, f"{words}, but only {n} tokens have been read.")
            again = f"Pass {len(self.passes)} reads the old tokens again; read only what is new."
            require(ids.shape[1] == 1, again)
            raise Wrong(f"{words} a token that {n} others precede.")
        self.passes.append(ids.shape[1])
        self.text = torch.cat([self.text, ids], dim=1)
        return self.model(self.text)[:, -1:]


@exercise("beyond 3.3", "One pass over the prompt, and one over each new token but the last.")
def cached_loop(answer):
    require(callable(answer), f"Hand over the function itself; this is {describe_type(answer)}.")
    model = talking_model()
    for B, T, n in ((1, 4, 5), (2, 3, 4), (1, 1, 6), (2, 5, 1)):
        ids = torch.randint(SMALL["vocab_size"], (B, T))
        right = ids
        for _ in range(n):
            right = torch.cat([right, model(right)[:, -1:].argmax(dim=-1)], dim=1)
        read = Reader(model, B)
        result = require_result(lambda ids, n, read=read: answer(read, ids, n), ids, n)
        mistakes = {
            "It returns the prompt as it was": ids,
            "It returns only the new tokens; return the whole text": right[:, T:],
            "It stops one token early": right[:, :-1],
        }
        require_equal(result, right, mistakes, f"For a prompt of shape {(B, T)} and {n} new tokens")
        words = "It reads the prompt in several passes; one is enough."
        require(read.passes[0] == T, words)
        require(len(read.passes) == n, "It reads the last token, too, whose logits nobody uses.")


def talking_model():
    """A small model with random parameters, in which the tokens decide what comes next."""
    return randomized(GPTModel({**SMALL}), size=0.4).eval().requires_grad_(False)


def read_with_cache(model, ids, cache, place):
    """The function of exercise 3.4, whose tokens have the positions from `place` on."""
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


PROMPT = 6  # tokens; no other count below is 5, 6, or 7
PLACES = {  # where each mistake puts the token that n others precede
    "The prompt's logits are right, the next token's aren't: the mistake is still there": lambda n: 0,
    "The new token is one place too far to the right": lambda n: n + 1,
    "The new token is one place too far to the left": lambda n: n - 1,
    "All new tokens have the same position": lambda n: PROMPT,
    "That counts the blocks in the cache, not the tokens": lambda n: SMALL["n_layers"],
    "That counts the texts, not the tokens: they are in dimension 2": lambda n: 1,
    "That counts the heads, not the tokens: they are in dimension 2": lambda n: SMALL["n_heads"],
    "That is the size of a head; the tokens are in dimension 2": lambda n: (
        SMALL["emb_dim"] // SMALL["n_heads"]
    ),
}


@exercise("beyond 3.4", "Each token has the position that it has in the text.", write=(GPTModel,))
def mended_cache(answer):
    require(callable(answer), f"Hand over the function itself; this is {describe_type(answer)}.")
    model = talking_model()
    for again in (False, True):
        ids, cache = torch.randint(SMALL["vocab_size"], (1 + again, PROMPT + 4)), {}
        mine, wrong = {}, {words: {} for words in PLACES}
        for start in (0, *range(PROMPT, PROMPT + 4)):
            new = ids[:, start : start + 1] if start else ids[:, :PROMPT]
            read = []
            hook = model.tok_emb.register_forward_hook(lambda part, args, y, read=read: read.append(args[0]))
            result = answer(model, new.clone(), cache)
            hook.remove()
            if result is ...:
                raise NotAttempted
            twice = any(tokens.shape[-1] > new.shape[1] for tokens in read)
            require(not twice, "It reads old tokens again; what they leave behind is in the cache.")
            right = read_with_cache(model, new, mine, start)
            mistakes = {
                words: read_with_cache(model, new, wrong[words], place(start) if start else 0)
                for words, place in PLACES.items()
            }
            mistakes["The new token doesn't look at the old ones"] = read_with_cache(model, new, {}, start)
            given = f"For {'another prompt and a new' if again else 'a prompt and an empty'} cache,"
            given = f"For the token that {start} others precede," if start else given
            require_equal(result, right, mistakes if start else {}, given)
