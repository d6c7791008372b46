"""The exercises of 4.4, on shortcut connections."""

import torch
from torch import nn
from torch.nn import functional as F

from helpers import count_parameters

from .require import (
    choice_exercise,
    number_exercise,
    randomized,
    require,
    require_equal,
    require_module,
    require_parameter,
    require_registered,
    require_result,
    require_trains_like,
)
from .runner import Wrong, exercise

sum_or_product = choice_exercise(
    "4.4.1",
    right="b",
    praise="The derivative of x + f(x) is I + J: the I passes the gradient on, however small J is.",
    options={
        "a": "A factor of 2 for each layer would explode. What matters is a term in the derivative that no "
        "small number multiplies.",
        "c": "A product needs no parameters either, and it fails all the same: see the ablation above.",
        "d": "Products have derivatives too: diag(f(x)) + diag(x) J. Both terms are small if f(x) and J are.",
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
        "The layers follow one another, so their factors multiply, and do not add": 1 + 12 * 0.1,
        "The factors multiply, and do not add": 12 * 1.1,
        "That is only the path that passes through no layer; the others add to it": 1.0,
        "A shortcut adds 1 to the factor 0.1; it does not double": 2.0**12,
    },
)


class Function(nn.Module):
    """A layer that is a function."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


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
        "The input is not added": fx,
        "The layer is not used": x,
        "Input and output are multiplied; add them": x * fx,
        "The input is subtracted; add it": fx - x,
        "The output is subtracted; add it": x - fx,
        "The output is added to itself; the shortcut starts at the input": fx + fx,
        "The mean is taken; add the two": (x + fx) / 2,
        "The layer acts once more on the sum": layer(x + fx),
        "The layer acts twice, one after the other": x + layer(fx),
        "The input is added twice": 2 * x + fx,
    }
    require_equal(result, x + fx, mistakes, "With a random layer")
    require(calls, "The layer itself never runs: call self.layer(x), not a copy and not its forward method.")
    require(len(calls) == 1, f"The layer runs {len(calls)} times in one forward pass; keep its output.")
    require_registered(module, layer)
    require_trains_like(module, lambda x: x + layer(x), x)
    layers = [nn.Linear(4, 1)]
    layers += [Function(lambda x, dim=dim: x.mean(dim=dim, keepdim=True)) for dim in (0, 1)]
    layers += [Function(lambda x: x[:, None])]  # as many numbers, in another shape
    for changing in layers:
        x = torch.randn(2, 3, 4)
        try:
            result = require_result(require_module(answer, changing), x)
        except ValueError:
            continue
        except Exception as error:
            raise Wrong(
                f"A changed shape must raise ValueError; this raises {type(error).__name__}."
            ) from None
        require(not isinstance(result, ValueError), "It returns the ValueError; raise it.")
        before, after, got = (tuple(t.shape) for t in (x, changing(x), result))
        raise Wrong(
            f"A layer that makes {after} of {before} must raise ValueError; without it, {got} comes out."
        )


@exercise("4.4.4", "The layer reads a normalized copy; the shortcut carries x itself.")
def pre_norm(answer):
    layer, x = randomized(nn.Linear(6, 6)), 3 * torch.randn(4, 6) + 2
    module = require_module(answer, layer, 6)
    norm = F.layer_norm
    n = norm(x, (6,))
    mistakes = {
        "There is no norm": x + layer(x),
        "There is no shortcut": layer(n),
        "The shortcut starts at the normalized copy; it must carry x itself": n + layer(n),
        "The norm comes after the addition (post-norm), not before the layer": norm(x + layer(x), (6,)),
        "The norm comes after the layer; put it before": x + norm(layer(x), (6,)),
        "The result is normalized once more": norm(x + layer(n), (6,)),
        "Norm and layer are added to x side by side; the layer must read the normalized copy": x
        + n
        + layer(x),
        "The layer is not used": x + n,
        "The two are multiplied; add them": x * layer(n),
    }
    require_equal(require_result(module, x), x + layer(n), mistakes, "With a random layer", tolerance=1e-3)
    require_registered(module, layer)
    rest = count_parameters(module) - 42
    words = (
        f"Besides the layer it has {rest} parameters; the LayerNorm for 6 features, made in __init__, has 12."
    )
    require(rest == 12, words)
    rest = [p for p in module.parameters() if p is not layer.weight and p is not layer.bias]
    bias, weight = sorted(rest, key=lambda p: p.sum().item())  # they start at 0 and at 1
    require_trains_like(module, lambda x: x + layer(norm(x, (6,), weight, bias)), x)


@exercise("4.4.5", "It starts as if the layer were not there, and lets it in as alpha learns.")
def rezero(answer):
    layer, x = randomized(nn.Linear(4, 4)), torch.randn(3, 4)
    module = require_module(answer, layer)
    result, fx = require_result(module, x), layer(x)
    alpha = require_parameter(module, "alpha")
    require(alpha.numel() == 1, f"alpha is one number for the whole layer; this has {alpha.numel()}.")
    require(alpha.item() != 1, "alpha starts at 1; ReZero starts at 0.")
    mistakes = {
        "With alpha at 0 nothing comes out: x itself must pass": 0 * x,
        "With alpha at 0 the layer alone comes out: x itself must pass": fx,
        "alpha multiplies the input of the layer; it belongs to its output": x + layer(0 * x),
        "With alpha at 0 the layer comes in as a whole: alpha must multiply its output": x + fx,
    }
    require_equal(result, x, mistakes, "At the start")
    require_registered(module, layer)
    with torch.no_grad():
        alpha.fill_(0.5)
    mistakes = {
        "alpha has no effect: the layer never comes in": x,
        "alpha is squared": x + 0.25 * fx,
        "alpha weighs the layer against x; x must pass whole": 0.5 * x + 0.5 * fx,
    }
    require_equal(require_result(module, x), x + 0.5 * fx, mistakes, "With alpha = 0.5")
    for start in (0.5, 0.0):  # at 0 alpha must be able to move
        alpha.data.fill_(start)
        require_trains_like(module, lambda x: x + alpha * layer(x), x)
