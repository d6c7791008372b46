"""Answers to the exercises of 4.7, on generating text."""

import functools

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import helpers
from helpers import generate, generate_text_simple

from . import section_4_7_sampling

RIGHT, WRONG = {**section_4_7_sampling.RIGHT}, {**section_4_7_sampling.WRONG}

RIGHT["what_eval_changes"] = ["b", "B", " b ", "(b)", "b)"]
WRONG["what_eval_changes"] = [
    ("ab", "Choose one of"),
]
RIGHT["tokens_processed"] = [
    5950,
    5950.0,
    sum(range(10, 110)),
    torch.arange(10, 110).sum(),
    np.float64(59.5) * 100,
    [5950],
]
WRONG["tokens_processed"] = [
    (7000, "7,000 is too large"),
    (5951, "5,951 is too large"),
    ((5, 950), "1,000 is written 1_000"),
    ("5950", "Answer with one number"),
]


def greedy(
    see=lambda idx, size: idx[:, -size:],
    choose=lambda z: z[:, -1].argmax(-1, keepdim=True),
    more=0,
    give=lambda new, start, size: new,
    grow=lambda idx, new, size: torch.cat([idx, new], 1),
):
    """The loop, each step of which can be replaced."""

    @torch.no_grad()
    def function(model, idx, max_new_tokens, context_size):
        start = idx.shape[1]
        for _ in range(max_new_tokens + more):
            idx = grow(idx, choose(model(see(idx, context_size))), context_size)
        return give(idx, start, context_size)

    return function


def greedy_in_a_list(model, idx, max_new_tokens, context_size):
    """A list of columns, and while."""
    columns = list(idx.unbind(dim=1))
    with torch.inference_mode():
        while len(columns) < idx.size(1) + max_new_tokens:
            window = torch.stack(columns[-context_size:], dim=1)
            columns.append(model(window)[:, -1].softmax(dim=-1).max(dim=-1).indices)
    return torch.stack(columns, dim=1).clone()


def greedy_once(model, idx, max_new_tokens, context_size):
    with torch.no_grad():
        new = model(idx[:, -context_size:])[:, -1].argmax(-1, keepdim=True)
    return torch.cat([idx, *[new] * max_new_tokens], dim=1)


def greedy_at_random(model, idx, max_new_tokens, context_size):
    return greedy(choose=lambda z: torch.multinomial(z[:, -1].softmax(-1), 1))(
        model, idx, max_new_tokens, context_size
    )


def greedy_forever(model, idx, max_new_tokens, context_size):
    n = 0
    while n < max_new_tokens:
        idx = greedy()(model, idx, 1, context_size)
    return idx


def greedy_with_graph(model, idx, max_new_tokens, context_size):
    for _ in range(max_new_tokens):
        idx = torch.cat([idx, model(idx[:, -context_size:])[:, -1].argmax(-1, keepdim=True)], dim=1)
    return idx


def by_stream(model, idx, max_new_tokens, context_size):
    stream = helpers.stream_tokens(model, idx, context_size)
    return torch.cat([idx, *(next(stream) for _ in range(max_new_tokens))], dim=1)


def greedy_without_zero(model, idx, max_new_tokens, context_size):
    return greedy()(model, idx, max(1, max_new_tokens), context_size)


def greedy_within(model, idx, max_new_tokens, context_size):
    """Right until the text is longer than the window by more than the first prompt ever is."""
    return greedy(see=lambda idx, size: idx[:, -size:] if idx.shape[1] < 13 else idx[:, 1 : 1 + size])(
        model, idx, max_new_tokens, context_size
    )


def greedy_by_recursion(model: nn.Module, idx: torch.Tensor, max_new_tokens: int, context_size: int):
    if max_new_tokens == 0:
        return idx
    with torch.set_grad_enabled(False):
        logits = model(in_idx=idx[..., -context_size:])
    new = logits[:, -1, :].topk(1).indices
    return greedy_by_recursion(model, torch.hstack((idx, new)), max_new_tokens - 1, context_size)


