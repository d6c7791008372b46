"""What the notebooks beyond the chapter add to GPT-2, in the order in which they add it.

Exported from the notebooks by `python notebooks/refresh.py`: change the notebook, not this file.
Builds on helpers.py, and names shapes with the same letters.
"""

# ---- Beyond 1: GPT-2's released weights (notebooks/beyond_1_released_weights.ipynb) ------------------------
import re
from pathlib import Path

import torch

from helpers import GPT2_CONFIGS, GPTModel, tie_weights


def gpt2_tensors(model):
    """Names of a released checkpoint's tensors -> the parameters of `model` that each of them fills."""
    layers = {"wte": [model.tok_emb], "wpe": [model.pos_emb], "ln_f": [model.final_norm]}
    for i, block in enumerate(model.trf_blocks):
        att, (wide, _, narrow) = block.att, block.ff.layers
        layers |= {f"h.{i}.ln_1": [block.norm1], f"h.{i}.attn.c_attn": [att.W_query, att.W_key, att.W_value]}
        layers |= {f"h.{i}.attn.c_proj": [att.out_proj], f"h.{i}.ln_2": [block.norm2]}
        layers |= {f"h.{i}.mlp.c_fc": [wide], f"h.{i}.mlp.c_proj": [narrow]}
    names = {}
    for name, parts in layers.items():
        kinds = zip(("weight", "bias"), *[part.parameters() for part in parts], strict=False)
        names |= {f"{name}.{kind}": parameters for kind, *parameters in kinds}
    return names


def check_is_gpt2(model):
    """Raise ValueError, naming the part, unless `model` has the parts of a GPTModel with qkv_bias True."""

    def kinds(model):
        parts = model.named_modules(remove_duplicate=False), model.named_parameters(remove_duplicate=False)
        return {name: type(part) for named in parts for name, part in named if name}

    tiny = dict.fromkeys(("vocab_size", "context_length", "emb_dim", "n_heads"), 1)
    tiny |= {"n_layers": len(getattr(model, "trf_blocks", ())) or 1, "drop_rate": 0.0, "qkv_bias": True}
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they are
        given, needed = kinds(model), kinds(GPTModel(tiny))
    for name in [*needed, *given]:
        if given.get(name) is not needed.get(name):
            what, wanted = (getattr(kind.get(name), "__name__", "missing") for kind in (given, needed))
            how = "build the model with GPTModel and qkv_bias True"
            raise ValueError(f"{name} is {what} in this model, {wanted} in GPT-2: {how}")
    if (head := model.out_head.weight.shape) != model.tok_emb.weight.shape:
        raise ValueError(f"out_head has the shape {list(head)}; in GPT-2, it has that of tok_emb")
    own = [p for name, p in model.named_parameters(remove_duplicate=False) if name != "out_head.weight"]
    if len(set(own)) < len(own):
        raise ValueError("two layers of the model share a parameter, but have different weights in GPT-2")
    if any(parameter.is_meta for parameter in own):
        raise ValueError('a model on the device "meta" has no memory to fill')


def open_safetensors(path):
    """Open the safetensors file at `path`, mapped into memory; an error says what the file is instead."""
    from safetensors import SafetensorError, safe_open  # only here

    try:
        return safe_open(path, framework="pt")
    except OSError as error:  # not there, a folder, or on a drive without this ability
        where = "give the path of a safetensors file in a local folder"
        raise type(error)(f"{path} can't be mapped into memory ({error}): {where}") from error
    except SafetensorError as error:
        raise ValueError(f"{path} is {kind_of_file(path)}; download_gpt2() fetches the right file") from error


