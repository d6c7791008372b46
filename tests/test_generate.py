"""`generate` and what it is made of: the right tokens, from any model, and nothing else touched."""

from itertools import islice

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import SEEDS, SMALL, ids, models, randn, random_ids, talkative, upto
from torch import nn

from helpers import (
    GPTModel,
    generate,
    generate_text_simple,
    next_token_probabilities,
    stream_tokens,
)


@pytest.fixture
def model():
    return talkative(GPTModel(SMALL))


def seeded(seed):
    return torch.Generator().manual_seed(seed)


# Greedy generation


@given(models(), upto(8, least=0), st.data())
def test_greedy_generation_is_that_of_the_simple_loop(example, n, data):
    cfg, model, ids = example
    ids = ids.repeat(1, data.draw(upto(3)))  # longer than the context, too
    size, before = data.draw(upto(cfg["context_length"])), ids.clone()
    out = generate(model, ids, n, size)
    assert torch.equal(out, generate_text_simple(model, ids, n, size))
    assert torch.equal(ids, before)


def test_generation_takes_int32(model):
    for n in (0, 5):
        out, simple = (f(model, ids(1, 2).int(), n, 4) for f in (generate, generate_text_simple))
        assert torch.equal(out, simple) and out.dtype == simple.dtype


def test_the_window_may_be_larger_than_the_context_while_the_text_fits(model):
    out = generate(model, ids(1, 2), 11, 99)  # the last token is not read
    assert torch.equal(out, generate(model, ids(1, 2), 11, 12))
    with pytest.raises(ValueError, match="13 tokens, context_length is only 12"):
        generate(model, ids(1, 2), 12, 99)


def counting(ids):
    """A model that is a function: after token n comes n + 1, of 10."""
    return nn.functional.one_hot((ids + 1) % 10, 10).float()


class Wrapped(nn.Module):
    """A model without any attribute of GPTModel."""

    def forward(self, ids):
        return counting(ids)


@pytest.mark.parametrize("model", [counting, Wrapped(), torch.compile(Wrapped(), backend="eager")])
def test_any_function_of_ids_is_a_model(model):
    assert generate(model, ids(7), 5, 3).tolist() == [[7, 8, 9, 0, 1, 2]]
    assert generate(model, ids(7), 5, 3, temperature=0.01).tolist() == [[7, 8, 9, 0, 1, 2]]
    assert generate(model, ids(7), 5, 3, eos_id=0).tolist() == [[7, 8, 9]]


def test_only_the_window_is_read():
    read = []

    def watched(ids):
        read.append(ids.tolist())
        return counting(ids)

    generate(watched, ids(1, 2, 3), 3, 4)
    assert read == [[[1, 2, 3]], [[1, 2, 3, 4]], [[2, 3, 4, 5]]]


# What generation leaves as it was


@pytest.mark.parametrize("start", ["train", "eval", "mixed"])
def test_modes_stay_as_they_are(model, start):
    model.train(start != "eval")
    if start == "mixed":
        model.trf_blocks[0].eval()
    before, during = [m.training for m in model.modules()], []
    model.register_forward_pre_hook(lambda *_: during.append([m.training for m in model.modules()]))
    generate(model, ids(1, 2), 2, 12)
    assert during == [before, before] and [m.training for m in model.modules()] == before
    assert torch.is_grad_enabled()


def test_parameters_stay_as_they_are(model):
    before = {name: p.clone() for name, p in model.named_parameters()}
    generate(model, ids(1, 2), 5, 4, temperature=1.0)
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name]) and p.grad is None and p.requires_grad


def test_tokens_can_be_used_in_a_loss(model):
    for out in (generate(model, ids(1, 2), 3, 12), next(stream_tokens(model, ids(1, 2), 12))):
        assert not out.is_inference()
        nn.functional.cross_entropy(model(out)[:, -1], out[:, -1]).backward()
        out += 1


