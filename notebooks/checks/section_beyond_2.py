"""The exercises of the notebook on training, beyond the chapter."""

import copy
import math

import torch
from torch.nn import functional as F

from helpers import GPTModel  # the shipped one, whatever `use` puts in its place

from .require import (
    SMALL,
    choice_exercise,
    is_close,
    number_exercise,
    randomized,
    require,
    require_float,
    require_result,
)
from .runner import NotAttempted, Wrong, exercise

BITS = 3.2 / 4 / math.log(2)

bits_per_character = number_exercise(
    "beyond 2.1",
    right=BITS,
    tolerance=0.005,
    praise="So this model predicts the text better than the one with 1.3 bits per character.",
    mistakes={
        "That is in nats per character; divide by ln 2 for bits": 3.2 / 4,
        "That is in bits per token; a token has 4 characters": 3.2 / math.log(2),
        "A nat is more than a bit: divide by ln 2 instead of multiplying": 3.2 / 4 * math.log(2),
        "The loss is spread over 4 characters: divide by 4 instead of multiplying": 3.2 * 4 / math.log(2),
        "Divide by 4 instead of multiplying, and by ln 2 for bits": 3.2 * 4,
        "That is the perplexity per token": math.exp(3.2),
        "That is the perplexity per character": math.exp(3.2 / 4),
        "That takes the loss for bits; it is in nats": 2 ** (3.2 / 4),
        "The logarithm to take is the natural one, ln 2 = 0.693": 3.2 / 4 / math.log10(2),
    },
)


the_leak = choice_exercise(
    "beyond 2.2",
    right="b",
    praise="Windows i and i + 1 share nearly all their tokens, so nearly every held-out token is trained on.",
    options={
        "a": "The two parts share no token, and at most a sentence that the cut goes through.",
        "c": "Whole books are as separate as texts can be, as long as no book is there twice.",
        "d": "That tells the model which tokens exist, but not one word about their order.",
    },
)


def bends(step, steps, peak, warmup, decay):
    """Three straight pieces: up, level, down."""
    return peak * min(1, (step + 1) / warmup, (steps - step) / decay)


def schedule_mistakes(step, steps, peak, warmup, decay):
    """What the classic mistakes give at one step."""
    up, left = min(1, (step + 1) / warmup), steps - step
    cosine = 0.5 - 0.5 * math.cos(math.pi * min(1, left / decay))
    return {
        "The first rate is 0, so the first step is wasted: use step + 1": (
            peak * min(1, step / warmup, left / decay)
        ),
        "The last rate is 0, so the last step is wasted": peak * min(up, (left - 1) / decay),
        "Both the first and the last rate are 0": peak * min(1, step / warmup, (left - 1) / decay),
        "There is no decay": peak * up,
        "There is no warm-up": peak * min(1, left / decay),
        "There is neither warm-up nor decay": peak,
        "It returns a share of the peak; multiply by `peak`": min(up, left / decay),
        "The decay begins right after the warm-up; it should wait until `decay` steps are left": (
            peak * (up if step < warmup else left / (steps - warmup))
        ),
        "The decay is half a cosine; here it is a straight line": peak * min(up, cosine),
        "Warm-up and decay are swapped": peak * min(1, (step + 1) / decay, left / warmup),
        "The rate jumps to 0 when the decay begins": peak * up * (left > decay),
        "It takes the larger of the pieces; the smallest holds": peak
        * max(1, (step + 1) / warmup, left / decay),
    }


@exercise("beyond 2.3", "Straight up, level, straight down.")
def trapezoid(answer):
    for setting in ((20, 1.0, 5, 4), (20, 0.003, 1, 1), (12, 2.0, 3, 8), (10, 0.5, 5, 5)):
        right = [bends(step, *setting) for step in range(setting[0])]
        rates = [require_float(require_result(answer, step, *setting)) for step in range(setting[0])]
        if all(map(math.isclose, rates, right)):
            continue
        wrong = [schedule_mistakes(step, *setting) for step in range(setting[0])]
        for words in wrong[0]:
            if all(abs(a - b[words]) < 1e-9 for a, b in zip(rates, wrong, strict=True)):
                raise Wrong(f"{words}.")
        i = next(i for i, pair in enumerate(zip(rates, right, strict=True)) if not math.isclose(*pair))
        steps, peak, warmup, decay = setting
        given = f"For steps = {steps}, peak = {peak}, warmup = {warmup}, decay = {decay}"
        raise Wrong(f"{given}, it gives {rates[i]:.6g} at step {i}; {right[i]:.6g} is right.")


PARTS = ((3, 7), (1, 12), (2, 4))  # numbers of windows and of tokens


def summed(model, inputs, targets):
    return F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten(), reduction="sum")


@exercise("beyond 2.4", "Every token counts once, in whatever part it comes.")
def accumulate(answer):
    model, size = randomized(GPTModel(SMALL), size=0.4), SMALL["vocab_size"]
    parts = [tuple(torch.randint(size, (2, *shape))) for shape in PARTS]
    sums, counts = [summed(model, *part) for part in parts], [part[1].numel() for part in parts]
    means = [total / n for total, n in zip(sums, counts, strict=True)]
    right = sum(sums) / sum(counts)
    losses = {  # what each mistake makes of the losses
        "": right,
        "It averages the parts, but they have different numbers of tokens: weight each by its tokens": (
            sum(means) / len(parts)
        ),
        "It adds up the mean losses of the parts": sum(means),
        "The sum over all tokens is never divided by their number": sum(sums),
        "It weights the parts by their windows; weight them by their tokens": (
            sum(len(part[0]) * mean for part, mean in zip(parts, means, strict=True))
            / sum(len(part[0]) for part in parts)
        ),
        "Only the last part counts: clear the gradients once, before the first part": means[-1],
        "Only the last part counts: clear the gradients once, and not between the parts": (
            sums[-1] / sum(counts)
        ),
        "Only the first part counts": means[0],
    }
    weights = list(model.parameters())
    wrong = {words: torch.autograd.grad(x, weights, retain_graph=True) for words, x in losses.items()}
    before = copy.deepcopy(model.state_dict())
    for first in (True, False):  # the second time, the gradients of the first are still there
        loss = run(answer, model, parts)
        unchanged = all(torch.equal(before[name], now) for name, now in model.state_dict().items())
        require(unchanged, "It changes the weights; it should only leave the gradients in .grad.")
        missing = [name for name, p in model.named_parameters() if p.grad is None]
        require(not missing, f"No gradient reaches {missing[0] if missing else ''}: is a backward() missing?")
        for words, gradients in wrong.items():
            if all(is_close(p.grad, g, 1e-3) for p, g in zip(weights, gradients, strict=True)):
                require(not words, f"{words}.")
                break
        else:
            again = "With old gradients in .grad it gives other ones: they must be cleared first."
            require(first, again)
            raise Wrong("The gradients differ from those of the mean loss over all tokens.")
    loss = require_float(loss, "the mean loss")
    words = f"The gradients are right, but it returns {loss:.4f}; the mean loss is {right.item():.4f}."
    require(abs(loss - right.item()) < 1e-3, words)


def run(answer, model, parts):
    """What an answer returns for a copy of the parts, which it must leave as they are."""
    copies = copy.deepcopy(parts)
    result = require_result((lambda m: answer(m, copies)) if callable(answer) else answer, model)
    if result is ...:
        raise NotAttempted
    same = len(copies) == len(parts) and all(
        torch.equal(a, b)
        for mine, given in zip(copies, parts, strict=True)
        for a, b in zip(mine, given, strict=True)
    )
    require(same, "It changes its input, which the caller still needs.")
    return result
