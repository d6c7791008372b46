"""GPTModel in use: compiled, exported, vectorized, in half precision, extended by readers, tied and saved."""

import copy
from io import BytesIO

import pytest
import torch
from safetensors.torch import load_model, save_model
from support import SMALL, ids, randomized
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from helpers import (
    GPT_CONFIG_124M,
    ExampleDeepNeuralNetwork,
    FeedForward,
    GPTModel,
    LayerNorm,
    TransformerBlock,
    count_parameters,
    generate_text_simple,
    gpt2_tokenizer,
    gradient_magnitudes,
    text_to_token_ids,
    tie_weights,
    token_ids_to_text,
)

BATCH = torch.randint(0, 61, (3, 9), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model():
    return randomized(GPTModel(SMALL))


def loss(logits, batch=BATCH):
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), batch[:, 1:].flatten())


# What PyTorch does with a model


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])  # neither needs a C++ compiler
def test_forward_compiles_to_one_graph_with_the_same_gradients(model, backend):
    torch.compiler.reset()
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    logits, expected = compiled(BATCH), model(BATCH)
    torch.testing.assert_close(logits, expected)
    parameters = list(model.parameters())
    gradients = [torch.autograd.grad(loss(given), parameters) for given in (logits, expected)]
    torch.testing.assert_close(*gradients)
    torch.testing.assert_close(compiled(BATCH[:1, :5]), model(BATCH[:1, :5]))  # another shape


def test_compiled_training_mode_is_one_graph():
    torch.compiler.reset()
    compiled = torch.compile(GPTModel(SMALL).train(), backend="eager", fullgraph=True)
    assert not torch.equal(compiled(BATCH), compiled(BATCH))  # dropout


def test_an_exported_model_takes_other_shapes(model):
    sizes = {0: torch.export.Dim("B", max=64), 1: torch.export.Dim("T", max=SMALL["context_length"])}
    exported = torch.export.export(model, (BATCH,), dynamic_shapes={"in_idx": sizes}).module()
    for batch in (BATCH, BATCH[:2, :5], BATCH.repeat(1, 2)[:, :12]):
        torch.testing.assert_close(exported(batch), model(batch))


# PyTorch says that attention on a CPU goes through such a batch sample by sample.
unbatched = pytest.mark.filterwarnings("ignore:There is a performance drop")


@unbatched
def test_vmap_over_samples_equals_the_batch(model):
    parameters = dict(model.named_parameters())

    def logits_of(row):
        return functional_call(model, parameters, (row[None],))[0]

    torch.testing.assert_close(vmap(logits_of)(BATCH), model(BATCH))


@unbatched
def test_vmap_gives_the_gradients_of_each_sample(model):
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}

    def loss_of(parameters, row):
        return loss(functional_call(model, parameters, (row[None],)), row[None])

    gradients = vmap(grad(loss_of), in_dims=(None, 0))(parameters, BATCH)
    for n, row in enumerate(BATCH):
        expected = torch.autograd.grad(loss(model(row[None]), row[None]), list(model.parameters()))
        torch.testing.assert_close([gradient[n] for gradient in gradients.values()], list(expected))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_the_model_up_to_rounding(model, dtype):
    expected = model(BATCH)
    logits = model.to(dtype)(BATCH)
    assert logits.dtype == dtype
    step = torch.finfo(dtype).eps
    assert (logits - expected).norm() < 2 * step * expected.norm()


def test_autocast_runs_the_matrix_products_in_half_precision():
    model = GPTModel(SMALL).eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(BATCH)
    assert logits.dtype == torch.bfloat16
    torch.testing.assert_close(logits.float(), model(BATCH), atol=0.03, rtol=0)


def test_eager_calls_still_name_ids_outside_of_the_vocabulary(model):
    """Compiling and exporting skip the look at the values; the model itself never does."""
    torch.compiler.reset()
    torch.compile(model, backend="eager", fullgraph=True)(BATCH)
    torch.export.export(model, (BATCH,))
    with pytest.raises(ValueError, match=r"^token ids must lie in 0 \.\.\. 60, got ids from 0 to 61$"):
        model(ids(0, 61))


@pytest.mark.parametrize("shape", [(9,), (1, 3, 9), (3, 0), (0, 9), (1, 13)])
def test_a_compiled_model_refuses_wrong_shapes_too(model, shape):
    torch.compiler.reset()
    compiled = torch.compile(model, backend="eager")
    for function in (model, compiled):
        with pytest.raises(ValueError, match=r"\(B, T\)|context_length"):
            function(torch.zeros(shape, dtype=torch.long))


