"""GPTModel is GPT-2: with the same weights, it computes what the `transformers` library computes.

Checkpoints with random weights are written by `transformers` itself, so nothing is downloaded.
"""

import itertools
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import SMALL, ids

import helpers
from beyond import CachedGPT, load_gpt2_weights
from helpers import GPT_CONFIG_124M, GPTModel, count_parameters, generate

os.environ["HF_HUB_OFFLINE"] = "1"  # read when transformers is imported: it must not look for anything online

from transformers import GPT2Config, GPT2LMHeadModel
from transformers.utils import logging

logging.disable_progress_bar()

CONFIGS = {
    "small": SMALL,
    "one head, one layer": {**SMALL, "n_heads": 1, "n_layers": 1},
    "as many heads as numbers": {**SMALL, "emb_dim": 8, "n_heads": 8},
    "deep": {**SMALL, "emb_dim": 16, "n_heads": 4, "n_layers": 11},  # h.1. and h.10. must not be mixed up
    "wide": {**SMALL, "vocab_size": 500, "context_length": 40, "emb_dim": 160, "n_heads": 5, "n_layers": 3},
    "prime numbers": {**SMALL, "vocab_size": 103, "context_length": 31, "emb_dim": 77, "n_heads": 7},
}
FULL = {**GPT_CONFIG_124M, "qkv_bias": True}


def reference(cfg, seed=0, attention="sdpa"):
    """Hugging Face's GPT-2 of our configuration, every parameter random: none keeps its start at 0 or 1."""
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=cfg["vocab_size"],
            n_positions=cfg["context_length"],
            n_embd=cfg["emb_dim"],
            n_head=cfg["n_heads"],
            n_layer=cfg["n_layers"],
            attn_implementation=attention,
            bos_token_id=None,
            eos_token_id=None,  # it never stops early
        )
    )
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=2 * cfg["emb_dim"] ** -0.5)
        model.transformer.wte.weight *= 10  # large logits, which change from token to token
    return model.eval()


def saved(model, folder):
    model.save_pretrained(folder)
    return folder / "model.safetensors"


def loaded(cfg, path):
    torch.manual_seed(1)
    model = GPTModel(cfg).eval()
    load_gpt2_weights(model, path)
    return model


@torch.no_grad()
def assert_same_logits(ours, theirs, T):
    assert next(ours.parameters()).dtype == torch.float32
    x = torch.randint(ours.tok_emb.num_embeddings, (2, T), generator=torch.Generator().manual_seed(2))
    expected = theirs(x).logits
    assert expected.std() > 0.1  # else atol would hide a mistake
    torch.testing.assert_close(ours(x), expected, atol=1e-4, rtol=0)


@torch.no_grad()
def assert_same_generation(ours, theirs, prompts, n):
    T = prompts.shape[1]
    mask = torch.ones_like(prompts)
    expected = theirs.generate(
        prompts, attention_mask=mask, max_new_tokens=n, do_sample=False, use_cache=True, pad_token_id=0
    )
    best, second = theirs(expected[:, :-1]).logits[:, T - 1 :].topk(2).values.unbind(dim=-1)
    assert expected.shape[1] == T + n and (best - second).min() > 1e-3  # so rounding decides nowhere
    for model in (ours, CachedGPT(ours)):
        assert torch.equal(generate(model, prompts, n, ours.pos_emb.num_embeddings), expected)


