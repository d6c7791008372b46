"""The same function? Outputs and gradients of our parts against PyTorch's own, in one line.

    block = compare.randomize(TransformerBlock(cfg))
    compare.same_function(block, compare.encoder_layer(block), x)
    # Same function: output, and gradients of the input and 16 parameters.

Both functions use the same parameters, so the gradients of ours and theirs can be compared one by one.
Further down, networks are compared in training, and by what influences what, what they cost, and how long.
"""

import time

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def same_function(ours, theirs, *inputs, parameters=None, tolerance=1e-10):
    """Raise AssertionError, naming the first thing that differs, unless both compute the same function.

    Compares the output and, for a random upstream gradient, the gradients of the inputs and parameters.
    The tolerance is meant for float64; the arguments are those of `differences`.
    """
    found = differences(ours, theirs, *inputs, parameters=parameters)
    n_inputs = sum(x.is_floating_point() for x in inputs)
    n_parameters = len(found) - 1 - n_inputs  # the first is the output
    for name, difference in found.items():
        if not difference <= tolerance:  # nan is a difference, too
            raise AssertionError(f"not the same function: {name} differs by {difference:.2g}")
    counted = [
        "the input" if n_inputs == 1 else f"{n_inputs} inputs" if n_inputs else "",
        f"{n_parameters} parameter{'s' if n_parameters > 1 else ''}" if n_parameters else "",
    ]
    gradients = " and ".join(filter(None, counted))
    print("Same function: output" + (f", and gradients of {gradients}." if gradients else "."))


def differences(ours, theirs, *inputs, parameters=None):
    """The largest difference of the output and of each gradient, by name; relative if theirs is above 1.

    `inputs` are tensors; those of integers, such as token ids, get no gradient. `parameters` is a dict or a
    list of tensors that both functions use; by default, it is the parameters of `ours` if that is a module.
    """
    if parameters is None:
        parameters = dict(ours.named_parameters()) if isinstance(ours, nn.Module) else {}
    elif not isinstance(parameters, dict):
        parameters = {f"parameter {i}": p for i, p in enumerate(parameters)}
    parameters = {name: p for name, p in parameters.items() if p.requires_grad}
    floating = [i for i, x in enumerate(inputs) if x.is_floating_point()]
    names = ["the input" if len(inputs) == 1 else f"input {i}" for i in floating] + list(parameters)

    mine, own = (run(function, inputs, parameters.values()) for function in (ours, theirs))
    if mine[0].shape != own[0].shape or mine[0].dtype != own[0].dtype:
        shapes = [f"{tuple(output.shape)} {output.dtype}" for output in (mine[0], own[0])]
        raise AssertionError(f"not the same function: the output is {shapes[0]} and not {shapes[1]}")
    result = {}
    for name, a, b in zip(["output", *(f"gradient of {n}" for n in names)], mine, own, strict=True):
        if a is None and b is None:
            raise AssertionError(f"neither function has a {name}, so there is nothing to compare")
        a, b = (torch.zeros_like(a if b is None else b) if t is None else t for t in (a, b))
        result[name] = ((a - b).abs().max() / max(1.0, b.abs().max().item())).item()
    return result


def run(function, inputs, parameters):
    """The output, then the gradients of the floating-point inputs and the parameters (None: not reached)."""
    inputs = [x.detach().clone().requires_grad_(x.is_floating_point()) for x in inputs]
    output = function(*inputs)
    wanted = [*(x for x in inputs if x.requires_grad), *parameters]
    if not (wanted and output.requires_grad):
        return [output.detach(), *[None] * len(wanted)]
    generator = torch.Generator().manual_seed(123)  # our own: the caller's random state stays as it is
    upstream = torch.randn(output.shape, generator=generator, dtype=output.dtype).to(output.device)
    return [output.detach(), *torch.autograd.grad(output, wanted, upstream, allow_unused=True)]


