"""Ways to alter a GPTModel: what CachedGPT refuses by name, what it knows, and how weights change."""

import types

import torch
from support import SMALL, randn, random_ids, randomized, talkative
from torch import nn
from torch.nn.modules import module as any_module
from torch.nn.utils import parametrize, prune, weight_norm

import helpers
from helpers import GELU, GPTModel, LayerNorm, MultiHeadAttention, TransformerBlock, tie_weights

# What it refuses: each is given the model and pytest's monkeypatch


class LoRALinear(nn.Linear):
    """A subclass that adds a low-rank term."""

    def __init__(self, old):
        super().__init__(old.in_features, old.out_features, bias=old.bias is not None)
        self.load_state_dict(old.state_dict())
        self.A, self.B = (
            nn.Parameter(torch.randn(2, old.in_features)),
            nn.Parameter(torch.randn(old.out_features, 2)),
        )
        self.double()

    def forward(self, x):
        return super().forward(x) + x @ self.A.T @ self.B.T


class LoRAWrapper(nn.Module):
    def __init__(self, old):
        super().__init__()
        self.old, self.new = old, nn.Linear(old.in_features, old.out_features).double()

    def forward(self, x):
        return self.old(x) + self.new(x)


class Louder(GELU):
    def forward(self, x):
        return 2 * super().forward(x)


class Silent(MultiHeadAttention):
    """A subclass without a change."""


def other_forward(self, x):
    return 2 * x


def lora_subclass(model, patch):
    model.trf_blocks[1].att.W_query = LoRALinear(model.trf_blocks[1].att.W_query)


def lora_wrapper(model, patch):
    model.trf_blocks[0].ff.layers[0] = LoRAWrapper(model.trf_blocks[0].ff.layers[0])


def lora_as_parametrization(model, patch):
    class Twice(nn.Module):
        def forward(self, weight):
            return 2 * weight

    parametrize.register_parametrization(model.out_head, "weight", Twice())


def forward_of_an_instance(model, patch):
    block = model.trf_blocks[1]
    block.forward = types.MethodType(other_forward, block)


def forward_of_a_class(model, patch):
    patch.setattr(helpers.FeedForward, "forward", other_forward)


def forward_of_the_model(model, patch):
    model.forward = lambda ids: torch.zeros(*ids.shape, 61)


def forward_of_pytorchs_class(model, patch):
    plain = nn.Linear.forward
    patch.setattr(nn.Linear, "forward", lambda self, x: 2 * plain(self, x))


def hook(model, patch):
    model.trf_blocks[1].att.register_forward_hook(lambda module, args, output: 2 * output)


def pre_hook(model, patch):
    model.out_head.register_forward_pre_hook(lambda module, args: (2 * args[0],))


def hook_with_keywords(model, patch):
    model.trf_blocks[0].register_forward_hook(
        lambda module, args, kwargs, output: 2 * output, with_kwargs=True
    )


def global_hook(model, patch):
    patch.setitem(any_module._global_forward_hooks, "mine", lambda module, args, output: None)


def global_pre_hook(model, patch):
    patch.setitem(any_module._global_forward_pre_hooks, "mine", lambda module, args: None)


def another_norm(model, patch):
    model.trf_blocks[0].norm1 = nn.LayerNorm(24).double()


def rms_norm(model, patch):
    model.final_norm = nn.RMSNorm(24).double()


def another_activation(model, patch):
    model.trf_blocks[1].ff.layers[1] = nn.ReLU()


def louder_activation(model, patch):
    model.trf_blocks[1].ff.layers[1] = Louder()


def subclass_without_a_change(model, patch):
    model.trf_blocks[0].att.__class__ = Silent


def no_embedding_dropout(model, patch):
    model.drop_emb = nn.Identity()


def dropout_after_the_head(model, patch):
    model.out_head = nn.Sequential(model.out_head, nn.Dropout(0.5).train())


def dropout_in_the_feed_forward(model, patch):
    model.trf_blocks[0].ff.layers.append(nn.Dropout(0.5))


def dropout_on(model, patch):
    model.train()


def one_dropout_on(model, patch):
    model.trf_blocks[1].att.dropout.train()


def another_layer(model, patch):
    model.trf_blocks.append(nn.Linear(24, 24).double())


def extra_part(model, patch):
    model.adapter = nn.Linear(24, 24)


def embedding_of_bounded_norm(model, patch):
    model.pos_emb.max_norm = 0.5


def weight_norm_of_old(model, patch):
    weight_norm(model.trf_blocks[0].att.out_proj)