class Greedy(nn.Module):
    """A module, with a buffer that is filled; it looks at the model's device and window."""

    @torch.no_grad()
    def forward(self, model, idx, max_new_tokens, context_size, progress=False):
        was_training = model.training
        model.eval()
        device = next(model.parameters()).device
        window = min(context_size, model.pos_emb.weight.shape[0], model.pos_emb.num_embeddings)
        B, T = idx.shape
        text = torch.zeros(B, T + max_new_tokens, dtype=idx.dtype, device=device)
        text[:, :T] = idx
        for t in range(T, T + max_new_tokens):
            scores = model(text[:, max(0, t - window) : t])[:, -1]
            text[:, t] = torch.argmax(scores.log_softmax(-1), dim=-1)
        model.train(was_training)
        return text


def greedy_of_the_book(model, idx, max_new_tokens, context_size):
    for _ in range(max_new_tokens):
        idx_cond = idx[:, -context_size:]
        with torch.no_grad():
            logits = model(idx_cond)
        logits = logits[:, -1, :]
        probas = torch.softmax(logits, dim=-1)
        idx_next = torch.argmax(probas, dim=-1, keepdim=True)
        idx = torch.cat((idx, idx_next), dim=1)
    return idx


def last_only(model, idx, max_new_tokens, context_size):
    model.requires_grad_(False)
    new = []
    with torch.inference_mode():
        for _ in range(max_new_tokens):
            view = torch.cat([idx, *new], dim=1)
            view = view if view.shape[1] <= context_size else view[:, view.shape[1] - context_size :]
            new += [model(view, last_only=True)[:, [-1]].argmax(-1)]
        return torch.cat([idx, *new], dim=1)


RIGHT["greedy"] = [
    greedy(),
    greedy_in_a_list,
    greedy_by_recursion,
    Greedy(),
    greedy_of_the_book,
    functools.partial(greedy_of_the_book),
    lambda m, i, n, c: greedy()(m, i, n, c),
    torch.inference_mode()(greedy_of_the_book),
    last_only,
]
WRONG["greedy"] = [
    (greedy(choose=lambda z: z[:, 0].argmax(-1, keepdim=True)), "It reads the first position"),
    (greedy(choose=lambda z: z[:, -2].argmax(-1, keepdim=True)), "The last token is not used"),
    (greedy(see=lambda idx, size: idx[:, -size:-1]), "The last token is not used"),
    (greedy(choose=lambda z: z[:, -1].argmin(-1, keepdim=True)), "It takes the lowest logit"),
    (greedy(give=lambda idx, start, size: idx[:, start:]), "the new tokens only"),
    (greedy(more=-1), "one token too few"),
    (greedy(more=1), "one token too many"),
    (lambda m, i, n, c: greedy()(m, i, 1, c), "makes one token and stops"),
    (lambda m, i, n, c: i, "the prompt as it was"),
    (greedy(choose=lambda z: z[:1, -1].argmax(-1, keepdim=True).expand(2, 1)), "the token of the first row"),
    (greedy_once, "computed once, before the loop"),
    (greedy(give=lambda idx, start, size: idx[:, -size:] if size == 12 else idx), "outgrows the window"),
    (greedy_at_random, "Two runs on the same prompt differ"),
    (greedy(see=lambda idx, size: idx), "The window is not used: the model sees the whole text"),
    (greedy(see=lambda idx, size: idx if size == 12 else idx[:, -size:]), "never cut to the window"),
    (lambda m, i, n, c: greedy(see=lambda idx, size: idx)(m, i[:, -c:], n, c), "cut once, before the loop"),
    (lambda m, i, n, c: greedy()(m, i, n - i.shape[1], c), "counts the new tokens, not the whole text"),
    (greedy(choose=lambda z: z[-1:, -1].argmax(-1, keepdim=True).expand(2, 1)), "the token of the last row"),
    (greedy(see=lambda idx, size: idx[:, -1:]), "Only the newest token is shown"),
    (greedy(choose=lambda z: z[:, -1].argmax(-1)), "It fails at"),
    (greedy(choose=lambda z: z[:, -1].max(-1, keepdim=True).values), "It fails at"),
    (greedy(see=lambda idx, size: idx[:, -size:] if size > 1 else idx), "For a window of 1 token"),
    (greedy(give=lambda idx, start, size: idx.tolist()), "It returns a list"),
    (greedy(give=lambda idx, start, size: None), "is a `return` missing?"),
    (generate_text_simple, "the course's generate_text_simple is out of reach"),
    (generate, "the course's generate is out of reach"),
    (lambda *arguments: helpers.generate(*arguments), "the course's generate is out of reach"),
    (by_stream, "the course's stream_tokens is out of reach"),
    (greedy(see=lambda idx, size: idx[:, :size]), "cut at the wrong end"),
    (greedy(see=lambda idx, size: idx[:, -12:]), "The window is not used"),
    (greedy(grow=lambda idx, new, size: torch.cat([idx[:, -size:], new], 1)), "crop a copy"),
    (greedy(grow=lambda idx, new, size: torch.cat([idx, new], 1)[:, -size:]), "crop a copy"),
    (greedy(see=lambda idx, size: idx[:, -size + 1 :]), "one token too short"),
    (
        greedy(see=lambda idx, size: idx[:, -size - 1 :] if size < 12 else idx[:, -size:]),
        "one token too long",
    ),
    (greedy_within, "outgrows the window of 12"),
    (greedy_with_graph, "every step builds a graph for gradients"),
    (greedy_without_zero, "For max_new_tokens = 0"),
    (greedy_forever, "a loop that never ends, or too much work?"),
    (
        greedy(give=lambda idx, start, size: idx.squeeze(0)),
        "For a batch of one text it gives the shape (12,)",
    ),
]


