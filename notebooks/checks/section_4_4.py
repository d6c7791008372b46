"""The exercises of 4.4, on shortcut connections."""

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _NormBase as BatchNorm  # what BatchNorm1d and its like derive from

from .require import (
    choice_exercise,
    describe_type,
    is_close,
    number_exercise,
    randomized,
    require,
    require_equal,
    require_gradients,
    require_module,
    require_registered,
    require_result,
    require_trains_like,
)
from .runner import Wrong, exercise

sum_or_product = choice_exercise(
    "4.4.1",
    right="b",
    praise="The derivative of x + f(x) is I + J, and I passes the gradient on even where J is tiny.",
    options={
        "a": "A factor of 2 for each layer would explode. What matters is a term in the derivative that no "
        "small factor multiplies.",
        "c": "A product needs no parameters either, and fails all the same.",
        "d": "A product has a derivative, too: diag(f(x)) + diag(x) J, which is small where f(x) and J are.",
    },
)

gradient_through_twelve = number_exercise(
    "4.4.2",
    right=1.1**12,
    tolerance=0.05,
    praise="1.1 to the power of 12. Without shortcuts it would be a millionth of a millionth.",
    mistakes={
        "That is without the shortcuts": 0.1**12,
        "That is one layer; there are twelve": 1.1,
        "The layers follow one another, so their factors multiply; they don't add up": 1 + 12 * 0.1,
        "The factors multiply; they don't add up": 12 * 1.1,
        "That is only the path that passes through no layer; add the others": 1.0,
        "A shortcut adds 1 to the factor 0.1; it doesn't make it 2": 2.0**12,
        "A shortcut adds 1 to the factor; it doesn't subtract 0.1 from it": 0.9**12,
        "The path around a layer multiplies by 1, and the path through it by 0.1; add the two": 0.1,
    },
)


