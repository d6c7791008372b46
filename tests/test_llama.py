"""LlamaModel is Llama: with the same weights, it computes what the `transformers` library computes."""

import copy
import math
import os

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from support import SEEDS, attention_by_hand, draw_weights, ids, randn, randomized, upto
from torch import nn
from torch.nn import functional as F

from helpers import count_parameters, generate, generate_text_simple
from llama import SMOLLM2_135M, CachedLlama, GroupedQueryAttention, LlamaModel, RMSNorm, SwiGLU, rotate

os.environ["HF_HUB_OFFLINE"] = "1"  # read when transformers is imported: it must not look for anything online

from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

TINY = {
    "vocab_size": 61,
    "context_length": 12,
    "emb_dim": 24,
    "n_heads": 4,
    "n_kv_heads": 2,
    "n_layers": 2,
    "hidden_dim": 40,
    "rope_base": 10_000.0,
    "norm_eps": 1e-5,
    "tied": True,
}
CONFIGS = {
    "grouped": TINY,
    "untied": {**TINY, "tied": False},
    "a head of keys for each of queries": {**TINY, "n_kv_heads": 4},
    "one head of keys": {**TINY, "n_kv_heads": 1},
    "one head": {**TINY, "n_heads": 1, "n_kv_heads": 1},
    "two features in a head": {**TINY, "n_heads": 12, "n_kv_heads": 3},
    "another base and eps": {**TINY, "rope_base": 7.0, "norm_eps": 0.1},
    "deep and long": {**TINY, "n_layers": 11, "context_length": 70, "emb_dim": 32, "hidden_dim": 9},
}
KINDS = {"Llama": (LlamaConfig, LlamaForCausalLM), "Mistral": (MistralConfig, MistralForCausalLM)}
NAMES = {  # of Hugging Face's parameters, without their block
    "model.embed_tokens": "tok_emb.weight",
    "model.norm": "final_norm.scale",
    "lm_head": "out_head.weight",
    "input_layernorm": "norm1.scale",
    "self_attn.q_proj": "att.W_query.weight",
    "self_attn.k_proj": "att.W_key.weight",
    "self_attn.v_proj": "att.W_value.weight",
    "self_attn.o_proj": "att.out_proj.weight",
    "post_attention_layernorm": "norm2.scale",
    "mlp.gate_proj": "ff.gate.weight",
    "mlp.up_proj": "ff.up.weight",
    "mlp.down_proj": "ff.down.weight",
}


def our_name(theirs):
    """`model.layers.3.mlp.up_proj.weight` -> `trf_blocks.3.ff.up.weight`"""
    name = theirs.removesuffix(".weight")
    if not name.startswith("model.layers."):
        return NAMES[name]
    _, _, i, part = name.split(".", 3)
    return f"trf_blocks.{i}.{NAMES[part]}"


def reference(cfg, kind="Llama", seed=0):
    """Hugging Face's model of our configuration, every parameter random: no norm keeps its start at 1."""
    config, model = KINDS[kind]
    settings = {"sliding_window": None} if kind == "Mistral" else {}
    model = model(
        config(
            vocab_size=cfg["vocab_size"],
            max_position_embeddings=cfg["context_length"],
            hidden_size=cfg["emb_dim"],
            num_attention_heads=cfg["n_heads"],
            num_key_value_heads=cfg["n_kv_heads"],
            num_hidden_layers=cfg["n_layers"],
            intermediate_size=cfg["hidden_dim"],
            rope_parameters={"rope_type": "default", "rope_theta": cfg["rope_base"]},
            rms_norm_eps=cfg["norm_eps"],
            tie_word_embeddings=cfg["tied"],
            bos_token_id=None,
            eos_token_id=None,  # it never stops early
            **settings,
        )
    )
    draw_weights(model, cfg["emb_dim"], seed)
    return model.eval()


def loaded(cfg, folder):
    """A LlamaModel with the weights of the checkpoint that `transformers` wrote to `folder`."""
    torch.manual_seed(1)
    model = LlamaModel(cfg)
    tensors = {our_name(name): tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    if cfg["tied"]:
        tensors["out_head.weight"] = tensors["tok_emb.weight"]
    model.load_state_dict(tensors)
    return model.eval()


def random_model(cfg, seed=0):
    """A LlamaModel in float64 with random parameters, in which the tokens decide what comes next."""
    return randomized(LlamaModel(cfg), seed)


# The same function


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cfg", CONFIGS.values(), ids=CONFIGS)
def test_same_logits_and_gradients_as_hugging_face(cfg, kind, tmp_path):
    theirs = reference(cfg, kind)
    theirs.save_pretrained(tmp_path)
    ours = loaded(cfg, tmp_path)
    assert (ours.out_head.weight is ours.tok_emb.weight) == cfg["tied"]
    assert count_parameters(ours) == theirs.num_parameters()
    x = torch.randint(cfg["vocab_size"], (3, cfg["context_length"]), generator=torch.manual_seed(2))
    found, expected = ours(x), theirs(x).logits
    assert expected.std() > 0.1  # else atol would hide a mistake
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)

    upstream = torch.randn_like(found) / len(found)
    found.backward(upstream)
    expected.backward(upstream)
    gradients = {name: parameter.grad for name, parameter in ours.named_parameters()}
    seen = {our_name(name): parameter.grad for name, parameter in theirs.named_parameters()}
    assert gradients.keys() == seen.keys()
    for name, gradient in seen.items():
        assert gradient.abs().max() > 0.01
        torch.testing.assert_close(gradients[name], gradient, atol=3e-5 * gradient.abs().max(), rtol=0)


