"""The contracts of helpers.py, on one small configuration; for bad input, see test_bad_input.py."""

import copy
import math

import pytest
import torch
from support import (
    ATTENTION_ARGUMENTS,
    SMALL,
    assert_same_output_and_gradients,
    attention_by_hand,
    ids,
    randn,
    randomized,
    untied_parameters,
)
from torch import nn
from torch.nn import functional as F

import helpers
from helpers import (
    GELU,
    GPT2_CONFIGS,
    GPT_CONFIG_124M,
    ExampleDeepNeuralNetwork,
    FeedForward,
    GPTModel,
    LayerNorm,
    MultiHeadAttention,
    TransformerBlock,
    check_config,
    count_parameters,
    generate_text_simple,
    gradient_magnitudes,
    text_to_token_ids,
    tie_weights,
    token_ids_to_text,
)
from notebooks import compare

# 4.1


def test_configurations_are_those_of_gpt2():
    assert GPT_CONFIG_124M == {
        "vocab_size": 50257,
        "context_length": 1024,
        "emb_dim": 768,
        "n_heads": 12,
        "n_layers": 12,
        "drop_rate": 0.1,
        "qkv_bias": False,
    }
    shapes = {name: (c["emb_dim"], c["n_layers"], c["n_heads"]) for name, c in GPT2_CONFIGS.items()}
    assert shapes == {
        "gpt2-small": (768, 12, 12),
        "gpt2-medium": (1024, 24, 16),
        "gpt2-large": (1280, 36, 20),
        "gpt2-xl": (1600, 48, 25),
    }
    assert GPT2_CONFIGS["gpt2-small"] is not GPT_CONFIG_124M  # changing one must not change the other
    for cfg in (SMALL, *GPT2_CONFIGS.values()):
        check_config(cfg)


# 4.2


def test_layer_norm_is_the_formula():
    norm = randomized(LayerNorm(7))
    norm.eps = 0.3  # large enough for a misplaced eps to show

    def by_hand(x):
        deviations = x - x.sum(dim=-1, keepdim=True) / 7
        variance = deviations.square().sum(dim=-1, keepdim=True) / 7
        return norm.scale * deviations / (variance + 0.3).sqrt() + norm.shift

    compare.same_function(norm, by_hand, 3 + 2 * randn(2, 5, 7))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_layer_norm_holds_in_half_precision(dtype):
    norm, x = LayerNorm(8).to(dtype), 3000 * torch.tensor([1.0, -1.0]).repeat(2, 4)  # variance 9 million
    torch.testing.assert_close(norm(x.to(dtype)).float(), x.sign(), atol=0.01, rtol=0)


def test_layer_norm_starts_as_plain_normalization():
    norm = LayerNorm(7)
    assert norm.eps == 1e-5
    assert torch.equal(norm.scale, torch.ones(7)) and torch.equal(norm.shift, torch.zeros(7))
    assert torch.equal(norm(torch.full((3, 7), 5.0)), torch.zeros(3, 7))


# 4.3


def test_gelu_is_the_tanh_form():
    def by_hand(x):
        return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    x = torch.linspace(-8, 8, 401, dtype=torch.float64)
    assert_same_output_and_gradients(GELU(), by_hand, x, [])
    torch.testing.assert_close(GELU()(x), nn.GELU(approximate="tanh")(x))
    assert (GELU()(x) - F.gelu(x)).abs().max() > 4e-4  # and not the exact one


def test_feed_forward_equals_pytorchs_parts():
    ours = randomized(FeedForward(SMALL))
    reference = nn.Sequential(nn.Linear(24, 96), nn.GELU(approximate="tanh"), nn.Linear(96, 24)).double()
    reference.load_state_dict(ours.layers.state_dict())
    pairs = list(zip(ours.parameters(), reference.parameters(), strict=True))
    assert_same_output_and_gradients(ours, reference, randn(2, 5, 24), pairs)


def test_feed_forward_reads_only_the_width():
    ffn = FeedForward({"emb_dim": 24})
    others = {**SMALL, "vocab_size": None, "n_heads": 5, "drop_rate": "none", "n_kv_groups": 2}
    for layers in (ffn.layers, FeedForward(others).layers):
        assert [tuple(p.shape) for p in layers.parameters()] == [(96, 24), (96,), (24, 96), (24,)]


def test_feed_forward_layers_are_the_books():
    kinds = [type(layer) for layer in FeedForward(SMALL).layers]
    assert kinds == [nn.Linear, GELU, nn.Linear]


# 4.4


def test_shortcuts_are_taken_where_the_shape_is_kept():
    torch.manual_seed(0)
    network = ExampleDeepNeuralNetwork([3, 3, 5, 5, 2], use_shortcut=True)
    x = torch.randn(4, 3)
    first, second, third, last = network.layers
    y = x + first(x)
    y = second(y)
    y = y + third(y)
    torch.testing.assert_close(network(x), last(y))

    network.use_shortcut = False
    torch.testing.assert_close(network(x), last(third(second(first(x)))))


