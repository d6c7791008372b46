"""What the notebooks beyond the chapter add to GPT-2, in the order in which they add it.

Exported from the notebooks by `python notebooks/refresh.py`: change the notebook, not this file.
Builds on helpers.py, and names shapes with the same letters.
"""

# ---- Beyond 1: GPT-2's released weights (notebooks/beyond_1_released_weights.ipynb) ------------------------
from pathlib import Path

import torch

from helpers import tie_weights


def gpt2_tensors(model):
    """Names of a released checkpoint's tensors -> the parameters of `model` that each of them fills.

    Raises ValueError if the model has no biases for queries, keys and values.
    """
    names = {"wte.weight": [model.tok_emb.weight], "wpe.weight": [model.pos_emb.weight]}
    names |= {"ln_f.weight": [model.final_norm.scale], "ln_f.bias": [model.final_norm.shift]}
    for i, block in enumerate(model.trf_blocks):
        att, (wide, _, narrow) = block.att, block.ff.layers
        qkv = [att.W_query, att.W_key, att.W_value]  # one tensor in the file
        if any(layer.bias is None for layer in qkv):
            raise ValueError(
                "GPT-2 has biases for queries, keys and values: build the model with qkv_bias True"
            )
        layers = {
            "attn.c_attn": qkv,
            "attn.c_proj": [att.out_proj],
            "mlp.c_fc": [wide],
            "mlp.c_proj": [narrow],
        }
        for name, parts in layers.items():
            names[f"h.{i}.{name}.weight"] = [part.weight for part in parts]
            names[f"h.{i}.{name}.bias"] = [part.bias for part in parts]
        for name, norm in (("ln_1", block.norm1), ("ln_2", block.norm2)):
            names |= {f"h.{i}.{name}.weight": [norm.scale], f"h.{i}.{name}.bias": [norm.shift]}
    return names


def load_gpt2_weights(model, path):
    """Fill `model` with GPT-2's released weights, from a safetensors file as Hugging Face publishes it.

    The file is mapped into memory: there is no second copy of the weights. The output head becomes the token
    embedding (tied). Unless all fits, nothing is changed. A file does not show n_heads: it must be GPT-2's.
    Raises FileNotFoundError if there is no such file; ValueError if it is of another kind, if a tensor is
    missing, unknown or of another shape, and for a model on "meta" or whose qkv_bias is False.
    Source: Radford and others (2019), "Language Models are Unsupervised Multitask Learners"; the files are at
    https://huggingface.co/openai-community.
    """
    from safetensors import SafetensorError, safe_open  # only here

    wanted = gpt2_tensors(model)
    if any(parameter.is_meta for parameter in model.parameters()):
        raise ValueError('a model on the device "meta" has no memory to fill')
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        file = safe_open(path, framework="pt")
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {error}") from error
    with file, torch.no_grad():
        buffers = (".attn.bias", ".attn.masked_bias")  # the mask, as GPT-2's own code keeps it
        found = {n.removeprefix("transformer."): n for n in file.keys() if not n.endswith(buffers)}  # noqa: SIM118
        head = found.pop("lm_head.weight", None)
        if missing := wanted.keys() - found.keys():
            raise ValueError(f"{path} lacks {len(missing)} tensors of the model, such as {min(missing)}")
        if unknown := found.keys() - wanted.keys():
            raise ValueError(
                f"{path} has {len(unknown)} tensors that the model lacks, such as {min(unknown)}"
            )
        for name, parts in wanted.items():
            shape = [sum(len(part) for part in parts), *parts[0].shape[1:]]
            shape = shape[::-1] if ".c_" in name else shape  # these matrices are stored as (in, out)
            if (given := file.get_slice(found[name]).get_shape()) != shape:
                raise ValueError(f"{name} has the shape {given} in {path}, the model needs {shape}")
        if head and not torch.equal(file.get_tensor(head), file.get_tensor(found["wte.weight"])):
            raise ValueError(f"{path} has an lm_head.weight other than wte.weight; GPT-2's are tied")
        for name, parts in wanted.items():
            tensor = file.get_tensor(found[name])
            tensor = tensor.mT if ".c_" in name and tensor.ndim == 2 else tensor
            for part, piece in zip(parts, tensor.split([len(part) for part in parts]), strict=True):
                part.copy_(piece)
    tie_weights(model)

# ---- Beyond 3: Fast generation (notebooks/beyond_3_fast_generation.ipynb) ----------------------------------
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules import module as any_module
from torch.optim.optimizer import register_optimizer_step_post_hook

from helpers import (
    GELU,
    FeedForward,
    GPTModel,
    LayerNorm,
    MultiHeadAttention,
    TransformerBlock,
    check_token_ids,
    count_parameters,
)


