"""The exercises of 4.2, on layer normalization."""

import torch
from torch import nn
from torch.nn import functional as F

from helpers import LayerNorm, count_parameters  # the shipped one, whatever `use` puts in its place

from .require import (
    NO_GRADIENT,
    describe_type,
    is_changed_by_other_tokens,
    number_exercise,
    randomized,
    require,
    require_equal,
    require_module,
    require_no_mistake,
    require_parameter,
    require_result,
    require_trains_like,
)
from .runner import exercise, within_reach

NORMS = ("layer_norm", "native_layer_norm", "group_norm", "batch_norm", "instance_norm", "rms_norm")

mean_and_variance = number_exercise(
    "4.2.1",
    right=(3, 4),
    tolerance=0.02,
    praise="Twice as large means four times the variance; the shift moves the mean only.",
    mistakes={
        "That is before the scale and the shift": (0, 1),
        "A scale of 2 makes the standard deviation 2; what is the variance?": (3, 2),
        "The first number is the mean: what does the shift do to it?": (0, 4),
        "The shift is added last, so the scale does not double it": (6, 4),
        "Mean first, then variance": (4, 3),
    },
)


TINY, EPS = 0.002, 1e-5
VARIANCE = TINY**2

tiny_token = number_exercise(
    "4.2.2",
    right=TINY / (VARIANCE + EPS) ** 0.5,
    tolerance=0.05,
    praise="Next to a variance of 4e-6, an eps of 1e-5 is not small.",
    mistakes={
        "eps is more than twice the variance here, and is under the root with it": 1.0,
        "Under the root there is the variance as well as eps": TINY / EPS**0.5,
        "The root is missing: divide by the root of variance plus eps": TINY / (VARIANCE + EPS),
        "That is the variance after normalization; the standard deviation is its root": VARIANCE
        / (VARIANCE + EPS),
    },
)


def normalized(x, dims=-1, correction=0, eps=1e-5):
    """x with mean 0 and variance 1 over `dims`; the variance divides by the count minus `correction`."""
    centered = x - x.mean(dims, keepdim=True)
    return centered / (x.var(dims, keepdim=True, correction=correction) + eps).sqrt()


def require_normalization(layer):
    """Raise Wrong unless a freshly made layer normalizes by mean and variance, with eps."""
    x = torch.tensor([[1.0, 2.0, 3.0, 6.0]])
    centered, variance = x - x.mean(), x.var(correction=0)
    mistakes = {
        "It returns its input": x,
        "It subtracts the mean and does not divide": centered,
        "The variance is the unbiased one, which divides by D - 1": normalized(x, correction=1),
        "It divides by the variance and not by its root": centered / variance,
        "It divides by the unbiased variance and not by its root; both are wrong": centered / x.var(),
        "The mean is not subtracted": x / variance.sqrt(),
        "The mean is not subtracted, and the variance is the unbiased one": x / x.std(),
        "It divides by the root of the mean square: RMSNorm": x / x.square().mean().sqrt(),
        "Scale and shift are swapped": torch.ones(1, 4),
    }
    require_equal(
        require_result(layer, x), normalized(x), mistakes, "For the token [1, 2, 3, 6]", tolerance=1e-3
    )

    tiny = torch.tensor([[0.001, -0.001, 0.001, -0.001]])
    mistakes = {
        "eps is outside the root": tiny / (tiny.std(correction=0) + 1e-5),
        "eps is missing": tiny / tiny.std(correction=0),
        "eps is subtracted": (tiny / (tiny.var(correction=0) - 1e-5).sqrt()),
        "eps is 1e-6 and not 1e-5": normalized(tiny, eps=1e-6),
        "eps is 1e-8 and not 1e-5": normalized(tiny, eps=1e-8),
    }
    require_equal(
        require_result(layer, tiny),
        normalized(tiny),
        mistakes,
        "For the token [0.001, -0.001, 0.001, -0.001]",
    )
    constant = torch.full((1, 4), 3.0)
    require_equal(require_result(layer, constant), 0 * constant, (), "For a token of equal numbers")


