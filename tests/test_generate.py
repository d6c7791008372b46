"""Generating with a key-value cache: the right tokens, nothing touched, and no more work than is needed."""

from contextlib import nullcontext

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import (
    SEEDS,
    SMALL,
    assert_same_output_and_gradients,
    attention_by_hand,
    ids,
    models,
    randn,
    randomized,
    upto,
)
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import helpers
from helpers import (
    GELU,
    GPTModel,
    KVCache,
    LayerNorm,
    causal_attention,
    generate,
    generate_text_simple,
    next_token_probabilities,
    single_token_step,
)


@pytest.fixture
def model():
    return small_model()


def small_model(**changes):
    model = randomized(GPTModel({**SMALL, **changes}))
    with torch.no_grad():
        model.tok_emb.weight *= 2 * SMALL["emb_dim"] ** 0.5  # else the biases decide which token comes next
    return model


def random_ids(*shape):
    return torch.randint(0, 61, shape, generator=torch.Generator().manual_seed(5))


def caches_for(model, room=12):
    return [KVCache(room) for _ in model.trf_blocks]


def modes(model):
    return [module.training for module in model.modules()]


# Attention to earlier tokens


@pytest.mark.parametrize("T, S", [(1, 1), (1, 6), (2, 6), (5, 6), (6, 6)])
def test_the_queries_belong_to_the_last_tokens(T, S):
    q, k, v = 2 * randn(2, 3, T, 8), randn(2, 3, S, 8).requires_grad_(), randn(2, 3, S, 8).requires_grad_()
    assert_same_output_and_gradients(
        lambda q: causal_attention(q, k, v), lambda q: attention_by_hand(q, k, v), q, [(k, k), (v, v)]
    )


# The cache


def test_a_cache_takes_its_memory_once_and_gives_views_of_it():
    cache, keys, values = KVCache(7), randn(2, 3, 7, 4), randn(2, 3, 7, 4)
    places = set()
    for start, end in ((0, 3), (3, 4), (4, 6), (6, 7)):
        k, v = cache.append(keys[:, :, start:end], values[:, :, start:end])
        assert torch.equal(k, keys[:, :, :end]) and torch.equal(v, values[:, :, :end])
        assert cache.length == end
        places.add((k.data_ptr(), v.data_ptr()))
    assert places == {(cache.keys.data_ptr(), cache.values.data_ptr())}
    assert cache.keys.shape == cache.values.shape == (2, 3, 7, 4)
    assert cache.keys.untyped_storage().nbytes() == 2 * 3 * 7 * 4 * 8


def test_a_cache_takes_the_type_of_what_comes_first():
    k, v = KVCache(2).append(torch.ones(1, 1, 1, 4).bfloat16(), torch.ones(1, 1, 1, 4).half())
    assert (k.dtype, v.dtype) == (torch.bfloat16, torch.float16)


@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (1, 3, 1, 4), (2, 1, 1, 4)])
def test_a_refusing_cache_stays_as_it_was(shape):
    cache, first, last = KVCache(7), randn(2, 3, 3, 4), randn(2, 3, 4, 4)
    cache.append(first, -first)
    with pytest.raises(ValueError):
        cache.append(torch.ones(shape), torch.ones(shape))
    assert cache.length == 3
    k, v = cache.append(last, -last)  # all the room that there is
    assert torch.equal(k, torch.cat([first, last], dim=2)) and torch.equal(v, -k)


def test_an_empty_cache_that_refuses_takes_no_memory():
    cache = KVCache(2)
    with pytest.raises(ValueError):
        cache.append(randn(1, 1, 3, 4), randn(1, 1, 3, 4))
    assert cache.keys is cache.values is None and cache.length == 0


# The model with caches


