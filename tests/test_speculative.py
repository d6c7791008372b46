"""Speculative decoding writes what the model alone would write, in as few passes as the guesses allow."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import SMALL, ids, models, random_ids, talkative, upto
from torch.nn import functional as F

from beyond import CachedGPT, speculative
from helpers import GPTModel, generate_text_simple


def draft_that_knows(text, wrong=()):
    """A draft that gives each token of `text`, (1, T), but another one at the places in `wrong`."""
    said = text.clone()
    said[0, list(wrong)] = (said[0, list(wrong)] + 1) % SMALL["vocab_size"]
    return lambda ids: F.one_hot(said[:, ids.shape[1]], SMALL["vocab_size"])[:, None]


class Counting(CachedGPT):
    """A CachedGPT that writes down how many positions each pass scores."""

    def __init__(self, model):
        super().__init__(model)
        self.passes = []

    def __call__(self, ids, scored=1):
        self.passes.append(scored)
        return super().__call__(ids, scored)


@settings(max_examples=100)
@given(models(), st.data())
def test_the_tokens_are_the_models(example, data):
    """Whatever the draft says, within the window and beyond it, with wrappers that are new or were used."""
    cfg, model, prompts = example
    model, other = CachedGPT(model), talkative(GPTModel({**cfg, "n_layers": 1}))
    drafts = {"itself": model.model, "cached": CachedGPT(model.model), "another": CachedGPT(other)}
    drafts["stubborn"] = lambda ids: torch.eye(cfg["vocab_size"])[None, :1]
    for prompt in prompts.split(1)[:2]:
        n, size = data.draw(upto(9, least=0)), data.draw(upto(cfg["context_length"]))
        draft, guesses = drafts[data.draw(st.sampled_from(sorted(drafts)))], data.draw(upto(5, least=0))
        text, accepted = speculative(model, draft, prompt, n, size, guesses)
        assert torch.equal(text, generate_text_simple(model.model, prompt, n, size))
        assert sum(accepted) + len(accepted) == n and max(accepted, default=0) <= guesses


@pytest.fixture
def model():
    return Counting(talkative(GPTModel({**SMALL, "context_length": 40})))


@pytest.mark.parametrize(
    "wrong, guesses, accepted",
    [
        ((), 4, [4, 4, 1]),  # 12 new tokens: five a pass, and two in the last
        ((), 1, [1] * 6),
        ((), 0, [0] * 12),
        (range(4, 16), 4, [0] * 12),
        ((6,), 4, [2, 4, 3]),  # tokens 4 and 5 are right, and the model itself writes 6
        ((4, 15), 4, [0, 4, 4, 0]),
    ],
)
def test_passes_depend_on_the_guesses(model, wrong, guesses, accepted):
    text = generate_text_simple(model.model, random_ids(1, 4), 12, 40)
    model.passes.clear()
    found = speculative(model, draft_that_knows(text, wrong), text[:, :4], 12, 40, guesses)
    assert torch.equal(found[0], text) and found[1] == accepted
    assert len(model.passes) == len(accepted) and max(model.passes) <= guesses + 1


def test_only_what_is_new_is_read(model, monkeypatch):
    """What was accepted stays in the cache, and a rejected guess is read over."""
    from beyond import plain_gpt2

    text, read = generate_text_simple(model.model, random_ids(1, 4), 12, 40), []
    monkeypatch.setattr("beyond.plain_gpt2", lambda *args: read.append(args[1].shape[1]) or plain_gpt2(*args))
    speculative(model, draft_that_knows(text, wrong=(6,)), text[:, :4], 12, 40)
    assert read == [8, 5, 4]  # the prompt and four guesses; then one token and four guesses; one and three


def test_the_draft_never_sees_more_than_the_window(model):
    seen = []
    draft = draft_that_knows(random_ids(1, 60))
    speculative(model, lambda ids: seen.append(ids.shape[1]) or draft(ids), random_ids(1, 30), 20, 33)
    assert max(seen) < 33


def test_the_prompt_stays_and_several_texts_are_refused(model):
    prompt = ids(1, 2)
    speculative(model, model, prompt, 3, 40)
    assert torch.equal(prompt, ids(1, 2))
    with pytest.raises(ValueError, match="give one, not 2"):
        speculative(model, model, random_ids(2, 3), 3, 40)
    with pytest.raises(ValueError, match="max_new_tokens must be at least 0"):
        speculative(model, model, prompt, -1, 40)