def test_no_graph_is_kept(model):
    graphs = []
    model.register_forward_hook(lambda module, args, output: graphs.append(output.requires_grad))
    generate(model, ids(1, 2), 2, 12)
    next(stream_tokens(model, ids(1, 2), 12))
    assert graphs == [False] * 3 and torch.is_grad_enabled()


# Sampling


def test_the_same_seed_draws_the_same_tokens(model):
    torch.manual_seed(1)
    untouched = torch.get_rng_state()
    first, again, other = (
        generate(model, ids(1, 2), 20, 12, temperature=1.0, generator=seeded(seed)) for seed in (3, 3, 4)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), untouched)


def test_without_a_generator_the_global_one_is_used(model):
    torch.manual_seed(3)
    first = generate(model, ids(1, 2), 10, 12, temperature=1.0)
    assert not torch.equal(torch.get_rng_state(), torch.manual_seed(3).get_state())
    assert torch.equal(generate(model, ids(1, 2), 10, 12, temperature=1.0), first)


def test_greedy_generation_draws_nothing(model):
    generator = seeded(3)
    untouched = torch.get_rng_state(), generator.get_state()
    generate(model, ids(1, 2), 5, 4, top_k=5, top_p=0.5, generator=generator)
    assert torch.equal(torch.get_rng_state(), untouched[0])
    assert torch.equal(generator.get_state(), untouched[1])


@pytest.mark.parametrize("one", [{"top_k": 1}, {"top_p": 1e-9}, {"temperature": 1e-300}])
def test_the_best_of_one_is_greedy(model, one):
    prompt = random_ids(3, 4)
    out = generate(model, prompt, 12, 12, **{"temperature": 1.0, **one})
    assert torch.equal(out, generate_text_simple(model, prompt, 12, 12))


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("top_k", [2, 5])
def test_only_the_best_are_drawn_and_all_of_them(model, top_k, dtype):
    """In half precision, too, where the best few logits are often equal."""
    prompt = random_ids(1, 3).repeat(300, 1)

    def model_in_dtype(ids):
        return model(ids).to(dtype)

    settings = {"temperature": 1000, "top_k": top_k, "generator": seeded(3)}
    out = generate(model_in_dtype, prompt, 4, 4, **settings)
    for t in range(3, 7):
        logits = model_in_dtype(out[:, max(0, t - 4) : t])[:, -1]
        edge = logits.topk(top_k).values[:, -1:]
        chosen = logits.gather(1, out[:, t, None])
        assert (chosen >= edge).all()
        hits = logits.topk(top_k).indices == out[:, t, None]
        assert hits.any(dim=0).all()


@torch.no_grad()
@pytest.mark.parametrize("temperature, top_k, top_p", [(1.0, None, None), (0.3, None, 0.9), (0.5, 4, None)])
def test_tokens_are_drawn_as_often_as_they_are_probable(model, temperature, top_k, top_p):
    prompt = ids(5, 6).repeat(20000, 1)
    out = generate(model, prompt, 1, 12, temperature, top_k, top_p, generator=seeded(3))
    p = next_token_probabilities(model(prompt[:1])[:, -1], temperature, top_k, top_p)[0]
    counts, n = out[:, 2].bincount(minlength=61), len(out)
    assert p.max() < 0.99 and counts[p == 0].sum() == 0
    assert ((counts - n * p).abs() <= 5 * (n * p * (1 - p)).sqrt() + 5).all()  # + 5 for the rare ones


NUMBERS = st.lists(st.integers(-9, 9), min_size=1, max_size=6)


@given(NUMBERS, st.sampled_from([0.1, 1, 2.5]), upto(8), SEEDS)
def test_top_k_is_that_by_hand(numbers, temperature, top_k, seed):
    """Small integers, so that there are ties at the edge; and a second row, with its own best."""
    torch.manual_seed(seed)
    logits = torch.tensor(numbers, dtype=torch.float64)
    logits = torch.stack([logits, logits[torch.randperm(len(numbers))]])
    before = logits.clone()
    for k in (top_k, None):
        edge = sorted(numbers)[-min(k or len(numbers), len(numbers))]
        powers = torch.where(logits >= edge, (logits / temperature).exp(), 0.0)
        expected = powers / powers.sum(dim=1, keepdim=True)
        torch.testing.assert_close(next_token_probabilities(logits, temperature, k), expected)
    assert torch.equal(logits, before)


