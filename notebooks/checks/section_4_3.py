"""The exercises of 4.3, on GELU and the feed-forward network."""

import functools

import torch
from torch import nn
from torch.nn import functional as F

from helpers import GELU, FeedForward, count_parameters

from .require import (
    SMALL,
    number_exercise,
    randomized,
    require,
    require_equal,
    require_module,
    require_parts,
    require_result,
    require_trains_like,
)
from .runner import exercise

ONE_LAYER = 768 * 768 + 768

collapsed_layers = number_exercise(
    "4.3.1",
    right=ONE_LAYER,
    praise="A single matrix and a single bias, however many layers there were.",
    mistakes={
        "That is the whole stack. How many does the one layer have that does the same?": 100 * ONE_LAYER,
        "The bias is missing": 768 * 768,
        "Those are two layers; one is enough": 2 * ONE_LAYER,
        "That is a single output; the layer has 768": 768 + 1,
    },
)

MEGABYTES = 4 * 1024 * 3072 * 4 / 2**20

hidden_memory = number_exercise(
    "4.3.2",
    right=MEGABYTES,
    tolerance=0.02,
    praise="4 texts · 1,024 tokens · 3,072 numbers · 4 bytes.",
    mistakes={
        "A factor of 4 is missing: is it for one text, for 768 numbers, or without the bytes?": MEGABYTES / 4,
        "1 MB is 2**20 bytes here, not a million": MEGABYTES * 2**20 / 1e6,
        "float32 takes 4 bytes, not 2": MEGABYTES / 2,
        "float32 takes 4 bytes, not 8": MEGABYTES * 2,
        "float32 takes 4 bytes; 32 is the number of bits": MEGABYTES * 8,
        "That is for all twelve blocks; one is asked for": MEGABYTES * 12,
        "1 MB is 2**20 bytes; this looks like bytes": MEGABYTES * 2**20,
        "1 MB is 2**20 bytes; this looks like KB": MEGABYTES * 2**10,
    },
)


@exercise(
    "4.3.3", "Equal to nn.GELU(approximate='tanh'), value and derivative.", write=(GELU,), by_hand=("gelu",)
)
def gelu(answer):
    module, x = require_module(answer), torch.tensor([-3.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 3.0])

    def formula(root=(2 / torch.pi) ** 0.5, factor=0.044715, power=3):
        return 0.5 * x * (1 + torch.tanh(root * (x + factor * x**power)))

    right = F.gelu(x, approximate="tanh")
    mistakes = {
        "That is ReLU": F.relu(x),
        "That is the exact form, with erf; GPT-2 has the tanh form": F.gelu(x),
        "That is the sigmoid form, x·σ(1.702x); GPT-2 has the tanh form": x * torch.sigmoid(1.702 * x),
        "That is SiLU, x·σ(x)": F.silu(x),
        "The factor 0.5 is missing": 2 * right,
        "The factor x in front is missing": 0.5
        * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3))),
        "The 1 + is missing": 0.5 * x * torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)),
        "The cubic term is missing": formula(factor=0),
        "x is squared where it must be cubed": formula(power=2),
        "The root of 2/π is missing; 2/π itself is there": formula(root=2 / torch.pi),
        "The factor sqrt(2/π) is missing": formula(root=1),
        "It has sqrt(2π) instead of sqrt(2/π)": formula(root=(2 * torch.pi) ** 0.5),
        "The factor is 0.44715 and not 0.044715": formula(factor=0.44715),
        "It has sqrt(π/2) instead of sqrt(2/π)": formula(root=(torch.pi / 2) ** 0.5),
        "2/π is halved, not its root taken: ** 1/2 is not ** 0.5": formula(root=1 / torch.pi),
        "The root multiplies x only; it belongs in front of the whole bracket": formula(
            factor=0.044715 / (2 / torch.pi) ** 0.5
        ),
        "x is multiplied by 3 where it must be cubed": formula(factor=0.044715 * 3, power=1),
        "It returns its input": x,
    }
    result = require_result(module, x)
    require_equal(result, right, mistakes, "For x = -3, -2, -1, -0.5, 0, 0.5, ...", tolerance=2e-5)
    require(not list(module.parameters()), "It has parameters; GELU learns nothing.")
    require_trains_like(module, lambda x: F.gelu(x, approximate="tanh"), torch.randn(2, 3, 4))


