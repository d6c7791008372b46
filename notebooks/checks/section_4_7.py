"""The exercises of 4.7, on generating text."""

import torch

# the shipped ones, whatever `use` puts in their place
from helpers import GPTModel, generate, generate_text_simple, next_token_probabilities, stream_tokens

from .require import SMALL, choice_exercise, is_close, number_exercise, require, require_equal, require_result
from .runner import Wrong, exercise

what_eval_changes = choice_exercise(
    "4.7.1",
    right="b",
    praise="The same function, without chance. Gradients have a switch of their own, torch.no_grad().",
    options={
        "a": "That is torch.no_grad(). In eval mode, gradients are computed as before.",
        "c": "That is batch normalization. Layer normalization always uses the mean of the token itself.",
        "d": "eval() freezes nothing: it only sets a flag that dropout looks at.",
    },
)


P, N = 10, 100  # tokens of the prompt, and new ones

tokens_processed = number_exercise(
    "4.7.2",
    right=N * P + N * (N - 1) // 2,
    praise="n·P + n(n - 1)/2, of which only the last position of each pass was ever read.",
    mistakes={
        "That is the length at the end; each step reads the whole text so far": P + N,
        "That is how many are made; each step reads the whole text so far": N,
        "The text grows by one token with each step": N * P,
        "The first step reads 10 tokens, not 11": N * P + N * (N + 1) // 2,
        "That is a step too many: the token made last is never read": sum(range(P, P + N + 1)),
        "That is a step too few: the last step reads 109 tokens": sum(range(P, P + N - 1)),
        "The first step is missing: it reads the 10 tokens of the prompt": sum(range(P + 1, P + N)),
        "Every step reads the prompt, too": N * (N - 1) // 2,
        "Every step reads the prompt, too, and the first reads nothing else": N * (N + 1) // 2,
        "The first step reads the whole prompt at once, not token by token": sum(range(1, P + N)),
        "The text has its full length only at the end": N * (P + N),
        "The average of 10, 11, ..., 109 is 59.5": N * 60,
    },
)


class Clockwork(GPTModel):
    """A stand-in for a GPT: its scores at a position depend on all tokens up to there, and on their order.

    It has all that a model has, and takes any option, which it ignores.
    """

    def __init__(self):
        super().__init__(SMALL)
        self.table = torch.randn(31, 31, generator=torch.Generator().manual_seed(23))
        self.graphs = []  # for each call, whether it would have built a graph for gradients

    def forward(self, in_idx, **options):
        T = in_idx.shape[1]
        if T > 12:
            raise ValueError(f"cannot process a sequence of {T} tokens, context_length is only 12")
        self.graphs.append(torch.is_grad_enabled())
        return self.table[((in_idx + 1) * torch.arange(1, T + 1)).cumsum(dim=1) % 31]  # (B, T, 31)


PROMPTS = torch.tensor([[3, 1, 4, 1, 5], [2, 7, 1, 8, 2]])
START = PROMPTS.shape[1]


def best(logits):
    """The highest of the logits of one position, (B, V) -> (B, 1)."""
    return logits.argmax(dim=-1, keepdim=True)


def within(window):
    """The choice of the next token by the last `window` ones."""
    return lambda model, idx: best(model(idx[:, -window:])[:, -1])


def greedy_by(choose, idx, steps):
    """Append `steps` times what choose(model, idx) gives."""
    model = Clockwork()
    with torch.no_grad():
        for _ in range(steps):
            idx = torch.cat([idx, choose(model, idx)], dim=1)
    return idx


NOT_CUT = "The text is never cut to the window, so the model rejects it"


def require_text(answer, prompt, steps, window, right, mistakes, given, *more, otherwise=None):
    """Raise Wrong unless the answer generates the text that is `right`."""
    model = Clockwork()
    try:
        result = require_result(answer, model, prompt, steps, window, *more)
    except ValueError as error:
        if "context_length" in str(error):
            raise Wrong(f"{NOT_CUT}: {error}.") from None
        raise
    require_equal(result, right, mistakes, given, otherwise=otherwise)
    return model