@given(st.permutations([1, 2, 4, 8, 16]), st.sampled_from([0.5, 0.52, 0.7, 0.8, 0.97, 1, 1.0, None]))
def test_top_p_is_that_by_hand(weights, top_p):
    """The fewest of the best that reach top_p: of 16, 8, 4, 2, 1 thirty-firsts, 16 and 8 reach 0.7."""
    logits = torch.tensor([weights, weights[::-1]], dtype=torch.float64).log()
    kept, total = set(), 0
    for weight in (16, 8, 4, 2, 1):
        if total < (top_p or 1) * 31:
            kept.add(weight)
            total += weight
    expected = torch.tensor([[w / total * (w in kept) for w in row] for row in (weights, weights[::-1])])
    result = next_token_probabilities(logits, top_p=top_p)
    torch.testing.assert_close(result, expected.double())


def test_top_p_counts_what_top_k_and_temperature_leave():
    logits = torch.tensor([[8.0, 4, 2, 1]]).log()
    # Of the best two, 2/3 and 1/3 are left; at temperature 1/2 they are 4/5 and 1/5.
    for settings, expected in (
        ((1.0, 2, 0.66), [1, 0]),
        ((1.0, 2, 0.7), [2 / 3, 1 / 3]),
        ((0.5, 2, 0.7), [1, 0]),
    ):
        result = next_token_probabilities(logits, *settings)
        torch.testing.assert_close(result, torch.tensor([[*expected, 0.0, 0.0]]))


def test_probabilities_are_the_plain_ones_unless_asked():
    logits = randn(3, 7)
    torch.testing.assert_close(next_token_probabilities(logits), logits.softmax(dim=-1))