@exercise(
    "4.3.4", "Out to four times the width, bent, and back; equal to PyTorch's parts.", write=(FeedForward,)
)
def feed_forward(answer):
    cfg = {**SMALL, "emb_dim": 6, "drop_rate": 0.5}  # no dropout in here: that is the block's
    module, x = require_module(answer, cfg), torch.randn(2, 3, 6)
    require_result(module, x)
    linears = [m for m in module.modules() if isinstance(m, nn.Linear)]
    listed = any(isinstance(part, list) for part in vars(module).values())
    hint = " A plain list hides its layers from PyTorch: use nn.Sequential." if listed else ""
    require(len(linears) == 2, f"Two nn.Linear layers are wanted; there are {len(linears)}.{hint}")
    first, second = sorted(linears, key=lambda layer: layer.in_features)
    widths = [(layer.in_features, layer.out_features) for layer in (first, second)]
    width = first.out_features
    require(width != 6, "The hidden layer is as wide as the input; it should be four times as wide.")
    require(
        width == 24 or width % 6, f"The hidden layer is {width // 6} times as wide as the input, not 4 times."
    )
    require(widths == [(6, 24), (24, 6)], f"The layers go {widths}; from 6 to 24 and back to 6 is right.")
    biases = [layer.bias is not None for layer in linears]
    require(all(biases), "A bias is missing; both layers have one in GPT-2.")
    randomized(module)
    gelu = functools.partial(F.gelu, approximate="tanh")
    mistakes = {
        "There is no activation between the layers": second(first(x)),
        "The activation is ReLU": second(F.relu(first(x))),
        "The activation is the exact GELU; GPT-2 has the tanh form": second(F.gelu(first(x))),
        "The activation is SiLU": second(F.silu(first(x))),
        "There is an activation after the second layer, too": gelu(second(gelu(first(x)))),
        "The activation comes after the second layer, not between the two": gelu(second(first(x))),
        "The activation comes before the first layer, not between the two": second(first(gelu(x))),
        "The input is added: the shortcut comes later, in the block": x + second(gelu(first(x))),
        "The hidden numbers are normalized; no norm belongs here": second(
            F.layer_norm(gelu(first(x)), (24,))
        ),
    }
    require_equal(
        require_result(module, x), second(gelu(first(x))), mistakes, "With random weights", tolerance=3e-5
    )
    require_trains_like(module, lambda x: second(gelu(first(x))), x)
    names = {f"layers.{place}.{name}" for place in (0, 2) for name in ("weight", "bias")}
    words = (
        "Weights saved with our class would not fit: self.layers must be Sequential(Linear, GELU, Linear)."
    )
    require(set(module.state_dict()) == names, words)


@exercise("4.3.5", "A gate times a path, at the cost of the network that it replaces.")
def swiglu(answer):
    for D in (192, 96):
        module, x = require_module(answer, D), torch.randn(2, 3, D)
        require_result(module, x)
        layers = gate, up, down = require_parts(module, ("gate", "up", "down"), nn.Linear)
        count, wanted = count_parameters(module), 8 * D**2 + 5 * D
        words = "With a hidden width of 4·D there are one and a half times as many parameters as wanted."
        require(abs(count / wanted - 1.5) > 0.02, words)
        words = f"For emb_dim = {D} it has {count:,} parameters; FeedForward has {wanted:,}. Come within 1%."
        require(abs(count / wanted - 1) <= 0.01, words)
    require(all(layer.bias is None for layer in layers), "The three layers have no bias: bias=False.")
    with torch.no_grad():
        for layer in layers:
            layer.weight.copy_(torch.randn_like(layer.weight) / layer.in_features**0.5)
    mistakes = {
        "Gate and path are added; multiply them": down(F.silu(gate(x)) + up(x)),
        "The path `up` is not used": down(F.silu(gate(x))),
        "The gate is not used": down(up(x)),
        "SiLU acts on `up`; it belongs on `gate`": down(gate(x) * F.silu(up(x))),
        "SiLU acts on both paths; it belongs on `gate` only": down(F.silu(gate(x)) * F.silu(up(x))),
        "SiLU acts on the product; it belongs on `gate`": down(F.silu(gate(x) * up(x))),
        "There is no activation on the gate": down(gate(x) * up(x)),
        "The gate is a plain sigmoid (GLU); SiLU is x·σ(x)": down(torch.sigmoid(gate(x)) * up(x)),
        "The gate has a GELU (GEGLU) and not a SiLU": down(F.gelu(gate(x), approximate="tanh") * up(x)),
        "The gate has an exact GELU (GEGLU) and not a SiLU": down(F.gelu(gate(x)) * up(x)),
        "The gate has a ReLU (ReGLU) and not a SiLU": down(F.relu(gate(x)) * up(x)),
        "The input is added: the shortcut comes later, in the block": x + down(F.silu(gate(x)) * up(x)),
    }
    require_equal(require_result(module, x), down(F.silu(gate(x)) * up(x)), mistakes, "With random weights")
    require_trains_like(module, lambda x: down(F.silu(gate(x)) * up(x)), x)
