"""The exercises of 4.7, on generating text."""

import functools

import torch
from torch import nn

from helpers import generate, generate_text_simple, next_token_probabilities, stream_tokens

from .require import choice_exercise, is_close, number_exercise, require, require_equal, require_result
from .runner import Wrong, exercise

what_eval_changes = choice_exercise(
    "4.7.1",
    right="b",
    praise="The same function, without chance. Gradients are another switch, torch.no_grad().",
    options={
        "a": "That is torch.no_grad(); in eval mode gradients are computed as before.",
        "c": "Layer normalization always takes its mean from the token itself; batch normalization switches.",
        "d": "eval() changes no number of the model; it only sets a flag that dropout looks at.",
    },
)


P, N = 10, 100  # tokens of the prompt, and new ones

tokens_processed = number_exercise(
    "4.7.2",
    right=N * P + N * (N - 1) // 2,
    tolerance=0.005,
    praise="n·P + n(n - 1)/2; and only the last position of each pass was ever read.",
    mistakes={
        "That is the length at the end; each step reads the whole text so far": P + N,
        "That is how many are made; each step reads the whole text so far": N,
        "The text grows by one token with each step": N * P,
        "The first step reads 10 tokens, and not 11": N * P + N * (N + 1) // 2,
        "The prompt is read in every step, too": N * (N - 1) // 2,
        "The text has its full length only at the end": N * (P + N),
    },
)


class Clockwork(nn.Module):
    """A stand-in for a GPT: its scores at a position depend on all tokens up to there, and on their order."""

    def __init__(self):
        super().__init__()
        self.table = torch.randn(31, 31, generator=torch.Generator().manual_seed(23))

    def forward(self, idx):
        T = idx.shape[1]
        if T > 12:
            raise ValueError(f"cannot process a sequence of {T} tokens, context_length is only 12")
        return self.table[(idx * torch.arange(1, T + 1)).cumsum(dim=1) % 31]  # (B, T, 31)


PROMPTS = torch.tensor([[3, 1, 4, 1, 5, 9], [2, 7, 1, 8, 2, 8]])


def best(logits):
    """The highest of the logits of one position, (B, V) -> (B, 1)."""
    return logits.argmax(dim=-1, keepdim=True)


def right_choice(model, idx, window=12):
    """The next token by the last `window` ones."""
    return best(model(idx[:, -window:])[:, -1])


def greedy_by(choose, model, idx, steps):
    """Append `steps` times what choose(model, idx) gives."""
    with torch.no_grad():
        for _ in range(steps):
            idx = torch.cat([idx, choose(model, idx)], dim=1)
    return idx


@exercise(
    "4.7.3",
    "Predict, choose, append: the right tokens, inside the window and beyond it.",
    write=(generate_text_simple, generate, stream_tokens),
)
def greedy(answer):
    model, prompt = Clockwork(), PROMPTS
    steps = 5

    def loop(choose):
        return greedy_by(choose, model, prompt, steps)

    longer = greedy_by(right_choice, model, prompt, 10)  # outgrows the window of 12
    right_whole = longer[:, : 6 + steps]

    # First a text that stays within the window, so that nothing is cropped.
    graphs = []
    hook = model.register_forward_hook(lambda *_: graphs.append(torch.is_grad_enabled()))
    result = require_result(answer, model, prompt, steps, 12)
    hook.remove()
    mistakes = {
        "It reads the first position; the last one scores what comes next": loop(
            lambda m, i: best(m(i)[:, 0])
        ),
        "The last token is not used: it is left out, or the position before it is read": loop(
            lambda m, i: best(m(i)[:, -2])
        ),
        "It takes the lowest logit": loop(lambda m, i: m(i)[:, -1].argmin(dim=-1, keepdim=True)),
        "It returns the new tokens only; the prompt belongs to the text": right_whole[:, 6:],
        "It makes one token too few": right_whole[:, :-1],
        "It makes one token too many": longer[:, : 6 + steps + 1],
        "It makes one token and stops": right_whole[:, :7],
        "It returns the prompt as it was": prompt,
        "Every row gets the token of the first row": loop(lambda m, i: best(m(i)[:1, -1]).expand(2, 1)),
        "The logits never change: they are computed once, before the loop": torch.cat(
            [prompt, right_whole[:, 6:7].expand(2, steps)], dim=1
        ),
    }

    def look_again():
        again = require_result(answer, model, prompt, steps, 12)
        words = "Two runs on the same prompt differ: greedy choice leaves nothing to chance."
        require(is_close(result, again), words)

    require_equal(result, right_whole, mistakes, "For a prompt that fits the window", otherwise=look_again)

    named = functools.partial(answer, max_new_tokens=steps, context_size=12)  # as the notebook calls it
    alone = require_result(named, model, prompt[:1])
    require_equal(alone, right_whole[:1], given="For a batch of one text")
    try:
        cropped = require_result(answer, model, prompt, steps, 4)
        long = require_result(answer, model, prompt, 10, 12)
    except ValueError as error:
        if "context_length" in str(error):
            raise Wrong(f"The text is never cut to the window, so the model refuses it: {error}.") from None
        raise
    right = loop(functools.partial(right_choice, window=4))
    wrong_end = loop(lambda m, i: best(m(i[:, :4])[:, -1]))
    mistakes = {
        "The window is cut at the wrong end: the model must see the last context_size tokens": wrong_end,
        "The window is not used: the model sees the whole text": right_whole,
        "What leaves the window is lost from the text as well; crop a copy": [right[:, -n:] for n in (4, 5)],
        "The window is one token too short": loop(functools.partial(right_choice, window=3)),
        "The window is one token too long": loop(functools.partial(right_choice, window=5)),
    }
    require_equal(cropped, right, mistakes, "For a window of 4 tokens and a prompt of 6")
    require_equal(long, longer, (), "For a text that outgrows the window of 12")
    require_equal(require_result(answer, model, prompt, 0, 12), prompt, (), "For max_new_tokens = 0")
    require(
        not any(graphs),
        "The tokens are right, but a graph for gradients is built at every step: use torch.no_grad().",
    )


