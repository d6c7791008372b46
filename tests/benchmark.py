"""How fast GPTModel generates and trains, on this machine: `python tests/benchmark.py`, about eight minutes.

GPTModel and Hugging Face's GPT-2 (`transformers`) get the same random weights, in float32 on two threads, and
must compute the same. What is compared runs in turns, after a warm-up, in an order that rotates from round to
round, so that a slow moment of the machine hits all alike.

A model that reads its 124 million weights for each token cannot be faster than one product of such a matrix
with a vector: that is "the limit", measured in the same rounds as whatever is compared with it. Threads wait
for each other as PyTorch sets it, so nothing else should run: another busy process can cost a multiple.
Memory is measured in a process of its own (on Linux).
"""

import copy
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"  # nothing is downloaded
    os.environ["TQDM_DISABLE"] = "1"  # no progress bars

import torch
import transformers
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[1]))
from support import memory_growth

from beyond import CachedGPT, TextDataset, load_gpt2_weights, speculative, train
from helpers import (
    GPT_CONFIG_124M,
    GPTModel,
    count_parameters,
    generate,
    generate_text_simple,
    tie_weights,
)

CONFIG = {**GPT_CONFIG_124M, "qkv_bias": True, "drop_rate": 0.0}
TRAINED = {**CONFIG, "context_length": 256, "emb_dim": 384, "n_heads": 6, "n_layers": 6}
THREADS, PROMPT, NEW = 2, 16, 100


def both_models(cfg):
    """Hugging Face's model with random weights and without dropout, and ours with the same, from its file."""
    config = transformers.GPT2Config(
        vocab_size=cfg["vocab_size"],
        n_positions=cfg["context_length"],
        n_embd=cfg["emb_dim"],
        n_head=cfg["n_heads"],
        n_layer=cfg["n_layers"],
        resid_pdrop=0,
        embd_pdrop=0,
        attn_pdrop=0,
        attn_implementation="sdpa",
        bos_token_id=None,
        eos_token_id=None,
    )
    torch.manual_seed(0)
    theirs, ours = transformers.GPT2LMHeadModel(config).eval(), GPTModel(cfg).eval()
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        theirs.transformer.wte.weight *= 10  # a model as it starts would repeat one token
        theirs.save_pretrained(folder)
        load_gpt2_weights(ours, Path(folder) / "model.safetensors")
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


def compared(ours, theirs):
    """The ratio of the medians, and in how many of the rounds ours was faster."""
    won = sum(a < b for a, b in zip(ours, theirs, strict=True))
    return f"{median(ours) / median(theirs):.2f} × Hugging Face's time; faster in {won} of {len(ours)} rounds"


