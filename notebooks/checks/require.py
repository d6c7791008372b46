"""Comparing an answer with what is right, and naming its mistake.

A function `require_...` raises Wrong, whose message is what the reader is told; `is_...` returns a bool. An
exercise whose answer is a number or a choice is data, declared by `number_exercise` or `choice_exercise`.
"""

import copy
import types
from decimal import Decimal
from numbers import Real

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from .runner import NotAttempted, Wrong, exercise

SMALL = types.MappingProxyType(  # cannot be changed; an answer gets a copy, {**SMALL}
    {
        "vocab_size": 31,
        "context_length": 12,
        "emb_dim": 8,
        "n_heads": 2,
        "n_layers": 3,
        "drop_rate": 0.0,
        "qkv_bias": True,
    }
)
NO_GRADIENT = "The values are right, but no gradient flows back: is something detached?"


def require(condition, words):
    """Raise Wrong with `words` unless the condition holds."""
    if not condition:
        raise Wrong(words)


def describe_type(thing):
    """A thing's type, for a message."""
    name = type(thing).__name__
    return "None (is a `return` missing?)" if thing is None else f"a{'n' * (name[0] in 'AEIOUaeiou')} {name}"


# ---- What an answer gives ----------------------------------------------------------------------------------


def require_module(answer, *arguments, **named):
    """The module that the class `answer` makes, in eval mode; Wrong if it makes none."""
    if isinstance(answer, nn.Module):
        raise Wrong("Hand over the class itself, MyClass and not MyClass(...).")
    if not isinstance(answer, type):
        raise Wrong(f"The answer should be a class derived from nn.Module, not {describe_type(answer)}.")
    require(issubclass(answer, nn.Module), "The class must be derived from nn.Module.")
    module = answer(*map(as_given, arguments), **named)
    if not isinstance(module, nn.Module):
        raise Wrong(f"Calling the class gives {describe_type(module)}; it should give a module.")
    return module.eval()


def as_given(argument):
    """What an answer gets for an argument: a copy, but a module itself, which was made for this answer."""
    if isinstance(argument, nn.Module):
        return argument
    return copy.deepcopy(dict(argument) if isinstance(argument, types.MappingProxyType) else argument)


def require_result(function, *inputs):
    """What an answer gives for copies of `inputs`; Wrong if it cannot be called or changes them."""
    if not callable(function):
        raise Wrong(
            f"Hand over the function or class itself, not its result; this is {describe_type(function)}."
        )
    copies = [as_given(x) for x in inputs]
    result = function(*copies)
    if result is ...:
        raise NotAttempted
    for given, now in zip(inputs, copies, strict=True):
        unchanged = torch.equal(given, now) if isinstance(given, torch.Tensor) else given == now
        require(unchanged or not isinstance(given, dict), "It changes cfg; work on a copy, {**cfg}.")
        if not unchanged:
            raise Wrong(
                "It changes its input in place, which the caller still needs (is there a += or append?)."
            )
    return result


def randomized(module, size=1.0):
    """`module` with random parameters, so that no mistake hides behind a start at 0 or 1.

    `size` scales the weights of linear layers: of many in a row, large ones would drown the rest.
    """
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter))
        for linear in (m for m in module.modules() if isinstance(m, nn.Linear)):
            linear.weight.mul_(size)
    return module


# ---- Tensors -----------------------------------------------------------------------------------------------


def is_close(result, right, tolerance=1e-4):
    """Whether two tensors have the same shape and close values; nan equals nan."""
    if result.shape != right.shape or result.is_complex():
        return False
    pair = (t.detach().double() for t in (result, right))
    return torch.allclose(*pair, rtol=tolerance, atol=tolerance, equal_nan=True)