def until(model, idx, max_new_tokens, context_size, eos_id):
    for _ in range(max_new_tokens):
        idx = generate_text_simple(model, idx, 1, context_size)
        if idx[0, -1] == eos_id:
            break
    return idx


def cut_afterwards(model, idx, max_new_tokens, context_size, eos_id):
    """In another style: everything is generated, and then cut."""
    whole = generate_text_simple(model, idx, max_new_tokens, context_size)
    new = whole[0, idx.shape[1] :].tolist()
    keep = new.index(eos_id) + 1 if eos_id in new else len(new)
    return whole[:, : idx.shape[1] + keep]


def until_other(after=1, limit=0, inside=False, new_only=False):
    """Stops `after` tokens around the stop token, or at one in the prompt, or too late without any."""

    def function(model, idx, max_new_tokens, context_size, eos_id):
        if inside and eos_id in idx[0]:
            return idx
        whole = generate_text_simple(model, idx, max_new_tokens + limit, context_size)
        new = whole[0, idx.shape[1] :].tolist()
        keep = new.index(eos_id) + after if eos_id in new else len(new)
        return whole[:, idx.shape[1] if new_only else 0 : idx.shape[1] + keep]

    return function


def until_in_text(model, idx, max_new_tokens, context_size, eos_id):
    for _ in range(max_new_tokens):
        idx = generate_text_simple(model, idx, 1, context_size)
        if (idx == eos_id).any():
            break
    return idx


def until_last(model, idx, max_new_tokens, context_size, eos_id):
    for _ in range(max_new_tokens):
        if idx[0, -1] == eos_id:
            break
        idx = generate_text_simple(model, idx, 1, context_size)
    return idx


def until_by_generate(model, idx, max_new_tokens, context_size, eos_id):
    """The course's generate ends before the stop token, so it is put back."""
    text = generate(model, idx, max_new_tokens, context_size, eos_id=eos_id)
    stopped = text.shape[1] < idx.shape[1] + max_new_tokens
    return F.pad(text, (0, 1), value=eos_id) if stopped else text


@torch.inference_mode()
def until_in_a_list(model, idx, max_new_tokens, context_size, eos_id=None):
    tokens = idx[0].tolist()
    for _ in range(max_new_tokens):
        tokens.append(int(model(torch.tensor([tokens[-context_size:]], device=idx.device))[0, -1].argmax()))
        if tokens[-1] == eos_id:
            break
    return torch.tensor([tokens], device=next(model.parameters()).device)


