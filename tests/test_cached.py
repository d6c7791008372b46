"""CachedGPT gives the model's own logits or refuses the model by name, and does no more work than it must."""

import ast
import copy
import sys
import types

import pytest
import torch
from alterations import CHANGES, KNOWN, REFUSED, Louder, another_tensor_as_data
from hypothesis import given, settings
from hypothesis import strategies as st
from support import (
    ROOT,
    SMALL,
    attention_by_hand,
    ids,
    models,
    randn,
    random_ids,
    randomized,
    talkative,
    upto,
)
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import helpers
from beyond import CachedGPT, fingerprint, plain_gpt2, tensors_of
from helpers import (
    GPTModel,
    LayerNorm,
    generate,
    generate_text_simple,
)


def small_model(**changes):
    return talkative(GPTModel({**SMALL, **changes}))


@pytest.fixture
def model():
    return small_model()


def assert_same(cached, model, ids, **tolerance):
    with torch.no_grad():
        expected = model(ids)[:, -1:]
    torch.testing.assert_close(cached(ids), expected, **tolerance)


# Whatever it is called with


@settings(max_examples=100)
@given(models(), st.data())
def test_any_calls_in_any_order_give_the_models_logits(example, data):
    """Longer, shorter, changed and other prompts, batches of other sizes, and the same once more."""
    cfg, model, _ = example
    cached = CachedGPT(model)
    texts = [torch.randint(0, cfg["vocab_size"], (4, cfg["context_length"])) for _ in range(2)]
    texts.append(texts[0].clone())
    texts[2][:, data.draw(upto(cfg["context_length"])) - 1] = 0  # differs from the first in one place
    for _ in range(data.draw(upto(6))):
        B, T = data.draw(upto(4)), data.draw(upto(cfg["context_length"]))
        assert_same(cached, model, data.draw(st.sampled_from(texts))[:B, :T])


@settings(max_examples=100)
@given(models(), st.data())
def test_generation_gives_the_models_tokens(example, data):
    """Within the window and beyond it, with a wrapper that is new or was used before."""
    cfg, model, prompt = example
    cached = CachedGPT(model)
    for _ in range(2):
        n, size = data.draw(upto(9, least=0)), data.draw(upto(cfg["context_length"]))
        expected = generate_text_simple(model, prompt, n, size)
        assert torch.equal(generate_text_simple(cached, prompt, n, size), expected)
        assert torch.equal(generate(cached, prompt, n, size), expected)
        prompt = prompt.roll(1, dims=1)


@pytest.mark.parametrize("T, S", [(1, 1), (1, 6), (2, 6), (5, 6), (6, 6)])
def test_queries_belong_to_the_last_tokens(model, T, S):
    """What the mask is for: attention over what the cache holds is that of the whole text, cut."""
    text, cached = random_ids(2, S), CachedGPT(model)
    if S > T:
        cached(text[:, : S - T])
    assert_same(cached, model, text)
    q, k, v = randn(3, 2, 3, S, 8)
    mask = torch.ones(T, S, dtype=torch.bool).tril(S - T)
    torch.testing.assert_close(
        nn.functional.scaled_dot_product_attention(q[:, :, -T:], k, v, attn_mask=mask),
        attention_by_hand(q, k, v)[:, :, -T:],
    )


def test_ids_may_change_after_the_call(model):
    cached, text = CachedGPT(model), random_ids(2, 6)
    cached(text)
    text[:, 2] += 1  # in place: what is remembered must be a copy
    text %= 61
    assert_same(cached, model, text)


def test_a_call_that_fails_leaves_nothing_half_remembered(model, monkeypatch):
    cached, text = CachedGPT(model), random_ids(1, 9)
    cached(text[:, :4])
    calls, attend = [], nn.functional.scaled_dot_product_attention

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:  # after the first block has written its keys
            raise KeyboardInterrupt
        return attend(*args, **kwargs)

    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cached(random_ids(1, 9, seed=6))
    monkeypatch.undo()
    assert_same(cached, model, text)