@given(models(), st.data())
def test_pieces_with_a_cache_give_what_the_whole_gives(example, data):
    cfg, model, ids = example
    T = ids.shape[1]
    cuts = data.draw(st.sets(upto(T - 1))) if T > 1 else ()
    caches = caches_for(model, data.draw(st.integers(T, 20)))
    with torch.no_grad():
        pieces = [model(piece, caches) for piece in ids.tensor_split(sorted(cuts), dim=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), model(ids))
    assert all(cache.length == T for cache in caches)


@pytest.mark.parametrize("T", [1, 5, 12])
def test_last_only_scores_the_last_position(model, T):
    tokens = random_ids(2, T)
    expected = model(tokens)[:, -1:]
    torch.testing.assert_close(model(tokens, last_only=True), expected)
    torch.testing.assert_close(model(tokens, caches_for(model), last_only=True), expected)


@torch.no_grad()
def test_the_model_takes_its_context_with_a_cache_and_refuses_more(model):
    tokens, caches = random_ids(2, 12), caches_for(model, 20)
    model(tokens[:, :7], caches)
    with pytest.raises(ValueError):
        model(random_ids(2, 6), caches)
    assert [cache.length for cache in caches] == [7, 7]
    torch.testing.assert_close(model(tokens[:, 7:], caches), model(tokens)[:, 7:])


# One token, the short way


def with_own_head(model):
    pass


def with_tied_head(model):
    model.out_head.weight = model.tok_emb.weight


def with_bias_in_the_head(model):
    model.out_head = randomized(nn.Linear(24, 61))


@torch.no_grad()
@pytest.mark.parametrize("B", [1, 3])
@pytest.mark.parametrize("qkv_bias", [False, True])
@pytest.mark.parametrize("change", [with_own_head, with_tied_head, with_bias_in_the_head])
def test_the_step_gives_what_the_model_gives(B, qkv_bias, change, monkeypatch):
    model, tokens = small_model(qkv_bias=qkv_bias), random_ids(B, 12)
    change(model)
    for n, norm in enumerate(m for m in model.modules() if isinstance(m, LayerNorm)):
        norm.eps = 0.1 * (n + 1)  # large enough for another one to show
    expected, caches = model(tokens), caches_for(model)
    model(tokens[:, :2], caches)
    step = single_token_step(model)
    monkeypatch.setattr(nn.Module, "__call__", None)  # it does not go through the modules
    for t in range(2, 12):
        torch.testing.assert_close(step(tokens[:, t : t + 1], caches), expected[:, t])
    assert all(cache.length == 12 for cache in caches)


def a_subclass(model, called):
    class Louder(GELU):
        def forward(self, x):
            called.append("forward")
            return 2 * super().forward(x)

    model.trf_blocks[0].ff.layers[1] = Louder()


def a_foreign_part(model, called):
    class Half(nn.Module):
        def forward(self, x):
            called.append("forward")
            return x / 2

    model.drop_emb = Half()


def a_hook(model, called):
    def hook(module, args, output):
        called.append("hook")
        return 2 * output

    model.trf_blocks[1].att.register_forward_hook(hook)


def a_hook_before(model, called):
    def hook(module, args):
        called.append("hook")
        return 2 * args[0]

    model.out_head.register_forward_pre_hook(hook)


@torch.no_grad()
@pytest.mark.parametrize("change", [a_subclass, a_foreign_part, a_hook, a_hook_before])
def test_the_step_goes_through_a_model_that_is_not_the_usual_one(model, change):
    tokens, caches, called = random_ids(2, 6), caches_for(model), []
    before = model(tokens)
    change(model, called)
    expected = model(tokens)
    assert not torch.allclose(before[:, -1], expected[:, -1])
    model(tokens[:, :3], caches)
    step = single_token_step(model)
    called.clear()
    for t in range(3, 6):
        torch.testing.assert_close(step(tokens[:, t : t + 1], caches), expected[:, t])
    assert len(called) == 3


class Watched(TorchDispatchMode):
    """Keeps all tensors that are made."""

    def __init__(self):
        super().__init__()
        self.tensors = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        self.tensors += [t for t in (made if isinstance(made, tuple) else [made]) if torch.is_tensor(t)]
        return made