def is_changed_by_other_tokens(module, x):
    """Whether the result for the first token of `x`, (B, T, D), changes with the other tokens."""
    other = torch.cat([x[:1], 3 * torch.randn_like(x[1:])])
    other[:1, 1:] = 3 * torch.randn_like(x[:1, 1:])
    results = [require_result(module, t) for t in (x, other)]
    if not all(isinstance(r, torch.Tensor) and r.shape == x.shape for r in results):
        return False  # something else is wrong
    return not is_close(results[0][0, 0], results[1][0, 0])


def as_list(wrong):
    """The result of a mistake, one tensor or a list of them, as a list."""
    return wrong if isinstance(wrong, list) else [wrong]


def shown(row, digits):
    """A row of a tensor for a message, not too much of it."""
    numbers = [f"{x:.{digits}f}" if row.is_floating_point() else str(x) for x in row.flatten().tolist()]
    most = 6 if row.is_floating_point() else 16
    return f"[{', '.join(numbers[:most])}{', ...' if len(numbers) > most else ''}]"


def require_no_mistake(result, mistakes, values, tolerance=1e-4):
    """Raise Wrong if one of `mistakes` gives this result: words, each with a tensor or a list of them."""
    for words, wrong in dict(mistakes).items():
        if any(is_close(result, w, tolerance) for w in as_list(wrong)):
            raise Wrong(f"{words}. {values}")


def require_equal(result, right, mistakes=(), given="", tolerance=1e-4, otherwise=None):
    """Raise Wrong unless `result` is the tensor `right`.

    `mistakes` is a dict of what might have gone wrong, each with what it would give here; the first that fits
    is named. `given` says what was put in. `otherwise` may look further if none fits.
    """
    if not isinstance(result, torch.Tensor):
        raise Wrong(f"It returns {describe_type(result)}; it should return a tensor.")
    if result.device != right.device:
        raise Wrong(f"It returns a tensor on the device {result.device}, not {right.device}.")
    if result.is_complex() or result.is_floating_point() != right.is_floating_point():
        raise Wrong(f"It returns values of type {result.dtype}; the right type is {right.dtype}.")
    given = given + " it" if given else "It"
    if is_close(result, right, tolerance):
        if result.dtype != right.dtype:
            raise Wrong(f"{given} gives the right values, but of type {result.dtype} and not {right.dtype}.")
        return
    values = f"{given} gives the shape {tuple(result.shape)}; the right one is {tuple(right.shape)}."
    if result.shape == right.shape:
        off = (result - right).abs().nan_to_num(nan=torch.inf)
        place = tuple(x.item() for x in torch.unravel_index(off.argmax(), right.shape))[:-1]  # the worst row
        got, wanted = result.detach()[place], right.detach()[place]
        where = f"result{list(place)} = " if right.ndim > 1 and len(right) > 1 else ""
        digits = 3 if shown(got, 3) != shown(wanted, 3) else 6
        values = f"{given} gives {where}{shown(got, digits)}; {shown(wanted, digits)} is right."
    require_no_mistake(result, mistakes, values, tolerance)
    if otherwise and result.shape == right.shape and result.isfinite().all():
        otherwise()
    raise Wrong(values)


# ---- Parameters and gradients ------------------------------------------------------------------------------


def require_parameter(module, name, right=None):
    """The module's parameter of this name; Wrong if there is none, or if it does not start at `right`."""
    own = getattr(module, name, None)
    what = "there is none" if own is None else f"it is {describe_type(own)}"
    words = f"self.{name} must be an nn.Parameter, so that it is learned; {what}."
    require(isinstance(own, nn.Parameter), words)
    require(own.requires_grad, f"self.{name} has requires_grad=False, so it is never learned.")
    if right is not None:
        require_equal(own.detach(), right, given=f"At the start, for self.{name},")
    return own


def require_parts(module, names, wanted=nn.Module):
    """The module's parts of these names; Wrong if one is missing."""
    parts = [getattr(module, name, None) for name in names]
    missing = [n for n, part in zip(names, parts, strict=True) if not isinstance(part, wanted)]
    require(not missing, f"The parts must be called {', '.join(names)}; missing: {', '.join(missing)}.")
    return parts