def test_gradient_magnitudes_are_those_of_backward_and_leave_no_trace():
    torch.manual_seed(0)
    network, x = ExampleDeepNeuralNetwork([3, 3, 2], use_shortcut=True), torch.randn(5, 3)
    found = gradient_magnitudes(network, x)
    assert all(parameter.grad is None for parameter in network.parameters())
    network(x).square().mean().backward()
    expected = {n: p.grad.abs().mean().item() for n, p in network.named_parameters() if n.endswith("weight")}
    assert list(found) == ["layers.0.0.weight", "layers.1.0.weight"]
    assert found == pytest.approx(expected, rel=1e-5)


# 4.5


def attention(**changes):
    return MultiHeadAttention(**{**ATTENTION_ARGUMENTS, **changes})


def test_attention_equals_that_by_hand():
    ours = randomized(attention())
    twin = copy.deepcopy(ours)

    def reference(x):
        heads = (w(x).unflatten(-1, (3, 8)).transpose(1, 2) for w in (twin.W_query, twin.W_key, twin.W_value))
        return twin.out_proj(attention_by_hand(*heads).transpose(1, 2).flatten(2))

    pairs = list(zip(ours.parameters(), twin.parameters(), strict=True))
    assert_same_output_and_gradients(ours, reference, 4 * randn(2, 12, 10), pairs)


def test_attention_has_the_books_names_and_no_buffers():
    assert set(attention(qkv_bias=False).state_dict()) == {
        "W_query.weight",
        "W_key.weight",
        "W_value.weight",
        "out_proj.weight",
        "out_proj.bias",
    }


def test_attention_takes_as_many_tokens_as_its_context():
    assert attention()(torch.zeros(1, 12, 10)).shape == (1, 12, 24)


def test_attention_hides_the_future_however_large_the_scores():
    att, x = randomized(attention()), 1000 * randn(1, 6, 10)
    first, later = att(x)[:, :3], att(torch.cat([x[:, :3], 1000 * randn(1, 3, 10)], dim=1))[:, :3]
    torch.testing.assert_close(first, later)


def test_attention_has_no_bias_in_its_projections_unless_asked():
    assert MultiHeadAttention(10, 24, 12, 0.0, 3).W_key.bias is None


def test_weights_saved_by_the_books_code_load():
    """The book's attention keeps its mask as a buffer, and so in every state_dict."""
    model = GPTModel(SMALL)
    saved = GPTModel(SMALL).state_dict()
    masks = {f"trf_blocks.{n}.att.mask": torch.ones(12, 12).triu(1) for n in range(SMALL["n_layers"])}
    model.load_state_dict(saved | masks)
    assert all(torch.equal(tensor, saved[name]) for name, tensor in model.state_dict().items())


def test_a_subclass_that_keeps_a_mask_loads_it():
    class WithMask(MultiHeadAttention):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.register_buffer("mask", torch.zeros(12, 12))

    saved = WithMask(**ATTENTION_ARGUMENTS).state_dict() | {"mask": torch.ones(12, 12).triu(1)}
    attention = WithMask(**ATTENTION_ARGUMENTS)
    attention.load_state_dict(saved)
    assert torch.equal(attention.mask, saved["mask"])


def test_layers_are_constructed_in_the_books_order():
    """Under the same seed, the numbers are those of linear layers made one after the other."""
    torch.manual_seed(123)
    block = TransformerBlock(SMALL)
    torch.manual_seed(123)
    linears = [block.att.W_query, block.att.W_key, block.att.W_value, block.att.out_proj]
    for linear in [*linears, block.ff.layers[0], block.ff.layers[2]]:
        again = nn.Linear(linear.in_features, linear.out_features)
        assert torch.equal(linear.weight, again.weight) and torch.equal(linear.bias, again.bias)


def test_dropout_acts_on_what_each_sublayer_adds():
    """drop_shortcut is one module in two places: it sees the output of att, then that of ff."""
    block, x = randomized(TransformerBlock(SMALL)), randn(1, 5, 24)
    seen = []
    block.drop_shortcut.register_forward_hook(lambda module, args, output: seen.append(args[0]))
    block(x)
    added = block.att(block.norm1(x))
    torch.testing.assert_close(seen, [added, block.ff(block.norm2(x + added))])


