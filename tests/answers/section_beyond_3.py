"""Answers to the exercises of the notebook on fast generation, beyond the chapter."""

import numpy as np
import torch
from torch.nn import functional as F

RIGHT, WRONG = {}, {}

RIGHT["cache_memory"] = [
    2400,
    2400.0,
    2 * 48 * 1600 * 1024 * 2 * 8 / 2**20,
    torch.empty(2, 48, 8, 25, 1024, 64, dtype=torch.bfloat16, device="meta").nbytes / 2**20,
    torch.tensor(2400),
    np.float32(2.4e3),
    2_390,
]
WRONG["cache_memory"] = [
    (2000, "2,000 is too small"),
    (2450, "2,450 is too large"),
    ((2, 400), "1,000 is written 1_000"),
]


# ---- A cache that grows


def by_slices(buffer, length, new):
    B, H, room, Dh = buffer.shape
    end = length + new.shape[2]
    if end > room:
        old, buffer = buffer, buffer.new_empty(B, H, max(2 * room, end), Dh)
        buffer[:, :, :length] = old[:, :, :length]
    buffer[:, :, length:end] = new
    return buffer, end


def by_narrow(buffer, length, new):
    T = new.size(-2)
    if length + T > buffer.size(-2):
        more = max(buffer.size(-2), length + T - buffer.size(-2))
        buffer = F.pad(buffer, (0, 0, 0, more))
    buffer.narrow(2, length, T).copy_(new)
    return [buffer, torch.tensor(length + T)]


def by_cat(buffer, length, new):
    room, end = buffer.shape[2], length + new.shape[2]
    if end <= room:
        buffer[..., length:end, :] = new
        return buffer, end
    rest = max(2 * room, end) - end
    return torch.cat(
        [buffer[:, :, :length], new, torch.zeros_like(new[:, :, :1]).repeat(1, 1, rest, 1)], 2
    ), end


def token_by_token(buffer, length, new):
    end = length + new.shape[2]
    if end > buffer.shape[2]:
        larger = torch.zeros(*buffer.shape[:2], max(2 * buffer.shape[2], end), buffer.shape[3]).to(buffer)
        for t in range(length):
            larger[:, :, t] = buffer[:, :, t]
        buffer = larger
    for t, one in enumerate(new.unbind(2), start=length):
        buffer[:, :, t] = one
    return buffer, end


class Appender:
    def __call__(self, buffer, length, new):
        places = torch.arange(length, length + new.shape[2])
        if places[-1] >= buffer.shape[2]:
            grown = torch.empty_like(buffer[:, :, :1]).expand(
                -1, -1, max(2 * buffer.shape[2], len(places) + length), -1
            )
            grown = grown.contiguous()
            buffer = grown.index_copy_(2, torch.arange(length), buffer[:, :, :length])
        return buffer.index_copy_(2, places, new), length + len(places)


def grows(room=lambda room, end: max(2 * room, end), at=lambda length: length, keep=True, always=False,
          result=lambda buffer, end, T: (buffer, end)):  # fmt: skip
    """Each step can be replaced."""

    def function(buffer, length, new):
        end = length + new.shape[2]
        if always or end > buffer.shape[2]:
            old, buffer = (
                buffer,
                torch.zeros_like(buffer[:, :, :1]).repeat(1, 1, room(buffer.shape[2], end), 1),
            )
            if keep:
                buffer[:, :, :length] = old[:, :, :length]
        start = at(length)
        buffer[:, :, start : start + new.shape[2]] = new
        return result(buffer, end, new.shape[2])

    return function


def at_the_end(buffer, length, new):
    buffer, end = by_slices(buffer, length, new)
    buffer[:, :, length:end] = 0
    buffer[:, :, buffer.shape[2] - new.shape[2] :] = new
    return buffer, end


def changes_new(buffer, length, new):
    result = by_slices(buffer, length, new)
    new.zero_()
    return result


RIGHT["append_to_cache"] = [by_slices, by_narrow, by_cat, token_by_token, Appender(), grows()]
WRONG["append_to_cache"] = [
    (grows(always=True), "makes a new buffer, though there is room"),
    (
        lambda b, n, new: (torch.cat([b[:, :, :n], new], dim=2), n + new.shape[2]),
        "makes a new buffer, though",
    ),
    (grows(room=lambda room, end: end), "without any room to spare; it should have room for 8"),
    (grows(room=lambda room, end: 2 * end), "returns a buffer of shape (2, 3, 10, 5); (2, 3, 8, 5) is right"),
    (grows(room=lambda room, end: 2 * room), "RuntimeError"),
    (grows(room=lambda room, end: room), "(2, 3, 4, 5); (2, 3, 8, 5) is right"),
    (grows(keep=False), "loses or moves the old ones"),
    (grows(at=lambda length: 0), "loses or moves the old ones"),
    (at_the_end, "doesn't put the new ones at places 0 to 2"),
    (grows(result=lambda buffer, end, T: (buffer[:, :, :end], end)), "without any room to spare"),
    (grows(result=lambda buffer, end, T: (buffer, end - T + 1)), "returns the length 1; 3 is right"),
    (grows(result=lambda buffer, end, T: (buffer, T)), "returns the length 1; 4 is right"),
    (grows(result=lambda buffer, end, T: buffer), "It returns a Tensor; it should return the buffer and"),
    (grows(result=lambda buffer, end, T: (end, buffer)), "it should return the buffer and the new length"),
    (grows(result=lambda buffer, end, T: None), "is a `return` missing?"),
    (grows(result=lambda buffer, end, T: (buffer.float(), end)), "now it is torch.float32"),
    (changes_new, "It changes `new`"),
    (torch.zeros(2), "Hand over the function itself"),
]


