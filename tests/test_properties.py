"""What must hold for every configuration and input, tried on random ones.

The examples are the same in every run: hypothesis derives them from the text of each test, and each test
draws its numbers from a seed that is part of the example.
"""

from io import BytesIO

import torch
from hypothesis import given
from hypothesis import strategies as st
from support import SEEDS, TEXTS, configs, models, randn, randomized, untied_parameters, upto
from torch import nn

from helpers import (
    GELU,
    ExampleDeepNeuralNetwork,
    FeedForward,
    GPTModel,
    LayerNorm,
    MultiHeadAttention,
    TransformerBlock,
    count_parameters,
    generate_text_simple,
    gpt2_tokenizer,
    text_to_token_ids,
    token_ids_to_text,
)


def positions_moved(before, after):
    """The positions t at which two tensors of shape (B, T, ...) differ, in any bit."""
    return (before != after).flatten(2).any(dim=2).any(dim=0).nonzero().flatten().tolist()


# Shapes


@given(configs(), upto(4), st.data())
def test_parts_and_model_keep_their_shapes(cfg, B, data):
    T, D, V = data.draw(upto(cfg["context_length"])), cfg["emb_dim"], cfg["vocab_size"]
    for part in (LayerNorm(D), GELU(), FeedForward(cfg), TransformerBlock(cfg)):
        assert part(torch.randn(B, T, D)).shape == (B, T, D)
    assert GPTModel(cfg)(torch.zeros(B, T, dtype=torch.long)).shape == (B, T, V)


@given(st.lists(upto(4), max_size=4), upto(6))
def test_layer_norm_and_gelu_take_any_number_of_dimensions(shape, D):
    assert LayerNorm(D)(torch.randn(*shape, D)).shape == (*shape, D)
    assert GELU()(torch.randn(shape)).shape == tuple(shape)


@given(upto(7), upto(4), upto(4), upto(9), upto(4), st.booleans(), st.data())
def test_attention_goes_from_any_width_to_any_other(d_in, H, Dh, context_length, B, bias, data):
    T = data.draw(upto(context_length))
    att = MultiHeadAttention(d_in, H * Dh, context_length, 0.5, H, bias)
    assert att(torch.randn(B, T, d_in)).shape == (B, T, H * Dh)


@given(st.lists(upto(5), min_size=2, max_size=6), st.booleans(), upto(4))
def test_the_network_goes_from_its_first_size_to_its_last(sizes, use_shortcut, B):
    network = ExampleDeepNeuralNetwork(sizes, use_shortcut)
    assert network(torch.randn(B, sizes[0])).shape == (B, sizes[-1])


@given(models(), upto(12, least=0), st.data())
def test_generation_appends_as_many_tokens_as_asked(example, n, data):
    cfg, model, ids = example
    ids = ids.repeat(1, data.draw(upto(3)))  # longer than the context, too
    out = generate_text_simple(model, ids, n, data.draw(upto(cfg["context_length"])))
    assert out.shape == (ids.shape[0], ids.shape[1] + n) and out.dtype == ids.dtype
    assert torch.equal(out[:, : ids.shape[1]], ids)
    assert 0 <= out.min() and out.max() < cfg["vocab_size"]


@given(configs())
def test_the_number_of_parameters_follows_from_the_configuration(cfg):
    assert count_parameters(GPTModel(cfg)) == untied_parameters(cfg)


# Which positions see which: where a change is not seen, not a bit may differ. At least 3 features, because a
# layer norm maps one feature to 0 and two to nearly -1 and 1, whatever they are, so that a change is lost.


@given(configs(least_dim=3), upto(3), SEEDS, st.data())
def test_a_block_and_its_parts_see_no_later_position(cfg, B, seed, data):
    T = data.draw(upto(cfg["context_length"]))
    p = data.draw(upto(T - 1, least=0))
    block = randomized(TransformerBlock(cfg), seed)
    x = randn(B, T, cfg["emb_dim"])
    other = x.clone()
    other[:, p] = randn(B, cfg["emb_dim"])
    for part in (block, block.att):  # they mix positions
        assert positions_moved(part(x), part(other)) == list(range(p, T))
    for part in (block.norm1, block.ff, GELU()):  # they do not
        assert positions_moved(part(x), part(other)) == [p]


@given(upto(6), upto(4), upto(4), upto(9), SEEDS, st.data())
def test_attention_of_any_widths_sees_no_later_position(d_in, H, Dh, T, seed, data):
    p = data.draw(upto(T - 1, least=0))
    att = randomized(MultiHeadAttention(d_in, H * Dh, T, 0.1, H), seed)
    x = randn(2, T, d_in)
    other = x.clone()
    other[:, p] = randn(2, d_in)
    assert positions_moved(att(x), att(other)) == list(range(p, T))


@given(models(least_dim=3), st.data())
def test_the_model_sees_no_later_token(example, data):
    cfg, model, ids = example
    p = data.draw(upto(ids.shape[1] - 1, least=0))
    other = ids.clone()
    other[:, p] = (ids[:, p] + data.draw(upto(cfg["vocab_size"] - 1))) % cfg["vocab_size"]
    assert positions_moved(model(ids), model(other)) == list(range(p, ids.shape[1]))


@given(models(), st.data())
def test_a_beginning_gives_what_it_gives_in_the_whole(example, data):
    _, model, ids = example
    n = data.draw(upto(ids.shape[1]))
    torch.testing.assert_close(model(ids[:, :n]), model(ids)[:, :n])