@pytest.mark.parametrize(
    "wrong, words",
    [
        (ids(61), "token ids must lie in 0 ... 60, got ids from 61 to 61"),
        (ids(*range(13)), "got a sequence of 13 tokens, context_length is only 12"),
        (torch.tensor([1, 2]), r"token ids must have shape \(B, T\)"),
    ],
)
def test_bad_ids_are_refused_as_by_the_model(model, wrong, words):
    cached = CachedGPT(model)
    for function in (model, cached):
        with pytest.raises(ValueError, match=words):
            function(wrong)
    assert_same(cached, model, random_ids(2, 5))


def test_logits_are_ordinary_tensors(model):
    for inside in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        with inside():
            logits = CachedGPT(model)(ids(1, 2))
        assert logits.is_inference() == (inside is torch.inference_mode) and not logits.requires_grad
    cached = CachedGPT(model)
    with torch.inference_mode():  # and what was remembered there serves elsewhere
        cached(ids(1, 2))
    assert_same(cached, model, ids(1, 2, 3))


# Whatever the model has become


def name(function):
    return function.__name__


@pytest.mark.parametrize("change", REFUSED, ids=name)
@pytest.mark.parametrize("when", ["before it is made", "after it was used"])
def test_what_it_does_not_know_it_refuses_by_name(model, monkeypatch, change, when):
    cached = None
    if when == "after it was used":
        cached = CachedGPT(model)
        cached(ids(1, 2, 3))
    change(model, monkeypatch)
    with pytest.raises(ValueError) as caught:
        CachedGPT(model) if cached is None else cached(ids(1, 2, 3, 4))
    assert REFUSED[change] in str(caught.value)


@pytest.mark.parametrize("thing", [helpers.FeedForward(SMALL), len, None])
def test_it_needs_a_model(thing):
    with pytest.raises(ValueError, match="CachedGPT needs a GPTModel, got a "):
        CachedGPT(thing)


def test_it_refuses_a_subclass_and_a_compiled_model(model):
    class Mine(GPTModel):
        pass

    for other in (Mine(SMALL), torch.compile(model, backend="eager"), nn.DataParallel(model)):
        with pytest.raises(ValueError, match="CachedGPT needs a GPTModel"):
            CachedGPT(other)


@pytest.mark.parametrize("change", KNOWN, ids=name)
@pytest.mark.parametrize("when", ["before it is made", "after it was used"])
def test_what_it_knows_gives_the_models_logits(model, change, when):
    cached = None
    if when == "after it was used":
        cached = CachedGPT(model)
        cached(random_ids(2, 5))
    change(model)
    cached = cached or CachedGPT(model)
    most = min(model.pos_emb.num_embeddings, 12)
    text = random_ids(2, most)
    tolerance = {torch.bfloat16: 0.1, torch.float32: 1e-3}.get(model.tok_emb.weight.dtype, 1e-9)
    for T in (3, 5, 6, most, 4):
        assert_same(cached, model, text[:, :T], atol=tolerance, rtol=tolerance)
    with pytest.raises(ValueError, match=f"context_length is only {most}"):
        cached(random_ids(1, most + 1))


@pytest.mark.parametrize("change", CHANGES, ids=name)
def test_changed_weights_make_it_start_over(model, change):
    cached, text = CachedGPT(model), random_ids(2, 8)
    before = cached(text)
    change(model)
    model.zero_grad()
    assert_same(cached, model, text)
    assert not torch.allclose(cached(text), before)
    assert_same(cached, model, text[:, :3])


def test_no_address_of_a_weight_is_used_again(model):
    """Evolution strategies put new tensors under the old parameters, again and again."""
    cached, text = CachedGPT(model), random_ids(2, 8)
    weights = nn.utils.parameters_to_vector(model.parameters()).detach()
    for i in range(6):
        assert_same(cached, model, text)
        nn.utils.vector_to_parameters(weights + torch.randn_like(weights), model.parameters())
        model(text)
        nn.utils.vector_to_parameters(weights * (1 + i), model.parameters())


def test_an_interruption_while_it_looks_leaves_nothing_trusted(model, monkeypatch):
    cached, text = CachedGPT(model), random_ids(2, 8)
    cached(text)
    another_tensor_as_data(model)

    def interrupted(*args):
        raise KeyboardInterrupt

    for name in ("check_plain", "tensors_of", "longest_text"):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(f"beyond.{name}", interrupted)
            cached(text)
        assert_same(cached, model, text)
        another_tensor_as_data(model)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