class Logits(torch.nn.Module):
    """Hugging Face's model, called as ours is."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, ids):
        return self.model(ids, use_cache=False).logits


def training(model, texts, mixed=False, steps=3):
    """A function that trains `model` with `train` itself, and returns the losses."""
    one_window = TextDataset(texts.ids[:257], 256)  # read before step 0 and at the end

    def run():
        torch.manual_seed(0)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed, cache_enabled=False):
            return train(model, texts, one_window, steps, batch_size=4, lr=1e-4, warmup=1)[0]

    return run


def compare_training(rounds=5):
    """Print the times of `train` on ours and on theirs, and of ours with bfloat16 and compiled (by g++)."""
    theirs, ours = both_models(TRAINED)
    texts = TextDataset(torch.randint(TRAINED["vocab_size"], (4096,)), 256)
    runs = {"ours": training(ours, texts), "theirs": training(Logits(theirs), texts)}
    first, second = (run() for run in runs.values())  # the same losses, as the same weights are trained
    assert all(abs(a - b) < 1e-3 for a, b in zip(first, second, strict=True)), (first, second)
    runs["mixed"] = training(ours, texts, mixed=True)
    runs["compiled"] = training(torch.compile(ours), texts)
    runs["mixed"](), runs["compiled"]()  # warm-up, and the time to compile
    found = measure(runs, rounds)
    print("| **`train`, 3 steps**, 6 layers of width 384, batch 4 x 256, 2 validations | | | | |")
    row("`GPTModel`", found["ours"], note=compared(found["ours"], found["theirs"]))
    row("Hugging Face with SDPA", found["theirs"])
    for name, words in (("mixed", "in bfloat16, by autocast"), ("compiled", "with torch.compile")):
        share = median(found[name]) / median(found["ours"])
        row(f"`GPTModel` {words}", found[name], note=f"{share:.2f} × the time of the first row")


@torch.no_grad()
def recite(model, ids, said):
    """`model` with a head that makes it say `said` when it reads `ids`, both (1, T), as in Beyond 3."""
    h = model.final_norm(model.trf_blocks(model.tok_emb(ids) + model.pos_emb(torch.arange(ids.shape[1]))))
    wanted = F.one_hot(said[0, 1:], CONFIG["vocab_size"]).float()
    weight = 20 * (torch.linalg.pinv(h[0, :-1]) @ wanted).T
    model.out_head.weight = torch.nn.Parameter(weight.contiguous())  # of its own, if it was tied
    return model


def past_the_limit(model, text):
    """Three ways to read the weights less often, or fewer bytes: bfloat16, a batch, and guesses of a draft.

    Model and draft know `text`, (1, T), by heart, but to the draft, every fourth token is another one.
    """
    half = CachedGPT(copy.deepcopy(model).bfloat16())
    one, batch, crowd = CachedGPT(model), text.repeat(16, 1), CachedGPT(model)
    crowd.limit = text.shape[1]  # room for no more than these tokens
    steps = {"one": lambda: one(text), "half": lambda: half(text), "batch": lambda: crowd(batch)}
    measure(steps, 1)  # reads all but the last token
    found = measure(steps, 15)
    ms = median(found["one"])
    row("float32, one text", found["one"])
    row("bfloat16", found["half"], note=f"{ms / median(found['half']):.2f} × as fast")
    each = median(found["batch"]) / 16
    row(
        "float32, 16 texts",
        found["batch"],
        note=f"{1000 / each:.0f} tokens a second; {ms / each:.1f} × as fast",
    )

    known = text.clone()
    known[:, 3::4] += 1
    small = {**CONFIG, "emb_dim": 192, "n_heads": 3, "n_layers": 2}
    draft, prompt = CachedGPT(recite(GPTModel(small).eval(), text, known)), text[:, :PROMPT]
    new = text.shape[1] - PROMPT

    def by_itself():
        return generate_text_simple(one, prompt, new, 1024)

    def with_draft():
        return speculative(one, draft, prompt, new, 1024)[0]

    assert torch.equal(by_itself(), text) and torch.equal(with_draft(), text)
    guesses = speculative(one, draft, prompt, new, 1024)[1]
    print(f"| **{new} tokens by guesses of a draft**, {sum(guesses)} of them right | | | | |")
    found = measure({"alone": by_itself, "draft": with_draft}, 9)
    row("one token each pass", found["alone"], new)
    faster = f"{median(found['alone']) / median(found['draft']):.2f} × as fast"
    row("speculative", found["draft"], new, f"{len(guesses)} passes instead of {new}; {faster}")


def peak_memory():
    """Print by how many MB this process grows at most while it generates up to 1,024 tokens."""
    model, ids = GPTModel(CONFIG).eval(), torch.arange(PROMPT)[None]
    tie_weights(model)
    model(ids)  # what the first pass takes, such as a library's buffers, is not the cache's
    peak, *_ = memory_growth(lambda: generate(CachedGPT(model), ids, 1024 - PROMPT, 1024))
    print(f"{peak:.1f} MB")


def measure_memory():
    """Print what peak_memory prints in a process of its own, and the size of the cache by formula."""
    run = [sys.executable, __file__, "memory"]
    grown = subprocess.run(run, check=True, capture_output=True, text=True).stdout.strip()
    cache = 2 * CONFIG["n_layers"] * CONFIG["emb_dim"] * 1024 * 4 / 1e6
    print(f"\nMemory to generate up to 1,024 tokens, beyond the weights: at most {grown}.")
    print(f"Keys and values by formula: 2 x 12 blocks x 768 x 1,024 tokens x 4 bytes = {cache:.1f} MB.")


def processor():
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(": ")[1] for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def main():
    theirs, ours = both_models(CONFIG)
    ids = torch.randint(CONFIG["vocab_size"], (1, 1024))
    prompt, mask = ids[:, :PROMPT], torch.ones(1, PROMPT, dtype=torch.long)
    count, width = count_parameters(ours), CONFIG["emb_dim"]
    matrix, vector = torch.randn(count // width, width), torch.randn(width)

    def limit():
        return [matrix @ vector for _ in range(20)]

    cached = CachedGPT(ours)

    def our_generate():
        cached.ids = None  # forget the last round, so that the prompt is read again
        return generate(cached, prompt, NEW, 1024)

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
    row(f"the limit: a product with {count / 1e6:.0f} million float32 values", times["limit"], 20)
    print(f"| **generating {NEW} tokens after {PROMPT}**, ms per token with reading the prompt | | | | |")
    row("`CachedGPT`", times["ours"], NEW, f"{share['ours']}; {compared(times['ours'], times['theirs'])}")
    row("Hugging Face `generate`", times["theirs"], NEW, share["theirs"])
    book = measure({"book": lambda: generate_text_simple(ours, prompt, NEW, 1024)}, 1)["book"]
    row("the simple loop", book, NEW, f"{book[0] / median(times['ours']):.1f} × ours")

    print("| **one token, the others in a cache** | | | | |")
    readers = {length: CachedGPT(ours) for length in (16, 128, 512, 1000)}
    for length, reader in readers.items():
        reader(ids[:, :length])  # called once more, it reads the last token again
    steps = {length: lambda m=reader, n=length: m(ids[:, :n]) for length, reader in readers.items()}
    found = measure({"limit": limit, **steps}, 15)
    bound = median(found["limit"]) / 20
    row("the limit, in these rounds", found.pop("limit"), 20)
    for length, ms in found.items():
        row(f"token {length:,}", ms, note=f"{bound / median(ms):.0%} of the limit")
    with_cache = median(found[1000])
    del readers, steps

    simple = measure({"simple": lambda: generate_text_simple(ours, ids[:, :1000], 1, 1024)}, 3)["simple"]
    row("token 1,000 by the simple loop", simple, note=f"{median(simple) / with_cache:.0f} × with a cache")

    print("| **past the limit**: a step at token 128 | | | | |")
    text = torch.randint(CONFIG["vocab_size"] - 1, (1, 128))
    past_the_limit(recite(copy.deepcopy(ours), text, text), text)

    print("| **one pass over 1 x 1,024 tokens**, no gradients | | | | |")
    found = measure({"ours": our_forward, "theirs": their_forward}, 9)
    row("`GPTModel`", found["ours"], note=compared(found["ours"], found["theirs"]))
    row("Hugging Face with SDPA", found["theirs"])

    compare_training()

    if sys.platform == "linux":
        measure_memory()


if __name__ == "__main__":
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    transformers.utils.logging.disable_progress_bar()
    peak_memory() if sys.argv[1:] == ["memory"] else main()
