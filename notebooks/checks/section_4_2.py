"""The exercises of 4.2, on layer normalization."""

import torch
from torch import nn

from helpers import LayerNorm, count_parameters  # the shipped one, whatever `use` puts in its place

from .require import (
    NO_GRADIENT,
    describe_type,
    is_changed_by_other_tokens,
    is_close,
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
from .runner import Wrong, exercise

NORMS = ("layer_norm", "native_layer_norm", "group_norm", "batch_norm", "instance_norm", "rms_norm")

mean_and_variance = number_exercise(
    "4.2.1",
    right=(3, 4),
    tolerance=0.02,
    praise="Twice the standard deviation is four times the variance; the shift only moves the mean.",
    mistakes={
        "That is before the scale and the shift": (0, 1),
        "A scale of 2 makes the standard deviation 2; what is the variance?": (3, 2),
        "The first value is the mean: what does the shift do to it?": (0, 4),
        "The shift is added last, so the scale doesn't double it": (6, 4),
        "Mean first, then variance": (4, 3),
        "The scale changes the variance: what does a factor of 2 do to squares?": (3, 1),
        "The shift changes the mean only, not the variance": (3, 7),
        "The scale changes the variance and the shift the mean, not the other way around": (2, 9),
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
        "The variance is under the root, too, next to eps": TINY / EPS**0.5,
        "The root is missing: divide by the root of variance plus eps": TINY / (VARIANCE + EPS),
        "That is the variance after normalization; the standard deviation is its root": VARIANCE
        / (VARIANCE + EPS),
        "That is the standard deviation before normalization": TINY,
        "The variance is the square of 0.002": TINY / (TINY + EPS) ** 0.5,
        "That is the root itself; divide 0.002 by it": (VARIANCE + EPS) ** 0.5,
    },
)


def normalized(x, dims=-1, correction=0, eps=EPS):
    """x with mean 0 and variance 1 over `dims`; the variance divides by the count minus `correction`."""
    centered = x - x.mean(dims, keepdim=True)
    return centered / (x.var(dims, keepdim=True, correction=correction) + eps).sqrt()


def rms_normalized(x):
    """x with a mean square of 1 in each token."""
    return x / (x.square().mean(-1, keepdim=True) + EPS).sqrt()


def require_eps(layer):
    """Raise Wrong unless a new layer has 1e-5 under the root, which tokens with a mean of 0 show."""
    signs = torch.tensor([[1.0, -1.0, 1.0, -1.0]])
    result = require_result(layer, 1e-6 * signs)
    mistakes = {
        "eps is missing": signs,
        "eps is outside the root": signs / 11,
        "eps is a lower limit of the root; add it under the root": signs / 10,
        "eps is subtracted": torch.nan * signs,
    }

    def name_the_eps():
        ratio = result * signs
        eps = ((1e-6 / ratio) ** 2 - 1e-12).mean().item()
        if is_close(ratio, ratio.mean().expand(1, 4), 1e-6) and eps > 0:
            raise Wrong(f"It looks as if eps is {eps:.2g}, not 1e-5.".replace("e-0", "e-"))

    right = 1e-6 * signs / (1e-12 + EPS) ** 0.5
    given = "For the token [1e-6, -1e-6, 1e-6, -1e-6]"
    require_equal(result, right, mistakes, given, tolerance=2e-6, otherwise=name_the_eps)
    mistakes = {"eps is a lower limit of the variance; add it": 0.001 * signs / EPS**0.5}
    right = 0.001 * signs / (1e-6 + EPS) ** 0.5
    given = "For the token [0.001, -0.001, 0.001, -0.001]"
    require_equal(require_result(layer, 0.001 * signs), right, mistakes, given, tolerance=1e-5)


def require_finite_gradient(layer, token):
    """Raise Wrong if the gradient is nan or infinite at a token where a variance or a mean square is 0."""
    leaf = token.clone().requires_grad_()
    result = layer(leaf)
    require(result.requires_grad, NO_GRADIENT)
    gradient = torch.autograd.grad(result, leaf, torch.randn_like(token), allow_unused=True)[0]
    words = f"For the token {token[0].tolist()} the gradient is nan or infinite: the root of 0 is steep."
    require(gradient is None or gradient.isfinite().all(), f"{words} Add eps before you take any root.")


def require_everywhere(layer, formula):
    """Raise Wrong unless `layer`, for 6 features, is `formula`: for any shape, in float64, in training."""
    for shape in ((6,), (5, 6), (2, 3, 6), (2, 1, 3, 6)):
        x = torch.randn(shape)
        given = f"For an input of shape {shape}"
        require_equal(require_result(layer, x), formula(x).detach(), given=given)
    x = torch.cat([torch.randn(2, 3, 6), torch.full((2, 1, 6), 0.5)], dim=1)
    require_trains_like(layer, formula, x)
    x = x.double()
    require_equal(require_result(layer.double(), x), formula(x).detach(), given="In float64", tolerance=1e-5)


def require_normalization(layer):
    """Raise Wrong unless a freshly made layer normalizes by mean and variance, with eps."""
    x = torch.tensor([[1.0, 2.0, 3.0, 6.0]])
    centered, variance = x - x.mean(), x.var(correction=0)
    mistakes = {
        "It returns its input": x,
        "It subtracts the mean and doesn't divide": centered,
        "The variance is the unbiased one, which divides by D - 1": normalized(x, correction=1),
        "It divides by the variance, not by its root": centered / variance,
        "It divides by the unbiased variance and not by its root; both are wrong": centered / x.var(),
        "The mean isn't subtracted": x / variance.sqrt(),
        "The mean isn't subtracted, and the variance is the unbiased one": x / x.std(),
        "It divides by the root of the mean square: RMSNorm": rms_normalized(x),
        "It divides by the sum of the squares, where their mean is needed": centered
        / centered.square().sum().sqrt(),
        "It divides by the mean of |x - mean|, not by the root of the mean square": centered
        / centered.abs().mean(),
        "The root of the variance is multiplied; divide by it": centered * variance.sqrt(),
        "Scale and shift are swapped": torch.ones(1, 4),
    }
    given = "For the token [1, 2, 3, 6]"
    require_equal(require_result(layer, x), normalized(x), mistakes, given, tolerance=1e-3)
    require_eps(layer)
    constant = torch.full((1, 4), 3.0)
    require_equal(require_result(layer, constant), 0 * constant, given="For a token of equal features")
    require_finite_gradient(layer, constant)
    loud = x + 10_000
    words = "With a mean of 10,003 rounding drowns the variance. Average (x - mean)**2, not E[x**2] - E[x]**2"
    given = f"{words}. For the token [10001, 10002, 10003, 10006]"
    require_equal(require_result(layer, loud), normalized(x), given=given, tolerance=1e-2)


@exercise(
    "4.2.3",
    "Matches nn.LayerNorm: outputs, gradients, eps, scale, and shift.",
    write=(LayerNorm, LayerNorm.__init__),
    by_hand=NORMS,
)
def layer_norm(answer):
    layer, x = require_module(answer, 4), torch.randn(4, 4, 4)
    result = require_result(layer, x)  # (4, 4, 4): no wrong dimension raises an error
    mistakes = {
        "Mean and variance are taken over the tokens (dim=1); take them over the features": normalized(x, 1),
        "Mean and variance are taken over the batch (dim=0); take them over the features": normalized(x, 0),
        "Mean and variance are taken over tokens and features together": normalized(x, (1, 2)),
        "Mean and variance are taken over the whole tensor": normalized(x, (0, 1, 2)),
        "The mean has lost its dimension (keepdim), so it is subtracted along the wrong one": [
            (x - x.mean(-1)) / (x.var(-1, correction=0, keepdim=keepdim) + EPS).sqrt()
            for keepdim in (True, False)
        ],
        "The variance has lost its dimension (keepdim), so it divides along the wrong one": (
            x - x.mean(-1, keepdim=True)
        )
        / (x.var(-1, correction=0) + EPS).sqrt(),
    }
    if isinstance(result, torch.Tensor):
        require_no_mistake(result, mistakes, "Tried with 4 texts of 4 tokens with 4 features.")
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
        "The scale isn't applied": norm + shift,
        "The shift isn't applied": norm * scale,
        "Neither scale nor shift is applied": norm,
        "The shift is added before the scale is applied": (norm + shift) * scale,
        "The shift is subtracted": norm * scale - shift,
        "The scale divides; it should multiply": norm / scale + shift,
        "Scale and shift act on the input, before it is normalized": normalized(x * scale + shift),
    }
    given = "With a random scale and shift"
    require_equal(require_result(layer, x), norm * scale + shift, mistakes, given, tolerance=2e-5)

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
            return (x - mean) / (variance + EPS).sqrt() * scale + shift

        return forward

    mistakes = {
        "The outputs are right, but no gradient flows through the variance": formula(1, 0),
        "The outputs are right, but no gradient flows through the mean": formula(0, 1),
        "The outputs are right, but no gradient flows through mean and variance": formula(0, 0),
    }
    mistakes = {words: gradient(wrong) for words, wrong in mistakes.items()}
    require(layer(x).requires_grad, NO_GRADIENT)
    require_equal(gradient(layer), gradient(formula()), mistakes, "For the gradient of the input", 1e-3)
    wide = randomized(require_module(answer, 6))
    require_everywhere(wide, lambda x: normalized(x) * wide.scale + wide.shift)


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
        "It divides by the standard deviation; RMSNorm subtracts no mean, not even there": [
            x / x.std(correction=0),
            x / x.std(),
        ],
        "It takes the sum of the squares; take their mean": x / square.sum().sqrt(),
        "The mean of the squares divides by D, not by D - 1": x / (square.sum() / 3).sqrt(),
        "The root is missing": x / square.mean(),
        "It takes the mean of |x|, not the root of the mean square": x / x.abs().mean(),
        "It multiplies by the root mean square; divide by it": x * square.mean().sqrt(),
        "It squares the mean; average the squares": x / x.mean().abs(),
    }
    require_equal(result, rms_normalized(x), mistakes, "For the token [1, -2, 3, 6]", tolerance=1e-3)
    require_eps(layer)
    zero = torch.zeros(1, 4)
    require_equal(require_result(layer, zero), zero, given="For a token of zeros")
    require_finite_gradient(layer, zero)
    count = count_parameters(layer)
    require(count == 4, f"For 4 features RMSNorm has 4 parameters, its scale; yours has {count}.")
    randomized(layer)
    norm, scale = rms_normalized(x), layer.scale.detach()
    mistakes = {"The scale isn't applied": norm, "The scale divides; it should multiply": norm / scale}
    require_equal(require_result(layer, x), norm * scale, mistakes, "With a random scale")
    wide = randomized(require_module(answer, 6))
    require_everywhere(wide, lambda x: rms_normalized(x) * wide.scale)