@exercise(
    "4.7.3",
    "Predict, choose, append: the right tokens, inside the window and beyond it.",
    write=(generate_text_simple, generate, stream_tokens),
)
def greedy(answer):
    prompt, steps = PROMPTS, 7

    def loop(choose, start=prompt):
        return greedy_by(choose, start, steps)

    whole, longer = loop(within(12)), greedy_by(within(12), prompt, 10)  # the latter outgrows the window
    mistakes = {
        "It reads the first position; the last one scores what comes next": loop(
            lambda m, i: best(m(i)[:, 0])
        ),
        "The last token is not used: it is left out, or the position before it is read": loop(
            lambda m, i: best(m(i)[:, -2])
        ),
        "It takes the lowest logit": loop(lambda m, i: m(i)[:, -1].argmin(dim=-1, keepdim=True)),
        "It returns the new tokens only; the prompt belongs to the text": whole[:, START:],
        "It makes one token too few": whole[:, :-1],
        "It makes one token too many": longer[:, : START + steps + 1],
        "max_new_tokens counts the new tokens, not the whole text": whole[:, :steps],
        "It makes one token and stops": whole[:, : START + 1],
        "It returns the prompt as it was": prompt,
        "Every row gets the token of the first row": loop(lambda m, i: best(m(i)[:1, -1]).expand(2, 1)),
        "Every row gets the token of the last row": loop(lambda m, i: best(m(i)[-1:, -1]).expand(2, 1)),
        "The logits never change: they are computed once, before the loop": torch.cat(
            [prompt, whole[:, START : START + 1].expand(2, steps)], dim=1
        ),
        "Only the newest token is shown to the model": loop(within(1)),
    }

    def look_again():
        first, second = (require_result(answer, Clockwork(), prompt, steps, 12) for _ in range(2))
        require(
            is_close(first, second), "Two runs on the same prompt differ: greedy decoding has no randomness."
        )

    # First a text that stays within the window, so that nothing is cropped.
    given = "For a prompt that fits the window"
    model = require_text(answer, prompt, steps, 12, whole, mistakes, given, otherwise=look_again)
    require_text(answer, prompt[:1], steps, 12, whole[:1], {}, "For a batch of one text")
    right = loop(within(4))
    mistakes = {
        "The window is cut at the wrong end: the model must see the last context_size tokens": loop(
            lambda m, i: best(m(i[:, :4])[:, -1])
        ),
        "The window is not used: the model sees the whole text": whole,
        "The prompt is cut once, before the loop; cut what the model sees, at every step": loop(
            within(12), prompt[:, -4:]
        ),
        "What leaves the window is lost from the text as well; crop a copy": [
            right[:, -4:],
            right[:, -5:],
            right[:, -4 - steps :],
        ],
        "The window is one token too short": loop(within(3)),
        "The window is one token too long": loop(within(5)),
    }
    require_text(answer, prompt, steps, 4, right, mistakes, "For a window of 4 tokens and a prompt of 5")
    require_text(answer, prompt, steps, 1, loop(within(1)), {}, "For a window of 1 token")
    require_text(answer, prompt, 10, 12, longer, {}, "For a text that outgrows the window of 12")
    require_text(answer, prompt, 0, 12, prompt, {}, "For max_new_tokens = 0")
    words = "The tokens are right, but every step builds a graph for gradients: use torch.no_grad()."
    require(not any(model.graphs), words)