@exercise("4.7.4", "It ends where the model says so, and otherwise after max_new_tokens.")
def stop_token(answer):
    model, prompt = Clockwork(), PROMPTS[:1]
    longer = greedy_by(right_choice, model, prompt, 9)
    whole = longer[:, :-1]
    new = whole[0, 6:].tolist()
    place = next(i for i in range(2, 8) if new[i] not in new[:i])
    eos = new[place]
    end = 6 + place
    unused = next(i for i in range(31) if i not in whole[0].tolist())
    result = require_result(answer, model, prompt, 8, 12, eos)
    mistakes = {
        "It never stops at the stop token": whole,
        "It stops before appending the stop token, which belongs to the text": whole[:, :end],
        "It stops one token too late": whole[:, : end + 2],
        "It returns the prompt as it was": prompt,
        "It stops after the first token": whole[:, :7],
        "It returns the new tokens only": whole[:, 6 : end + 1],
    }
    require_equal(result, whole[:, : end + 1], mistakes, f"With the stop token {eos}")
    never = require_result(answer, model, prompt, 8, 12, unused)
    mistakes = {"Without a stop token it goes beyond max_new_tokens": longer}
    require_equal(never, whole, mistakes, "With a stop token that never comes")
    for place, given in ((-1, "as the last token of the prompt"), (0, "in the prompt only")):
        result = require_result(answer, model, prompt, 8, 12, prompt[0, place].item())
        mistakes = {"A stop token in the prompt ends it; only a new one should": [prompt, whole[:, :7]]}
        require_equal(result, whole, mistakes, f"With the stop token {given}")


@exercise(
    "4.7.5",
    "Sharper or flatter by temperature, and nothing outside the k best; each row sums to 1.",
    write=(next_token_probabilities,),
)
def top_k(answer):
    logits = 2 * torch.randn(4, 7) + torch.tensor([[0.0], [9.0], [-5.0], [2.0]])
    t, k = 2.0, 3

    def keep(values, k=k, largest=True, dim=-1, fill=float("-inf")):
        picked = values.topk(k, dim=dim, largest=largest).indices
        return torch.full_like(values, fill).scatter(dim, picked, values.gather(dim, picked))

    scaled = logits / t
    right = keep(scaled).softmax(-1)
    probabilities = scaled.softmax(-1)
    everywhere = torch.where(scaled >= scaled.flatten().topk(k).values[-1], scaled, float("-inf"))
    mistakes = {
        "The temperature is not used": keep(logits).softmax(-1),
        "The logits are multiplied by the temperature; divide": keep(logits * t).softmax(-1),
        "The probabilities are divided by the temperature; divide the logits": keep(logits).softmax(-1) / t,
        "top_k is not used": probabilities,
        "The other logits are set to 0; e to the 0 is 1, so use -inf": keep(scaled, fill=0.0).softmax(-1),
        "The rest is cut off after the softmax, so a row no longer sums to 1": keep(probabilities, fill=0.0),
        "It keeps the k lowest": keep(scaled, largest=False).softmax(-1),
        "It keeps k - 1 tokens; the k-th best stays, too": keep(scaled, k - 1).softmax(-1),
        "It keeps k + 1 tokens": keep(scaled, k + 1).softmax(-1),
        "The k best are sought in all rows together": everywhere.softmax(-1),
        "The softmax runs over the rows (dim=0)": keep(scaled).softmax(0),
        "It returns logits; probabilities are wanted": keep(scaled),
        "It returns only the k best; all V places are wanted": scaled.topk(k).values.softmax(-1),
        "The k best are sought among the rows (dim=0)": keep(scaled, dim=0).softmax(-1),
    }
    require_equal(require_result(answer, logits, t, k), right, mistakes, "For temperature 2 and top_k 3")
    require_equal(
        require_result(answer, logits, 1.0, 7),
        logits.softmax(-1),
        (),
        "For temperature 1 and all seven tokens",
    )
    require_equal(
        require_result(answer, logits, 0.5, 1),
        keep(logits, 1).softmax(-1),
        (),
        "For temperature 0.5 and top_k 1",
    )
