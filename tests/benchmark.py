"""How fast GPTModel generates, on this machine: `python tests/benchmark.py`, in about three minutes.

GPTModel and Hugging Face's GPT-2 (`transformers`) get the same random weights of the 124M model, in float32
on two threads, and must generate the same tokens. What is compared runs in turns, after a warm-up, in an
order that rotates from round to round, so that a slow moment of the machine hits all alike.

A model that reads its 124 million weights for each token cannot be faster than one product of such a matrix
with a vector: that is "the limit", measured in the same rounds as whatever is compared with it. Threads wait
for each other as PyTorch sets it, so nothing else should run: another busy process can cost a multiple.
OMP_WAIT_POLICY=PASSIVE bears other processes better, but takes longer on a quiet machine.
Memory is measured in a process of its own (on Linux).
"""

import copy
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

os.environ["HF_HUB_OFFLINE"] = "1"  # nothing is downloaded

import torch
import transformers

sys.path.insert(0, str(Path(__file__).parents[1]))
from support import memory_growth

import helpers
from helpers import GELU, GPTModel, MultiHeadAttention, generate, generate_text_simple

CONFIG = {**helpers.GPT_CONFIG_124M, "qkv_bias": True}
THREADS, PROMPT, NEW = 2, 16, 100
MASK = torch.ones(1024, 1024, dtype=torch.bool).triu(1)


class AttentionByHand(MultiHeadAttention):
    """The book's attention: all T x T scores, the later ones masked."""

    def forward(self, x, cache=None):
        q, k, v = (self.split_heads(project(x)) for project in (self.W_query, self.W_key, self.W_value))
        scores = q @ k.transpose(2, 3)  # (B, H, T, T)
        scores.masked_fill_(MASK[: x.shape[1], : x.shape[1]], -torch.inf)
        weights = self.dropout(torch.softmax(scores / self.head_dim**0.5, dim=-1))
        return self.out_proj((weights @ v).transpose(1, 2).reshape(x.shape))


class GELUByHand(GELU):
    """The book's GELU, step by step."""

    def forward(self, x):
        return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def by_hand(model):
    """A copy of `model` with the book's attention and GELU."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, (MultiHeadAttention, GELU)):
            module.__class__ = AttentionByHand if isinstance(module, MultiHeadAttention) else GELUByHand
    return model


def both_models():
    """Hugging Face's model with random weights, and ours with the same, read from its file."""
    torch.manual_seed(0)
    config = transformers.GPT2Config(attn_implementation="sdpa", bos_token_id=None, eos_token_id=None)
    theirs, ours = transformers.GPT2LMHeadModel(config).eval(), GPTModel(CONFIG).eval()
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        theirs.transformer.wte.weight *= 10  # a model as it starts would repeat one token
        theirs.save_pretrained(folder)
        helpers.load_gpt2_weights(ours, Path(folder) / "model.safetensors")
    return theirs, ours


def measure(functions, rounds):
    """Milliseconds of each round of each function; round i starts with the i-th of them."""
    times, names = {name: [] for name in functions}, list(functions)
    for i in range(rounds):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            start = time.perf_counter()
            functions[name]()
            times[name].append(1000 * (time.perf_counter() - start))
    return times


def row(what, times, per=1, note=""):
    times = [t / per for t in times]
    print(f"| {what} | {median(times):.1f} | {min(times):.1f} to {max(times):.1f} | {len(times)} | {note} |")


def faster(ours, theirs):
    """The ratio of the medians, and in how many of the rounds ours was faster."""
    won = sum(a < b for a, b in zip(ours, theirs, strict=True))
    return (
        f"{median(theirs) / median(ours):.2f} times as fast as Hugging Face; faster in {won} of {len(ours)}"
    )


@torch.inference_mode()
def cached_step(model, ids):
    """A function that generates the token after `ids`, all but the last of them in a cache."""
    caches, before = [helpers.KVCache(ids.shape[1]) for _ in model.trf_blocks], ids.shape[1] - 1
    model(ids[:, :-1], caches)
    step = helpers.single_token_step(model)

    @torch.inference_mode()
    def run():
        for cache in caches:
            cache.length = before  # forget the token again
        return step(ids[:, -1:], caches).argmax()

    return run


def peak_memory():
    """Print by how many MB this process grows at most while it generates up to 1,024 tokens."""
    model, ids = GPTModel(CONFIG).eval(), torch.arange(PROMPT)[None]
    model.out_head.weight = model.tok_emb.weight
    peak, _ = memory_growth(lambda: generate(model, ids, 1024 - PROMPT, 1024))
    print(f"{peak:.0f} MB")


