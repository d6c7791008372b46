"""compare.py finds equal functions equal, and names what differs where there is a mistake."""

import pytest
import torch
from support import SMALL
from torch import nn
from torch.nn import functional as F

from helpers import GPTModel, LayerNorm, MultiHeadAttention, TransformerBlock
from notebooks import compare

WIDTH, HEADS = SMALL["emb_dim"], SMALL["n_heads"]
GENERATOR = torch.Generator().manual_seed(0)
X = 2 * torch.randn(2, 12, WIDTH, dtype=torch.float64, generator=GENERATOR)
IDS = torch.randint(0, SMALL["vocab_size"], (2, 12), generator=GENERATOR)
NORM = compare.randomize(LayerNorm(WIDTH))


def attention(kind=MultiHeadAttention, qkv_bias=True):
    return compare.randomize(kind(WIDTH, WIDTH, 12, 0.1, HEADS, qkv_bias))


def block(kind=TransformerBlock, **changes):
    return compare.randomize(kind({**SMALL, **changes}))


def model(**changes):
    return compare.randomize(GPTModel({**SMALL, **changes}))


def what_differs(ours, theirs, *inputs, **options):
    """What `same_function` says after the first words."""
    with pytest.raises(AssertionError) as error:
        compare.same_function(ours, theirs, *inputs, **options)
    start, _, what = str(error.value).partition("not the same function: ")
    assert start == ""
    return what


# Equal functions


@pytest.mark.parametrize(("qkv_bias", "counts"), [(True, (8, 16, 37)), (False, (5, 13, 31))])
def test_our_parts_are_pytorchs(qkv_bias, counts, capsys):
    att, layer, gpt = attention(qkv_bias=qkv_bias), block(qkv_bias=qkv_bias), model(qkv_bias=qkv_bias)
    compare.same_function(att, compare.multihead_attention(att), X)
    compare.same_function(layer, compare.encoder_layer(layer), X)
    compare.same_function(gpt, compare.gpt_of_pytorch(gpt), IDS)
    assert capsys.readouterr().out == (
        f"Same function: output, and gradients of the input and {counts[0]} parameters.\n"
        f"Same function: output, and gradients of the input and {counts[1]} parameters.\n"
        f"Same function: output, and gradients of {counts[2]} parameters.\n"
    )


def test_the_references_use_the_tensors_and_eps_of_today():
    gpt = model()
    reference = compare.gpt_of_pytorch(gpt)
    compare.randomize(gpt, seed=5)
    compare.same_function(gpt, reference, IDS)
    gpt.trf_blocks[0].norm1.eps, gpt.trf_blocks[1].norm2.eps, gpt.final_norm.eps = 0.1, 0.2, 0.3
    compare.same_function(gpt, compare.gpt_of_pytorch(gpt), IDS)


LINEAR = nn.Linear(WIDTH, 3, bias=False).double()
FROZEN = nn.Linear(WIDTH, 3).double().requires_grad_(False)


@pytest.mark.parametrize(
    ("function", "inputs", "says"),
    [
        (torch.relu, [X], ", and gradients of the input."),
        (torch.mul, [X, X], ", and gradients of 2 inputs."),
        (torch.mul, [X, IDS[..., None]], ", and gradients of the input."),
        (torch.neg, [IDS], "."),
        (LINEAR, [X], ", and gradients of the input and 1 parameter."),
        (FROZEN, [X], ", and gradients of the input."),
    ],
)
def test_one_line_says_what_was_compared(function, inputs, says, capsys):
    compare.same_function(function, function, *inputs)
    assert capsys.readouterr().out == f"Same function: output{says}\n"


@pytest.mark.parametrize(
    ("parameters", "name"),
    [(lambda w: {"w": w}, "w"), (lambda w: [w], "parameter 0"), (lambda w: iter([w]), "parameter 0")],
)
def test_a_function_can_be_given_its_parameters(parameters, name):
    w = torch.ones(WIDTH, dtype=torch.float64, requires_grad=True)
    found = compare.differences(lambda x: w * x, lambda x: w.detach() * x, X, parameters=parameters(w))
    assert list(found) == ["output", "gradient of the input", f"gradient of {name}"]
    assert found["gradient of the input"] == 0 < found[f"gradient of {name}"]


def test_nothing_of_the_callers_changes():
    x, att, layer, linear = X.clone().requires_grad_(), attention(), block(), nn.Linear(WIDTH, 3)
    kept = [p.clone() for p in layer.parameters()]
    state = torch.get_rng_state()
    compare.same_function(layer, compare.encoder_layer(layer), x)
    compare.same_function(att, compare.multihead_attention(att), x)
    compare.same_function(lambda x: x.clone().mul_(2), lambda x: 2 * x, x)
    compare.randomize(linear)
    assert x.grad is None and all(p.grad is None for p in layer.parameters())
    assert torch.equal(x, X) and all(map(torch.equal, kept, layer.parameters()))
    assert torch.equal(torch.get_rng_state(), state)