def until_while(model, idx, max_new_tokens, context_size, eos_id):
    n, done = 0, False
    with torch.no_grad():
        while n < max_new_tokens and not done:
            idx_next = model(idx[:, -context_size:])[:, -1].argmax(dim=-1, keepdim=True)
            idx = torch.cat((idx, idx_next), dim=1)
            done = bool((idx_next == eos_id).all())
            n += 1
    return idx


class Until:
    def __init__(self, pick=torch.argmax):
        self.pick = pick

    def __call__(self, model, idx, max_new_tokens, context_size, eos_id):
        if max_new_tokens < 1:
            return idx
        new = self.pick(model(idx[:, -context_size:])[0, -1]).view(1, 1)
        idx = torch.cat([idx, new], dim=-1)
        return idx if new.item() == eos_id else self(model, idx, max_new_tokens - 1, context_size, eos_id)


def until_if_set(model, idx, max_new_tokens, context_size, eos_id):
    return until(model, idx, max_new_tokens, context_size, eos_id or None)


def until_filled(model, idx, max_new_tokens, context_size, eos_id):
    text = until(model, idx, max_new_tokens, context_size, eos_id)
    return F.pad(text, (0, idx.shape[1] + max_new_tokens - text.shape[1]), value=eos_id)


def until_long(model, idx, max_new_tokens, context_size, eos_id):
    while idx.shape[1] < max_new_tokens:
        idx = generate_text_simple(model, idx, 1, context_size)
        if idx[0, -1] == eos_id:
            break
    return idx


def until_whole(model, idx, max_new_tokens, context_size, eos_id):
    return until(model, idx, max_new_tokens, 12, eos_id)


def until_after_one(model, idx, max_new_tokens, context_size, eos_id):
    """Looks at the token before the newest one, so one that comes first is passed over."""
    idx = generate_text_simple(model, idx, 1, context_size)
    return until(model, idx, max_new_tokens - 1, context_size, eos_id)


RIGHT["stop_token"] = [
    until,
    cut_afterwards,
    until_by_generate,
    until_in_a_list,
    until_while,
    Until(),
    lambda m, i, n, c, e: until_while(m, i, n, c, e),
]
WRONG["stop_token"] = [
    (lambda model, idx, n, size, eos: generate_text_simple(model, idx, n, size), "It never stops"),
    (until_other(after=0), "stops before appending"),
    (until_other(after=2), "one token too late"),
    (lambda model, idx, n, size, eos: idx, "the prompt as it was"),
    (lambda model, idx, n, size, eos: generate_text_simple(model, idx, 1, size), "after the first token"),
    (until_other(new_only=True), "the new tokens only"),
    (until_other(limit=1), "goes beyond max_new_tokens"),
    (until_other(inside=True), "A stop token in the prompt ends it"),
    (until_in_text, "A stop token in the prompt ends it"),
    (until_last, "A stop token in the prompt ends it"),
    (lambda m, i, n, c, e: until(m, i[:, -c:], n, c, e), "What leaves the window is lost"),
    (until_if_set, "The stop token may be 0"),
    (until_filled, "It goes on with stop tokens; the text ends at the first"),
    (until_long, "counts the new tokens, not the whole text"),
    (until_whole, "The window is cut at the wrong end, or not at all"),
    (until_after_one, "With a stop token that comes first"),
    (lambda m, i, n, c, e: until(m, i, max(n, 1), c, e), "For max_new_tokens = 0"),
    (lambda m, i, n, c, e: until(m, i, n, c, e)[0], "the shape ("),
    (lambda m, i, n, c, e: generate(m, i, n, c, eos_id=e), "stops before appending"),
    (lambda m, i, n, c, e: until(m, i, 5, c, e), "With a stop token that"),
    (lambda m, i, n, c, e: i if i[0, 0] == e else until(m, i, n, c, e), "token in the prompt only it gives"),
]