class Function(nn.Module):
    """A layer that is a function."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


RESHAPING = {  # functions that return another shape than they get, which broadcasting would often hide
    (2, 3, 4): [
        lambda x: x[..., :1],
        lambda x: x.mean(dim=1, keepdim=True),
        lambda x: x.mean(dim=0, keepdim=True),
        lambda x: x.mean(dim=0),  # the batch dimension is gone
        lambda x: x[:, None],  # as many values, in another shape
        lambda x: x.transpose(0, 1),
        lambda x: x.flatten(1),
        lambda x: x[None],
        lambda x: x.sum(),
        lambda x: torch.cat([x, x], dim=-1),
    ],
    (1, 4, 4): [lambda x: x[..., 0], lambda x: x.expand(3, 4, 4)],
}


def require_refusal(answer, layer, x):
    """Raise Wrong unless a residual module refuses a layer that changes the shape of `x`."""
    before, after = tuple(x.shape), tuple(layer(x).shape)
    words = f"A layer that turns {before} into {after} must raise ValueError;"
    try:
        result = require_result(require_module(answer, layer), x)
    except ValueError:
        return
    except Wrong:
        raise
    except Exception as error:
        raise Wrong(f"{words} this raises {type(error).__name__}.") from None
    require(not isinstance(result, ValueError), "It returns the ValueError; raise it.")
    got = tuple(result.shape) if isinstance(result, torch.Tensor) else describe_type(result)
    raise Wrong(f"{words} yours returns {got}.")


@exercise("4.4.3", "What goes in is added to what comes out, and a changed shape is refused.")
def residual(answer):
    layer, x = randomized(nn.Linear(4, 4)), torch.randn(3, 4)
    module = require_module(answer, layer)
    calls = []
    hook = layer.register_forward_hook(lambda *_: calls.append(1))
    result = require_result(module, x)
    hook.remove()
    fx = layer(x)
    mistakes = {
        "The input isn't added": fx,
        "The layer isn't used": x,
        "Input and output are multiplied; add them": x * fx,
        "The input is subtracted; add it": fx - x,
        "The output is subtracted; add it": x - fx,
        "The output is added to itself; the shortcut starts at the input": fx + fx,
        "That is the mean of the two; take their sum": (x + fx) / 2,
        "The layer acts once more on the sum": layer(x + fx),
        "The layer acts twice, one after the other": x + layer(fx),
        "The input is added twice": 2 * x + fx,
        "There is an activation that nobody asked for": [x + F.relu(fx), F.relu(x + fx)],
        "Input and output are placed side by side; add them": torch.cat([x, fx], dim=-1),
    }
    require_equal(result, x + fx, mistakes, "With a random layer", tolerance=1e-5)
    require(calls, "The layer itself never runs: call self.layer(x), not a copy and not its forward method.")
    require(len(calls) == 1, f"The layer runs {len(calls)} times in one forward pass; keep its output.")
    require_registered(module, layer)
    require_trains_like(module, lambda x: x + layer(x), x)
    unchanging = require_module(answer, nn.Identity())
    for shape in ((4,), (2, 3, 4), (2, 1, 3, 4)):
        x = torch.randn(shape)
        require_equal(require_result(module, x), x + layer(x), given=f"For an input of shape {shape}")
        given = "For nn.Identity(), which returns its own input,"
        require_equal(require_result(unchanging, x), 2 * x, given=given)
    for shape, functions in RESHAPING.items():
        for function in functions:
            require_refusal(answer, Function(function), torch.randn(shape))


@exercise("4.4.4", "The layer reads a normalized copy; the shortcut carries x itself.")
def pre_norm(answer):
    layer, x = randomized(nn.Linear(6, 6)), 3 * torch.randn(4, 6) + 2
    module = require_module(answer, layer, 6)
    batch_norms = [type(part).__name__ for part in module.modules() if isinstance(part, BatchNorm)]
    words = f"{', '.join(batch_norms)} normalizes over the batch; LayerNorm normalizes each token."
    require(not batch_norms, words)
    norm = F.layer_norm
    n = norm(x, (6,))
    mistakes = {
        "There is no norm": x + layer(x),
        "There is no shortcut": layer(n),
        "The shortcut starts at the normalized copy; it should carry x itself": n + layer(n),
        "The norm comes after the addition (post-norm); put it before the layer": norm(x + layer(x), (6,)),
        "The norm comes after the layer; put it before": x + norm(layer(x), (6,)),
        "The result is normalized once more": norm(x + layer(n), (6,)),
        "Norm and layer are added to x side by side; the layer should read the normalized copy": x
        + n
        + layer(x),
        "The layer isn't used": x + n,
        "The two are multiplied; add them": [x * layer(n), n * layer(n)],
        "The norm is an RMSNorm, which subtracts no mean": x
        + layer(x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()),
    }
    require_equal(require_result(module, x), x + layer(n), mistakes, "With a random layer", tolerance=1e-4)
    require_registered(module, layer)
    rest = [p for p in module.parameters() if all(p is not own for own in layer.parameters())]
    count = sum(p.numel() for p in rest)
    words = f"Besides the layer it has {count} parameters; a LayerNorm for 6 features has 12."
    require(count == 12 and len(rest) == 2, words)
    bias, weight = sorted(rest, key=lambda p: p.sum().item())  # they start at 0 and at 1
    randomized(module)

    def reference(x):
        return x + layer(norm(x, (6,), weight.flatten(), bias.flatten()))

    for shape in ((6,), (2, 3, 6), (2, 1, 3, 6)):
        x = torch.randn(shape)
        require_equal(require_result(module, x), reference(x), given=f"For an input of shape {shape}")
    x = torch.cat([torch.randn(2, 3, 6), torch.full((2, 1, 6), 0.5), 0.001 * torch.randn(2, 1, 6)], dim=1)
    require_trains_like(module, reference, x)


def takes_layer(result, x):
    """For each text of x whether its result is another than x, shaped to be multiplied with x."""
    return (result - x).detach().flatten(1).any(dim=1).view(-1, *[1] * (x.ndim - 1))


@exercise("4.4.5", "Each text takes the layer or skips it, and on average nothing changes.")
def stochastic_depth(answer):
    layer, rate, x = randomized(nn.Linear(4, 4)), 0.25, torch.randn(1000, 2, 4)
    module, fx = require_module(answer, layer, rate), layer(x).detach()
    mistakes = {
        "The layer is skipped": x,
        "There is no shortcut": fx,
        "The output of the layer is divided by 1 - rate; do that in training only": x + fx / (1 - rate),
        "The output of the layer is multiplied by 1 - rate; divide in training instead": x + fx * (1 - rate),
        "The sum is multiplied by 1 - rate; divide the layer's output in training instead": (x + fx)
        * (1 - rate),
        "The layer acts once more on the sum": layer(x + fx),
    }
    result = require_result(module, x)
    if isinstance(result, torch.Tensor) and not is_close(result, x + fx):
        words = "In eval mode two runs on the same input differ; texts may skip the layer in training only."
        require(is_close(result, require_result(module, x)), words)
    require_equal(result, x + fx, mistakes, "In eval mode", tolerance=1e-5)
    require_registered(module, layer)

    result = require_result(module.train(), x)
    if not isinstance(result, torch.Tensor) or result.shape != x.shape:
        require_equal(result, x, given="In training mode")
    require(
        not is_close(result, x + fx),
        "In training mode no text of a large batch skips the layer; draw for each text.",
    )
    words = "In training mode some of x itself is lost; the shortcut should always pass it."
    require(not (result == 0).any(), words)
    words = "In training mode the whole sum is divided by 1 - rate; divide only the output of the layer."
    require((result * (1 - rate) - x).abs().flatten(1).amax(dim=1).min() > 1e-5, words)
    taken, changed = takes_layer(result, x), result != x
    words = "Within one text some values skip the layer and others don't: draw once for each text"
    require(is_close(changed.float(), taken.float().expand_as(x)), f"{words}, a mask of shape (B, 1, 1).")
    words = "All texts of a batch skip the layer, or none does: draw for each text."
    require(0 < taken.sum() < len(x), words)
    share = 1 - taken.float().mean().item()
    words = f"At rate 0.25, {share:.0%} of the texts skip the layer; about 25% should."
    swapped = " `rate` is the share that skips it." if abs(share - 0.75) < 0.08 else ""
    require(abs(share - rate) < 0.08, words + swapped)
    mistakes = {
        "In training mode the output of the layer isn't divided by 1 - rate": x + taken * fx,
        "In training mode the output of the layer is divided by rate, not by 1 - rate": x + taken * fx / rate,
        "In training mode the output of the layer is multiplied by 1 - rate; divide": x
        + taken * fx * (1 - rate),
    }
    require_equal(result, x + taken * fx / (1 - rate), mistakes, "In training mode", tolerance=1e-4)
    same = torch.equal(taken, takes_layer(require_result(module, x), x))
    require(not same, "The same texts skip the layer in every pass; draw anew in each.")

    for shape in ((40, 4), (40, 2, 3, 4), (40, 2, 4)):
        x = torch.randn(shape, requires_grad=True)
        result = module(x)
        right = x + takes_layer(result, x) * layer(x) / (1 - rate)
        given = f"In training mode, for an input of shape {shape},"
        require_equal(result, right, given=given, tolerance=1e-4)
        parameters = {f"self.{name}": p for name, p in module.named_parameters()}
        require_gradients(result, right, {"the input": x, **parameters})
    require_result(require_module(answer, nn.Identity(), rate).train(), x.detach())
    result = require_result(require_module(answer, layer, 0.0).train(), x.detach())
    require_equal(result, x + layer(x), given="In training mode, with a rate of 0,")