@torch.no_grad()
def randomize(module, seed=123):
    """`module` with random parameters, so that no mistake hides behind a start at 0 or 1.

    Also puts it in float64, where rounding hides nothing either, and in eval mode, without dropout.
    """
    generator = torch.Generator().manual_seed(seed)
    for p in module.double().parameters():
        fan_in = p.shape[-1] if p.ndim > 1 else 1
        p.copy_(torch.randn(p.shape, generator=generator, dtype=p.dtype) / fan_in**0.5)
    return module.eval()


def round_gradients(parameters):
    """Round each gradient to the 8 bits of bfloat16, so that losses are the same on every processor.

    Processors round the last bits differently, and a training over hundreds of steps can amplify that.
    """
    for p in parameters:
        p.grad = p.grad.bfloat16().to(p.dtype)


def train_side_by_side(name, networks, inputs, targets, steps=400, eps=1e-8):
    """Train networks of one kind with Adam, on all examples; return their losses (steps, networks).

    The networks learn independently, but all at once: vmap runs them as one. Gradients are rounded.
    Prints the median loss of the first step and the range of the last, after `name`.
    """
    parameters, _ = torch.func.stack_module_state(networks)  # each (networks, ...)
    optimizer = torch.optim.Adam(parameters.values(), lr=3e-3, eps=eps, foreach=True)

    def loss(parameters):
        outputs = torch.func.functional_call(networks[0], parameters, inputs)
        return nn.functional.mse_loss(outputs, targets)

    history = []
    for _ in range(steps):
        losses = torch.func.vmap(loss)(parameters)  # (networks,)
        optimizer.zero_grad()
        losses.sum().backward()
        round_gradients(parameters.values())
        optimizer.step()
        history.append(losses.detach())
    start, end = history[0].median(), history[-1]
    print(f"{name}: loss {start:,.2f} -> {end.min():.2f} to {end.max():.2f}")
    return torch.stack(history)


def rms_by_layer(network):
    """The RMS of x, and of the gradient on its way back, after 0, 1, 2, ... layers: (2, layers + 1).

    `network` is an ExampleDeepNeuralNetwork of one width. Both ways start at an RMS of about 1.
    """
    width = network.layers[0][-2].in_features
    x, upstream = torch.randn(2, 64, width, dtype=torch.float64)
    xs = [x.requires_grad_()]
    for layer in network.layers:
        xs.append(xs[-1] + layer(xs[-1]) if network.use_shortcut else layer(xs[-1]))
    gradients = torch.autograd.grad(xs[-1], xs, upstream)
    tensors = torch.stack([*xs, *gradients[::-1]]).detach()
    return tensors.square().mean(dim=(1, 2)).sqrt().unflatten(0, (2, -1))


def multihead_attention(att):
    """A MultiHeadAttention with d_in = d_out as a function of x: nn.MultiheadAttention with its tensors."""
    with torch.device("meta"):  # no memory and no random numbers: its tensors are never used
        own = nn.MultiheadAttention(att.out_proj.in_features, att.num_heads, batch_first=True)

    def attention(x):
        arguments = {"attn_mask": causal_mask(x)}
        return torch.func.functional_call(own, attention_tensors(att), (x, x, x), arguments, strict=True)[0]

    return attention


def encoder_layer(block):
    """A TransformerBlock as a function of x: nn.TransformerEncoderLayer with the block's tensors."""
    att, (wide, _, narrow) = block.att, block.ff.layers
    gelu = nn.GELU(approximate="tanh")
    with torch.device("meta"):
        own = nn.TransformerEncoderLayer(
            wide.in_features, att.num_heads, wide.out_features, 0.0, gelu, batch_first=True, norm_first=True
        )
    own.norm1.eps, own.norm2.eps = block.norm1.eps, block.norm2.eps

    def layer(x):
        tensors = {f"self_attn.{name}": tensor for name, tensor in attention_tensors(att).items()}
        for name, linear in (("linear1", wide), ("linear2", narrow)):
            tensors |= {f"{name}.weight": linear.weight, f"{name}.bias": linear.bias}
        for name, norm in (("norm1", block.norm1), ("norm2", block.norm2)):
            tensors |= {f"{name}.weight": norm.scale, f"{name}.bias": norm.shift}
        return torch.func.functional_call(own, tensors, (x, causal_mask(x)), strict=True)

    return layer