# ---- The cached loop


def unread_first(read, ids, max_new_tokens):
    new, start = ids, 0
    for _ in range(max_new_tokens):
        logits = read(new, start)
        start += new.shape[1]
        new = logits.argmax(dim=-1)
        ids = torch.cat([ids, new], dim=1)
    return ids


def prompt_first(read, ids, n):
    best = read(ids, 0)[:, -1].argmax(-1, keepdim=True)
    ids = torch.cat((ids, best), 1)
    for _ in range(n - 1):
        best = read(ids[:, -1:], ids.shape[1] - 1)[:, -1].argmax(-1, keepdim=True)
        ids = torch.cat((ids, best), 1)
    return ids


def in_a_list(read, ids, n):
    tokens, T = [ids], ids.size(1)
    while len(tokens) <= n:
        start = 0 if len(tokens) == 1 else T + len(tokens) - 2
        tokens.append(read(ids=tokens[-1], start=start).squeeze(1).topk(1).indices)
    return torch.hstack(tokens)


def in_place(read, ids, n):
    B, T = ids.shape
    text = ids.new_zeros(B, T + n)
    text[:, :T] = ids
    read_so_far = 0
    for end in range(T, T + n):
        text[:, end] = read(text[:, read_so_far:end], read_so_far).argmax(-1)[:, 0]
        read_so_far = end
    return text


def recursive(read, ids, n, start=0):
    if n == 0:
        return ids
    best = read(ids[:, start:], torch.tensor(start)).log_softmax(-1).max(-1).indices
    return recursive(read, torch.cat([ids, best], 1), n - 1, ids.shape[1])


class Loop:
    def __call__(self, read, ids, n):
        import helpers

        class Model:
            known = 0

            def __call__(self, ids):
                start, self.known = self.known, ids.shape[1]
                return read(ids[:, start:], start)

        return helpers.generate(Model(), ids, n, 1024)


def loop(start=lambda T, i: T + i - 1, more=0, first=0, choose=lambda x: x.argmax(dim=-1),
         result=lambda ids, T: ids):  # fmt: skip
    """Each step can be replaced."""

    def function(read, ids, n):
        T = ids.shape[1]
        new = choose(read(ids, first))
        ids = torch.cat([ids, new], dim=1)
        for i in range(1, n + more):
            new = choose(read(new, start(T, i)))
            ids = torch.cat([ids, new], dim=1)
        return result(ids, T)

    return function


def reads_all(read, ids, n):
    for _ in range(n):
        ids = torch.cat([ids, read(ids, 0).argmax(dim=-1)], dim=1)
    return ids


def reads_the_last(read, ids, n):
    result = prompt_first(read, ids, n)
    read(result[:, -1:], result.shape[1] - 1)
    return result


def prompt_by_tokens(read, ids, n):
    for t in range(ids.shape[1]):
        logits = read(ids[:, t : t + 1], t)
    for i in range(n):
        ids = torch.cat([ids, logits.argmax(dim=-1)], dim=1)
        if i < n - 1:
            logits = read(ids[:, -1:], ids.shape[1] - 1)
    return ids


def changes_ids(read, ids, n):
    result = prompt_first(read, ids, n)
    ids.zero_()
    return result


RIGHT["cached_loop"] = [unread_first, prompt_first, in_a_list, in_place, recursive, Loop(), loop()]
WRONG["cached_loop"] = [
    (reads_all, "Pass 1 reads the old tokens again"),
    (loop(start=lambda T, i: 0), "Pass 1 reads at start = 0 a token that 4 others precede"),
    (loop(start=lambda T, i: T), "Pass 2 reads at start = 4 a token that 5 others precede"),
    (loop(start=lambda T, i: T + i), "Pass 1 reads at start = 5, but only 4 tokens have been read"),
    (loop(first=1), "Pass 0 reads at start = 1, but only 0 tokens have been read"),
    (reads_the_last, "It reads the last token, too"),
    (prompt_by_tokens, "It reads the prompt in several passes"),
    (loop(more=1), "gives the shape (1, 10); the right one is (1, 9)"),
    (loop(more=-1), "It stops one token early"),
    (loop(result=lambda ids, T: ids[:, T:]), "It returns only the new tokens"),
    (loop(result=lambda ids, T: ids[:, :T]), "It returns the prompt as it was"),
    (loop(result=lambda ids, T: None), "is a `return` missing?"),
    (loop(choose=lambda x: x.argmin(dim=-1)), "is right."),
    (lambda read, ids, n: torch.cat([ids, read(ids).argmax(dim=-1)], dim=1), "read needs `start`, too"),
    (changes_ids, "It changes its input in place"),
    (5, "Hand over the function itself"),
]