def kind_of_file(path):
    """What the file at `path` is, if it is not a whole safetensors file."""
    size = Path(path).stat().st_size
    with open(path, "rb") as file:
        start = file.read(4096)
        header = 8 + int.from_bytes(start[:8], "little")  # safetensors: the header's length, then the header
        rest = file.read(header) if header < 100_000_000 else b""
    if start[8:9] == b"{":
        ends = re.findall(rb'"data_offsets" *: *\[ *\d+ *, *(\d+)', start + rest)
        whole = header + max(map(int, ends), default=0)
        return f"damaged, perhaps cut off: it has {size:,} bytes, and its header says {whole:,}"
    kinds = {
        rb"(\xef\xbb\xbf)?\s*<": "a web page, perhaps an error or a login page",
        rb"version https://git-lfs": "a Git LFS pointer, which only names the file (git lfs pull gets it)",
        rb"PK\x03\x04|\x80[\x02-\x05]": "a PyTorch file, such as a .bin or a .pt",
        rb"\s*\{": "a JSON file, perhaps a server's error message",
    }
    return next((kinds[k] for k in kinds if re.match(k, start)), f"not a safetensors file ({size:,} bytes)")


def read_gpt2_file(path, wanted):
    """The tensors of the safetensors file at `path` by their names in `wanted`, mapped into memory.

    Raises ValueError unless the file has exactly the tensors that fill the parameters in `wanted`.
    """
    with open_safetensors(path) as file:
        names = [n for n in file.keys() if not n.endswith((".attn.bias", ".attn.masked_bias"))]  # the mask
        tensors = {name.removeprefix("transformer."): file.get_tensor(name) for name in names}
    if len(tensors) < len(names):
        raise ValueError(f"{path} has some tensors twice, with 'transformer.' before the name and without")
    head = tensors.pop("lm_head.weight", None)
    missing, unknown = sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - wanted.keys())
    if missing:
        instead = f", and has {unknown[0]}" if unknown else ""
        raise ValueError(f"{path} lacks {len(missing)} of the model's tensors, such as {missing[0]}{instead}")
    if unknown:
        raise ValueError(f"{path} has tensors that the model lacks ({len(unknown)}), such as {unknown[0]}")
    for name, parts in wanted.items():
        shape = [sum(map(len, parts)), *parts[0].shape[1:]][:: -1 if ".c_" in name else 1]
        given, kind = list(tensors[name].shape), tensors[name].dtype
        if given != shape:
            raise ValueError(f"{name} has the shape {given} in {path}, the model needs {shape}")
        if not kind.is_floating_point:
            raise ValueError(f"{name} has the type {kind} in {path}, the model needs floating-point numbers")
    if head is not None and not torch.equal(head, tensors["wte.weight"]):
        raise ValueError(f"{path} has an lm_head.weight other than wte.weight; GPT-2's are tied")
    return tensors


@torch.inference_mode(False)  # called in it, too, this makes weights that can be trained
def load_gpt2_weights(model, path):
    """Fill `model` with GPT-2's released weights, from a safetensors file as Hugging Face publishes it.

    All or nothing: what doesn't fit raises an error before anything changes. A float32 file needs no room for
    a second copy. The output head becomes the token embedding (tied). The file doesn't say how many heads
    there are: `n_heads` must be GPT-2's. The files are at https://huggingface.co/openai-community.
    Source: Radford and others (2019), "Language Models are Unsupervised Multitask Learners".
    """
    check_is_gpt2(model)
    wanted, new = gpt2_tensors(model), []
    tensors = read_gpt2_file(path, wanted)
    for name, parts in wanted.items():
        tensor = tensors[name].t() if ".c_" in name else tensors[name]  # stored as (in, out)
        pieces = tensor.split([len(part) for part in parts])
        new += [(part, piece.to(part)) for part, piece in zip(parts, pieces, strict=True)]
    for part, piece in new:  # still in the file's memory, so this is quick and can't fail halfway
        part.data = piece
    tie_weights(model)
    for part, piece in new:  # and now each in memory of its own
        part.data = piece.clone(memory_format=torch.contiguous_format)