@torch.no_grad()
@pytest.mark.parametrize("qkv_bias", [False, True])
def test_the_step_copies_no_weights(qkv_bias):
    model = small_model(qkv_bias=qkv_bias)
    caches = caches_for(model)
    model(ids(1, 2), caches)
    with Watched() as watched:
        single_token_step(model)(ids(3), caches)
    places = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    sizes = [t.numel() for t in watched.tensors if t.untyped_storage().data_ptr() not in places]
    assert 0 < len(sizes) < len(watched.tensors)
    assert max(sizes) < min(parameter.numel() for parameter in model.parameters() if parameter.ndim == 2)


# Greedy generation


@given(models(), upto(8, least=0), st.data())
def test_greedy_generation_is_that_of_the_simple_loop(example, n, data):
    cfg, model, ids = example
    ids = ids.repeat(1, data.draw(upto(3)))  # longer than the context, too
    size, before = data.draw(upto(cfg["context_length"])), ids.clone()
    out = generate(model, ids, n, size)
    assert torch.equal(out, generate_text_simple(model, ids, n, size))
    assert torch.equal(ids, before) and out.data_ptr() != ids.data_ptr()


@pytest.mark.parametrize("context_size", [1, 3, 11, 12])
@pytest.mark.parametrize("T", [1, 2, 11, 12, 13, 20])
def test_prompts_of_every_length_go_on_beyond_the_window(model, T, context_size):
    prompt = random_ids(2, T)
    out = generate(model, prompt, 14, context_size)
    assert torch.equal(out, generate_text_simple(model, prompt, 14, context_size))


@pytest.mark.parametrize("T", [1, 5, 12])
def test_a_text_may_fill_the_context_in_a_larger_window(model, T):
    """The last token is not read, so there is room for one more."""
    prompt = random_ids(2, T)
    out = generate(model, prompt, 13 - T, 99)
    assert torch.equal(out, generate_text_simple(model, prompt, 13 - T, 12)) and out.shape == (2, 13)


def test_generation_takes_int32(model):
    for n in (0, 5):
        out, simple = (f(model, ids(1, 2).int(), n, 4) for f in (generate, generate_text_simple))
        assert torch.equal(out, simple) and out.dtype == simple.dtype


def test_the_result_can_be_trained_on(model):
    for n in (0, 3):
        out = generate(model, ids(1, 2), n, 12)
        assert not out.is_inference()
        model(out).sum().backward()
        out += 1


# What generation leaves as it was


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("start", ["train", "eval", "mixed"])
def test_generation_runs_in_eval_mode_and_gives_the_modes_back(model, start, error):
    model.train(start != "eval")
    if start == "mixed":
        model.training = False
        model.trf_blocks[0].eval()
        model.trf_blocks[0].drop_shortcut.train()
    before, during = modes(model), []

    def callback(tokens):
        during.append(any(modes(model)) or torch.is_grad_enabled())
        if error:
            raise error

    with pytest.raises(error) if error else nullcontext():
        generate(model, ids(1, 2), 2, 12, callback=callback)
    assert during and not any(during)
    assert modes(model) == before
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()


def test_the_modes_come_back_when_the_model_fails(model):
    def fail(module, args):
        raise RuntimeError("out of memory")

    model.train().out_head.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        generate(model, ids(1, 2), 2, 12)
    assert all(modes(model))


@pytest.mark.parametrize("size", [4, 12])
def test_dropout_takes_no_part(size):
    model, prompt = small_model(drop_rate=0.9), random_ids(2, 3)
    expected = generate_text_simple(model, prompt, 8, size)
    assert torch.equal(generate(model.train(), prompt, 8, size), expected)


def test_the_parameters_stay_as_they_are(model):
    model.pos_emb.requires_grad_(False)
    before = {name: p.clone() for name, p in model.named_parameters()}
    generate(model, ids(1, 2), 5, 4, temperature=1.0)
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name]) and p.grad is None
        assert p.requires_grad is (name != "pos_emb.weight")