# ---- The mended cache


def variant(place, keep=lambda cache, T: None, heads=lambda x, att: x.unflatten(-1, (att.num_heads, -1)),
            attend=None, result=lambda y: y[:, -1:]):  # fmt: skip
    """The exercise's function with another way to find the position of the new tokens."""

    def function(model, ids, cache):
        B, T = ids.shape
        x = model.tok_emb(ids) + model.pos_emb(torch.arange(T) + place(model, cache))
        keep(cache, T)
        for block in model.trf_blocks:
            att, h = block.att, block.norm1(x)
            q, k, v = (
                heads(layer(h), att).transpose(1, 2) for layer in (att.W_query, att.W_key, att.W_value)
            )
            if block in cache:
                k = torch.cat([cache[block][0], k], dim=2)
                v = torch.cat([cache[block][1], v], dim=2)
            cache[block] = k, v
            context = (attend or attention)(q, k, v)
            x = x + att.out_proj(context.transpose(1, 2).flatten(2))
            x = x + block.ff(block.norm2(x))
        return result(model.out_head(model.final_norm(x)))

    return function


def attention(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, is_causal=q.shape[2] > 1)


def attention_by_hand(q, k, v):
    T, S = q.shape[2], k.shape[2]
    scores = q @ k.mT / q.shape[3] ** 0.5
    return scores.masked_fill(torch.ones(T, S).triu(S - T + 1).bool(), -torch.inf).softmax(-1) @ v


def first_block(model, cache):
    return cache[model.trf_blocks[0]][0].shape[2] if cache else 0


def any_block(model, cache):
    return next(iter(cache.values()))[1].size(-2) if len(cache) > 0 else 0


def noted(model, cache):
    return cache.get("length", 0)


def note(cache, T):
    cache["length"] = cache.get("length", 0) + T


class Mended:
    def __call__(self, model, ids, cache):
        start = max((keys.shape[2] for keys, _ in cache.values()), default=0)
        return variant(lambda *_: start)(model, ids, cache)


COUNT = [0]


def counts_for_ever(cache, T):
    COUNT[0] += T


def mixes_texts(model, ids, cache):
    return variant(first_block)(model, ids, cache).flip(0)


def reads_all_again(model, ids, cache):
    cache["text"] = torch.cat([cache.get("text", ids[:, :0]), ids], dim=1)
    return variant(first_block)(model, cache["text"], {})


def forgets(model, ids, cache):
    cache["length"] = cache.get("length", 0) + ids.shape[1]
    return variant(lambda *_: cache["length"] - ids.shape[1])(model, ids, {})


def dimension(n):
    return lambda model, cache: cache[model.trf_blocks[0]][0].shape[n] if cache else 0


RIGHT["mended_cache"] = [
    variant(first_block),
    variant(any_block),
    variant(noted, note),
    variant(first_block, attend=attention_by_hand),
    variant(any_block, heads=lambda x, att: x.view(*x.shape[:2], att.num_heads, att.head_dim)),
    Mended(),
]
WRONG["mended_cache"] = [
    (variant(lambda model, cache: 0), "the mistake is still there"),
    (variant(lambda model, cache: first_block(model, cache) + bool(cache)), "one place too far to the right"),
    (variant(lambda model, cache: first_block(model, cache) - bool(cache)), "one place too far to the left"),
    (variant(lambda model, cache: 6 * bool(cache)), "All new tokens have the same position"),
    (variant(lambda model, cache: len(cache)), "counts the blocks"),
    (variant(dimension(0)), "counts the texts"),
    (variant(dimension(1)), "counts the heads"),
    (variant(dimension(3)), "the size of a head"),
    (variant(lambda model, cache: COUNT[0], counts_for_ever), "IndexError"),
    (reads_all_again, "It reads old tokens again"),
    (forgets, "doesn't look at the old ones"),
    (mixes_texts, "For another prompt and a new cache, it gives"),
    (
        variant(first_block, attend=F.scaled_dot_product_attention),
        "For a prompt and an empty cache, it gives",
    ),
    (variant(first_block, result=lambda y: y), "gives the shape (1, 6, 31); the right one is (1, 1, 31)"),
    (lambda model, ids, cache: model(ids)[:, -1:], "the course's GPTModel"),
    (variant(first_block, result=lambda y: None), "is a `return` missing?"),
    (None, "Hand over the function itself"),
]