def download_gpt2(name="gpt2-small"):
    """The path of GPT-2's released weights, downloaded unless they are in Hugging Face's cache.

    `name` is one of GPT2_CONFIGS. The client's settings hold: HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE.
    Raises OSError, saying what to do, if the file can't be downloaded.
    """
    from huggingface_hub import constants, errors, hf_hub_download, is_offline_mode  # only here

    if name not in GPT2_CONFIGS:
        raise ValueError(f"name must be one of {', '.join(GPT2_CONFIGS)}, got {name!r}")
    repository = f"openai-community/{name.removesuffix('-small')}"
    try:
        path = Path(hf_hub_download(repository, "model.safetensors", token=False))  # public, so no login
    except Exception as error:  # the client raises errors of several libraries
        cause = error.__cause__ or error
        status = getattr(getattr(cause, "response", None), "status_code", None)
        why = f"{str(cause).splitlines()[0].rstrip('.')}; check your connection and try again"
        if is_offline_mode():
            why = "offline mode is on, and the file isn't in the cache; unset HF_HUB_OFFLINE and restart"
        elif status:
            why = f"the server answers {status}; a firewall may block it, or HF_ENDPOINT may be wrong"
        elif isinstance(cause, errors.FileMetadataError):
            why = "the answer isn't from Hugging Face; a login page or a proxy may be in the way"
        url = f"{constants.ENDPOINT}/{repository}/resolve/main/model.safetensors"
        otherwise = "Or download it in a browser, and give load_gpt2_weights its path."
        raise OSError(f"can't download {url}: {why}. {otherwise}") from error
    try:
        open_safetensors(path)
    except ValueError:
        path.resolve().unlink()  # else it would stay in the cache
        raise
    return path

# ---- Beyond 2: Training (notebooks/beyond_2_training.ipynb) ------------------------------------------------
import math
import os

import torch
from torch.nn import functional as F
from torch.utils.data import Dataset, default_collate
from tqdm.auto import tqdm

from helpers import check_sizes


class TextDataset(Dataset):
    """Every window of `length` tokens in `ids`; its targets are the same window, one token later.

    Item i -> two tensors of shape (length,). Windows i and i + 1 overlap.
    """

    def __init__(self, ids, length):
        if not 0 < length < len(ids):
            raise ValueError(f"length must be from 1 to {len(ids) - 1}, got {length}")
        self.ids, self.length = ids, length

    def __len__(self):
        return len(self.ids) - self.length

    def __getitem__(self, i):
        i = range(len(self))[i]  # an IndexError where there is no window
        return self.ids[i : i + self.length], self.ids[i + 1 : i + self.length + 1]


def batch_loss(model, inputs, targets):
    """Mean cross-entropy of `model` on a batch, in nats per token."""
    device = next(model.parameters()).device
    logits = model(inputs.to(device))  # (B, T, V)
    return F.cross_entropy(logits.flatten(0, 1), targets.to(device).flatten())


@torch.no_grad()
def mean_loss(model, data, batch_size=32):
    """The loss of `model` on a TextDataset, in windows side by side; leaves the model in eval mode."""
    windows = [data[i] for i in range(0, len(data), data.length)]
    parts = [windows[i : i + batch_size] for i in range(0, len(windows), batch_size)]
    losses = [batch_loss(model.eval(), *default_collate(part)) * len(part) for part in parts]
    return sum(losses).item() / len(windows)