def processor():
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(": ")[1] for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def main():
    theirs, ours = both_models()
    ids = torch.randint(50257, (1, 1024))
    prompt, mask = ids[:, :PROMPT], torch.ones(1, PROMPT, dtype=torch.long)
    matrix, vector = torch.randn(124_000_000 // 768, 768), torch.randn(768)

    def limit():
        return [matrix @ vector for _ in range(20)]

    def our_generate():
        return generate(ours, prompt, NEW, 1024)

    def their_generate():
        options = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False, "use_cache": True}
        return theirs.generate(prompt, attention_mask=mask, pad_token_id=0, **options)

    @torch.no_grad()
    def our_forward():
        return ours(ids)

    @torch.no_grad()
    def their_forward():
        return theirs(ids, use_cache=False).logits

    limit()  # warm-up, and the comparison of what they compute
    assert torch.equal(our_generate(), their_generate()) and our_generate().shape[1] == PROMPT + NEW
    torch.testing.assert_close(our_forward(), their_forward(), atol=1e-3, rtol=0)

    print(
        f"{processor()}, {torch.get_num_threads()} threads; Python {platform.python_version()}, torch "
        f"{torch.__version__}, transformers {transformers.__version__}; float32; "
        f"OMP_WAIT_POLICY {os.environ.get('OMP_WAIT_POLICY', 'not set')}\n"
    )
    print("| what | ms, median | least to most | rounds | |\n|---|---:|---:|---:|---|")
    times = measure({"limit": limit, "ours": our_generate, "theirs": their_generate}, 9)
    bound = median(times["limit"]) / 20
    share = {name: f"{bound / (median(times[name]) / NEW):.0%} of the limit" for name in ("ours", "theirs")}
    row("the limit: a product with 124 million float32 values", times["limit"], 20)
    print(f"| **generating {NEW} tokens after {PROMPT}**, ms per token with reading the prompt | | | | |")
    note = f"{share['ours']}; {faster(times['ours'], times['theirs'])}"
    row("`generate`", times["ours"], NEW, note)
    row("Hugging Face `generate`", times["theirs"], NEW, share["theirs"])
    book = measure({"book": lambda: generate_text_simple(ours, prompt, NEW, 1024)}, 1)["book"]
    row("the book's loop, `generate_text_simple`", book, NEW, f"{book[0] / median(times['ours']):.1f} × ours")

    print("| **one token, the others in a cache** | | | | |")
    steps = {length: cached_step(ours, ids[:, :length]) for length in (16, 128, 512, 1000)}
    found = measure({"limit": limit, **steps}, 10)
    bound = median(found["limit"]) / 20
    row("the limit, in these rounds", found.pop("limit"), 20)
    for length, ms in found.items():
        row(f"token {length:,}", ms, note=f"{bound / median(ms):.0%} of the limit")

    print("| **token 1,000** | | | | |")
    hand, text = by_hand(ours), ids[:, :1000]
    ways = {
        "with a cache": steps[1000],
        "the book's loop": lambda: generate_text_simple(ours, text, 1, 1024)[0, -1],
        "the book's loop, attention and GELU by hand": lambda: generate_text_simple(hand, text, 1, 1024)[
            0, -1
        ],
    }
    assert len({way().item() for way in ways.values()}) == 1
    found = measure(ways, 3)
    for name, ms in found.items():
        row(name, ms, note=f"{median(ms) / median(found['with a cache']):.1f} ×")

    print("| **one pass over 1 x 1,024 tokens**, no gradients | | | | |")
    found = measure({"ours": our_forward, "theirs": their_forward}, 7)
    row("`GPTModel`", found["ours"], note=faster(found["ours"], found["theirs"]))
    row("Hugging Face", found["theirs"])

    if sys.platform == "linux":
        run = [sys.executable, __file__, "memory"]
        grown = subprocess.run(run, check=True, capture_output=True, text=True).stdout.strip()
        cache = 2 * CONFIG["n_layers"] * CONFIG["emb_dim"] * 1024 * 4 / 1e6
        print(f"\nMemory to generate up to 1,024 tokens, beyond the weights: at most {grown}.")
        print(f"Keys and values by formula: 2 x 12 blocks x 768 x 1,024 tokens x 4 bytes = {cache:.0f} MB.")


if __name__ == "__main__":
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    transformers.utils.logging.disable_progress_bar()
    peak_memory() if sys.argv[1:] == ["memory"] else main()