def test_same_text_as_hugging_face(tmp_path):
    cfg = {**TINY, "context_length": 70, "tied": False}
    theirs = reference(cfg)
    theirs.model.embed_tokens.weight.data *= 10  # the tokens, not the blocks, decide what comes next
    theirs.save_pretrained(tmp_path)
    ours = loaded(cfg, tmp_path)
    prompts = torch.tensor([[1, 2, 3], [6, 5, 4]])
    mask = torch.ones_like(prompts)
    expected = theirs.generate(
        prompts, attention_mask=mask, max_new_tokens=60, do_sample=False, pad_token_id=0
    )
    with torch.no_grad():
        best, second = theirs(expected[:, :-1]).logits[:, 2:].topk(2).values.unbind(dim=-1)
    assert expected.shape == (2, 63) and (best - second).min() > 1e-4  # so rounding decides nowhere
    assert len(set(expected[0].tolist())) > 10
    for model in (ours, CachedLlama(ours)):
        assert torch.equal(generate(model, prompts, 60, 70), expected)


# Its parts


def test_rms_norm_by_hand():
    x, norm = randn(2, 3, 8), randomized(RMSNorm(8, eps=0.3))
    by_hand = norm.scale * x / (x.square().mean(dim=-1, keepdim=True) + 0.3).sqrt()
    torch.testing.assert_close(norm(x), by_hand)
    assert RMSNorm(8).eps == 1e-5 and torch.equal(RMSNorm(8).scale, torch.ones(8))
    assert [name for name, _ in norm.named_parameters()] == ["scale"]


def test_swiglu_by_hand():
    x, ff = randn(2, 3, 24), randomized(SwiGLU(TINY))
    gate = x @ ff.gate.weight.T
    by_hand = (gate / (1 + (-gate).exp()) * (x @ ff.up.weight.T)) @ ff.down.weight.T
    torch.testing.assert_close(ff(x), by_hand)
    assert [tuple(p.shape) for p in ff.parameters()] == [(40, 24), (40, 24), (24, 40)]


def test_each_plane_turns_by_its_own_angle():
    x = randn(5, 8)
    turned = rotate(x, start=3, base=100.0)
    for t in range(5):
        for i in range(4):
            angle = (3 + t) * 100 ** (-2 * i / 8)
            point = complex(x[t, i], x[t, i + 4]) * complex(math.cos(angle), math.sin(angle))
            expected = torch.tensor([point.real, point.imag], dtype=torch.float64)
            torch.testing.assert_close(turned[t, [i, i + 4]], expected, atol=1e-5, rtol=0)


def test_default_base_and_start():
    x = randn(2, 3, 6, 8)
    assert torch.equal(rotate(x), rotate(x, 0, 10_000.0)) and torch.equal(rotate(x)[..., 0, :], x[..., 0, :])
    assert not torch.equal(rotate(x), rotate(x, 1)) and not torch.equal(rotate(x), rotate(x, 0, 9_999.0))