def test_attention_drops_weights():
    """Dropout acts on the attention weights: after the softmax, before the values, in each head by itself."""
    att = randomized(attention(d_in=5, d_out=10, num_heads=2, dropout=0.75, qkv_bias=False))
    # x, the values of both heads and the output projection are identities, so that the output is the weights
    # of both heads, side by side.
    with torch.no_grad():
        att.W_value.weight.copy_(torch.eye(5).repeat(2, 1))
        att.out_proj.weight.copy_(torch.eye(10))
        att.out_proj.bias.zero_()
    x = torch.eye(5, dtype=torch.float64)[None]
    weights, dropped = att(x), att.train()(x)
    torch.testing.assert_close(
        weights.unflatten(2, (2, 5)).sum(dim=-1), torch.ones(1, 5, 2, dtype=torch.float64)
    )
    kept = dropped != 0
    torch.testing.assert_close(dropped[kept], 4 * weights[kept])
    assert 0 < kept.sum() < (weights != 0).sum() and (kept[..., :5] != kept[..., 5:]).any()


@pytest.mark.parametrize("training, rate", [(True, 0.3), (False, 0.0)])
def test_attention_hands_its_dropout_on_in_training_only(training, rate, monkeypatch):
    rates, attend = [], F.scaled_dot_product_attention

    def watched(*args, dropout_p=0.0, **kwargs):
        rates.append(dropout_p)
        return attend(*args, dropout_p=dropout_p, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", watched)
    attention(dropout=0.3).train(training)(torch.zeros(1, 5, 10))
    assert rates == [rate]


def reference_block(block):
    """nn.TransformerEncoderLayer with the weights of `block`, and the pairs of parameters that correspond."""
    gelu = nn.GELU(approximate="tanh")
    reference = nn.TransformerEncoderLayer(24, 3, 96, 0.0, gelu, batch_first=True, norm_first=True).double()
    att, theirs = block.att, reference.self_attn
    qkv = (att.W_query, att.W_key, att.W_value)
    pairs = [(att.out_proj, theirs.out_proj), (block.ff.layers[0], reference.linear1)]
    pairs = [
        (getattr(a, n), getattr(b, n))
        for a, b in pairs + [(block.ff.layers[2], reference.linear2)]
        for n in ("weight", "bias")
    ]
    for ours, norm in ((block.norm1, reference.norm1), (block.norm2, reference.norm2)):
        pairs += [(ours.scale, norm.weight), (ours.shift, norm.bias)]
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([w.weight for w in qkv]))
        theirs.in_proj_bias.copy_(torch.cat([w.bias for w in qkv]))
        for ours, theirs in pairs:
            theirs.copy_(ours)
    return reference, pairs


def test_block_equals_pytorchs():
    block = randomized(TransformerBlock({**SMALL, "drop_rate": 0.0}))
    reference, pairs = reference_block(block)
    mask = nn.Transformer.generate_square_subsequent_mask(12, dtype=torch.float64)
    assert_same_output_and_gradients(
        block, lambda x: reference(x, src_mask=mask, is_causal=True), randn(2, 12, 24), pairs
    )


@pytest.mark.parametrize("position", range(12))
def test_block_is_causal(position):
    block = randomized(TransformerBlock(SMALL))
    x = randn(2, 12, 24)
    other = x.clone()
    other[:, position] += randn(24)
    moved = (block(x) - block(other)).abs().amax(dim=(0, 2)) > 1e-9
    assert moved.tolist() == [t >= position for t in range(12)]


def test_dropout_acts_in_training_only_and_in_all_its_places():
    cfg = {**SMALL, "drop_rate": 0.5}
    model = GPTModel(cfg)
    places = [m for m in model.modules() if isinstance(m, nn.Dropout)]
    assert len(places) == 1 + 2 * SMALL["n_layers"] and all(m.p == 0.5 for m in places)
    ids = torch.zeros(1, 5, dtype=torch.long)
    assert torch.equal(model.eval()(ids), model(ids))
    for place in places:  # each one alone changes the result
        model.eval()
        before = model(ids)
        place.train()
        assert not torch.equal(before, model(ids))


# 4.6


def test_model_equals_one_of_pytorchs_parts():
    model = randomized(GPTModel(SMALL))
    ids = torch.randint(0, 61, (3, 12))
    mask = nn.Transformer.generate_square_subsequent_mask(12, dtype=torch.float64)
    x = model.tok_emb(ids) + model.pos_emb.weight
    for block in model.trf_blocks:
        x = reference_block(block)[0].train()(x, src_mask=mask, is_causal=True)
    x = F.layer_norm(x, (24,), model.final_norm.scale, model.final_norm.shift)
    torch.testing.assert_close(model(ids), F.linear(x, model.out_head.weight))


def test_model_has_the_books_layers_in_the_books_order():
    names = [name for name, _ in GPTModel(SMALL).named_children()]
    assert names == ["tok_emb", "pos_emb", "drop_emb", "trf_blocks", "final_norm", "out_head"]
    block = [name for name, _ in TransformerBlock(SMALL).named_children()]
    assert block == ["att", "ff", "norm1", "norm2", "drop_shortcut"]


