"""Answers to the exercises of the notebook on training, beyond the chapter."""

import math
from fractions import Fraction

import numpy as np
import torch
from torch.nn import functional as F

RIGHT, WRONG = {}, {}

RIGHT["bits_per_character"] = [
    3.2 / 4 / math.log(2),
    1.15,
    math.log2(math.exp(3.2 / 4)),
    math.log2(math.e) * 0.8,
    torch.tensor(0.8) / torch.tensor(2.0).log(),
    np.float32(1.1542),
]
WRONG["bits_per_character"] = [
    (1.3, "1.3 is too large"),
    (1.0, "1.0 is too small"),
    (2.3, "too large"),
    ((0.8, 1.15), "Answer with one number"),
]

RIGHT["the_leak"] = ["b", "B", " (b)", "b.", "b\n"]
WRONG["the_leak"] = [("e", "Choose one of 'a', 'b', 'c', 'd'"), (2, "Choose one of")]


def lowest(step, steps, peak, warmup, decay):
    return peak * min(1, (step + 1) / warmup, (steps - step) / decay)


def by_cases(step, steps, peak, warmup, decay):
    if step < warmup:
        return peak * (step + 1) / warmup
    if step < steps - decay:
        return peak
    return peak * (steps - step) / decay


def in_a_tensor(step, steps, peak, warmup, decay):
    pieces = torch.tensor([1.0, (step + 1) / warmup, (steps - step) / decay], dtype=torch.float64)
    return peak * pieces.min()


def interpolated(step: int, steps: int, peak: float, warmup: int, decay: int) -> float:
    return np.interp(step, [-1, warmup - 1, steps - decay, steps], [0, peak, peak, 0])


class Schedule:
    def __call__(self, step, steps, peak, warmup, decay):
        share = min(Fraction(step + 1, warmup), Fraction(steps - step, decay))
        return peak * float(min(share, 1))


def table(step, steps, peak, warmup, decay):
    up = [(i + 1) / warmup for i in range(warmup)]
    level = [1] * (steps - warmup - decay)
    return [peak * share for share in [*up, *level, *[(decay - i) / decay for i in range(decay)]]][step]


RIGHT["trapezoid"] = [lowest, by_cases, in_a_tensor, interpolated, Schedule(), table]
WRONG["trapezoid"] = [
    (lambda i, n, p, w, d: p * min(1, i / w, (n - i) / d), "The first rate is 0"),
    (lambda i, n, p, w, d: p * min(1, (i + 1) / w, (n - i - 1) / d), "The last rate is 0"),
    (lambda i, n, p, w, d: p * min(1, i / w, (n - i - 1) / d), "Both the first and the last"),
    (lambda i, n, p, w, d: p * min(1, (i + 1) / w), "There is no decay"),
    (lambda i, n, p, w, d: p * min(1, (n - i) / d), "There is no warm-up"),
    (lambda i, n, p, w, d: p, "neither warm-up nor decay"),
    (lambda i, n, p, w, d: lowest(i, n, 1, w, d), "a share of the peak"),
    (
        lambda i, n, p, w, d: p * ((i + 1) / w if i < w else (n - i) / (n - w)),
        "begins right after the warm-up",
    ),
    (
        lambda i, n, p, w, d: p * min(1, (i + 1) / w, 0.5 - 0.5 * math.cos(math.pi * min(1, (n - i) / d))),
        "half a cosine",
    ),
    (lambda i, n, p, w, d: lowest(i, n, p, d, w), "Warm-up and decay are swapped"),
    (lambda i, n, p, w, d: by_cases(i, n, p, w, d) * (i < n - d), "jumps to 0"),
    (lambda i, n, p, w, d: p * max(1, (i + 1) / w, (n - i) / d), "the smallest holds"),
    (lambda i, n, p, w, d: p * min(1, (i + 2) / w, (n - i) / d), "at step 0; 0.2 is right"),
    (lambda i, n, p, w, d: p * min(1, (i + 1) / w, (n - i + 1) / d), "at step 17; 0.75 is right"),
    (lambda i, n, p, w, d: str(lowest(i, n, p, w, d)), "It returns a str; it should return a number"),
    (lambda i, n, p, w, d: print(lowest(i, n, p, w, d)), "is a `return` missing?"),
    (0.004, "Hand over the function"),
]


def cross_entropy(model, part, **options):
    inputs, targets = part
    return F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten(), **options)


def by_sums(model, parts):
    tokens = sum(targets.numel() for _, targets in parts)
    model.zero_grad()
    total = 0.0
    for part in parts:
        loss = cross_entropy(model, part, reduction="sum") / tokens
        loss.backward()
        total += loss.item()
    return total