@given(seed=SEEDS, half=upto(6), places=st.tuples(upto(300, 0), upto(300, 0)), shift=upto(500))
def test_a_score_depends_on_the_distance_only(seed, half, places, shift):
    torch.manual_seed(seed)
    q, k = randn(1, 2 * half), randn(1, 2 * half)

    def score(i, j):
        return (rotate(q, i) * rotate(k, j)).sum()

    i, j = places
    torch.testing.assert_close(score(i, j), score(i + shift, j + shift), atol=1e-3, rtol=0)
    torch.testing.assert_close(rotate(q, i).norm(), q.norm(), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_the_type_stays(dtype):
    assert rotate(torch.ones(3, 4, dtype=dtype)).dtype == dtype
    assert LlamaModel(TINY).to(dtype)(ids(1, 2, 3)).dtype == dtype


@pytest.mark.parametrize("heads, groups", [(4, 4), (4, 2), (4, 1), (3, 1), (1, 1)])
def test_grouped_attention_by_hand(heads, groups):
    cfg = {**TINY, "n_heads": heads, "n_kv_heads": groups, "rope_base": 50.0}
    x, att = randn(2, 7, 24), randomized(GroupedQueryAttention(cfg))
    q, k, v = (
        (x @ layer.weight.T).view(2, 7, -1, 24 // heads).transpose(1, 2)
        for layer in (att.W_query, att.W_key, att.W_value)
    )
    assert k.shape[1] == v.shape[1] == groups
    k, v = (torch.stack([t[:, head * groups // heads] for head in range(heads)], dim=1) for t in (k, v))
    context = attention_by_hand(rotate(q, base=50.0), rotate(k, base=50.0), v)
    by_hand = context.transpose(1, 2).reshape(2, 7, 24) @ att.out_proj.weight.T
    torch.testing.assert_close(att(x), by_hand)


@pytest.mark.parametrize("cut", [1, 3, 6])
def test_attention_goes_on_from_its_cache(cut):
    x, att, cache = randn(2, 7, 24), randomized(GroupedQueryAttention(TINY)), {}
    parts = [att(x[:, :cut], cache), att(x[:, cut:], cache)]
    torch.testing.assert_close(torch.cat(parts, dim=1), att(x))
    assert {name: tuple(t.shape) for name, t in cache.items()} == {"k": (2, 2, 7, 6), "v": (2, 2, 7, 6)}


def test_no_biases_and_no_positions():
    names = [name for name, _ in LlamaModel(TINY).named_parameters()]
    assert not any("bias" in name or "pos_emb" in name for name in names)
    assert not any(isinstance(part, nn.Dropout) for part in LlamaModel(TINY).modules())


def test_size_by_the_formula():
    V, D, L, hidden, kv = (
        SMOLLM2_135M[n] for n in ("vocab_size", "emb_dim", "n_layers", "hidden_dim", "n_kv_heads")
    )
    block = 2 * D * D + 2 * D * kv * D // SMOLLM2_135M["n_heads"] + 3 * D * hidden + 2 * D
    with torch.device("meta"):
        tied, untied = LlamaModel(SMOLLM2_135M), LlamaModel({**SMOLLM2_135M, "tied": False})
    assert count_parameters(tied) == V * D + L * block + D == 134_515_008
    assert count_parameters(untied) == 134_515_008 + V * D


# What it refuses


@pytest.mark.parametrize(
    "change, words",
    [
        ({"emb_dim": 0}, "emb_dim must be at least 1"),
        ({"vocab_size": 0}, "vocab_size must be at least 1"),
        ({"context_length": -1}, "context_length must be at least 1"),
        ({"n_layers": 0}, "n_layers must be at least 1"),
        ({"n_heads": 0}, "n_heads must be at least 1"),
        ({"n_kv_heads": 0}, "n_kv_heads must be at least 1"),
        ({"hidden_dim": 0}, "hidden_dim must be at least 1"),
        ({"n_kv_heads": 3}, "n_heads must be divisible by n_kv_heads, got 4 and 3"),
        ({"n_kv_heads": 8}, "n_heads must be divisible by n_kv_heads, got 4 and 8"),
        ({"emb_dim": 28}, "emb_dim must be divisible by 2 * n_heads, got 28 and 4"),
        ({"n_heads": 5, "n_kv_heads": 1}, "emb_dim must be divisible by 2 * n_heads, got 24 and 5"),
    ],
    ids=str,
)
def test_configuration_that_is_not_allowed(change, words):
    with pytest.raises(ValueError) as caught:
        LlamaModel({**TINY, **change})
    assert words in str(caught.value)


@pytest.mark.parametrize("name", TINY)
def test_a_missing_key_is_a_key_error(name):
    with pytest.raises(KeyError, match=name):
        LlamaModel({key: value for key, value in TINY.items() if key != name})


@pytest.mark.parametrize("wrap", [lambda model: model, CachedLlama], ids=["model", "cached"])
def test_ids_that_are_not_allowed(wrap):
    model = wrap(LlamaModel(TINY))
    for wrong, words in (
        (ids(*range(13)), "got a sequence of 13 tokens, context_length is only 12"),
        (ids(1, 61), "token ids must lie in 0 ... 60"),
        (torch.tensor([1]), r"token ids must have shape \(B, T\)"),
    ):
        with pytest.raises(ValueError, match=words):
            model(wrong)
    assert model(ids(*range(12))).shape[-1] == 61


def test_a_text_that_grows_too_long_for_the_cache():
    cached = CachedLlama(LlamaModel(TINY))
    cached(ids(*range(12)))
    with pytest.raises(ValueError, match="got a sequence of 13 tokens, context_length is only 12"):
        cached(ids(*range(13)))


# The cache


@st.composite
def models(draw):
    """A small model with random parameters."""
    groups, per_group = draw(upto(3)), draw(upto(3))
    heads = groups * per_group
    cfg = {**TINY, "n_heads": heads, "n_kv_heads": groups, "emb_dim": 2 * heads * draw(upto(3))}
    cfg |= {"n_layers": draw(upto(3)), "tied": draw(st.booleans()), "context_length": draw(upto(12, least=2))}
    return cfg, random_model(cfg, draw(SEEDS))


@given(models(), st.data())
def test_cached_equals_plain_whatever_it_is_asked(drawn, data):
    cfg, model = drawn
    cached, so_far = CachedLlama(model), None
    for _ in range(5):
        old = 0 if so_far is None else so_far.shape[1]
        goes_on = old and old < cfg["context_length"] and data.draw(st.booleans())
        shape = data.draw(upto(3)), data.draw(upto(cfg["context_length"]))
        if goes_on:
            shape = len(so_far), data.draw(upto(cfg["context_length"] - old))
        new = torch.randint(61, shape)
        so_far = torch.cat((so_far, new), dim=1) if goes_on else new
        torch.testing.assert_close(cached(so_far), model(so_far)[:, -1:])


def test_only_what_is_new_is_read():
    model = random_model(TINY)
    cached, seen = CachedLlama(model), []
    model.tok_emb.register_forward_hook(lambda part, given, result: seen.append(given[0].tolist()))
    for given_ids in (ids(1, 2, 3), ids(1, 2, 3, 4), ids(1, 2, 3, 4, 5, 6), ids(1, 2, 3, 4, 5, 6)):
        cached(given_ids)
    cached(ids(1, 2, 3, 4, 5, 7, 8))  # another text
    cached(ids(1, 2))  # a shorter one
    cached(ids(1, 2, 3).expand(2, 3))  # two
    assert seen == [
        [[1, 2, 3]],
        [[4]],
        [[5, 6]],
        [[1, 2, 3, 4, 5, 6]],
        [[1, 2, 3, 4, 5, 7, 8]],
        [[1, 2]],
        [[1, 2, 3], [1, 2, 3]],
    ]


def test_ids_that_are_changed_afterwards_do_not_matter():
    model = random_model(TINY)
    cached, text = CachedLlama(model), ids(1, 2, 3)
    cached(text)
    text[0, 0] = 9
    torch.testing.assert_close(cached(ids(9, 2, 3, 4)), model(ids(9, 2, 3, 4))[:, -1:])


def test_after_an_error_halfway_it_starts_over():
    model = random_model(TINY)
    cached = CachedLlama(model)
    cached(ids(1, 2, 3))

    def fail(part, given):
        raise KeyboardInterrupt

    hook = model.trf_blocks[1].register_forward_pre_hook(fail)  # block 0 has added its keys and values
    with pytest.raises(KeyboardInterrupt):
        cached(ids(1, 2, 3, 4))
    hook.remove()
    torch.testing.assert_close(cached(ids(1, 2, 3, 4)), model(ids(1, 2, 3, 4))[:, -1:])


def test_two_caches_of_a_model_are_separate_and_keep_no_graph():
    model = random_model(TINY)
    one, two = CachedLlama(model), CachedLlama(model)
    one(ids(1, 2, 3))
    two(ids(4, 5))
    for cached, text in ((one, ids(1, 2, 3, 6)), (two, ids(4, 5, 6))):
        logits = cached(text)
        assert not logits.requires_grad and not cached.cache[0]["k"].requires_grad
        torch.testing.assert_close(logits, model(text)[:, -1:])


@pytest.mark.parametrize("prompts", [ids(7), ids(7, 3, 5), torch.tensor([[1, 2, 3], [6, 5, 4]])], ids=str)
def test_generate_gives_the_plain_loops_text_past_the_context(prompts):
    model = random_model(TINY)
    expected = generate_text_simple(model, prompts, 20, 12)
    assert torch.equal(generate(CachedLlama(model), prompts, 20, 12), expected)
    sampled = [
        generate(m, prompts, 20, 12, temperature=1.0, generator=torch.Generator().manual_seed(3))
        for m in (model, CachedLlama(model))
    ]
    assert torch.equal(*sampled) and not torch.equal(sampled[0], expected)


def test_training_moves_every_parameter():
    torch.manual_seed(0)
    model = LlamaModel({**TINY, "tied": False})
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    text = torch.randint(61, (4, 12))
    losses = []
    for _ in range(30):
        loss = F.cross_entropy(model(text[:, :-1]).flatten(0, 1), text[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 4
    assert all(not torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