# Sampling


def seeded(seed):
    return torch.Generator().manual_seed(seed)


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
    generate(model, ids(1, 2), 5, 4, top_k=5, generator=generator)
    assert torch.equal(torch.get_rng_state(), untouched[0])
    assert torch.equal(generator.get_state(), untouched[1])


@pytest.mark.parametrize("temperature", [0.01, 1, 1000])
def test_the_best_of_one_is_greedy(model, temperature):
    prompt = random_ids(3, 4)
    out = generate(model, prompt, 12, 12, temperature=temperature, top_k=1)
    assert torch.equal(out, generate_text_simple(model, prompt, 12, 12))


@torch.no_grad()
@pytest.mark.parametrize("top_k", [2, 5])
def test_only_the_best_are_drawn_and_all_of_them(model, top_k):
    """In every step: reading the prompt, with the cache, and beyond the window."""
    prompt = random_ids(1, 3).repeat(200, 1)
    out = generate(model, prompt, 4, 4, temperature=1000, top_k=top_k, generator=seeded(3))
    for t in range(3, 7):
        best = model(out[:, max(0, t - 4) : t])[:, -1].topk(top_k).indices  # (200, top_k)
        hits = best == out[:, t, None]
        assert hits.any(dim=1).all() and hits.any(dim=0).all()


@torch.no_grad()
@pytest.mark.parametrize("temperature, top_k", [(1.0, None), (0.3, None), (0.5, 4), (2, 61)])
def test_tokens_are_drawn_as_often_as_they_are_probable(model, temperature, top_k):
    """Both when the prompt is read and, for the token drawn most often there, with the cache."""
    out = generate(
        model, ids(5, 6).repeat(20000, 1), 2, 12, temperature=temperature, top_k=top_k, generator=seeded(3)
    )
    for t in (2, 3):
        out = out[(out[:, :t] == out[:, :t].mode(dim=0).values).all(dim=1)]
        p = next_token_probabilities(model(out[:1, :t])[:, -1], temperature, top_k)[0]
        counts, n = out[:, t].bincount(minlength=61), len(out)
        assert n > 300 and p.max() < 0.99
        assert ((counts - n * p).abs() <= 5 * (n * p * (1 - p)).sqrt() + 5).all()  # + 5 for the rare ones


@given(st.lists(st.integers(-9, 9), min_size=1, max_size=6), st.sampled_from([0.1, 1, 2.5]), upto(8), SEEDS)
def test_probabilities_are_those_by_hand(numbers, temperature, top_k, seed):
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


def test_probabilities_are_the_plain_ones_unless_asked():
    logits = randn(3, 7)
    torch.testing.assert_close(next_token_probabilities(logits), logits.softmax(dim=-1))


# Ends, and what the callback sees


@given(models(), upto(8), st.sampled_from([0.0, 0.5, 2.0]), st.data())
def test_each_row_ends_after_its_first_new_eos(example, n, temperature, data):
    """Drawn with the same seed, the tokens up to there are those without an eos_id."""
    cfg, model, prompt = example
    T, size, seen = prompt.shape[1], data.draw(upto(cfg["context_length"])), []
    plain = generate(model, prompt, n, size, temperature, generator=seeded(3))[:, T:]
    eos_id = data.draw(st.sampled_from(range(cfg["vocab_size"])) | st.sampled_from(plain.flatten().tolist()))
    rows, length = plain.tolist(), 0
    for row in rows:
        end = row.index(eos_id) + 1 if eos_id in row else n
        row[end:] = [eos_id] * (n - end)
        length = max(length, end)
    expected = torch.tensor(rows)[:, :length]

    out = generate(model, prompt, n, size, temperature, None, eos_id, seeded(3), seen.append)
    assert torch.equal(out, torch.cat([prompt, expected], dim=1))
    assert all(tokens.shape == (len(prompt), 1) for tokens in seen)
    assert torch.equal(torch.cat(seen, dim=1), expected)