def test_copies_do_not_write_into_one_cache(model, duplicate):
    cached, text, other = CachedGPT(model), random_ids(2, 8), random_ids(2, 8, seed=6)
    cached(text[:, :4])
    twin = duplicate(cached)
    other[:, :4] = text[:, :4]
    cached(text[:, :6])
    twin(other[:, :6])
    assert_same(cached, model, text)
    assert_same(twin, model, other)


def test_the_dtype_of_autocast_matters(model):
    marks = {fingerprint(model)}
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype):
            marks.add(fingerprint(model))
    assert len(marks) == 3 and fingerprint(model) in marks


def test_weights_whose_changes_are_not_counted_are_refused(model):
    with torch.inference_mode():
        uncounted = small_model()
    with pytest.raises(ValueError, match="the part 'tok_emb' was made in inference mode"):
        CachedGPT(uncounted)
    cached = CachedGPT(model)
    model.final_norm = uncounted.final_norm
    with pytest.raises(RuntimeError, match="version counter"):
        cached(ids(1, 2))


def test_a_model_that_computes_nan_is_not_another_model(model):
    nn.init.constant_(model.final_norm.shift, float("nan"))
    assert CachedGPT(model)(ids(1, 2)).isnan().all()


def test_autocast_makes_it_start_over(model):
    model.float()
    cached, text = CachedGPT(model), random_ids(2, 8)
    cached(text[:, :6])
    with torch.autocast("cpu", torch.bfloat16):
        assert_same(cached, model, text[:, :7], atol=0.2, rtol=0.2)
    assert_same(cached, model, text, atol=1e-4, rtol=1e-4)


def test_a_readers_own_parts_are_refused_and_generate_all_the_same(monkeypatch):
    class MyLayerNorm(LayerNorm):
        pass

    monkeypatch.setattr(helpers, "LayerNorm", MyLayerNorm)
    model = small_model()
    with pytest.raises(
        ValueError, match="'trf_blocks.0.norm1' is a MyLayerNorm that CachedGPT does not know"
    ):
        CachedGPT(model)
    assert generate(model, ids(1, 2), 3, 12).shape == (1, 5)


OWN_CLASSES = """
class LoRALinear(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


class Quiet(GELU):
    def forward(self, x):
        return super().forward(x) / 2
"""


@pytest.fixture
def one_file(tmp_path, monkeypatch):
    """helpers.py and beyond.py in one file, with two classes of the user's own."""
    beyond = ast.parse((ROOT / "beyond.py").read_text(encoding="utf-8"))
    beyond.body = [node for node in beyond.body if getattr(node, "module", None) != "helpers"]
    text = (ROOT / "helpers.py").read_text(encoding="utf-8") + OWN_CLASSES + ast.unparse(beyond)
    (tmp_path / "one_file.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    import one_file

    yield one_file
    del sys.modules["one_file"]


def test_in_one_file_with_the_users_own_classes(one_file):
    model = randomized(one_file.GPTModel(SMALL))
    assert_same(one_file.CachedGPT(model), model, random_ids(2, 5))
    model.trf_blocks[0].ff.layers[1] = one_file.Quiet()
    with pytest.raises(ValueError, match="is a Quiet"):
        one_file.CachedGPT(model)
    model.trf_blocks[0].ff.layers[1] = one_file.GELU()
    model.out_head = one_file.LoRALinear(24, 61)
    with pytest.raises(ValueError, match="is a LoRALinear"):
        one_file.CachedGPT(model)
    with pytest.raises(ValueError, match="needs a GPTModel"):
        one_file.CachedGPT(small_model())  # of another file


@pytest.mark.parametrize("replaced", ["forward", "forward called A", "class", "by PyTorch's"])
def test_a_replacement_before_the_import_is_noticed(replaced, monkeypatch):
    """A class that was changed before beyond.py was read is not taken for the course's."""
    if replaced.startswith("forward"):

        def forward(self, x):
            return x

        if replaced == "forward called A":  # another name may come before or after the right one
            forward.__qualname__ = "A"
        monkeypatch.setattr(helpers.GELU, "forward", forward)
    else:
        monkeypatch.setattr(helpers, "GELU", Louder if replaced == "class" else nn.GELU)
    module = types.ModuleType("beyond_read_later")
    exec(compile((ROOT / "beyond.py").read_text(encoding="utf-8"), "beyond.py", "exec"), module.__dict__)
    with pytest.raises(ValueError, match="'trf_blocks.0.ff.layers.1' is a"):
        module.CachedGPT(small_model())


# No more work than is needed


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
def test_no_weight_and_no_cache_is_copied(qkv_bias):
    model = small_model(qkv_bias=qkv_bias)
    cached = CachedGPT(model)
    cached(random_ids(2, 1))  # makes the cache
    matrices = [parameter.numel() for parameter in model.parameters() if parameter.ndim == 2]
    kept = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *sum(cached.cache, ()))}
    for T, most in ((4, SMALL["vocab_size"] * 24), (5, min(matrices))):  # a prompt, and one more token
        with Watched() as watched:
            cached(random_ids(2, 5)[:, :T])
        sizes = [t.numel() for t in watched.tensors if t.untyped_storage().data_ptr() not in kept]
        assert 0 < len(sizes) < len(watched.tensors) and max(sizes) < most