@pytest.mark.parametrize(
    "given_dtype, dtype",
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_probabilities_have_at_least_single_precision(given_dtype, dtype):
    result = next_token_probabilities(torch.tensor([[100.0, 99.0, -100.0]]).to(given_dtype), 0.001, 2)
    assert result.dtype == dtype and result.tolist() == [[1.0, 0.0, 0.0]]


def test_probabilities_check_their_arguments_and_take_more_dimensions():
    logits = torch.tensor([[[1.0, 2.0, 3.0], [0.0, 0.0, -9.0]]])
    torch.testing.assert_close(next_token_probabilities(logits, top_k=1)[0, 1], torch.tensor([0.5, 0.5, 0.0]))
    torch.testing.assert_close(next_token_probabilities(logits[0, 0], top_k=1), torch.tensor([0.0, 0.0, 1.0]))
    for settings in ((-1,), (float("nan"),), (1.0, 0), (1.0, None, 2), (1.0, None, float("nan"))):
        with pytest.raises(ValueError):
            next_token_probabilities(logits, *settings)
    with pytest.raises(TypeError):
        next_token_probabilities(logits, "1")
    torch.testing.assert_close(next_token_probabilities(logits, 0)[0, 0], torch.tensor([0.0, 0.0, 1.0]))


def test_what_is_yielded_may_be_changed(model):
    stream, whole = stream_tokens(model, ids(1, 2), 12), generate(model, ids(1, 2), 3, 12)
    for t in (2, 3, 4):
        token = next(stream)
        assert token.item() == whole[0, t].item()
        token.zero_()


def test_top_p_at_its_edges():
    # Of two equal tokens, the first reaches 0.5 alone; a top_p of 1 cuts nothing, whatever the rounding.
    torch.testing.assert_close(
        next_token_probabilities(torch.zeros(1, 2), top_p=0.5), torch.tensor([[1.0, 0.0]])
    )
    logits = 3 * torch.randn(1, 50257, generator=seeded(3))
    assert torch.equal(next_token_probabilities(logits, top_p=1.0), logits.softmax(dim=-1))
    for rows, expected in (
        ([[1.0, 9], [9, 1]], [[0.0, 1], [1, 0]]),
        ([[1.0, 9], [1, 9]], [[0.0, 1], [0, 1]]),
    ):
        result = next_token_probabilities(torch.tensor([rows]), top_p=0.5)  # three dimensions
        torch.testing.assert_close(result, torch.tensor([expected]))


def test_large_logits_at_a_low_temperature_do_not_overflow():
    result = next_token_probabilities(torch.tensor([[3e31, 0.0]]), 1e-8)
    torch.testing.assert_close(result, torch.tensor([[1.0, 0.0]]))


def test_minus_infinity_is_a_token_that_never_comes():
    logits = torch.tensor([[1.0, float("-inf"), 2.0]])
    for settings in ((1.0,), (1e-9, 2), (2.0, None, 0.9)):
        result = next_token_probabilities(logits, *settings)
        assert result.isfinite().all() and result[0, 1] == 0


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_token_may_be_impossible_in_every_row(temperature):
    def never_zero(ids):
        return counting(ids).index_fill(2, torch.tensor([0]), float("-inf"))

    out = generate(never_zero, torch.tensor([[9], [3]]), 20, 9, temperature)
    assert (out != 0).all()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_nan_logits_are_an_error(temperature):
    with pytest.raises(ValueError, match="the model's logits are nan"):
        generate(lambda ids: float("nan") * counting(ids), ids(1), 1, 9, temperature)


# Where a text ends


@given(models(), upto(8), st.sampled_from([0.0, 0.5, 2.0]), st.data())
def test_a_text_ends_before_its_first_new_eos(example, n, temperature, data):
    """Drawn with the same seed, the tokens up to there are those without an eos_id."""
    cfg, model, prompt = example
    T, size = prompt.shape[1], data.draw(upto(cfg["context_length"]))
    plain = generate(model, prompt, n, size, temperature, generator=seeded(3))[:, T:]
    eos_id = data.draw(st.sampled_from(range(cfg["vocab_size"])) | st.sampled_from(plain.flatten().tolist()))
    rows = plain.tolist()
    ends = [row.index(eos_id) if eos_id in row else n for row in rows]
    rows = [(row[:end] + [eos_id] * n)[: max(ends)] for row, end in zip(rows, ends, strict=True)]
    expected = torch.tensor(rows, dtype=torch.long).view(len(prompt), -1)

    out = generate(model, prompt, n, size, temperature, eos_id=eos_id, generator=seeded(3))
    assert torch.equal(out, torch.cat([prompt, expected], dim=1))


def test_an_eos_in_the_prompt_ends_nothing(model):
    plain = generate(model, ids(7, 7), 9, 12)
    assert 7 not in plain[:, 2:]
    assert torch.equal(generate(model, ids(7, 7), 9, 12, eos_id=7), plain)


def test_nothing_more_is_computed_once_all_have_ended():
    calls = []

    def watched(ids):
        calls.append(1)
        return counting(ids)

    out = generate(watched, torch.tensor([[7], [5]]), 100, 9, eos_id=9)
    assert out.tolist() == [[7, 8, 9, 9], [5, 6, 7, 8]] and len(calls) == 4


# Watching and stopping


def test_the_stream_is_what_generate_appends(model):
    settings = {"temperature": 1.0, "top_k": 9, "top_p": 0.9}
    stream = stream_tokens(model, random_ids(2, 3), 4, **settings, generator=seeded(3))
    tokens = torch.cat(list(islice(stream, 6)), dim=1)
    whole = generate(model, random_ids(2, 3), 6, 4, **settings, generator=seeded(3))
    assert torch.equal(tokens, whole[:, 3:])


def test_the_stream_computes_a_token_only_when_it_is_asked_for():
    calls = []

    def watched(ids):
        calls.append(1)
        return counting(ids)

    stream = stream_tokens(watched, ids(1), 9)
    assert calls == []
    assert [next(stream).item(), next(stream).item()] == [2, 3] and len(calls) == 2
    generate(watched, ids(1), 3, 9)
    assert len(calls) == 5