@exercise("4.7.4", "It stops where the model says so, or else after max_new_tokens.")
def stop_token(answer):
    prompt, steps = PROMPTS[:1], 7
    longer = greedy_by(within(12), prompt, steps + 1)
    whole = longer[:, :-1]
    new, old = whole[0, START:].tolist(), prompt[0].tolist()
    place = next(i for i in range(3, 6) if new[i] not in new[:i] + old)
    eos, end = new[place], START + place + 1  # where the text ends, after the stop token
    unused = next(i for i in range(1, 31) if i not in whole[0].tolist())
    mistakes = {
        "It never stops at the stop token": whole,
        "It stops before appending the stop token, which belongs to the text": whole[:, : end - 1],
        "It stops one token too late": whole[:, : end + 1],
        "It goes on with stop tokens; the text ends at the first": [
            torch.cat([whole[:, :n], torch.full((1, START + steps - n), eos)], dim=1) for n in (end - 1, end)
        ],
        "It returns the prompt as it was": prompt,
        "It stops after the first token": whole[:, : START + 1],
        "max_new_tokens counts the new tokens, not the whole text": whole[:, :steps],
        "It returns the new tokens only": whole[:, START:end],
    }
    require_text(answer, prompt, steps, 12, whole[:, :end], mistakes, f"With the stop token {eos}", eos)
    first = whole[:, : START + 1]
    require_text(answer, prompt, steps, 12, first, {}, "With a stop token that comes first", new[0])
    mistakes = {
        "Without a stop token it goes beyond max_new_tokens": longer,
        "max_new_tokens counts the new tokens, not the whole text": whole[:, :steps],
    }
    require_text(answer, prompt, steps, 12, whole, mistakes, "With a stop token that never comes", unused)
    for number, given in ((old[-1], "as the last token of the prompt"), (old[0], "in the prompt only")):
        right = whole[:, : START + 1 + new.index(number)] if number in new else whole
        mistakes = {
            "A stop token in the prompt ends it; only a new one should": [prompt, whole[:, : START + 1]]
        }
        require_text(answer, prompt, steps, 12, right, mistakes, f"With the stop token {given}", number)
    text = greedy_by(within(4), prompt, steps)
    right = text[:, : START + 1 + text[0, START:].tolist().index(0)]
    mistakes = {
        "The stop token may be 0, which counts as False in an if": text,
        "What leaves the window is lost from the text as well; crop a copy": [right[:, 1:], right[:, -5:]],
        "The window is cut at the wrong end, or not at all": [
            greedy_by(choose, prompt, steps) for choose in (lambda m, i: best(m(i[:, :4])[:, -1]), within(12))
        ],
    }
    given = "With the stop token 0, and a window of 4 tokens,"
    require_text(answer, prompt, steps, 4, right, mistakes, given, 0)
    require_text(answer, prompt, 0, 12, prompt, {}, "For max_new_tokens = 0", eos)


OVERFLOW = (
    "exp overflows or underflows for large logits; use softmax, or subtract each row's largest logit first."
)


def require_probabilities(answer, logits, arguments, right, mistakes, given, nan=OVERFLOW):
    """Raise Wrong unless the answer gives the probabilities that are `right`, exactly 0 where they are."""
    result = require_result(answer, logits, *arguments)
    if isinstance(result, torch.Tensor) and not mistakes:
        require(not result.isnan().any(), f"{given} it gives nan: {nan}")
    require_equal(result, right, mistakes, given)
    words = f"{given} it leaves a chance to tokens whose probability must be exactly 0."
    require(not result[right == 0].any(), words)


def best_k(values, k, largest=True, dim=-1, fill=float("-inf")):
    """The k best of `values`, and `fill` in all other places."""
    picked = values.topk(k, dim=dim, largest=largest).indices
    return torch.full_like(values, fill).scatter(dim, picked, values.gather(dim, picked))


ROWS = torch.tensor([[0.0], [9.0], [-9.0], [2.0]])  # what each row of logits is shifted by


@exercise(
    "4.7.5",
    "Sharper or flatter by temperature, and nothing outside the k best; each row sums to 1.",
    write=(next_token_probabilities,),
)
def top_k(answer):
    logits, t, k = 2 * torch.randn(4, 7) + ROWS, 2.0, 3
    scaled = logits / t
    right = best_k(scaled, k).softmax(-1)
    probabilities = scaled.softmax(-1)
    everywhere = torch.where(scaled >= scaled.flatten().topk(k).values[-1], scaled, float("-inf"))
    mistakes = {
        "The temperature is not used": best_k(logits, k).softmax(-1),
        "The logits are multiplied by the temperature; divide": best_k(logits * t, k).softmax(-1),
        "The probabilities are divided by the temperature; divide the logits": best_k(logits, k).softmax(-1)
        / t,
        "top_k is not used": probabilities,
        "Neither temperature nor top_k is used": logits.softmax(-1),
        "The other logits are set to 0; e to the 0 is 1, so use -inf": best_k(scaled, k, fill=0.0).softmax(
            -1
        ),
        "The cut comes after the softmax, so a row no longer sums to 1": best_k(probabilities, k, fill=0.0),
        "There is a second softmax, of probabilities": best_k(probabilities, k).softmax(-1),
        "It keeps the k lowest": best_k(scaled, k, largest=False).softmax(-1),
        "It keeps k - 1 tokens; the k-th best stays, too": best_k(scaled, k - 1).softmax(-1),
        "It keeps k + 1 tokens": best_k(scaled, k + 1).softmax(-1),
        "It looks for the k best in all rows together": everywhere.softmax(-1),
        "The softmax runs over the rows (dim=0)": best_k(scaled, k).softmax(0),
        "It returns logits; we want probabilities": best_k(scaled, k),
        "It returns only the k best; all V places are needed": scaled.topk(k).values.softmax(-1),
        "It looks for the k best among the rows (dim=0)": best_k(scaled, k, dim=0).softmax(-1),
    }
    zeros = torch.tensor([[0.0, -1.0, -2.0, -3.0], [1.0, 0.0, -1.0, 2.0]])
    cases = {
        "For temperature 2 and top_k 3": (logits, t, k),
        "For temperature 1 and all seven tokens": (logits, 1.0, 7),
        "For temperature 0.5 and top_k 1": (logits, 0.5, 1),
        "For logits of 0": (zeros, 1.0, 2),
        "For a single row of nine tokens": (torch.randn(1, 9), 0.7, 4),
        "For logits in the thousands": (1000 * logits, 0.5, 3),
        "For logits in float64": (logits.double(), 3.0, 2),
    }
    for given, (values, t, k) in cases.items():
        right = (best_k(values, k) / t).softmax(-1)
        require_probabilities(answer, values, (t, k), right, mistakes, given)
        mistakes = {}