# lengths of the texts in a row -> the number of tokens that each call reads
READ = {
    (4, 5, 6, 7): [4, 1, 1, 1],
    (4, 4): [4, 1],
    (4, 9, 12): [4, 5, 3],
    (9, 4, 5): [9, 1, 1],
}


@pytest.mark.parametrize("lengths", READ)
def test_only_what_is_new_is_read(model, lengths, monkeypatch):
    read = []

    def watched(tensors, ids, *rest):
        read.append(ids.shape[1])
        return plain_gpt2(tensors, ids, *rest)

    cached = CachedGPT(model)
    monkeypatch.setattr("beyond.plain_gpt2", watched)
    for T in lengths:
        assert_same(cached, model, random_ids(2, 12)[:, :T])
    assert read == READ[lengths]


def test_a_change_in_one_row_makes_it_read_from_there_on(model, monkeypatch):
    read, cached, text = [], CachedGPT(model), random_ids(2, 10)
    cached(text)
    monkeypatch.setattr("beyond.plain_gpt2", lambda *args: read.append(args[2]) or plain_gpt2(*args))
    text[1, 4] = (text[1, 4] + 1) % 61
    assert_same(cached, model, text)
    assert read == [4]


def test_several_positions_are_scored_on_request(model):
    cached, text = CachedGPT(model), random_ids(2, 10)
    for T, scored in ((4, 4), (10, 1), (10, 6), (7, 7), (9, 2)):
        torch.testing.assert_close(cached(text[:, :T], scored), model(text[:, :T])[:, -scored:].detach())


def test_a_cache_takes_the_memory_of_the_formula_once(model):
    cached, places = CachedGPT(model), set()
    for T in (3, 4, 12, 2):
        cached(random_ids(2, T))
        places.add(tuple(t.data_ptr() for t in sum(cached.cache, ())))
    assert len(places) == 1
    bytes_kept = sum(t.untyped_storage().nbytes() for t in sum(cached.cache, ()))
    assert bytes_kept == 2 * SMALL["n_layers"] * 2 * 12 * 24 * 8  # K and V, blocks, B, T, D, float64


def test_a_cached_token_costs_what_the_formula_says(model):
    cached, D, L = CachedGPT(model), 24, SMALL["n_layers"]
    cached(random_ids(1, 9))
    # The counter hooks all modules, so that CachedGPT would refuse; its functions are asked directly.
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        plain_gpt2(tensors_of(model), random_ids(1, 1), 9, cached.cache)
    assert counter.get_total_flops() == 2 * (L * (12 * D**2 + 2 * D * 10) + D * SMALL["vocab_size"])


def test_tensors_are_the_models_own(model):
    flat = []

    def collect(thing):
        for part in thing:
            flat.append(part) if torch.is_tensor(part) else collect(part) if isinstance(
                part, (list, tuple)
            ) else None

    collect(tensors_of(model))
    assert {id(t) for t in flat} == {id(p) for p in model.parameters()}


def test_the_model_and_the_random_numbers_stay_as_they_were(model):
    before, state = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    random = torch.get_rng_state()
    generate(CachedGPT(model), ids(1, 2), 12, 12)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(t, before[key]) for key, t in model.state_dict().items())
    assert state == [m.training for m in model.modules()] and not any(
        p.grad is not None for p in model.parameters()
    )