@exercise("4.2.5", "Scale and shift no longer cost anything: they are part of the next layer.")
def fold_norm(answer):
    for outputs in (5, 3, 8):  # a square weight first, with which no mistake raises an error
        norm, linear = randomized(LayerNorm(5)), randomized(nn.Linear(5, outputs))
        scale, shift, W, b = (p.detach().clone() for p in (*norm.parameters(), *linear.parameters()))
        folded = require_result(answer, norm, linear)
        now = (norm.scale, norm.shift, linear.weight, linear.bias)
        unchanged = all(torch.equal(a, b) for a, b in zip((scale, shift, W, b), now, strict=True))
        require(unchanged, "It changes the norm or the layer that it gets; make a new layer.")
        words = f"It returns {describe_type(folded)}; it should return an nn.Linear."
        require(isinstance(folded, nn.Linear), words)
        in_weight = {
            "The weight is unchanged: the scale is lost": W,
            "The weight is divided by the scale; multiply": W / scale,
            "The shift multiplies the weight": W * shift,
        }
        in_bias = {
            "The bias is unchanged: the shift is lost": b,
            "The old bias is lost": W @ shift,
            "The shift goes through the new weight; send it through the old one": b + (W * scale) @ shift,
            "What the shift adds is subtracted": b - W @ shift,
        }
        if outputs == 5:
            words = "The scale multiplies the rows of the weight, and these belong to the outputs"
            in_weight[words] = W * scale[:, None]
            in_bias |= {
                "The shift is added as it is; send it through the weight first": b + shift,
                "The shift goes through the transposed weight": b + W.T @ shift,
                "The old bias is multiplied by the scale; it stays as it is": b * scale + W @ shift,
            }
        given = f"For a layer from 5 to {outputs} features, as the new"
        require_equal(folded.weight, W * scale, in_weight, f"{given} weight", tolerance=1e-5)
        require(folded.bias is not None, "The new layer has no bias, so the shift is lost.")
        require_equal(folded.bias, b + W @ shift, in_bias, f"{given} bias", tolerance=1e-5)