def by_weights(model, parts):
    tokens = torch.tensor([float(targets.numel()) for _, targets in parts])
    for p in model.parameters():
        p.grad = None
    losses = []
    for part, weight in zip(parts, tokens / tokens.sum(), strict=True):
        losses.append(weight * cross_entropy(model, part))
        losses[-1].backward()
    return sum(losses)


def divided_at_the_end(model, parts):
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    optimizer.zero_grad(set_to_none=False)
    total = n = 0
    for part in parts:
        loss = cross_entropy(model, part, reduction="sum")
        loss.backward()
        total, n = total + loss.detach(), n + part[1].numel()
    for p in model.parameters():
        p.grad /= n
    return total / n


def all_losses_first(model, parts):
    losses = torch.cat([cross_entropy(model, part, reduction="none") for part in parts])
    model.zero_grad()
    losses.mean().backward()
    return losses.mean()


def by_log_softmax(model, parts):
    model.zero_grad()
    picked = [
        model(inputs).log_softmax(-1).gather(-1, targets[..., None]).flatten() for inputs, targets in parts
    ]
    loss = -torch.cat(picked).mean()
    loss.backward()
    return loss.item()


class Accumulator:
    def __call__(self, model, parts):
        loss = sum(cross_entropy(model, part, reduction="sum") for part in parts)
        loss = loss / sum(part[0].numel() for part in parts)
        weights = list(model.parameters())
        for p, gradient in zip(weights, torch.autograd.grad(loss, weights), strict=True):
            p.grad = gradient
        return loss.item()


def variant(loss_of=lambda model, part, n, parts: cross_entropy(model, part, reduction="sum") / n,
            clear=True, each=False, result=lambda losses: sum(losses), after=lambda model: None):  # fmt: skip
    """Each step of the accumulation can be replaced."""

    def function(model, parts):
        if clear:
            model.zero_grad()
        losses = []
        for part in parts:
            if each:
                model.zero_grad()
            loss = loss_of(model, part, sum(targets.numel() for _, targets in parts), parts)
            loss.backward()
            losses.append(loss.item())
        after(model)
        return result(losses)

    return function


def mean_of_part(model, part, n, parts):
    return cross_entropy(model, part)


def mean_of_means(model, part, n, parts):
    return cross_entropy(model, part) / len(parts)


def by_windows(model, part, n, parts):
    return cross_entropy(model, part) * len(part[0]) / sum(len(inputs) for inputs, _ in parts)


def sum_of_part(model, part, n, parts):
    return cross_entropy(model, part, reduction="sum")


def shifted(model, part, n, parts):
    return (
        F.cross_entropy(model(part[0])[:, :-1].flatten(0, 1), part[1][:, 1:].flatten(), reduction="sum") / n
    )


@torch.no_grad()
def step(model):
    for p in model.parameters():
        p -= 0.1 * p.grad


def no_backward(model, parts):
    model.zero_grad()
    return sum(cross_entropy(model, part, reduction="sum") for part in parts).item() / 41


def only_head(model, parts):
    model.zero_grad()
    loss = all_losses_first(model, parts)
    model.tok_emb.weight.grad = None
    return loss


def empties_the_list(model, parts):
    result = by_sums(model, parts)
    parts.clear()
    return result


def first_only(model, parts):
    model.zero_grad()
    loss = cross_entropy(model, parts[0])
    loss.backward()
    return loss.item()


RIGHT["accumulate"] = [
    by_sums,
    by_weights,
    divided_at_the_end,
    all_losses_first,
    by_log_softmax,
    Accumulator(),
    variant(),
]
WRONG["accumulate"] = [
    (variant(mean_of_means), "It averages the parts"),
    (variant(mean_of_part), "It adds up the mean losses"),
    (variant(sum_of_part), "never divided by their number"),
    (variant(by_windows), "weights the parts by their windows"),
    (variant(mean_of_part, each=True), "Only the last part counts"),
    (variant(each=True), "clear the gradients once, and not between the parts"),
    (first_only, "Only the first part counts"),
    (variant(shifted), "The gradients differ from those of the mean loss over all tokens"),
    (variant(clear=False), "they must be cleared first"),
    (variant(after=step), "It changes the weights"),
    (no_backward, "is a backward() missing?"),
    (only_head, "No gradient reaches tok_emb.weight"),
    (variant(result=lambda losses: losses), "It returns a list; it should return the mean loss"),
    (variant(result=lambda losses: None), "is a `return` missing?"),
    (variant(result=lambda losses: losses[-1]), "The gradients are right, but it returns"),
    (variant(result=lambda losses: sum(losses) / 3), "The gradients are right, but it returns"),
    (empties_the_list, "It changes its input"),
    (0.5, "Hand over the function"),
]