@exercise("4.7.6", "A sure model keeps few tokens, and an unsure one many; each row sums to 1.")
def min_p(answer):
    logits, p = torch.tensor([[3.0], [0.5], [1.5], [1.0]]) * torch.randn(4, 7) + ROWS, 0.3
    probabilities = logits.softmax(-1)
    largest = probabilities.amax(-1, keepdim=True)
    keep = probabilities >= p * largest

    def scaled(kept):
        return kept / kept.sum(-1, keepdim=True)

    def only(keep, values=probabilities, fill=0.0):
        return values.masked_fill(~keep, fill)

    in_order, order = probabilities.sort(descending=True)
    nucleus = torch.zeros_like(keep).scatter(-1, order, in_order.cumsum(-1) - in_order < p)
    mistakes = {
        "Nothing is cut": probabilities,
        "What is left must be divided by its sum, so that each row sums to 1": only(keep),
        "It is divided by the sum of all rows; each row must sum to 1": only(keep) / only(keep).sum(),
        "It cuts below min_p itself; the limit is min_p times the largest probability": [
            only(probabilities >= p),
            scaled(only(probabilities >= p)),
        ],
        "The largest probability of all rows is used; each row has its own": scaled(
            only(probabilities >= p * probabilities.max())
        ),
        "It keeps what lies below the limit": [only(~keep), scaled(only(~keep))],
        "It keeps only the best token": (probabilities == largest).float(),
        "The limit is min_p times the largest logit; take it from the probabilities": only(
            logits >= p * logits.amax(-1, keepdim=True), logits, float("-inf")
        ).softmax(-1),
        "The cut logits are set to 0; e to the 0 is 1, so use -inf": only(keep, logits).softmax(-1),
        "There is a second softmax, of probabilities": [
            only(keep).softmax(-1),
            only(keep, fill=float("-inf")).softmax(-1),
        ],
        "The softmax runs over the rows (dim=0)": scaled(
            only(logits.softmax(0) >= p * logits.softmax(0).amax(-1, keepdim=True), logits.softmax(0))
        ),
        "It returns logits; we want probabilities": only(keep, logits, float("-inf")),
        "That is top-p: it adds up the best until they reach a share": scaled(only(nucleus)),
        "It returns which tokens stay; we want their probabilities": keep.float(),
    }
    cases = {
        "For min_p = 0.3": (logits, p),
        "For min_p = 1": (logits, 1.0),
        "For min_p = 0.000001": (logits, 1e-6),
        "For logits of 0": (torch.zeros(2, 5), 0.5),
        "For a single row of nine tokens": (torch.randn(1, 9), 0.3),
        "For logits in the thousands": (1000 * logits, 0.1),
        "For logits in float64": (logits.double(), 0.1),
    }
    for given, (values, p) in cases.items():
        probabilities = values.softmax(-1)
        right = scaled(only(probabilities >= p * probabilities.amax(-1, keepdim=True), probabilities))
        nan = "the best token itself is cut; keep what is equal to the limit, too." if p == 1 else OVERFLOW
        require_probabilities(answer, values, (p,), right, mistakes, given, nan)
        mistakes = {}