@exercise(
    "4.2.3",
    "Equal to nn.LayerNorm: outputs, gradients, eps, scale and shift.",
    write=(LayerNorm,),
    by_hand=NORMS,
)
def layer_norm(answer):
    layer, x = require_module(answer, 4), torch.randn(4, 4, 4)
    result = require_result(layer, x)  # (4, 4, 4): no wrong dimension raises an error
    mistakes = {
        "Mean and variance are taken over the tokens (dim=1), not the features": normalized(x, 1),
        "Mean and variance are taken over the batch (dim=0), not the features": normalized(x, 0),
        "Mean and variance are taken over tokens and features together": normalized(x, (1, 2)),
        "Mean and variance are taken over all numbers together": normalized(x, (0, 1, 2)),
        "The mean has lost its dimension (keepdim), and is subtracted along the wrong one": [
            (x - x.mean(-1)) / (x.var(-1, correction=0, keepdim=keepdim) + 1e-5).sqrt()
            for keepdim in (True, False)
        ],
    }
    if isinstance(result, torch.Tensor):
        require_no_mistake(result, mistakes, "It shows for 4 texts of 4 tokens with 4 features.")
    require(
        not is_changed_by_other_tokens(layer, x),
        "The result for a token changes when only other tokens change.",
    )
    require_parameter(layer, "scale", torch.ones(4))
    require_parameter(layer, "shift", torch.zeros(4))
    require_normalization(layer)

    count = count_parameters(layer)
    require(count == 8, f"For 4 features a LayerNorm has 8 parameters, scale and shift; yours has {count}.")
    randomized(layer)
    scale, shift = layer.scale.detach(), layer.shift.detach()
    norm = normalized(x)
    mistakes = {
        "The scale is not applied": norm + shift,
        "The shift is not applied": norm * scale,
        "Neither scale nor shift is applied": norm,
        "The shift is added before the scale is applied": (norm + shift) * scale,
        "The shift is subtracted": norm * scale - shift,
    }
    require_equal(require_result(layer, x), norm * scale + shift, mistakes, "With a random scale and shift")

    upstream = torch.randn_like(x)

    def gradient(function):
        inputs = x.clone().requires_grad_()
        found = torch.autograd.grad(function(inputs), inputs, upstream, allow_unused=True)[0]
        return torch.zeros_like(x) if found is None else found

    def formula(mean_factor=1, variance_factor=1):
        """Layer normalization; with a factor of 0, no gradient flows through mean or variance."""

        def forward(x):
            mean, variance = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, correction=0)
            mean = mean if mean_factor else mean.detach()
            variance = variance if variance_factor else variance.detach()
            return (x - mean) / (variance + 1e-5).sqrt() * scale + shift

        return forward

    mistakes = {
        "The outputs are right, but no gradient flows through the variance": formula(1, 0),
        "The outputs are right, but no gradient flows through the mean": formula(0, 1),
        "The outputs are right, but no gradient flows through mean and variance": formula(0, 0),
    }
    mistakes = {words: gradient(wrong) for words, wrong in mistakes.items()}
    require(layer(x).requires_grad, NO_GRADIENT)
    require_equal(gradient(layer), gradient(formula()), mistakes, "For the gradient of the input")
    wide = randomized(require_module(answer, 6))
    require_trains_like(wide, lambda x: normalized(x) * wide.scale + wide.shift, torch.randn(2, 3, 6))