@pytest.fixture(scope="module")
def small_file(tmp_path_factory):
    return saved(reference(SMALL), tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """Of the size of the released 124M model: the reference, and its file of 498 MB."""
    model = reference(FULL)
    path = saved(model, tmp_path_factory.mktemp("full"))
    yield model, path
    path.unlink()  # pytest would keep it for three runs


# The same function


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("cfg", CONFIGS.values(), ids=CONFIGS)
def test_same_as_hugging_face(cfg, attention, tmp_path):
    theirs = reference(cfg, attention=attention)
    ours = loaded(cfg, saved(theirs, tmp_path))
    assert_same_logits(ours, theirs, cfg["context_length"])
    assert_same_logits(ours, theirs, 1)
    for prompts in (ids(7), ids(7, 3, 5), torch.tensor([[1, 2, 3], [6, 5, 4]])):
        assert_same_generation(ours, theirs, prompts, cfg["context_length"] - prompts.shape[1])


def test_full_size_is_the_same(full):
    theirs, path = full
    ours = loaded(FULL, path)
    assert_same_logits(ours, theirs, 64)
    assert_same_generation(ours, theirs, torch.tensor([[464, 3290, 318], [15496, 11, 314]]), 8)
    assert count_parameters(ours) == theirs.num_parameters() == 124_439_808


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_read_into_float32(dtype, tmp_path):
    theirs = reference(SMALL).to(dtype)
    path = saved(theirs, tmp_path)
    assert load_file(path)["transformer.wte.weight"].dtype == dtype
    assert_same_logits(loaded(SMALL, path), theirs.float(), 12)


# What may differ between files


def changed(path, folder, change):
    """A copy of the file at `path`, after `change` of its dict of tensors."""
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, folder / "changed.safetensors")
    return folder / "changed.safetensors"


def without_prefix(tensors):
    for name in list(tensors):
        tensors[name.removeprefix("transformer.")] = tensors.pop(name)


def with_buffers(tensors):
    for block, prefix in itertools.product(("h.0", "h.1"), ("transformer.", "")):
        tensors[f"{prefix}{block}.attn.bias"] = torch.ones(1, 1, 12, 12).tril()
        tensors[f"{prefix}{block}.attn.masked_bias"] = torch.tensor(-1e4)


def with_head(tensors):
    tensors["lm_head.weight"] = tensors["transformer.wte.weight"].clone()


def as_first_released(tensors):
    with_buffers(tensors)
    with_head(tensors)
    without_prefix(tensors)


VARIANTS = [without_prefix, with_buffers, with_head, as_first_released]


@pytest.mark.parametrize("change", VARIANTS, ids=lambda change: change.__name__)
def test_other_ways_to_write_the_same_file(change, small_file, tmp_path):
    path = changed(small_file, tmp_path, change)
    assert load_file(path).keys() != load_file(small_file).keys()
    expected, found = loaded(SMALL, small_file).state_dict(), loaded(SMALL, path).state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.filterwarnings("error")
