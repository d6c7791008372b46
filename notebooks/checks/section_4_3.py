"""The exercises of 4.3, on GELU and the feed-forward network."""

import contextlib

import torch
from torch import nn
from torch.nn import functional as F

from helpers import GELU, FeedForward

from .require import (
    NO_GRADIENT,
    SMALL,
    is_close,
    number_exercise,
    randomized,
    require,
    require_equal,
    require_module,
    require_result,
    require_trains_like,
)
from .runner import Wrong, exercise, within_reach

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
        "That is the whole stack, without its biases; one layer does the same": 100 * 768 * 768,
        "The hundred biases also merge into one": 768 * 768 + 100 * 768,
    },
)

MEGABYTES = 4 * 1024 * 3072 * 4 / 2**20

hidden_memory = number_exercise(
    "4.3.2",
    right=MEGABYTES,
    tolerance=0.02,
    praise="4 texts · 1,024 tokens · 3,072 features · 4 bytes.",
    mistakes={
        "A factor of 4 is missing: is it for one text, for 768 features, or without the bytes?": MEGABYTES
        / 4,
        "1 MB is 2**20 bytes here, not a million": MEGABYTES * 2**20 / 1e6,
        "That is half of it: float32 takes 4 bytes, not 2": MEGABYTES / 2,
        "That is twice as much: count one tensor, and 4 bytes for each value": MEGABYTES * 2,
        "That is 8 times as much: float32 takes 4 bytes, which are 32 bits": MEGABYTES * 8,
        "That is for all twelve blocks; the question is about one": MEGABYTES * 12,
        "1 MB is 2**20 bytes; this looks like bytes": MEGABYTES * 2**20,
        "1 MB is 2**20 bytes; this looks like KB": MEGABYTES * 2**10,
        "1 MB is 2**20 bytes; this looks like GB": MEGABYTES / 2**10,
    },
)


def pytorch_gelu(x, approximate="tanh"):
    """PyTorch's own GELU, which an answer has to do without."""
    with within_reach():
        return F.gelu(x, approximate=approximate)


@exercise(
    "4.3.3", "Matches nn.GELU(approximate='tanh'), value and derivative.", write=(GELU,), by_hand=("gelu",)
)
def gelu(answer):
    module, x = require_module(answer), torch.tensor([-3.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 3.0])

    def formula(root=(2 / torch.pi) ** 0.5, factor=0.044715, power=3):
        return 0.5 * x * (1 + torch.tanh(root * (x + factor * x**power)))

    right = formula()
    mistakes = {
        "That is ReLU": F.relu(x),
        "That is the exact form, with erf; GPT-2 has the tanh form": pytorch_gelu(x, "none"),
        "That is the sigmoid form, x·σ(1.702x); GPT-2 has the tanh form": x * torch.sigmoid(1.702 * x),
        "That is SiLU, x·σ(x)": F.silu(x),
        "The factor 0.5 is missing": 2 * right,
        "The factor x in front is missing": 0.5
        * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3))),
        "The 1 + is missing": 0.5 * x * torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)),
        "It subtracts the tanh; add it": x - right,
        "The cubic term is missing": formula(factor=0),
        "The cubic term is subtracted; add it": formula(factor=-0.044715),
        "The cubic term lacks its factor, 0.044715": formula(factor=1),
        "x is squared; it should be cubed": formula(power=2),
        "The root of 2/π is missing; 2/π itself is there": formula(root=2 / torch.pi),
        "The factor sqrt(2/π) is missing": formula(root=1),
        "It has sqrt(2π) instead of sqrt(2/π)": formula(root=(2 * torch.pi) ** 0.5),
        "The factor is 0.44715; it should be 0.044715": formula(factor=0.44715),
        "It has sqrt(π/2) instead of sqrt(2/π)": formula(root=(torch.pi / 2) ** 0.5),
        "2/π is halved, and its root isn't taken: ** 1/2 is not ** 0.5": formula(root=1 / torch.pi),
        "The root multiplies x only; it should multiply the whole bracket": formula(
            factor=0.044715 / (2 / torch.pi) ** 0.5
        ),
        "x is multiplied by 3; it should be cubed": formula(factor=0.044715 * 3, power=1),
        "It returns its input": x,
    }

    def name_the_rounding():
        rounded = "Very close, but not equal: is sqrt(2/π) or 0.044715 rounded? Write (2 / torch.pi) ** 0.5"
        require(not is_close(result, right, 1e-3), rounded + ".")

    given = "For x = -3, -2, -1, -0.5, 0, 0.5, ..."
    result = require_result(module, x)
    require_equal(result, right, mistakes, given, tolerance=1e-6, otherwise=name_the_rounding)
    x, right = x.double(), formula().double()
    result = require_result(module, x)
    require_equal(result, pytorch_gelu(x), given="In float64", tolerance=1e-6, otherwise=name_the_rounding)
    require(not list(module.parameters()), "It has parameters; GELU learns nothing.")

    large = torch.tensor([-1000.0, -30.0, -12.0, 12.0, 30.0, 1000.0], requires_grad=True)
    result = require_result(module, large.detach())
    words = "exp overflows, and torch.tanh doesn't."
    require(result.isfinite().all(), f"For x from -1000 to 1000 it gives nan or infinity: {words}")
    require_equal(result, pytorch_gelu(large), given="For x = -1000, -30, -12, 12, ...")
    result = module(large)
    require(result.requires_grad, NO_GRADIENT)
    (gradient,) = torch.autograd.grad(result.sum(), large)
    require(gradient.isfinite().all(), f"For x from -1000 to 1000 its derivative is nan or infinity: {words}")
    for shape in ((), (5,), (2, 3, 4)):
        require_trains_like(module, pytorch_gelu, torch.randn(shape))