def tensors_of(model):
    """The tensors of a GPTModel, in the order in which `plain_gpt2` uses them."""

    def linear(layer):
        return layer.weight, layer.bias

    def norm(layer):
        return layer.scale.shape, layer.scale, layer.shift, layer.eps

    def tensors_of_block(block):
        att, (wide, _, narrow) = block.att, block.ff.layers
        qkv = [linear(layer) for layer in (att.W_query, att.W_key, att.W_value)]
        attention = ((att.num_heads, att.head_dim), qkv, linear(att.out_proj))
        return norm(block.norm1), *attention, norm(block.norm2), linear(wide), linear(narrow)

    blocks = [tensors_of_block(block) for block in model.trf_blocks]
    return model.tok_emb.weight, model.pos_emb.weight, blocks, norm(model.final_norm), linear(model.out_head)


def longest_text(model):
    """The most tokens that `model` can read at once."""
    return min(model.pos_emb.num_embeddings, *[block.att.context_length for block in model.trf_blocks])


def new_cache(model, batch, length):
    """Room for keys and values of `batch` texts of at most `length` tokens: two (B, H, T, Dh) a block."""
    cache = []
    for att in [block.att for block in model.trf_blocks]:
        shape = (batch, att.num_heads, length, att.head_dim)
        cache.append((att.W_key.weight.new_empty(shape), att.W_value.weight.new_empty(shape)))
    return cache


def plain_gpt2(tensors, ids, start, cache):
    """GPT-2 in plain functions: reads `ids` after the `start` tokens in `cache`, scores the last.

    `cache` has keys and values for each block, as from `new_cache`; those of `ids` are added to it.
    Shape: (B, T) -> (B, 1, V).
    Source: Pope and others (2022), https://arxiv.org/abs/2211.05102, section 2, for the cache.
    """
    B, T = ids.shape
    tok_emb, pos_emb, blocks, final_norm, out_head = tensors
    S = start + T  # tokens so far
    mask = torch.ones(T, S, dtype=torch.bool, device=ids.device).tril(start) if 1 < T < S else None
    x = (F.embedding(ids, tok_emb) + pos_emb[start:S]).flatten(0, 1)  # (B T, D)
    for (norm1, heads, qkv, out_proj, norm2, wide, narrow), (keys, values) in zip(blocks, cache, strict=True):
        h = torch.layer_norm(x, *norm1)
        q, k, v = (F.linear(h, *layer).view(B, T, *heads).transpose(1, 2) for layer in qkv)  # (B, H, T, Dh)
        keys.narrow(2, start, T).copy_(k)
        values.narrow(2, start, T).copy_(v)
        k, v = keys.narrow(2, 0, S), values.narrow(2, 0, S)  # (B, H, S, Dh)
        context = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=T == S)
        x = x + F.linear(context.transpose(1, 2).flatten(0, 1).flatten(1), *out_proj)
        h = F.gelu(F.linear(torch.layer_norm(x, *norm2), *wide), approximate="tanh")
        x = x + F.linear(h, *narrow)
    last = torch.layer_norm(x.view(B, T, -1)[:, -1], *final_norm)  # (B, D)
    return F.linear(last, *out_head)[:, None]


class CachedGPT:
    """A GPTModel that remembers the keys and values of what it has read, and reads only what is new.

    Call it like the model, with all ids so far; the logits are the model's, also after its weights changed.
    Shape: (B, T) token ids -> (B, 1, V) logits of the last position, without a graph.
    Raises ValueError, naming the part, for a model that is not as the course's files define it.
    One thread at a time. A write that PyTorch doesn't count, such as in place through .data, goes unnoticed.
    """

    def __init__(self, model):
        self.model, self.mark = model, None
        self.notice_changes()

    def __copy__(self):
        return CachedGPT(self.model)  # two must not write into one cache

    def notice_changes(self):
        if self.mark is None or fingerprint(self.model) != self.mark:
            self.mark = self.ids = self.cache = None
            check_plain(self.model)
            self.tensors, self.limit = tensors_of(self.model), longest_text(self.model)
            self.kept = [p.detach() for p in self.model.parameters()]  # so that no address is used again
            self.mark = fingerprint(self.model)

    def __call__(self, ids):
        self.notice_changes()
        check_token_ids(ids, self.model.tok_emb.num_embeddings, self.limit)
        with torch.inference_mode():
            if self.cache is None or len(self.cache[0][0]) != len(ids):
                self.ids, self.cache = None, new_cache(self.model, len(ids), self.limit)
            start = 0
            if self.ids is not None and torch.equal(ids[:, : self.ids.shape[1]], self.ids):
                start = min(self.ids.shape[1], ids.shape[1] - 1)  # the last is read again, for its logits
            self.ids = None  # if this is interrupted, nothing half written counts as read
            logits = plain_gpt2(self.tensors, ids[:, start:], start, self.cache)
            self.ids = ids.clone()
        return logits.clone()  # made outside of inference mode: a tensor like any other