# What a reader builds on it


def test_keys_that_nobody_reads_are_ignored():
    """The book's later chapters and its variants of chapter 4 have configurations with more keys."""
    more = {"n_kv_groups": 2, "kv_window_size": 48, "hidden_dim": 96, "dtype": torch.bfloat16, 7: None}
    torch.manual_seed(1)
    plain = GPTModel(SMALL).state_dict()
    torch.manual_seed(1)
    extended = GPTModel({**SMALL, **more}).state_dict()
    assert list(plain) == list(extended) and all(torch.equal(plain[name], extended[name]) for name in plain)


def test_a_block_needs_no_more_than_it_reads():
    needed = {key: SMALL[key] for key in ("emb_dim", "context_length", "drop_rate", "n_heads", "qkv_bias")}
    block = TransformerBlock(needed)
    block.load_state_dict(TransformerBlock(SMALL).state_dict())
    assert block(torch.zeros(2, 12, 24)).shape == (2, 12, 24)


class Classifier(GPTModel):
    """A reader's model: ours with another head and another forward pass."""

    def __init__(self, cfg):
        super().__init__(cfg)
        self.out_head = nn.Linear(cfg["emb_dim"], cfg["n_classes"])

    def forward(self, in_idx):
        return super().forward(in_idx)[:, -1]


class Vision(nn.Module):
    """A reader's model of our blocks, with a configuration of its own and no tokens."""

    def __init__(self, cfg):
        super().__init__()
        self.patches = nn.Linear(cfg["patch"], cfg["emb_dim"])
        self.blocks = nn.Sequential(*[TransformerBlock(cfg) for _ in range(cfg["depth"])])
        self.norm = LayerNorm(cfg["emb_dim"])

    def forward(self, x):
        return self.norm(self.blocks(self.patches(x)))


class LinearUnits(FeedForward):
    """A part of ours, changed after it was built as a reader would change it."""

    def __init__(self, cfg):
        super().__init__(cfg)
        self.layers[1] = nn.Identity()


def test_a_reader_can_derive_from_the_model():
    classifier = Classifier({**SMALL, "n_classes": 2}).eval()
    assert classifier(BATCH).shape == (3, 2)
    F.cross_entropy(classifier(BATCH), torch.tensor([0, 1, 0])).backward()
    assert all(parameter.grad is not None for parameter in classifier.parameters())


def test_a_reader_can_build_another_model_of_the_blocks():
    cfg = {"patch": 5, "depth": 3, "emb_dim": 8, "n_heads": 2, "context_length": 7, "drop_rate": 0.0}
    assert Vision({**cfg, "qkv_bias": True})(torch.randn(2, 7, 5)).shape == (2, 7, 8)


def test_a_reader_can_replace_a_part(model):
    for block in model.trf_blocks:
        block.ff = randomized(LinearUnits(SMALL))
        block.norm1 = nn.RMSNorm(24, dtype=torch.float64)
    assert model(BATCH).shape == (3, 9, 61)


# Tied weights


def assert_tied(model):
    assert model.out_head.weight is model.tok_emb.weight
    assert count_parameters(model) == count_parameters(GPTModel(SMALL)) - 61 * 24


def assert_a_step_keeps_it_tied(model):
    """One step moves both names of the tensor; two tensors would move apart."""
    before = model.out_head.weight.detach().clone()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    loss(model(BATCH)).backward()
    optimizer.step()
    assert_tied(model)
    assert torch.equal(model.out_head.weight, model.tok_emb.weight)
    assert not torch.equal(model.out_head.weight, before)


def through_torch(model, loaded):
    file = BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    loaded.load_state_dict(torch.load(file, weights_only=True))


def through_safetensors(model, loaded, path):
    save_model(model, path)
    load_model(loaded, path)


def tied(seed):
    torch.manual_seed(seed)
    model = GPTModel(SMALL)
    tie_weights(model)
    return model.eval()


def test_tying_makes_the_head_the_embedding():
    torch.manual_seed(1)
    model = GPTModel(SMALL).eval()
    embedding = model.tok_emb.weight
    scores = F.linear(torch.ones(24), embedding)
    tie_weights(model)
    assert model.tok_emb.weight is embedding  # and not the other way around
    assert_tied(model)
    assert torch.equal(model.out_head(torch.ones(24)), scores)
    tie_weights(model)  # a second time changes nothing
    assert_tied(model)
    assert_tied(copy.deepcopy(model).bfloat16())
    assert_a_step_keeps_it_tied(model)