def learning_rate(step, steps, peak, warmup):
    """The rate at `step`: linear warm-up to `peak`, then half a cosine down to a tenth of it.

    Source: Brown and others (2020), https://arxiv.org/abs/2005.14165, appendix B.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)  # 0 to 1
    return peak * (0.55 + 0.45 * math.cos(math.pi * done))


def train(model, data, val_data, steps, batch_size=8, lr=4e-3, warmup=50, every=100, path=None,
          watch=lambda step: None):  # fmt: skip
    """Train `model` on random windows of `data`, or resume from `path`; leaves it in eval mode.

    Before step 0, 100, … (`every`), and at the end, it saves a checkpoint to `path`, measures the loss on
    `val_data`, and calls `watch(step)`. Returns the loss of each step, and a dict of the validation losses.
    """
    check_sizes(steps=steps, batch_size=batch_size, every=every)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    losses, val_losses = [], {}
    if path and os.path.exists(path):
        weights, averages, losses, val_losses, random_state = torch.load(path)
        check_sizes(len(losses), steps=steps)
        model.load_state_dict(weights)
        optimizer.load_state_dict(averages)
        torch.set_rng_state(random_state)

    def save_and_look(step):
        if path:
            state = model.state_dict(), optimizer.state_dict(), losses, val_losses, torch.get_rng_state()
            torch.save(state, f"{path}.partial")
            os.replace(f"{path}.partial", path)  # in one step, so that `path` is always whole
        val_losses[step] = mean_loss(model, val_data)
        watch(step)

    for step in tqdm(range(len(losses), steps), initial=len(losses), total=steps):
        if step % every == 0:
            save_and_look(step)
        batch = default_collate([data[i] for i in torch.randint(len(data), (batch_size,))])
        loss = batch_loss(model.train(), *batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0, error_if_nonfinite=True)  # or stop
        optimizer.param_groups[0]["lr"] = learning_rate(step, steps, lr, warmup)
        optimizer.step()
        losses.append(loss.item())
    save_and_look(steps)
    return losses, val_losses

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
    check_generation,
    check_token_ids,
    count_parameters,
    generate_text_simple,
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


def plain_gpt2(tensors, ids, start, cache, scored=1):
    """GPT-2 in plain functions: reads `ids` after the `start` tokens in `cache`, scores the last positions.

    `cache` has keys and values for each block, as from `new_cache`; those of `ids` are added to it.
    Shape: (B, T) -> (B, scored, V).
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
    last = torch.layer_norm(x.view(B, T, -1)[:, -scored:], *final_norm)  # (B, scored, D)
    return F.linear(last, *out_head)


class CachedGPT:
    """A GPTModel that remembers the keys and values of what it has read, and reads only what is new.

    Call it like the model, with all ids so far; the logits are the model's, also after its weights changed.
    Shape: (B, T) -> (B, scored, V), the logits of the last positions, without a graph.
    Raises ValueError for a model that isn't the course's own. For one thread. Writes to .data go unnoticed.
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
            self.kept = [p.detach() for p in self.model.parameters()]  # keeps their addresses taken
            self.mark = fingerprint(self.model)

    def __call__(self, ids, scored=1):
        self.notice_changes()
        check_token_ids(ids, self.model.tok_emb.num_embeddings, self.limit)
        with torch.inference_mode():
            if self.ids is None or len(self.ids) != len(ids):
                self.ids, self.cache = ids[:, :0], new_cache(self.model, len(ids), self.limit)
            n = max(0, min(self.ids.shape[1], ids.shape[1] - scored))
            start = int((ids[:, :n] == self.ids[:, :n]).all(dim=0).cumprod(dim=0).sum())  # how far they agree
            self.ids = self.ids[:, :start]  # all that counts as read if this is interrupted
            logits = plain_gpt2(self.tensors, ids[:, start:], start, self.cache, scored)
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


@torch.no_grad()
def speculative(model, draft, idx, max_new_tokens, context_size, guesses=4):
    """Continue `idx` greedily with `model`, a CachedGPT, which checks what the cheaper `draft` guesses.

    The tokens are those of `generate_text_simple(model, ...)`, up to ties that rounding decides.
    Shape: (1, T) -> (1, T + max_new_tokens); also returns how many guesses each pass accepted.
    Source: Leviathan and others (2022), https://arxiv.org/abs/2211.17192.
    """
    check_generation(idx, max_new_tokens, context_size)
    if len(idx) != 1:
        raise ValueError(f"texts would accept different numbers of guesses: give one, not {len(idx)}")
    accepted, end = [], idx.shape[1] + max_new_tokens
    while (T := idx.shape[1]) < end:
        n = max(0, min(guesses, end - T - 1, context_size - T))  # none once the window slides
        guessed = generate_text_simple(draft, idx, n, context_size)  # (1, T + n)
        choices = model(guessed[:, -context_size:], n + 1).argmax(dim=-1)  # (1, n + 1)
        accepted.append(int((guessed[:, T:] == choices[:, :n]).cumprod(dim=1).sum()))
        idx = torch.cat((idx, choices[:, : accepted[-1] + 1]), dim=1)
    return idx, accepted