@exercise(
    "4.3.4",
    "To four times the width, through GELU, and back: the same as PyTorch's own parts.",
    write=(FeedForward, FeedForward.__init__),
)
def feed_forward(answer):
    require_feed_forward(answer, 6)
    require_feed_forward(answer, 10)


def require_feed_forward(answer, D):
    """Raise Wrong unless `answer` makes the feed-forward network of width D."""
    cfg = {**SMALL, "emb_dim": D, "drop_rate": 0.5}  # no dropout in here: that is the block's
    module, x = require_module(answer, cfg), torch.randn(2, 3, D)
    with contextlib.suppress(RuntimeError, ValueError):  # a lazy layer gets its width from the first input
        module(x)
    linears = [m for m in module.modules() if isinstance(m, nn.Linear)]
    listed = any(isinstance(part, list) for part in vars(module).values())
    hint = " A plain list hides its layers from PyTorch: use nn.Sequential." if listed else ""
    if len(linears) != 2:
        require_result(module, x)  # perhaps it isn't finished
        raise Wrong(f"It has {len(linears)} nn.Linear layers; it should have two.{hint}")
    first, second = sorted(linears, key=lambda layer: layer.in_features)
    widths = [(layer.in_features, layer.out_features) for layer in (first, second)]
    sizes = " and ".join(f"{a} to {b}" for a, b in widths)
    words = f"For emb_dim = {D} the layers go from {sizes}; they should go from {D} to {4 * D} and back."
    require(widths[0] != (D, D), f"{words} The hidden layer should be four times as wide.")
    require(widths == [(D, 4 * D), (4 * D, D)], words)
    biases = [layer.bias is not None for layer in linears]
    require(all(biases), "A bias is missing; both layers have one in GPT-2.")
    randomized(module)
    gelu = pytorch_gelu
    mistakes = {
        "There is no activation between the layers": second(first(x)),
        "The activation is ReLU": second(F.relu(first(x))),
        "The activation is the exact GELU; GPT-2 has the tanh form": second(gelu(first(x), "none")),
        "The activation is SiLU": second(F.silu(first(x))),
        "There is also an activation after the second layer": gelu(second(gelu(first(x)))),
        "The activation comes after the second layer; it belongs between the two": gelu(second(first(x))),
        "The activation comes before the first layer; it belongs between the two": second(first(gelu(x))),
        "The input is added: the shortcut comes later, in the block": x + second(gelu(first(x))),
        "The hidden features are normalized; no norm belongs here": [
            second(F.layer_norm(gelu(first(x)), (4 * D,))),
            second(gelu(F.layer_norm(first(x), (4 * D,)))),
        ],
        "The input is normalized: that norm comes later, in the block": second(
            gelu(first(F.layer_norm(x, (D,))))
        ),
    }
    right = second(gelu(first(x)))
    require_equal(require_result(module, x), right, mistakes, "With random weights", tolerance=3e-5)
    require_trains_like(module, lambda x: second(gelu(first(x))), x)
    names = {f"layers.{place}.{name}" for place in (0, 2) for name in ("weight", "bias")}
    found = ", ".join(module.state_dict())
    words = f"Weights saved with our class wouldn't fit: yours are called {found}, ours layers.0.weight, ..."
    require(set(module.state_dict()) == names, f"{words} Keep the three in self.layers, an nn.Sequential.")


@exercise("4.3.5", "The same output, with at most `size` tokens in the middle at a time.")
def in_pieces(answer):
    for B, T, size in ((2, 5, 3), (2, 5, 1), (3, 4, 4), (1, 1, 2), (2, 3, 99)):
        ff, x, pieces = randomized(FeedForward({"emb_dim": 6})).eval(), torch.randn(B, T, 6), []
        right = ff(x).detach()
        ff.layers[0].register_forward_pre_hook(lambda layer, args, to=pieces: to.append(args[0].numel() // 6))
        result = require_result(answer, ff, x, size)
        rows, complete = right.flatten(0, 1), B * T // size * size
        mistakes = {
            "The rows of all texts are still in one; the result should have the shape of x": rows,
            "The last tokens are missing: the last piece may be shorter": [
                rows[:complete],
                torch.cat([rows[:complete], 0 * rows[complete:]]).view(B, T, 6),
            ],
            "That is the last piece only; collect them all": rows[complete:],
            "The tokens come back in another order": right.transpose(0, 1).reshape(B, T, 6),
            "It returns its input": x,
        }
        given = f"For x of shape ({B}, {T}, 6) and size {size}"
        require_equal(result, right, mistakes, given, tolerance=3e-5)
        total, largest = sum(pieces), max(pieces, default=0)
        require(pieces, "The network never runs: call ff(...) on each piece.")
        words = f"{given} a piece has {largest} tokens; at most {size} may go through `ff` at a time."
        texts = " `size` counts the tokens of all texts." if largest == B * min(size, T) else ""
        require(largest <= size, words + texts)
        words = f"{given} {total} tokens go through `ff`; there are {B * T}, and each should go through once."
        require(total == B * T, words)
