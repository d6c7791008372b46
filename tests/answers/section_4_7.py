"""Answers to the exercises of 4.7, on generating text."""

import torch

from helpers import generate_text_simple

from .variants import INF

RIGHT, WRONG = {}, {}

RIGHT["what_eval_changes"] = ["b"]
WRONG["what_eval_changes"] = [
    ("ab", "Choose one of"),
]
RIGHT["tokens_processed"] = [5950, 5950.0]
WRONG["tokens_processed"] = [
    (7000, "7,000 is too large"),
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
    """In another style: a list of columns, and while."""
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


def greedy_without_zero(model, idx, max_new_tokens, context_size):
    return greedy()(model, idx, max(1, max_new_tokens), context_size)


def greedy_within(model, idx, max_new_tokens, context_size):
    """Right until the text is longer than the window by more than the first prompt ever is."""
    return greedy(see=lambda idx, size: idx[:, -size:] if idx.shape[1] < 13 else idx[:, 1 : 1 + size])(
        model, idx, max_new_tokens, context_size
    )


RIGHT["greedy"] = [generate_text_simple, greedy(), greedy_in_a_list]
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
    (greedy(see=lambda idx, size: idx), "never cut to the window"),
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
    (greedy_with_graph, "a graph for gradients is built"),
    (greedy_without_zero, "For max_new_tokens = 0"),
    (lambda *a: greedy.__wrapped__(*a), "AttributeError"),
    (greedy_forever, "a loop that never ends, or too much work?"),
    (
        greedy(give=lambda idx, start, size: idx.squeeze(0)),
        "For a batch of one text it gives the shape (11,)",
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


RIGHT["stop_token"] = [until, cut_afterwards]
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
    (lambda m, i, n, c, e: i if i[0, 0] == e else until(m, i, n, c, e), "token in the prompt only it gives"),
]


def probabilities(logits, temperature, top_k):
    values, places = torch.topk(logits, top_k)
    kept = torch.full_like(logits, -INF).scatter(-1, places, values)
    return torch.softmax(kept / temperature, dim=-1)


def by_threshold(logits, t, k):
    limit = logits.sort(dim=-1, descending=True).values[:, k - 1].unsqueeze(-1)
    weights = torch.where(logits < limit, 0.0, torch.exp((logits - logits.max(-1, keepdim=True).values) / t))
    return weights / weights.sum(-1, keepdim=True)


def keep(logits, k, fill=-INF, largest=True):
    values, places = logits.topk(k, largest=largest)
    return torch.full_like(logits, fill).scatter(-1, places, values)


def keep_anywhere(logits, k):
    return logits.masked_fill(logits < logits.flatten().topk(k).values[-1], -INF)


RIGHT["top_k"] = [probabilities, by_threshold]
WRONG["top_k"] = [
    (lambda z, t, k: keep(z, k).softmax(-1), "The temperature is not used"),
    (lambda z, t, k: keep(z * t, k).softmax(-1), "multiplied by the temperature"),
    (lambda z, t, k: keep(z, k).softmax(-1) / t, "The probabilities are divided"),
    (lambda z, t, k: (z / t).softmax(-1), "top_k is not used"),
    (lambda z, t, k: keep(z / t, k, fill=0.0).softmax(-1), "set to 0; e to the 0 is 1"),
    (lambda z, t, k: keep((z / t).softmax(-1), k, fill=0.0), "after the softmax"),
    (lambda z, t, k: keep(z / t, k, largest=False).softmax(-1), "the k lowest"),
    (lambda z, t, k: keep(z / t, max(1, k - 1)).softmax(-1), "keeps k - 1"),
    (lambda z, t, k: keep(z / t, k + 1).softmax(-1), "keeps k + 1"),
    (lambda z, t, k: keep_anywhere(z / t, k).softmax(-1), "in all rows together"),
    (lambda z, t, k: keep(z / t, k).softmax(0), "The softmax runs over the rows"),
    (lambda z, t, k: keep(z / t, k), "It returns logits"),
    (lambda z, t, k: (z / t).topk(k).values.softmax(-1), "only the k best"),
    (lambda z, t, k: keep((z / t).T, min(k, 4)).T.softmax(-1), "among the rows (dim=0)"),
    (lambda z, t, k: probabilities(z.div_(t), 1, k), "changes its input in place"),
    (lambda z, t, k: probabilities(z, t, min(k, 5)), "temperature 1 and all seven"),
    (lambda z, t, k: probabilities(z, max(t, 1), k) if k > 1 else (z / t).softmax(-1), "top_k 1"),
]