def being_pruned(model, patch):
    prune.l1_unstructured(model.trf_blocks[0].ff.layers[2], "weight", amount=0.5)


def quantized(model, patch):
    model.trf_blocks[0].ff.layers[2] = torch.ao.nn.quantized.dynamic.Linear(96, 24)


def blocks_compiled(model, patch):
    model.trf_blocks[0] = torch.compile(model.trf_blocks[0], backend="eager")


def weight_as_a_buffer(model, patch):
    key = model.trf_blocks[0].att.W_key
    weight = key.weight.detach().clone()
    del key.weight
    key.register_buffer("weight", weight)


def weight_as_an_attribute(model, patch):
    key = model.trf_blocks[0].att.W_key
    weight = key.weight.detach().clone()
    del key.weight
    key.weight = weight


def one_parameter_more(model, patch):
    model.out_head.register_parameter("extra", nn.Parameter(randn(1)))


def another_code(model, patch):
    patch.setattr(GELU.forward, "__code__", (lambda self, x: 2 * x).__code__)


def another_call(model, patch):
    patch.setattr(GELU, "__call__", lambda self, x: 2 * x, raising=False)


def another_call_of_all(model, patch):
    plain = nn.Module.__call__
    patch.setattr(
        nn.Module,
        "__call__",
        lambda self, x: 2 * plain(self, x) if isinstance(self, GELU) else plain(self, x),
    )


class OtherWeight(nn.Linear):
    """Inherits its forward and replaces what that reads."""

    weight = property(lambda self: 2 * self._parameters["weight"])


def another_class(model, patch):
    model.out_head.__class__ = OtherWeight


def no_layers(model, patch):
    model.trf_blocks[1].ff.layers = nn.Sequential()


REFUSED = {
    lora_subclass: "'trf_blocks.1.att.W_query' is a LoRALinear",
    lora_wrapper: "'trf_blocks.0.ff.layers.0' is a LoRAWrapper",
    lora_as_parametrization: "'out_head' is a ParametrizedLinear",
    forward_of_an_instance: "forward of the part 'trf_blocks.1' was replaced",
    forward_of_a_class: "forward of the part 'trf_blocks.0.ff' was replaced",
    forward_of_the_model: "forward of the model was replaced",
    forward_of_pytorchs_class: "forward of the part 'trf_blocks.0.att.W_query' was replaced",
    hook: "'trf_blocks.1.att' has a hook",
    pre_hook: "'out_head' has a hook",
    hook_with_keywords: "'trf_blocks.0' has a hook",
    global_hook: "a global hook",
    global_pre_hook: "a global hook",
    another_norm: "'trf_blocks.0.norm1' is a LayerNorm that",
    rms_norm: "'final_norm' is a RMSNorm",
    another_activation: "'trf_blocks.1.ff.layers.1' is a ReLU",
    louder_activation: "'trf_blocks.1.ff.layers.1' is a Louder",
    subclass_without_a_change: "'trf_blocks.0.att' is a Silent",
    no_embedding_dropout: "'drop_emb' is a Identity",
    dropout_after_the_head: "'out_head' is a Sequential",
    dropout_in_the_feed_forward: "'trf_blocks.0.ff.layers.3' is a Dropout",
    dropout_on: "dropout is on in the part 'drop_emb': call model.eval() first",
    one_dropout_on: "dropout is on in the part 'trf_blocks.1.att.dropout'",
    another_layer: "'trf_blocks.2' is a Linear",
    extra_part: "'adapter' is a Linear",
    embedding_of_bounded_norm: "'pos_emb' has a max_norm",
    weight_norm_of_old: "'trf_blocks.0.att.out_proj' has a hook",
    being_pruned: "'trf_blocks.0.ff.layers.2' has a hook",
    quantized: "'trf_blocks.0.ff.layers.2' is a Linear that",
    blocks_compiled: "'trf_blocks.0' is a OptimizedModule",
    weight_as_a_buffer: "'trf_blocks.0.att.W_key' has tensors that are not its usual parameters",
    weight_as_an_attribute: "'trf_blocks.0.att.W_key' has tensors that are not its usual parameters",
    one_parameter_more: "'out_head' has tensors that are not its usual parameters",
    another_code: "the model computes other logits than its parts say",
    another_call: "the model computes other logits than its parts say",
    another_call_of_all: "the model computes other logits than its parts say",
    another_class: "'out_head' is a OtherWeight",
    no_layers: "the model lacks the part 'trf_blocks.1.ff.layers.0'",
}