@exercise("4.2.4", "Half the parameters of LayerNorm, and one less thing to compute.", by_hand=NORMS)
def rms_norm(answer):
    layer, x = require_module(answer, 4), torch.tensor([[1.0, -2.0, 3.0, 6.0]])
    result = require_result(layer, x)
    require(
        not is_changed_by_other_tokens(layer, torch.randn(4, 4, 4)),
        "The result for a token changes when other tokens change.",
    )
    require_parameter(layer, "scale", torch.ones(4))
    square = x.square()
    mistakes = {
        "It returns its input": x,
        "The mean is subtracted, as in LayerNorm": normalized(x),
        "It divides by the standard deviation; RMSNorm subtracts no mean, not even there": x
        / x.std(correction=0),
        "It takes the sum of the squares; the mean is wanted": x / square.sum().sqrt(),
        "The root is missing": x / square.mean(),
        "It takes the mean of |x| and not the root of the mean square": x / x.abs().mean(),
        "It multiplies by the root mean square; divide by it": x * square.mean().sqrt(),
        "It squares the mean, where the mean of the squares is wanted": x / x.mean().abs(),
    }
    require_equal(result, x / square.mean().sqrt(), mistakes, "For the token [1, -2, 3, 6]", tolerance=1e-3)
    tiny = 0.001 * torch.tensor([[1.0, -1.0, 1.0, -1.0]])
    mistakes = {
        "eps is missing": tiny / 0.001,
        "eps is outside the root": tiny / (0.001 + 1e-5),
        "eps is 1e-6 and not 1e-5": tiny / (1e-6 + 1e-6) ** 0.5,
        "eps is 1e-8 and not 1e-5": tiny / (1e-6 + 1e-8) ** 0.5,
    }
    require_equal(
        require_result(layer, tiny),
        tiny / (1e-6 + 1e-5) ** 0.5,
        mistakes,
        "For the token [0.001, -0.001, 0.001, -0.001]",
    )
    count = count_parameters(layer)
    require(count == 4, f"For 4 features RMSNorm has 4 parameters, its scale; yours has {count}.")
    randomized(layer)
    right = x * (square.mean() + 1e-5).rsqrt()
    require_equal(
        require_result(layer, x),
        right * layer.scale,
        {"The scale is not applied": right},
        "With a random scale",
    )
    wide = randomized(require_module(answer, 6))

    def reference(x):
        with within_reach():
            return F.rms_norm(x, (6,), wide.scale, 1e-5)

    require_trains_like(wide, reference, torch.randn(2, 3, 6))


@exercise("4.2.5", "The scale and the shift no longer cost anything: they are part of the next layer.")
def fold_norm(answer):
    for outputs in (5, 3):  # a square weight first, with which no mistake raises an error
        norm, linear = randomized(LayerNorm(5)), randomized(nn.Linear(5, outputs))
        scale, shift, W, b = (p.detach().clone() for p in (*norm.parameters(), *linear.parameters()))
        folded = require_result(answer, norm, linear)
        now = (norm.scale, norm.shift, linear.weight, linear.bias)
        unchanged = all(torch.equal(a, b) for a, b in zip((scale, shift, W, b), now, strict=True))
        require(unchanged, "It changes the norm or the layer that it is given; make a new layer.")
        require(
            isinstance(folded, nn.Linear),
            f"It returns {describe_type(folded)}, where an nn.Linear is wanted.",
        )
        in_weight = {
            "The weight is unchanged: the scale is lost": W,
            "The weight is divided by the scale; multiply": W / scale,
            "The shift multiplies the weight": W * shift,
        }
        in_bias = {
            "The bias is unchanged: the shift is lost": b,
            "The old bias is lost": W @ shift,
            "The shift goes through the new weight; it must go through the old one": b + (W * scale) @ shift,
        }
        if outputs == 5:
            words = "The scale multiplies the rows of the weight, which belong to outputs"
            in_weight[words] = W * scale[:, None]
            in_bias["The shift is added as it is; it goes through the weight first"] = b + shift
            in_bias["The shift goes through the transposed weight"] = b + W.T @ shift
        given = f"For a layer from 5 to {outputs} numbers, as the new"
        require_equal(folded.weight, W * scale, in_weight, f"{given} weight")
        require(folded.bias is not None, "The new layer has no bias, so the shift is lost.")
        require_equal(folded.bias, b + W @ shift, in_bias, f"{given} bias")