INSTEAD = "give generate the model itself"
OURS = (GPTModel, TransformerBlock, MultiHeadAttention, FeedForward, LayerNorm, GELU)
KINDS = (*OURS, nn.Linear, nn.Embedding, nn.Dropout, nn.Sequential)
FORWARD = {  # of each kind of part as it is defined, not as somebody replaced it
    kind: kind.forward
    for kind in KINDS
    if kind.forward.__qualname__ == f"{kind.__name__}.forward"
    and (kind not in OURS or kind.__module__ == count_parameters.__module__)
}


def check_plain(model):
    """Raise ValueError, naming the part, unless `model` is all the course's own, with dropout off."""
    if type(model) is not GPTModel:
        raise ValueError(f"CachedGPT needs a GPTModel, got a {type(model).__name__}; {INSTEAD}")
    tiny = dict.fromkeys(("vocab_size", "context_length", "emb_dim", "n_heads"), 1)
    tiny |= {"n_layers": len(model.trf_blocks), "drop_rate": 0.0, "qkv_bias": True}
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they are
        plain = dict(GPTModel(tiny).named_modules())
    if any_module._global_forward_hooks or any_module._global_forward_pre_hooks:
        raise ValueError(f"a global hook would not be called; {INSTEAD}")
    for name, part in model.named_modules(remove_duplicate=False):
        kind, what = type(part), f"the part {name!r}" if name else "the model"
        if kind is not type(plain.get(name)) or kind not in FORWARD:
            raise ValueError(f"{what} is a {kind.__name__} that CachedGPT does not know; {INSTEAD}")
        if kind.forward is not FORWARD[kind] or "forward" in vars(part):
            raise ValueError(f"the forward of {what} was replaced; {INSTEAD}")
        if part._forward_hooks or part._forward_pre_hooks:
            raise ValueError(f"{what} has a hook that would not be called; {INSTEAD}")
        if part._parameters.keys() != plain.pop(name)._parameters.keys() or part._buffers:
            raise ValueError(f"{what} has tensors that are not its usual parameters; {INSTEAD}")
        if any(tensor.is_inference() for tensor in part.parameters(recurse=False)):
            raise ValueError(f"{what} was made in inference mode, where changes are not counted; {INSTEAD}")
        if kind is nn.Embedding and part.max_norm is not None:
            raise ValueError(f"{what} has a max_norm; {INSTEAD}")
        if kind is nn.Dropout and part.training and part.p > 0:
            raise ValueError(f"dropout is on in {what}: call model.eval() first")
    if plain:
        raise ValueError(f"the model lacks the part {min(plain)!r}; {INSTEAD}")
    ids = torch.arange(min(3, longest_text(model), len(model.tok_emb.weight)))[None]
    ids = ids.to(model.tok_emb.weight.device)
    with torch.no_grad():
        wanted = model(ids)[:, -1:]
        found = plain_gpt2(tensors_of(model), ids, 0, new_cache(model, *ids.shape))
    tolerance = torch.finfo(wanted.dtype).eps ** 0.5
    if not torch.allclose(found, wanted, rtol=tolerance, atol=tolerance, equal_nan=True):
        raise ValueError(f"the model computes other logits than its parts say; {INSTEAD}")


NUMBERS = {  # what the parts read besides their tensors
    nn.Dropout: ("training", "p"),
    nn.Embedding: ("max_norm",),
    LayerNorm: ("eps",),
    MultiHeadAttention: ("num_heads", "head_dim", "context_length"),
}
STEPS = [0]  # of all optimizers


def count_step(*_):
    STEPS[0] += 1


register_optimizer_step_post_hook(count_step)


def fingerprint(model):
    """A number that changes when a part, a hook or a tensor of `model` does. Every token asks."""
    device = model.tok_emb.weight.device.type
    marks = [STEPS[0], torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device)]
    marks += [*any_module._global_forward_hooks, *any_module._global_forward_pre_hooks]
    for kind in KINDS:
        marks += kind.forward, kind.forward.__code__, kind.__call__
    parts = [model]
    for part in parts:  # the list grows: the parts of each part join it at the end
        kind, own = type(part), part.__dict__
        marks.append(part)
        marks.append(kind)
        if own["_forward_hooks"] or own["_forward_pre_hooks"] or "forward" in own:
            marks.append("hooked")
        for name in NUMBERS[kind] if kind in NUMBERS else ():
            marks.append(own[name])
        for tensor in own["_parameters"].values():
            if tensor is not None:
                marks.append(tensor.data_ptr())
                marks.append(tensor._version)
        parts += [child for child in own["_modules"].values() if child is not None]
    return hash(tuple(marks))