def test_same_seed_same_model():
    torch.manual_seed(123)
    first = GPTModel(SMALL).state_dict()
    torch.manual_seed(123)
    second = GPTModel(SMALL).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("qkv_bias", [False, True])
def test_count_parameters_counts_a_shared_tensor_once(qkv_bias):
    cfg = {**SMALL, "qkv_bias": qkv_bias}
    model, untied = GPTModel(cfg), untied_parameters(cfg)
    assert count_parameters(model) == untied
    tie_weights(model)
    assert count_parameters(model) == untied - SMALL["vocab_size"] * SMALL["emb_dim"]


def test_model_takes_the_largest_input_and_int32():
    model = GPTModel(SMALL)
    assert model(ids(*range(49, 61))).shape == (1, 12, 61)
    assert torch.equal(model.eval()(ids(1, 2).int()), model(ids(1, 2)))


def test_model_runs_on_meta_without_looking_at_a_value(monkeypatch):
    """Elsewhere than on a CPU, looking at a value would make the program wait for the device."""
    with torch.device("meta"):
        model, given = GPTModel(SMALL), torch.zeros(2, 5, dtype=torch.long)
    monkeypatch.setattr(torch.Tensor, "item", lambda tensor: pytest.fail("a value was looked at"))
    assert model(given).shape == (2, 5, 61)


def test_model_makes_its_tensors_on_the_device_of_the_input():
    model, given = GPTModel(SMALL).eval(), ids(1, 2, 3)
    expected = model(given)
    with torch.device("meta"):  # where a tensor is made that names no device
        assert torch.equal(model(given), expected)


# 4.7


@pytest.fixture(scope="module")
def model():
    return randomized(GPTModel(SMALL))


@pytest.mark.parametrize("context_size", [1, 3, 12])
@pytest.mark.parametrize("prompt", [ids(7), ids(1, 2, 3, 4, 5), ids(*range(12)), ids(*range(20))])
def test_generation_is_greedy_on_the_window(model, prompt, context_size):
    out = generate_text_simple(model, prompt, 6, context_size)
    start = prompt.shape[1]
    assert out.shape == (1, start + 6) and torch.equal(out[:, :start], prompt)
    for t in range(start, start + 6):
        window = out[:, max(0, t - context_size) : t]
        assert out[0, t] == model(window)[0, -1].argmax()


def test_generation_of_a_batch_is_that_of_each_row(model):
    prompts = torch.randint(0, 61, (4, 5), generator=torch.Generator().manual_seed(3))
    together = generate_text_simple(model, prompts, 9, 12)
    rows = [generate_text_simple(model, row[None], 9, 12) for row in prompts]
    assert torch.equal(together, torch.cat(rows))


def test_generation_leaves_its_arguments_alone(model):
    prompt = ids(1, 2, 3)
    for training in (False, True):
        model.train(training)
        out = generate_text_simple(model, prompt, 2, 12)
        assert torch.equal(prompt, ids(1, 2, 3)) and model.training is training and out.shape == (1, 5)
    model.eval()
    assert torch.equal(generate_text_simple(model, prompt, 0, 12), prompt)


def test_generation_keeps_no_graph():
    modes = []

    def stub(idx):
        modes.append(torch.is_grad_enabled())
        return torch.zeros(1, idx.shape[1], 5)

    generate_text_simple(stub, ids(1), 2, 4)
    assert modes == [False, False]


@pytest.mark.parametrize(
    "text", ["Hello, I am", " ", "naïve 🙂\n\t漢字", "a<|endoftext|>b", "<|notspecial|>"]
)
def test_text_to_ids_and_back(text):
    tokenizer = helpers.gpt2_tokenizer()
    encoded = text_to_token_ids(text, tokenizer)
    assert encoded.dtype == torch.long and encoded.shape[0] == 1
    assert token_ids_to_text(encoded, tokenizer) == text


def test_end_of_text_is_one_token():
    assert text_to_token_ids("<|endoftext|>", helpers.gpt2_tokenizer()).tolist() == [[50256]]


def test_a_row_of_a_batch_can_be_decoded():
    assert token_ids_to_text(torch.tensor([15496, 11]), helpers.gpt2_tokenizer()) == "Hello,"


# The file as a whole


def test_public_names_say_what_they_do():
    public = [
        v
        for n, v in vars(helpers).items()
        if getattr(v, "__module__", "") == "helpers" and not n.startswith("_")
    ]
    assert len(public) >= 25
    for item in public:
        assert item.__doc__ and item.__doc__.splitlines()[0].endswith((".", ":")), item
        if isinstance(item, type):
            assert "Shape:" in item.__doc__ and "Source:" in item.__doc__, item