def test_randomize_leaves_nothing_at_its_start():
    gpt = GPTModel(SMALL).train()
    assert compare.randomize(gpt) is gpt and not gpt.training
    for name, p in gpt.named_parameters():
        assert p.dtype == torch.float64 and p.requires_grad, name
        assert len(p.unique()) == p.numel(), name
    assert torch.equal(model().out_head.weight, gpt.out_head.weight)
    assert not torch.equal(compare.randomize(model(), seed=5).out_head.weight, gpt.out_head.weight)


# Mistakes in a function


def by_hand(x, scale=NORM.scale, shift=NORM.shift, constant=lambda t: t):
    variance = x.var(-1, keepdim=True, unbiased=False)
    return scale * (x - x.mean(-1, keepdim=True)) / torch.sqrt(constant(variance) + NORM.eps) + shift


@pytest.mark.parametrize(
    ("theirs", "what"),
    [
        (lambda x: 1.000001 * by_hand(x), "output differs by "),
        (lambda x: by_hand(x) + 1e-9, "output differs by "),
        (lambda x: by_hand(x, shift=0), "output differs by "),
        (lambda x: by_hand(x) * float("nan"), "output differs by nan"),
        (lambda x: by_hand(x) / (x > 0), "output differs by "),
        (lambda x: by_hand(x).detach(), "gradient of the input differs by "),
        (lambda x: by_hand(x.detach()), "gradient of the input differs by "),
        (lambda x: by_hand(x, constant=torch.detach), "gradient of the input differs by "),
        (lambda x: by_hand(x) + 1e-6 * (x - x.detach()), "gradient of the input differs by "),
        (lambda x: by_hand(x, scale=NORM.scale.detach()), "gradient of scale differs by "),
        (lambda x: by_hand(x, shift=NORM.shift.data), "gradient of shift differs by "),
        (lambda x: by_hand(x).float(), "the output is (2, 12, 24) torch.float64 and not (2, 12, 24) torch.f"),
        (lambda x: by_hand(x)[:1], "the output is (2, 12, 24) torch.float64 and not (1, 12, 24) torch.f"),
    ],
)
def test_a_mistake_in_the_norm_is_named(theirs, what):
    compare.same_function(NORM, by_hand, X)
    assert what_differs(NORM, theirs, X).startswith(what)
    if "differs" in what:  # and also the other way round
        parameters = dict(NORM.named_parameters())
        other_way = what_differs(theirs, NORM, X, parameters=parameters)
        assert other_way.split(" differs by ")[0] == what.split(" differs by ")[0]


def test_nothing_to_compare_is_not_equal():
    with pytest.raises(AssertionError, match="neither function has a gradient of the input, so"):
        compare.same_function(lambda x: x.detach(), lambda x: x.detach(), X)
    with pytest.raises(AssertionError, match="neither function has a gradient of input 1, so"):
        compare.same_function(lambda x, y: 2 * x, lambda x, y: 2 * x, X, X)
    with pytest.raises(AssertionError, match="neither function has a gradient of bias, so"):
        linear = nn.Linear(WIDTH, 3).double()
        compare.same_function(linear, lambda x: x @ linear.weight.T, X, parameters={"bias": LINEAR.weight})


def test_the_tolerance_is_the_callers():
    assert what_differs(lambda x: x + 1e-5, lambda x: x, X).startswith("output differs by ")
    compare.same_function(lambda x: x + 1e-5, lambda x: x, X, tolerance=1e-4)


# Mistakes in attention, a block and the model


class HeadsBy(MultiHeadAttention):
    """Attention whose heads can be cut in another way, with or without the mask."""

    masked = True

    def cut(self, x):
        return x.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)

    def forward(self, x):
        heads = (self.cut(w(x)) for w in (self.W_query, self.W_key, self.W_value))
        context = F.scaled_dot_product_attention(*heads, is_causal=self.masked)
        return self.out_proj(context.transpose(1, 2).flatten(2))


class WithoutMask(HeadsBy):
    masked = False


class OtherOrderOfHeads(HeadsBy):
    def cut(self, x):
        return x.unflatten(-1, (self.head_dim, self.num_heads)).permute(0, 3, 1, 2)


class WithoutValueBias(MultiHeadAttention):
    def forward(self, x):
        kept, self.W_value.bias = self.W_value.bias, None
        y = super().forward(x)
        self.W_value.bias = kept
        return y


class KeysForQueries(MultiHeadAttention):
    def forward(self, x):
        self.W_query, self.W_key = self.W_key, self.W_query
        y = super().forward(x)
        self.W_query, self.W_key = self.W_key, self.W_query
        return y


@pytest.mark.parametrize("kind", [WithoutMask, OtherOrderOfHeads, WithoutValueBias, KeysForQueries])
def test_a_mistake_in_attention_is_found(kind):
    wrong = attention(kind)
    assert what_differs(wrong, compare.multihead_attention(wrong), X).startswith("output differs by ")


class SwappedNorms(TransformerBlock):
    def forward(self, x):
        x = x + self.att(self.norm2(x))
        return x + self.ff(self.norm1(x))


class PostNorm(TransformerBlock):
    def forward(self, x):
        x = self.norm1(x + self.att(x))
        return self.norm2(x + self.ff(x))