# Numbers and rows, by themselves


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=6))
def test_gelu_works_on_each_number_by_itself(numbers):
    together, alone = GELU()(torch.tensor(numbers)), [GELU()(torch.tensor(number)) for number in numbers]
    torch.testing.assert_close(together, torch.stack(alone))


@given(models())
def test_each_row_gives_what_it_gives_alone(example):
    cfg, model, ids = example
    x = randn(*ids.shape, cfg["emb_dim"])
    for function, batch in ((model.trf_blocks[0], x), (model, ids)):
        alone = torch.cat([function(row[None]) for row in batch])
        torch.testing.assert_close(function(batch), alone)


@given(models(), upto(8), st.data())
def test_each_row_generates_what_it_generates_alone(example, n, data):
    cfg, model, ids = example
    size = data.draw(upto(cfg["context_length"]))
    alone = torch.cat([generate_text_simple(model, row[None], n, size) for row in ids])
    assert torch.equal(generate_text_simple(model, ids, n, size), alone)


# Saving and loading


@given(models())
def test_a_loaded_model_gives_the_same_bits(example):
    cfg, model, ids = example
    model.float()  # as it is trained
    file = BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    loaded = GPTModel(cfg).eval()
    assert not torch.equal(loaded(ids), model(ids))
    loaded.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(loaded(ids), model(ids))


# Layer norm


@given(upto(9, least=2), st.floats(0.5, 1000), st.floats(-100, 100), SEEDS)
def test_layer_norm_undoes_a_positive_scale_and_a_shift(D, a, b, seed):
    """Up to eps: with variance 1, x is divided by sqrt(1 + eps), and a * x by sqrt(a**2 + eps) / a."""
    norm = randomized(LayerNorm(D), seed)
    x = randn(4, 3, D)
    x = (x - x.mean(-1, keepdim=True)) / x.std(-1, keepdim=True, unbiased=False)
    # Each of the two is at most norm.eps / 2 / variance below 1; the rest is rounding.
    tolerance = (norm.scale * x).abs() * norm.eps / 2 / min(1, a**2) + 1e-11
    assert ((norm(a * x + b) - norm(x)).abs() <= tolerance).all()
    torch.testing.assert_close(norm(a * x + b), norm.scale * x / (1 + norm.eps / a**2) ** 0.5 + norm.shift)


# Gradients


@given(models(least_dim=3))
def test_gradients_reach_every_parameter_that_took_part(example):
    """Finite everywhere, and not zero in any number, but for the exceptions named here."""
    _, model, ids = example
    B, T = ids.shape
    logits = model(ids)
    logits.backward(torch.randn_like(logits))
    for name, parameter in model.named_parameters():
        gradient = parameter.grad
        assert gradient.isfinite().all(), name
        if name.endswith("W_key.bias") or (T == 1 and ("W_query" in name or "W_key" in name)):
            # A bias of the keys adds the same number to all scores of a query, which softmax does not notice;
            # a token alone has the weight 1, whatever its score. Only rounding is left.
            assert gradient.abs().max() < 1e-12, name
            continue
        expected = torch.ones_like(gradient, dtype=torch.bool)
        if name == "tok_emb.weight":  # only the rows of tokens that occur
            expected[:] = False
            expected[ids.unique()] = True
        elif name == "pos_emb.weight":  # only the rows of positions that occur
            expected[T:] = False
        assert torch.equal(gradient != 0, expected), name


# Generation


def hashing(ids):
    """A stand-in for the model whose next token hangs on each token in the window and on its place there."""
    T = ids.shape[1]
    following = ((ids + 1) * torch.arange(1, T + 1)).sum(dim=1) % 30
    return nn.functional.one_hot(following, 30)[:, None].expand(-1, T, -1)  # (B, T, 30)


@given(models(), upto(6, least=0), upto(6, least=0), st.data())
def test_generation_goes_on_where_it_stopped(example, n, m, data):
    cfg, model, ids = example
    size = data.draw(upto(cfg["context_length"]))
    for function in (model, hashing):
        first = generate_text_simple(function, ids, n, size)
        at_once = generate_text_simple(function, ids, n + m, size)
        assert torch.equal(generate_text_simple(function, first, m, size), at_once)


@given(models(), upto(6), st.data())
def test_generation_depends_on_the_last_tokens_only(example, n, data):
    _, model, ids = example
    size = data.draw(upto(ids.shape[1]))
    for function in (model, hashing):
        whole = generate_text_simple(function, ids, n, size)[:, ids.shape[1] :]
        assert torch.equal(generate_text_simple(function, ids[:, -size:], n, size)[:, size:], whole)


# Text


@given(TEXTS)
def test_any_text_comes_back(text):
    ids = text_to_token_ids(text, gpt2_tokenizer())
    assert ids.shape[0] == 1 and 1 <= ids.shape[1] <= len(text.encode())  # a token is at least one byte
    assert token_ids_to_text(ids, gpt2_tokenizer()) == text
    assert token_ids_to_text(ids[0].int(), gpt2_tokenizer()) == text


@given(TEXTS, TEXTS)
def test_the_end_of_a_text_separates(first, second):
    """Elsewhere, tokens may reach over a seam: "a" and "b" are two tokens, "ab" is one."""
    tokens = [text_to_token_ids(text, gpt2_tokenizer()) for text in (first, "<|endoftext|>", second)]
    whole = text_to_token_ids(f"{first}<|endoftext|>{second}", gpt2_tokenizer())
    assert torch.equal(whole, torch.cat(tokens, dim=1))