def test_an_eos_in_the_prompt_ends_nothing(model):
    plain = generate(model, ids(7, 7), 9, 12)
    assert 7 not in plain[:, 2:]
    assert torch.equal(generate(model, ids(7, 7), 9, 12, eos_id=7), plain)


def test_a_generation_of_nothing_is_the_prompt_and_calls_nobody(model):
    seen = []
    out = generate(model, ids(1, 2), 0, 12, 1.0, eos_id=2, generator=seeded(3), callback=seen.append)
    assert torch.equal(out, ids(1, 2)) and seen == []


def test_the_callback_is_called_at_each_step(model):
    """Not at the end: it can stop the generation."""

    def stop(tokens):
        seen.append(tokens)
        if len(seen) == 3:
            raise StopIteration

    seen, calls = [], []
    model.register_forward_pre_hook(lambda module, args: calls.append(args))
    with pytest.raises(StopIteration):
        generate(model, ids(1, 2), 9, 12, callback=stop)
    assert len(calls) == 3
    model._forward_pre_hooks.clear()
    assert torch.equal(torch.cat(seen, dim=1), generate(model, ids(1, 2), 3, 12)[:, 2:])


# No more work than is needed

# T, max_new_tokens, context_size -> the number of tokens that each step reads
READ = {
    (4, 6, 12): [4, 1, 1, 1, 1, 1],
    (4, 6, 99): [4, 1, 1, 1, 1, 1],
    (4, 6, 6): [4, 1, 1, 6, 6, 6],
    (6, 3, 6): [6, 6, 6],
    (9, 3, 6): [6, 6, 6],
    (1, 3, 1): [1, 1, 1],
    (4, 0, 12): [],
}


@pytest.mark.parametrize("case", READ)
def test_each_step_reads_only_what_is_new_while_the_text_fits(model, case):
    """And the head scores one position in each, the one that is used."""
    (T, n, size), read, scored = case, [], []
    expected = generate(model, random_ids(2, T), n, size)
    model.register_forward_pre_hook(lambda module, args: read.append(args[0].shape))
    model.out_head.register_forward_pre_hook(lambda module, args: scored.append(args[0].shape))
    assert torch.equal(generate(model, random_ids(2, T), n, size), expected)
    assert read == [(2, tokens) for tokens in READ[case]]
    assert scored == [(2, 1, 24)] * n


@pytest.mark.parametrize("case", READ)
def test_the_caches_hold_what_was_read_in_the_memory_of_the_formula(model, case, monkeypatch):
    """Here without hooks, so the short way."""
    (T, n, size), made = case, []

    class Recorded(KVCache):
        def __init__(self, max_tokens):
            super().__init__(max_tokens)
            self.added = []
            made.append(self)

        def append(self, keys, values):
            self.added.append(keys.shape[2])
            return super().append(keys, values)

    monkeypatch.setattr(helpers, "KVCache", Recorded)
    generate(model, random_ids(2, T), n, size)
    fitting = READ[case][: max(0, size - T + 1)]
    assert [cache.added for cache in made] == [fitting] * SMALL["n_layers"] * (n > 0)
    tensors = [t for cache in made for t in (cache.keys, cache.values) if t is not None]
    room = min(size, T + n - 1) if fitting else 0
    assert sum(t.untyped_storage().nbytes() for t in tensors) == 2 * SMALL["n_layers"] * 2 * room * 24 * 8


def test_a_token_with_a_cache_costs_what_the_formula_in_4_7_says(model):
    caches, D, L = caches_for(model), 24, SMALL["n_layers"]
    with torch.no_grad():
        model(random_ids(1, 9), caches)
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            model(random_ids(1, 1), caches)
    assert counter.get_total_flops() == 2 * (L * (12 * D**2 + 2 * D * 10) + D * SMALL["vocab_size"])