def require_registered(module, layer):
    """Raise Wrong unless the parameters of `layer` are among those of `module`."""
    registered = {id(p) for p in layer.parameters()} <= {id(p) for p in module.parameters()}
    words = "An optimizer wouldn't find the layer's parameters: keep it as self.layer, not in a plain list."
    require(registered, words)


def require_own_forward(answer, inherited):
    """Raise Wrong if the forward method that runs is that of the class named `inherited`."""
    first = next(c for c in answer.__mro__ if "forward" in vars(c))
    words = "It has no `forward` of its own, so the inherited one runs: is the name misspelled?"
    require(first is answer or first.__name__ != inherited, words)


def require_gradients(result, right, leaves):
    """Raise Wrong unless both tensors send the same gradients back to the leaves, a dict with their names."""
    require(result.requires_grad, NO_GRADIENT)
    upstream = torch.randn_like(right)
    for name, leaf in leaves.items():
        require(leaf.requires_grad, f"{name} has requires_grad=False, so it is never learned.")
        try:
            own, wanted = (
                torch.autograd.grad(y, leaf, upstream, retain_graph=True, allow_unused=True)[0]
                for y in (result, right)
            )
        except RuntimeError as error:
            words = "The values are right, but += or the like has changed a tensor that the gradient needs."
            raise Wrong(words) if "inplace" in str(error) else error from None
        require(wanted is not None, f"{name} is a parameter that this module doesn't need.")
        words = f"The values are right, but no gradient reaches {name}: is something detached?"
        require(own is not None, words)
        require_equal(
            own, wanted, given=f"The values are right, but as the gradient of {name}", tolerance=1e-3
        )


def require_trains_like(module, reference, x):
    """Raise Wrong unless `module`, in training mode, gives the output and gradients of `reference`."""
    leaf = x.clone().requires_grad_()
    result, right = module.train()(leaf), reference(leaf)
    if isinstance(result, torch.Tensor) and not is_close(result, right, 1e-3):
        words = "In training mode two runs on the same input differ. Is there a dropout? None belongs here."
        require(is_close(result, module(leaf), 1e-3), words)
    require_equal(result, right, given="In training mode", tolerance=1e-3)
    leaves = {f"self.{name}": p for name, p in module.named_parameters()}
    require_gradients(result, right, {"the input": leaf, **leaves})


# ---- Dropout -----------------------------------------------------------------------------------------------


class Dropouts(TorchFunctionMode):
    """While this lasts, dropout leaves nothing to chance: instead of dropping, it multiplies by `factor`.

    `rates` and `shapes` say, in order, at which rate something would have been dropped, and from what. In
    attention these are the weights, whose shape has the number of tokens twice.
    """

    def __init__(self, factor=3.0):
        super().__init__()
        self.factor, self.rates, self.shapes = factor, [], []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, getattr(function, "__name__", "")
        if name == "scaled_dot_product_attention":
            names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
            named = dict(zip(names, args, strict=False)) | kwargs
            rate, shape = named.pop("dropout_p", 0.0), (*named["query"].shape[:-1], named["key"].shape[-2])
            kept = function(**named)
        elif "dropout" in name:
            named = dict(zip(("input", "p", "training"), args, strict=False)) | kwargs
            rate = named.get("p", 0.5) if named.get("training", named.get("train", True)) else 0.0
            kept, shape = named["input"], tuple(named["input"].shape)
        else:
            return function(*args, **kwargs)
        if not rate:
            return kept
        self.rates.append(rate)
        self.shapes.append(shape)
        return kept.mul_(self.factor) if kwargs.get("inplace") else kept * self.factor


# ---- Numbers and choices -----------------------------------------------------------------------------------


def require_float(given, wanted="a number"):
    """What an answer gives, a number or a tensor with one, as a float."""
    number = given.item() if isinstance(given, torch.Tensor) and given.numel() == 1 else given
    is_number = isinstance(number, Real) and not isinstance(number, bool)
    require(is_number, f"It returns {describe_type(given)}; it should return {wanted}.")
    return float(number)