# What it knows: the model still computes what its parts say


def nothing(model):
    pass


def half(model):
    model.bfloat16()


def single(model):
    model.float()


def tied(model):
    tie_weights(model)


def head_with_bias(model):
    model.out_head = randomized(nn.Linear(24, 61))


def two_classes(model):
    model.out_head = randomized(nn.Linear(24, 2))


def other_head_counts(model):
    model.trf_blocks[1] = randomized(TransformerBlock({**SMALL, "n_heads": 6}), seed=1)


def fewer_heads_of_the_same_width(model):
    model.trf_blocks[0].att = randomized(MultiHeadAttention(24, 24, 12, 0.0, 1, True), seed=1)


def heads_cut_off(model):
    """Structured pruning: two of three heads are left, in a narrower attention."""
    att = randomized(MultiHeadAttention(24, 16, 12, 0.0, 2), seed=1)
    att.out_proj = randomized(nn.Linear(16, 24))
    model.trf_blocks[0].att = att


def pruned(model):
    prune.l1_unstructured(model.trf_blocks[0].ff.layers[2], "weight", amount=0.5)
    prune.remove(model.trf_blocks[0].ff.layers[2], "weight")


def other_eps(model):
    for n, norm in enumerate(m for m in model.modules() if isinstance(m, LayerNorm)):
        norm.eps = 0.1 * (n + 1)


def blocks_left_out(model):
    model.trf_blocks = model.trf_blocks[:1]


def one_block_twice(model):
    model.trf_blocks[1] = model.trf_blocks[0]


def no_biases(model):
    att = model.trf_blocks[0].att
    att.W_query = randomized(nn.Linear(24, 24, bias=False))


def longer_positions(model):
    model.pos_emb = randomized(nn.Embedding(20, 24))  # attention still takes no more than 12


def shorter_positions(model):
    model.pos_emb = randomized(nn.Embedding(7, 24))


def train_mode_without_dropout(model):
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    model.train()


def gradient_hook(model):
    model.out_head.register_full_backward_hook(lambda *_: None)


def other_order_in_memory(model):
    for layer in (model.out_head, model.trf_blocks[0].att.W_query):
        layer.weight = nn.Parameter(layer.weight.T.contiguous().T)


def a_part_that_is_none(model):
    model.add_module("adapter", None)


def bfloat16_embedding(model):
    model.float()
    model.tok_emb.bfloat16()


KNOWN = [
    a_part_that_is_none,
    bfloat16_embedding,
    nothing,
    half,
    single,
    tied,
    head_with_bias,
    two_classes,
    other_head_counts,
    heads_cut_off,
]
KNOWN += [fewer_heads_of_the_same_width, pruned, other_eps, blocks_left_out, one_block_twice, no_biases]
KNOWN += [
    longer_positions,
    shorter_positions,
    train_mode_without_dropout,
    gradient_hook,
    other_order_in_memory,
]


# How weights change


def an_optimizer_step(model):
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(random_ids(2, 5)).square().mean().backward()
    optimizer.step()


def a_fused_optimizer_step(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=True)
    model(random_ids(2, 5)).square().mean().backward()
    optimizer.step()


def a_fused_step_of_one_row(model):
    model.requires_grad_(False)
    model.tok_emb.weight.requires_grad_()
    optimizer = torch.optim.SGD([model.tok_emb.weight], lr=0.1, fused=True)
    model(random_ids(2, 5)).square().mean().backward()
    optimizer.step()


def a_load(model):
    model.load_state_dict(talkative(GPTModel(SMALL)).state_dict() | {"final_norm.shift": randn(24)})


def a_load_by_assignment(model):
    other = {key: 2 * tensor for key, tensor in model.state_dict().items()}
    model.load_state_dict(other, assign=True)


def another_tensor_as_data(model):
    model.out_head.weight.data = randn(61, 24)


def a_new_parameter(model):
    model.trf_blocks[0].att.W_key.weight = nn.Parameter(randn(24, 24))


def an_initialization(model):
    nn.init.normal_(model.trf_blocks[1].ff.layers[0].weight)


def a_change_in_inference_mode(model):
    with torch.inference_mode():
        model.trf_blocks[0].norm1.scale.mul_(2)


CHANGES = [
    an_optimizer_step,
    a_fused_optimizer_step,
    a_fused_step_of_one_row,
    a_load,
    a_load_by_assignment,
    another_tensor_as_data,
]
CHANGES += [a_new_parameter, an_initialization, a_change_in_inference_mode]
