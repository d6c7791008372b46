"""What several test files share: small models, random inputs, references by hand, what checks say, memory."""

import contextlib
import io
import math
import re
import shutil
import threading
from pathlib import Path

import nbformat
import torch
from hypothesis import strategies as st

from helpers import GPTModel
from notebooks import checks
from notebooks.refresh import EXPORTS, tidy

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

SMALL = {
    "vocab_size": 61,
    "context_length": 12,
    "emb_dim": 24,
    "n_heads": 3,
    "n_layers": 2,
    "drop_rate": 0.1,
    "qkv_bias": True,
}
ATTENTION_ARGUMENTS = {
    "d_in": 10,
    "d_out": 24,
    "context_length": 12,
    "dropout": 0.0,
    "num_heads": 3,
    "qkv_bias": True,
}


def read_notebook(path):
    """The notebook at `path`, whatever editor saved it."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return tidy(notebook)


LINKED = ("README.md", "CONTRIBUTING.md", "tests")  # the notebooks link to them


def copy_course(folder, *more):
    """Copy what a notebook needs, and `more` files and folders of the repository, to `folder`."""
    for name in ("notebooks", "figures", "conftest.py", "pyproject.toml", *EXPORTS, *more):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        else:
            shutil.copy(ROOT / name, folder)
    return folder


CHECKS = {name: check for name, check in vars(checks).items() if hasattr(check, "number")}
LINE = r"Exercise (4\.\d|beyond \d)\.\d: .+\n"


def say(name, answer):
    """The line that a check prints for an answer."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        assert CHECKS[name](answer) is None
    assert err.getvalue() == "" and re.fullmatch(LINE, out.getvalue()), name
    return out.getvalue().strip()


def randomized(module, seed=0):
    """`module` in float64 with random parameters: no mistake hides behind rounding or a start at 0 or 1."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter) / parameter.shape[-1] ** 0.5)
    return module.double().eval()


def talkative(model):
    """`model` with random parameters in which the tokens, not the biases, decide what comes next."""
    randomized(model).tok_emb.weight.data *= 2 * model.tok_emb.embedding_dim**0.5
    return model


def random_ids(*shape, seed=5):
    """Token ids for SMALL."""
    return torch.randint(0, SMALL["vocab_size"], shape, generator=torch.Generator().manual_seed(seed))


def randn(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def ids(*values):
    """One sequence of token ids, of shape (1, T)."""
    return torch.tensor([values])


# References


def assert_same_output_and_gradients(module, reference, x, pairs):
    """Both give the same output, input gradient and gradient of each pair of parameters."""
    upstream = torch.randn_like(module(x))
    results = []
    ours, theirs = ([pair[n] for pair in pairs] for n in (0, 1))
    for function, parameters in ((module, ours), (reference, theirs)):
        inputs = x.clone().requires_grad_()
        y = function(inputs)
        results.append([y, *torch.autograd.grad(y, [inputs, *parameters], upstream)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


def attention_by_hand(q, k, v):
    """Causal attention of queries, keys and values (B, H, T, Dh)."""
    scores = q @ k.transpose(2, 3) / math.sqrt(q.shape[3])  # (B, H, T, T)
    later = torch.ones_like(scores, dtype=torch.bool).triu(1)
    return scores.masked_fill(later, -math.inf).softmax(dim=-1) @ v


def untied_parameters(cfg):
    """The number of parameters of an untied model, by the formula."""
    V, T, D, L = (cfg[key] for key in ("vocab_size", "context_length", "emb_dim", "n_layers"))
    block = 12 * D**2 + 10 * D + cfg["qkv_bias"] * 3 * D
    return 2 * V * D + T * D + L * block + 2 * D


# What hypothesis draws from

SEEDS = st.integers(0, 2**16)

# Any text that UTF-8 can encode, so no lone surrogates; often with what is easily lost, such as white space,
# characters that can be written in two ways, and half an end-of-text token
TRAPS = st.sampled_from(
    ["  ", "\r\n", "\xa0", "e\u0301", "\ufb01", "I'll", "<|endoftext|", "\U0001f642\u200d"]
)
TEXTS = st.lists(TRAPS | st.text(max_size=8), min_size=1).map("".join).filter(bool)


def upto(most, least=1):
    return st.integers(least, most)


@st.composite
def configs(draw, least_dim=1):
    """Any small configuration, with at least `least_dim` features."""
    heads = draw(upto(4))
    return {
        "vocab_size": draw(upto(30, least=2)),
        "context_length": draw(upto(9)),
        "emb_dim": heads * draw(upto(5, least=-(-least_dim // heads))),
        "n_heads": heads,
        "n_layers": draw(upto(3)),
        "drop_rate": draw(st.sampled_from([0, 0.1, 0.9])),
        "qkv_bias": draw(st.booleans()),
    }


@st.composite
def models(draw, least_dim=1):
    """A configuration, its model with random parameters, and ids of a shape (B, T) that the model takes."""
    cfg = draw(configs(least_dim))
    model = randomized(GPTModel(cfg), draw(SEEDS))
    model.tok_emb.weight.data *= 2 * cfg["emb_dim"] ** 0.5  # else the biases decide which token comes next
    shape = draw(upto(4)), draw(upto(cfg["context_length"]))
    return cfg, model, torch.randint(0, cfg["vocab_size"], shape)


# Memory, on Linux


def own_memory():
    """How many MB belong to this process alone, without pages of files, which the system can drop."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1000


def memory_growth(function):
    """MB by which `function` makes this process grow, at its peak and at the end; and the number of looks."""
    start, seen, done = own_memory(), [], threading.Event()

    def watch():
        while not done.wait(0.001):
            seen.append(own_memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        function()
    finally:
        done.set()
        watcher.join()
    return max(seen) - start, own_memory() - start, len(seen)


def draw_weights(model, width, seed):
    """Draw every parameter of one of Hugging Face's models, on a scale for layers of this `width`."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=2 * width**-0.5)