@pytest.mark.parametrize("way", ["torch.save", "safetensors"])
def test_a_tied_model_comes_back_tied(way, tmp_path):
    model, loaded = tied(1), tied(2)
    if way == "torch.save":
        through_torch(model, loaded)
    else:
        through_safetensors(model, loaded, tmp_path / "model.safetensors")
    assert_tied(loaded)
    assert torch.equal(loaded(BATCH), model(BATCH))
    assert_a_step_keeps_it_tied(loaded)


def test_a_tied_file_does_not_tie_another_model(tmp_path):
    """Which is why a model is tied first, then loaded."""
    model, loaded = tied(1), GPTModel(SMALL).eval()
    through_torch(model, loaded)
    assert torch.equal(loaded(BATCH), model(BATCH)) and loaded.out_head.weight is not loaded.tok_emb.weight
    with pytest.raises(RuntimeError, match="out_head.weight|tok_emb.weight"):  # the file has one of the two
        through_safetensors(model, loaded, tmp_path / "model.safetensors")


def test_a_whole_tied_model_comes_back_tied():
    model, file = tied(1), BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert_tied(loaded)
    assert torch.equal(loaded(BATCH), model(BATCH))
    assert_a_step_keeps_it_tied(loaded)


# The numbers of the book


def test_the_books_numbers_of_parameters():
    with torch.device("meta"):
        model, released = GPTModel(GPT_CONFIG_124M), GPTModel({**GPT_CONFIG_124M, "qkv_bias": True})
    assert count_parameters(model) == 163_009_536
    assert round(sum(p.nbytes for p in model.parameters()) / 2**20, 2) == 621.83
    block = model.trf_blocks[0]
    assert (count_parameters(block.ff), count_parameters(block.att)) == (4_722_432, 2_360_064)
    for given, parameters in ((model, 124_412_160), (released, 124_439_808)):
        tie_weights(given)
        assert count_parameters(given) == parameters


def test_the_books_layer_norm():
    torch.manual_seed(123)
    x = torch.randn(2, 5)
    out = F.relu(nn.Linear(5, 6)(x)).detach()
    found = [out.mean(-1), out.var(-1), out.var(-1, unbiased=False)]
    expected = torch.tensor([[0.1324, 0.2170], [0.0231, 0.0398], [0.0192, 0.0332]])
    torch.testing.assert_close(torch.stack(found), expected, atol=6e-5, rtol=0)
    normalized = LayerNorm(6)(out)
    torch.testing.assert_close(normalized.mean(-1), torch.zeros(2), atol=1e-6, rtol=0)
    torch.testing.assert_close(normalized.var(-1, unbiased=False), torch.ones(2), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    "use_shortcut, expected",
    [
        (False, [0.0002, 0.0001, 0.0007, 0.0014, 0.0050]),
        (True, [0.2217, 0.2069, 0.3290, 0.2666, 1.3259]),
    ],
)
def test_the_books_gradients(use_shortcut, expected):
    torch.manual_seed(123)
    network = ExampleDeepNeuralNetwork([3, 3, 3, 3, 3, 1], use_shortcut)
    found = gradient_magnitudes(network, torch.tensor([[1.0, 0.0, -1.0]]))
    assert list(found.values()) == pytest.approx(expected, abs=6e-5)


def test_the_books_token_ids():
    sentences = {
        "Every effort moves you": [6109, 3626, 6100, 345],
        "Every day holds a": [6109, 1110, 6622, 257],
    }
    for text, expected in sentences.items():
        assert text_to_token_ids(text, gpt2_tokenizer()).tolist() == [expected]


def test_the_books_greedy_text():
    torch.manual_seed(123)
    model = GPTModel(GPT_CONFIG_124M).eval()
    out = generate_text_simple(model, text_to_token_ids("Hello, I am", gpt2_tokenizer()), 6, 1024)
    assert token_ids_to_text(out, gpt2_tokenizer()) == "Hello, I am Featureiman Byeswickattribute argue"
    with torch.no_grad():
        best, second = model(out[:, :-1])[0, 3:].topk(2).values.unbind(dim=-1)
    assert (best - second).min() > 0.01  # far more than machines differ by