def test_head_is_tied_without_a_warning(small_file, request):
    torch.set_warn_always(True)  # else PyTorch gives most warnings once, perhaps in an earlier test
    request.addfinalizer(lambda: torch.set_warn_always(False))
    model = GPTModel(SMALL)
    own = count_parameters(model)
    for _ in range(2):  # a tied model can be filled again
        load_gpt2_weights(model, str(small_file))
        assert model.out_head.weight is model.tok_emb.weight
        assert count_parameters(model) == own - 61 * 24
    assert all(parameter.requires_grad for parameter in model.parameters())
    model(ids(1, 2, 3)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


# Refusals


def assert_refused(path, *words, error=ValueError, cfg=SMALL):
    """The message has all `words`, and neither a new model nor one with a tied head was changed."""
    for tied in (False, True):
        model = GPTModel(cfg)
        if tied:
            model.out_head.weight = model.tok_emb.weight
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        with pytest.raises(error) as caught:
            load_gpt2_weights(model, path)
        assert type(caught.value) is error
        assert all(word in str(caught.value) for word in words), str(caught.value)
        assert (model.out_head.weight is model.tok_emb.weight) == tied
        after = model.state_dict()
        assert before.keys() == after.keys()
        assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


OTHER_CONFIGS = [
    ({"emb_dim": 27}, ["wte.weight", "[61, 24]", "[61, 27]"]),
    ({"vocab_size": 62}, ["wte.weight", "[61, 24]", "[62, 24]"]),
    ({"context_length": 11}, ["wpe.weight", "[12, 24]", "[11, 24]"]),
    ({"n_layers": 3}, ["lacks 12 tensors of the model", "h.2.attn.c_attn.bias"]),
    ({"n_layers": 1}, ["has 12 tensors that the model lacks", "h.1.attn.c_attn.bias"]),
    ({"qkv_bias": False}, ["qkv_bias True"]),
]


@pytest.mark.parametrize("change, words", OTHER_CONFIGS, ids=lambda value: str(value))
def test_model_of_another_configuration_is_refused(change, words, small_file):
    assert_refused(small_file, *words, cfg={**SMALL, **change})


def test_each_tensor_must_be_there_and_have_its_shape(small_file, tmp_path):
    for name, tensor in load_file(small_file).items():
        short, shape = name.removeprefix("transformer."), list(tensor.shape)
        path = changed(small_file, tmp_path, lambda tensors, name=name: tensors.pop(name))
        assert_refused(path, f"lacks 1 tensors of the model, such as {short}")
        wrong = [tensor[1:], tensor[..., None], torch.cat((tensor, tensor), dim=-1)]
        if len(set(shape)) == 2:
            wrong.append(tensor.T)  # as nn.Linear has it, for one
        for other in wrong:
            path = changed(
                small_file, tmp_path, lambda tensors, n=name, o=other: tensors.update({n: o.contiguous()})
            )
            assert_refused(path, f"{short} has the shape {list(other.shape)} in", f"the model needs {shape}")


@pytest.mark.parametrize("name", ["h.2.ln_1.bias", "transformer.ln_f.scale", "score.weight", "h.0.attn.mask"])
def test_unknown_tensor_is_refused(name, small_file, tmp_path):
    path = changed(small_file, tmp_path, lambda tensors: tensors.update({name: torch.ones(24)}))
    assert_refused(path, f"has 1 tensors that the model lacks, such as {name.removeprefix('transformer.')}")


def test_untied_head_is_refused(small_file, tmp_path):
    def change(tensors):
        with_head(tensors)
        tensors["lm_head.weight"][-1, -1] += 1

    assert_refused(changed(small_file, tmp_path, change), "lm_head.weight other than wte.weight")


def test_model_on_meta_is_refused(small_file):
    with torch.device("meta"):
        model = GPTModel(SMALL)
    with pytest.raises(ValueError, match='device "meta" has no memory'):
        load_gpt2_weights(model, small_file)
    assert model.out_head.weight is not model.tok_emb.weight


def test_file_of_another_kind_is_refused(small_file, tmp_path):
    content, path = small_file.read_bytes(), tmp_path / "file"
    others = {0: b"", 1: b"Not a model, but text.", 2: b"PK\3\4" * 99, 3: b"\0" * 99}
    truncated = {n: content[:n] for n in (7, 8, 100, len(content) // 2, len(content) - 1)}
    for other in [*others.values(), *truncated.values(), content + b"\0"]:
        path.write_bytes(other)
        assert_refused(path, f"{path} is not a safetensors file: ")


def test_missing_file(tmp_path):
    assert_refused(tmp_path / "none.safetensors", "none.safetensors", error=FileNotFoundError)


# Memory

MEMORY = """
import sys, threading, time
import torch
from beyond import load_gpt2_weights
from helpers import GPT_CONFIG_124M, GPTModel

def own_memory():  # without pages of files, which the system can drop at any time
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon"))

def watch():
    while not done:
        seen.append(own_memory())
        time.sleep(0.001)

model = GPTModel({**GPT_CONFIG_124M, "qkv_bias": True})  # random numbers are in every page of it
import safetensors
before, seen, done = own_memory(), [], False
watcher = threading.Thread(target=watch)
watcher.start()
load_gpt2_weights(model, sys.argv[1])
done = True
watcher.join()
print(max(seen) - before, len(seen), own_memory() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status, which only Linux has")
def test_no_second_copy_of_the_weights(full):
    folder = os.path.dirname(helpers.__file__)
    run = subprocess.run(
        [sys.executable, "-c", MEMORY, full[1]], cwd=folder, capture_output=True, text=True, timeout=100
    )
    assert run.returncode == 0, run.stderr
    growth, samples, afterwards = map(int, run.stdout.split())
    assert samples > 10
    # the largest tensor alone has 154,000 kB; tying gives the head's own back
    assert growth < 20_000 and afterwards < -100_000