class WithoutShortcut(TransformerBlock):
    def forward(self, x):
        return self.ff(self.norm2(x + self.att(self.norm1(x))))


class ShortcutAsConstant(TransformerBlock):
    def forward(self, x):
        x = x.detach() + self.att(self.norm1(x))
        return x + self.ff(self.norm2(x))


class ExactGELU(TransformerBlock):
    def forward(self, x):
        self.ff.layers[1] = nn.GELU()
        return super().forward(x)


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        (SwappedNorms, "output"),
        (PostNorm, "output"),
        (WithoutShortcut, "output"),
        (ShortcutAsConstant, "gradient of the input"),
        (ExactGELU, "output"),
    ],
)
def test_a_mistake_in_a_block_is_named(kind, what):
    wrong = block(kind)
    assert what_differs(wrong, compare.encoder_layer(wrong), X).startswith(f"{what} differs by ")


def without_final_norm(gpt, ids):
    return gpt.out_head(gpt.trf_blocks(gpt.tok_emb(ids) + gpt.pos_emb.weight))


def blocks_reversed(gpt, ids):
    x = gpt.tok_emb(ids) + gpt.pos_emb.weight
    for block in reversed(gpt.trf_blocks):
        x = block(x)
    return gpt.out_head(gpt.final_norm(x))


def positions_from_1(gpt, ids):
    x = gpt.tok_emb(ids) + gpt.pos_emb.weight.roll(-1, dims=0)
    return gpt.out_head(gpt.final_norm(gpt.trf_blocks(x)))


def positions_as_constants(gpt, ids):
    x = gpt.tok_emb(ids) + gpt.pos_emb.weight.detach()
    return gpt.out_head(gpt.final_norm(gpt.trf_blocks(x)))


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        (without_final_norm, "output"),
        (blocks_reversed, "output"),
        (positions_from_1, "output"),
        (positions_as_constants, "gradient of pos_emb.weight"),
    ],
)
def test_a_mistake_in_the_model_is_named(wrong, what):
    gpt = model()
    theirs, parameters = compare.gpt_of_pytorch(gpt), dict(gpt.named_parameters())
    found = what_differs(lambda ids: wrong(gpt, ids), theirs, IDS, parameters=parameters)
    assert found.startswith(f"{what} differs by ")


# Who influences whom


class PerToken(nn.Sequential):
    """Embedding and head, with something between them that mixes positions, or nothing."""

    def __init__(self, mix):
        super().__init__(nn.Embedding(11, 8), mix, nn.Linear(8, 11))


class Average(nn.Module):
    def __init__(self, seen):
        super().__init__()
        self.seen = seen

    def forward(self, x):
        return self.seen / self.seen.sum(dim=-1, keepdim=True) @ x


@pytest.mark.parametrize("seen", [torch.eye(5), torch.ones(5, 5).tril(), torch.ones(5, 5)])
def test_influence_is_what_each_position_sees(seen):
    grid = compare.influence(PerToken(Average(seen)), torch.tensor([[3, 1, 10, 0, 3]]))
    assert torch.equal(grid, seen.bool())


def test_norm_inputs_are_the_residual_stream_before_each_block():
    gpt, ids = model(), IDS[:1]
    caught = compare.norm_inputs(gpt, ids)
    x = gpt.tok_emb(ids) + gpt.pos_emb.weight[: ids.shape[1]]
    for block, found in zip(gpt.trf_blocks, caught, strict=True):
        assert torch.equal(found, x[0])
        x = block(x)
    assert not any(block.norm1._forward_pre_hooks for block in gpt.trf_blocks)


# What the backward pass needs


def test_what_is_kept_for_the_backward_pass_is_counted_once_and_without_parameters():
    layer, x = nn.Linear(4, 5), torch.randn(3, 4)
    assert compare.kept_for_backward(layer, x) == 3 * 4 * 4  # its input, in float32
    twice = nn.Sequential(layer, nn.Tanh(), nn.Linear(5, 6))
    assert (
        compare.kept_for_backward(twice, x) == (3 * 4 + 3 * 5) * 4
    )  # the last layer's input is tanh's output
    with torch.no_grad(), pytest.raises(AssertionError):
        compare.kept_for_backward(layer, x)


# Trainings


def test_networks_trained_side_by_side_learn_as_they_would_alone():
    def network(seed):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 2)).double()

    x, y = torch.randn(2, 6, 3, dtype=torch.float64, generator=GENERATOR)
    together = compare.train_side_by_side([network(0), network(1)], x, y[:, :2], steps=20)
    for seed in (0, 1):
        alone, losses = network(seed), []
        optimizer = torch.optim.Adam(alone.parameters(), lr=3e-3)
        for _ in range(20):
            loss = F.mse_loss(alone(x), y[:, :2])
            losses.append(loss.item())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        expected = torch.tensor(losses, dtype=torch.float64)  # without rounding its gradients
        torch.testing.assert_close(together[:, seed], expected, rtol=1e-3, atol=0)
    assert (together[-1] < together[0]).all()