def require_number(answer, right, tolerance=0.0, mistakes=()):
    """Raise Wrong unless a number (or tuple of numbers) is `right` within the relative `tolerance`.

    There may be a tolerance for each number. `mistakes` is a dict of words, each with its number.
    """
    right = right if isinstance(right, tuple) else (right,)
    wanted = "one number" if len(right) == 1 else f"a tuple of {len(right)} numbers"
    answer = answer.tolist() if hasattr(answer, "tolist") else answer  # of a tensor, an array, a numpy number
    numbers = tuple(answer) if isinstance(answer, (tuple, list)) else (answer,)
    numbers = tuple(n.item() if hasattr(n, "item") else n for n in numbers)
    if any(isinstance(n, bool) or not isinstance(n, (Real, Decimal)) for n in numbers) or not numbers:
        given = repr(answer) if isinstance(answer, str) else str(answer)
        raise Wrong(f"Answer with {wanted}, not {given[:60]}.")
    require(all(n == n for n in numbers), "The answer is nan, not a number.")
    require(all(abs(n) < 1e18 for n in numbers), "That is far too large: is there a ** instead of a *?")
    numbers = tuple(n if isinstance(n, int) else float(n) for n in numbers)

    tolerances = tolerance if isinstance(tolerance, tuple) else (tolerance,) * len(right)

    def far_off(wanted):
        """The places of the numbers that are not the wanted ones."""
        triples = zip(numbers, wanted, tolerances, strict=False)
        return [i for i, (n, w, t) in enumerate(triples) if not abs(n - w) <= t * abs(w)]

    def is_near(wanted):
        wanted = wanted if isinstance(wanted, tuple) else (wanted,)
        return len(numbers) == len(wanted) and not far_off(wanted)

    if is_near(right):
        return
    for mistake, wrong in dict(mistakes).items():
        if is_near(wrong):
            raise Wrong(mistake if mistake.endswith("?") else f"{mistake}.")
    if len(numbers) != len(right):
        comma = len(right) == 1 and all(isinstance(n, int) and 0 <= n < 1000 for n in numbers)
        hint = " A comma makes a tuple in Python; 1,000 is written 1_000 or 1000." if comma else ""
        raise Wrong(f"Answer with {wanted}, not {len(numbers)}.{hint}")
    place = far_off(right)[0]
    which = f"The {('first', 'second', 'third')[place]} number, " if len(right) > 1 else ""
    direction = "large" if numbers[place] > right[place] else "small"
    raise Wrong(f"{which}{numbers[place]:,}{',' if which else ''} is too {direction}.")


def require_choice(answer, right, options):
    """Raise Wrong unless the answer is the letter `right`; `options` says why each other letter is wrong."""
    letter = answer.strip(" ().:'\"\t\n").lower() if isinstance(answer, str) else answer
    letters = tuple(sorted([right, *options]))
    if letter not in letters:
        raise Wrong(f"Choose one of {', '.join(map(repr, letters))}, not {str(answer)[:60]!r}.")
    require(letter == right, options.get(letter))


def number_exercise(number, *, right, praise, mistakes, tolerance=0.0):
    """The check of an exercise whose answer is a number or a tuple of numbers.

    `mistakes` has what to say about each classic wrong answer: words -> the answer that they belong to.
    """

    @exercise(number, praise)
    def check(answer):
        require_number(answer, right, tolerance, mistakes)

    check.right, check.mistakes = right, mistakes  # a test gives each of them as an answer
    return check


def choice_exercise(number, *, right, praise, options):
    """The check of an exercise whose answer is a letter; `options` says why each other letter is wrong."""

    @exercise(number, praise)
    def check(answer):
        require_choice(answer, right, options)

    check.right, check.mistakes = right, {words: letter for letter, words in options.items()}
    return check