def gpt_of_pytorch(model):
    """A GPTModel as a function of token ids, put together from PyTorch's own parts with its tensors."""
    layers, norm = [encoder_layer(block) for block in model.trf_blocks], model.final_norm

    def logits(ids):
        x = model.tok_emb.weight[ids] + model.pos_emb.weight[: ids.shape[1]]
        for layer in layers:
            x = layer(x)
        x = nn.functional.layer_norm(x, norm.scale.shape, norm.scale, norm.shift, norm.eps)
        return nn.functional.linear(x, model.out_head.weight)

    return logits


def attention_tensors(att):
    """The tensors of a MultiHeadAttention under the names that nn.MultiheadAttention has for them."""
    projections, out = (att.W_query, att.W_key, att.W_value), att.out_proj
    biases = [w.weight.new_zeros(len(w.weight)) if w.bias is None else w.bias for w in projections]
    return {
        "in_proj_weight": torch.cat([w.weight for w in projections]),
        "in_proj_bias": torch.cat(biases),
        "out_proj.weight": out.weight,
        "out_proj.bias": out.bias,
    }


def causal_mask(x):
    return nn.Transformer.generate_square_subsequent_mask(x.shape[1], device=x.device, dtype=x.dtype)


@torch.no_grad()
def influence(model, x):
    """Who influences whom: a bool tensor (T, T), for token ids `x` (1, T) or vectors (1, T, D).

    Row i, column j is True if another token, or vector, at position j changes the output at position i.
    """
    before = model(x)
    grid = torch.zeros(x.shape[1], x.shape[1], dtype=torch.bool)
    for j in range(x.shape[1]):
        changed = x.clone()
        changed[0, j] = -x[0, j] if x.is_floating_point() else (x[0, j] + 1) % before.shape[-1]
        grid[:, j] = ((model(changed) - before).abs() > 1e-4).any(dim=-1)[0]
    return grid


@torch.no_grad()
def attention_weights(att, x):
    """The weights that `att` computes on its way, for a picture: (B, T, d_in) -> (B, H, T, T)."""
    q, k = (
        project(x).unflatten(-1, (att.num_heads, att.head_dim)).transpose(1, 2)
        for project in (att.W_query, att.W_key)
    )
    scores = q @ k.transpose(2, 3) / att.head_dim**0.5
    return scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), float("-inf")).softmax(-1)


def kept_for_backward(module, *inputs):
    """How many bytes autograd keeps from the forward pass until the backward pass, besides the parameters."""
    parameters, kept = {p.data_ptr() for p in module.parameters()}, {}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        output = module(*inputs)
    assert output.requires_grad  # the graph, and all that it keeps, was alive until here
    return sum(kept.values())


@torch.no_grad()
def multiplications(function, *inputs):
    """How many multiplications PyTorch counts in matrix products; it takes a product and a sum for two."""
    # The counter doesn't cover the fused attention kernel on a CPU, so we ask for the plain one.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        function(*inputs)
    return counter.get_total_flops() // 2


def milliseconds(function, *inputs, repeats=9):
    """The median time of several calls, after one to warm up."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        function(*inputs)
        times.append(1000 * (time.perf_counter() - start))
    return sorted(times[1:])[repeats // 2]


@torch.no_grad()
def read_weights(model, tokens=1):
    """Multiply each matrix that a GPTModel needs for a pass by one vector per token, and do no more."""
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            F.linear(layer.weight.new_ones(tokens, layer.in_features), layer.weight)


@torch.no_grad()
def norm_inputs(model, ids):
    """What goes into the first norm of each block, for one text: (1, T) token ids -> (L, T, D)."""
    caught = []
    hooks = [
        block.norm1.register_forward_pre_hook(lambda module, args: caught.append(args[0][0]))
        for block in model.trf_blocks
    ]
    model(ids)
    for hook in hooks:
        hook.remove()
    return torch.stack(caught)
