"""Checks of a reader's own answers to the exercises: each prints one line, and raises nothing.

    from notebooks import checks
    checks.layer_norm(MyLayerNorm)        # Exercise 4.2.3: not attempted yet.
    checks.use(LayerNorm=MyLayerNorm)     # from here on, this kernel builds on your class ...
    checks.use_shipped()                  # ... and now on the shipped one again

A check asks an answer for its results on small inputs, at which the classic mistakes differ. It knows what
each mistake would give there, and names the one it meets. What is right comes from PyTorch's own parts.
"""

import contextlib
import copy
import ctypes
import functools
import inspect
import io
import sys
import threading
import traceback
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

import helpers
from helpers import GPT2_CONFIGS, GPT_CONFIG_124M, count_parameters

SECONDS = 1.8  # the most that the examination of an answer may take
SMALL = {
    "vocab_size": 31,
    "context_length": 12,
    "emb_dim": 8,
    "n_heads": 2,
    "n_layers": 3,
    "drop_rate": 0.0,
    "qkv_bias": True,
}


# ---- What all checks share ---------------------------------------------------------------------------------


class Wrong(Exception):
    """The answer is not right; the message says what shows it."""


class NotAttempted(Exception):
    """The `...` of the stub is still there."""


class TooLong(BaseException):
    """Raised inside an answer that does not come to an end."""


def exercise(number, praise, prepare=lambda: None):
    """Make a check of a function that raises Wrong: it examines an answer and prints one line.

    `prepare` runs before the time of the answer begins to count.
    """

    def decorate(examine):
        @functools.wraps(examine)
        def check(answer):
            prepare()
            verdict, words = judge(examine, answer)
            print(f"Exercise {number}: {verdict}. {praise if verdict == 'right' else words}".rstrip())

        check.number, check.examine = number, examine
        return check

    return decorate


def judge(examine, answer):
    """A verdict on `answer` and what there is to say about it in one line, whatever the answer does."""
    # The first gradient loads this, which takes time and must not be broken off.
    import torch.fx.experimental.symbolic_shapes  # noqa: F401

    found, threads, dtype = [], torch.get_num_threads(), torch.get_default_dtype()

    def work():
        try:
            torch.set_num_threads(1)  # the work is small, and threads that wait for it cost more
            torch.default_generator.manual_seed(0)
            if answer is ...:
                raise NotAttempted
            examine(answer)
            found.append(("right", ""))
        except NotAttempted:
            found.append(("not attempted yet", ""))
        except Wrong as wrong:
            found.append(("not right yet", str(wrong)))
        except BaseException as error:  # an answer may raise anything, SystemExit too
            found.append(("not right yet", in_words(error)))

    def quietly():
        with contextlib.suppress(BaseException):  # TooLong may come at any moment
            work()

    # In a thread, since only a thread can be stopped in every kernel and on every system. Afterwards all is
    # as it was: random numbers, threads, the type of numbers. What an answer prints is dropped.
    thread, silence = threading.Thread(target=quietly, daemon=True), io.StringIO()
    torch.set_default_dtype(torch.float32)
    with contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence):
        with torch.random.fork_rng(devices=[]):
            thread.start()
            try:
                thread.join(SECONDS)
                too_late = (
                    f"It had not finished after {SECONDS} seconds: a loop that never ends, or too much work?"
                )
            except KeyboardInterrupt:
                too_late = "You interrupted the check."
            late = thread.is_alive()
            for _ in range(5 * late):  # an answer may catch the first
                stop = ctypes.py_object(TooLong)
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), stop)
                thread.join(0.02)
    torch.set_num_threads(threads)
    torch.set_default_dtype(dtype)
    verdict, words = ("not right yet", too_late) if late or not found else found[0]
    return verdict, " ".join(words.split())  # an answer may have put anything into the words


def in_words(error):
    """What an answer raised, and at which of its lines."""
    libraries = (__file__, helpers.__file__, *(str(Path(m.__file__).parent) for m in (torch, threading)))
    stack = traceback.extract_tb(error.__traceback__)
    lines = [frame.line for frame in stack if not frame.filename.startswith(libraries)]
    try:
        message = " ".join(str(error).split())[:200]
    except Exception:  # one that cannot even be printed
        message = ""
    raised = type(error).__name__ + (f": {message}" if message else "")
    if "ellipsis" in message:
        raised += " (Is there a `...` left?)"
    if "'_modules'" in message or "before Module.__init__()" in message:
        raised += " (Is super().__init__() missing?)"
    if not lines:  # not even inside of the answer
        return f"The check could not use your answer. {raised}"
    place = f" at `{lines[-1]}`" if lines[-1] else ""
    return f"It fails{place}. {raised}"


def kind(thing):
    """A thing's type, for a message."""
    name = type(thing).__name__
    return "None (is a `return` missing?)" if thing is None else f"a{'n' * (name[0] in 'aeiou')} {name}"


def build(answer, *arguments, **named):
    """The module that the class `answer` makes."""
    if isinstance(answer, nn.Module):
        raise Wrong("Hand over the class itself, MyClass and not MyClass(...).")
    if not isinstance(answer, type):
        raise Wrong(f"A class derived from nn.Module is wanted, not {kind(answer)}.")
    require(issubclass(answer, nn.Module), "The class must be derived from nn.Module.")
    module = answer(*arguments, **named)
    if not isinstance(module, nn.Module):
        raise Wrong(f"Making one gives {kind(module)}, where a module is wanted.")
    return module.eval()


def ask(function, *inputs):
    """What an answer gives for copies of `inputs`; they must come back unchanged."""
    if not callable(function):
        raise Wrong(f"Hand over the function or class itself, not its result; this is {kind(function)}.")
    copies = [x if isinstance(x, nn.Module) else copy.deepcopy(x) for x in inputs]
    result = function(*copies)
    if result is ...:
        raise NotAttempted
    for given, now in zip(inputs, copies, strict=True):
        unchanged = torch.equal(given, now) if isinstance(given, torch.Tensor) else given == now
        require(unchanged or not isinstance(given, dict), "It changes cfg; work on a copy, {**cfg}.")
        if not unchanged:
            raise Wrong(
                "It changes its input in place, which the caller still needs (x += ... or append does this)."
            )
    return result


def same(result, right, tolerance=1e-4):
    """Whether two tensors have one shape and close numbers; nan equals nan."""
    if result.shape != right.shape or result.is_complex():
        return False
    pair = (t.detach().double() for t in (result, right))
    return torch.allclose(*pair, rtol=tolerance, atol=tolerance, equal_nan=True)


def shown(row, digits):
    """A row of a tensor for a message, not too much of it."""
    numbers = [f"{x:.{digits}f}" if row.is_floating_point() else str(x) for x in row.tolist()]
    most = 6 if row.is_floating_point() else 16
    return f"[{', '.join(numbers[:most])}{', ...' if len(numbers) > most else ''}]"


def as_list(wrong):
    """What a mistake gives, one tensor or a list of them, as a list."""
    return wrong if isinstance(wrong, list) else [wrong]


def name_mistake(result, mistakes, values, tolerance=1e-4):
    """Raise Wrong if one of `mistakes` gives this result: words, each with a tensor or a list of them."""
    for words, wrong in dict(mistakes).items():
        if any(same(result, w, tolerance) for w in as_list(wrong)):
            raise Wrong(f"{words}. {values}")


def compare(result, right, mistakes=(), given="", tolerance=1e-4, otherwise=None):
    """Raise Wrong unless `result` is the tensor `right`.

    `mistakes` is a dict of what might have gone wrong, each with what it would give here; the first that fits
    is named. `given` says what was put in. `otherwise` may look further if none fits.
    """
    if not isinstance(result, torch.Tensor):
        raise Wrong(f"It returns {kind(result)}, where a tensor is wanted.")
    if result.device != right.device:
        raise Wrong(f"It returns a tensor on the device {result.device}, not {right.device}.")
    if result.is_complex() or result.is_floating_point() != right.is_floating_point():
        raise Wrong(f"It returns numbers of type {result.dtype}, where {right.dtype} is right.")
    if same(result, right, tolerance):
        if result.dtype != right.dtype:
            raise Wrong(f"The numbers are right, but of type {result.dtype} and not {right.dtype}.")
        return
    given = given + " it" if given else "It"
    values = f"{given} gives the shape {tuple(result.shape)}, where {tuple(right.shape)} is right."
    if result.shape == right.shape:
        off = (result - right).abs().nan_to_num(nan=torch.inf)
        place = tuple(x.item() for x in torch.unravel_index(off.argmax(), right.shape))[:-1]  # the worst row
        got, wanted = result.detach()[place], right.detach()[place]
        where = f"result{list(place)} = " if right.ndim > 1 and len(right) > 1 else ""
        digits = 3 if shown(got, 3) != shown(wanted, 3) else 6
        values = f"{given} gives {where}{shown(got, digits)}, where {shown(wanted, digits)} is right."
    name_mistake(result, mistakes, values, tolerance)
    if otherwise and result.shape == right.shape and result.isfinite().all():
        otherwise()
    raise Wrong(values)


def require(condition, words):
    """Raise Wrong with `words` unless the condition holds."""
    if not condition:
        raise Wrong(words)


def predicted(answer, right, tolerance=0.0, mistakes=()):
    """Raise Wrong unless a number (or tuple of numbers) is `right` within the relative `tolerance`.

    There may be a tolerance for each number. `mistakes` is a dict of words, each with its number.
    """
    right = right if isinstance(right, tuple) else (right,)
    wanted = "One number" if len(right) == 1 else f"A tuple of {len(right)} numbers"
    answer = answer.tolist() if hasattr(answer, "tolist") else answer  # of a tensor, an array, a numpy number
    numbers = tuple(answer) if isinstance(answer, (tuple, list)) else (answer,)
    numbers = tuple(n.item() if hasattr(n, "item") else n for n in numbers)
    if any(isinstance(n, bool) or not isinstance(n, (int, float)) for n in numbers) or not numbers:
        given = repr(answer) if isinstance(answer, str) else str(answer)
        raise Wrong(f"{wanted} is wanted, not {given[:60]}.")
    require(all(n == n for n in numbers), "The answer is nan; a number is wanted.")
    require(all(abs(n) < 1e18 for n in numbers), "That is far too large: is there a ** in place of a *?")

    tolerances = tolerance if isinstance(tolerance, tuple) else (tolerance,) * len(right)

    def near(wanted):
        wanted = wanted if isinstance(wanted, tuple) else (wanted,)
        return len(numbers) == len(wanted) and not far_off(wanted)

    def far_off(wanted):
        triples = zip(numbers, wanted, tolerances, strict=False)
        return [i for i, (n, w, t) in enumerate(triples) if not abs(n - w) <= t * abs(w)]

    if near(right):
        return
    for mistake, wrong in dict(mistakes).items():
        if near(wrong):
            raise Wrong(mistake if mistake.endswith("?") else f"{mistake}.")
    if len(numbers) != len(right):
        comma = len(right) == 1 and all(isinstance(n, int) and 0 <= n < 1000 for n in numbers)
        hint = " A comma makes a tuple in Python; 1,000 is written 1_000 or 1000." if comma else ""
        raise Wrong(f"{wanted} is wanted, not {len(numbers)}.{hint}")
    place = far_off(right)[0]
    which = f"The {('first', 'second', 'third')[place]} number, " if len(right) > 1 else ""
    direction = "large" if numbers[place] > right[place] else "small"
    raise Wrong(f"{which}{numbers[place]:,}{',' if which else ''} is too {direction}.")


def predicted_for(given, result, right, tolerance, mistakes):
    """As `predicted`, for what a function gives; the words begin with what was given to it."""
    require(result is not None, f"It returns {kind(result)}, where two numbers are wanted.")
    try:
        predicted(result, right, tolerance, mistakes)
    except Wrong as wrong:
        raise Wrong(f"For {given} it gives {str(result)[:60]}. {wrong}") from None


def chosen(answer, **options):
    """Raise Wrong, with the explanation of the option chosen, unless that is the one explained by ''."""
    letter = answer.strip(" ().").lower() if isinstance(answer, str) else answer
    if letter not in tuple(options):
        raise Wrong(f"Choose one of {', '.join(map(repr, options))}, not {str(answer)[:60]!r}.")
    require(not options[letter], options[letter])


def randomized(module, size=1.0):
    """`module` with random parameters, so that no mistake hides behind a start at 0 or 1.

    `size` is that of the weights of linear layers: of many in a row, large ones would drown the rest.
    """
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter))
        for linear in (m for m in module.modules() if isinstance(m, nn.Linear)):
            linear.weight.mul_(size)
    return module


def parameter(module, name, right=None):
    """The module's parameter of this name; Wrong if there is none, or if it does not start at `right`."""
    own = getattr(module, name, None)
    what = "there is none" if own is None else f"it is {kind(own)}"
    words = f"self.{name} must be an nn.Parameter, so that it is learnt; {what}."
    require(isinstance(own, nn.Parameter), words)
    require(own.requires_grad, f"self.{name} has requires_grad=False, so it is never learnt.")
    if right is not None:
        compare(own.detach(), right, given=f"At the start, for self.{name},")
    return own


def layers_of(module, names, wanted=nn.Module):
    """The module's parts of these names; Wrong if one is missing."""
    parts = [getattr(module, name, None) for name in names]
    missing = [n for n, part in zip(names, parts, strict=True) if not isinstance(part, wanted)]
    require(not missing, f"The parts must have the names {', '.join(names)}; missing: {', '.join(missing)}.")
    return parts


def learns(module, layer):
    """Raise Wrong unless the parameters of `layer` are among those of `module`."""
    inside = {id(p) for p in layer.parameters()} <= {id(p) for p in module.parameters()}
    require(
        inside, "The layer's parameters would not be trained: keep it as self.layer, not in a plain list."
    )


NO_GRADIENT = "The numbers are right, but no gradient flows back: is something detached?"


def same_gradients(result, right, leaves):
    """Raise Wrong unless both tensors send the same gradients back to the leaves, a dict with their names."""
    require(result.requires_grad, NO_GRADIENT)
    upstream = torch.randn_like(right)
    for name, leaf in leaves.items():
        require(leaf.requires_grad, f"{name} has requires_grad=False, so it is never learnt.")
        own, wanted = (
            torch.autograd.grad(y, leaf, upstream, retain_graph=True, allow_unused=True)[0]
            for y in (result, right)
        )
        require(wanted is not None, f"{name} is a parameter that is not needed.")
        words = f"The numbers are right, but no gradient reaches {name}: is something detached?"
        require(own is not None, words)
        compare(own, wanted, given=f"The numbers are right; as the gradient of {name}", tolerance=1e-3)


def trains_like(module, reference, x):
    """Raise Wrong unless `module`, in training mode, gives the output and gradients of `reference`."""
    leaf = x.clone().requires_grad_()
    result, right = module.train()(leaf), reference(leaf)
    compare(result, right, given="In training mode", tolerance=1e-3)
    leaves = {f"self.{name}": p for name, p in module.named_parameters()}
    same_gradients(result, right, {"the input": leaf, **leaves})


def moved_by_others(module, x):
    """Whether the result for the first token of `x`, (B, T, D), changes with the other tokens."""
    other = torch.cat([x[:1], 3 * torch.randn_like(x[1:])])
    other[:1, 1:] = 3 * torch.randn_like(x[:1, 1:])
    results = [ask(module, t) for t in (x, other)]
    if not all(isinstance(r, torch.Tensor) and r.shape == x.shape for r in results):
        return False  # something else is wrong
    return not same(results[0][0, 0], results[1][0, 0])


# ---- 4.1 The architecture ----------------------------------------------------------------------------------


@exercise("4.1.1", "One score for each token of the vocabulary, at each position of each text.")
def logits_shape(answer):
    mistakes = {
        "The model scores what comes next at every position, not only at the last": (3, 50257),
        "That is the shape of the ids that go in": (3, 7),
        "That is the shape inside the model; the output head turns 1,024 numbers into scores": (3, 7, 1024),
        "768 is the width of gpt2-small; besides, the head turns the width into scores": (3, 7, 768),
        "The texts come first, then the positions": (7, 3, 50257),
        "Each text has scores of its own": (7, 50257),
        "The scores come last": (3, 50257, 7),
    }
    predicted(answer, (3, 7, 50257), 0.0, mistakes)


@exercise("4.1.2", "1,024 new rows of 768 numbers in the positional embedding, and nothing else.")
def longer_context(answer):
    cfg = GPT_CONFIG_124M
    rows, D = cfg["context_length"], cfg["emb_dim"]
    mistakes = {
        "That is the whole new table; the first half was there before": 2 * rows * D,
        "A position is a row of emb_dim numbers, not of vocab_size": rows * cfg["vocab_size"],
        "One of the tables has a row for each position": 0,
        "That is the number of new rows; each has emb_dim numbers": rows,
    }
    predicted(answer, rows * D, 0.01, mistakes)


@exercise("4.1.3", "Cut at the end, filled at the end, one row for each text.")
def same_length(answer):
    texts, filler = [[5, 0], [1, 2, 3, 4, 5, 6], [7, 8, 9, 10], []], 99
    first, long, full, empty = [5, 0, 99, 99], [1, 2, 3, 4], [7, 8, 9, 10], [99, 99, 99, 99]
    right = torch.tensor([first, long, full, empty])
    mistakes = {
        "The filler stands in front; the text must begin the row": [[99, 99, 5, 0], long, full, empty],
        "A long text keeps its last tokens; keep the first": [first, [3, 4, 5, 6], full, empty],
        "Filler in front and the last tokens of long texts: both at the wrong end": [
            [99, 99, 5, 0],
            [3, 4, 5, 6],
            full,
            empty,
        ],
        "It fills with 0, which is a token like any other, and not with `filler`": [
            [5, 0, 0, 0],
            long,
            full,
            [0, 0, 0, 0],
        ],
        "Token 0 is taken for a gap; it is a token like any other": [[5, 99, 99, 99], long, full, empty],
        "An empty text gets no row": [first, long, full],
        "All rows have the length of the longest text and not `length`": [
            text + [99] * (6 - len(text)) for text in texts
        ],
    }
    mistakes = {words: torch.tensor(wrong) for words, wrong in mistakes.items()}
    mistakes["Texts stand in columns; a row for each is wanted, (B, T)"] = right.T
    mistakes["The texts follow one another in one row"] = right.flatten()
    compare(ask(answer, texts, 4, filler), right, mistakes, "For texts of 2, 6, 4 and 0 tokens")
    short = torch.tensor([[5, 0, 99, 99, 99]])
    compare(ask(answer, texts[:1], 5, filler), short, given="If all texts are shorter than `length`,")


@exercise("4.1.4", "Token plus position, added, the same positions for every text.")
def embed(answer):
    tok_emb, pos_emb = nn.Embedding(12, 4), nn.Embedding(12, 4)
    tok, pos = tok_emb.weight, pos_emb.weight
    ids = torch.tensor([[3, 1, 3, 7, 0], [2, 2, 5, 11, 4], [8, 6, 1, 0, 9]])
    right = tok[ids] + pos[:5]
    mistakes = {
        "The positions are missing": tok[ids],
        "The tokens are missing": pos[:5].expand(3, 5, 4),
        "The positions start at 1, and row 0 of the table is never used": tok[ids] + pos[1:6],
        "The positional embedding is looked up by token id, not by position": tok[ids] + pos[ids],
        "Every token gets the same position": tok[ids] + pos[5],
        "Every token gets position 0": tok[ids] + pos[0],
        "Each text gets a position, where each token in it should": tok[ids] + pos[:3, None],
        "The two are multiplied; add them": tok[ids] * pos[:5],
        "They are set side by side; add them": torch.cat([tok[ids], pos[:5].expand(3, 5, 4)], dim=-1),
        "The two are subtracted; add them": tok[ids] - pos[:5],
        "The two tables are exchanged": pos[ids] + tok[:5],
    }
    result = ask(answer, tok_emb, pos_emb, ids)
    compare(result, right, mistakes)
    same_gradients(result, right, {"tok_emb.weight": tok, "pos_emb.weight": pos})
    compare(ask(answer, tok_emb, pos_emb, ids[:1]), right[:1], given="For a single text")


def running_mean(x):
    """The mean of each token and all earlier ones, for x of shape (B, T, D)."""
    return x.cumsum(dim=1) / torch.arange(1, x.shape[1] + 1)[:, None]


@exercise("4.1.5", "Each token now knows what came before it, and nothing of what comes after.")
def average_block(answer):
    block, x = build(answer, SMALL), torch.randn(4, 4, 4)
    sums, earlier = x.cumsum(dim=1), torch.arange(1, 5)[:, None]
    before = (sums - x) / (earlier - 1).clamp(min=1)
    mistakes = {
        "It returns its input: no token sees another": x,
        "It adds up and does not divide": sums,
        "Later tokens enter too; token t may only see tokens 0 ... t": x.mean(1, keepdim=True).expand(
            4, 4, 4
        ),
        "It divides by T everywhere; at position t there are t + 1 tokens": sums / 4,
        "A token leaves itself out of its average": before,
        "It divides by t; at position t there are t + 1 tokens": sums / (earlier - 1),
        "It averages the features of a token, not the tokens": x.mean(-1, keepdim=True).expand(4, 4, 4),
        "It runs along the features; the tokens are dimension 1": x.cumsum(-1) / torch.arange(1, 5),
        "It runs along the batch; the tokens are dimension 1": x.cumsum(0) / earlier[:, None],
        "It averages later tokens, in place of earlier ones": x.flip(1).cumsum(1).flip(1) / earlier.flip(0),
        "It divides along the features: the numbers of tokens need the shape (T, 1)": sums
        / torch.arange(1, 5),
        "The average does not start anew for each text": sums.cumsum(0) / earlier,
    }
    compare(ask(block, x), sums / earlier, mistakes)
    compare(ask(block, x), sums / earlier, given="When it runs for the second time")
    for T in (7, 1):
        x = torch.randn(2, T, 5)
        compare(ask(block, x), running_mean(x), given=f"For {T} tokens")
    require(not list(block.parameters()), "It has parameters; an average needs none.")
    trains_like(block, running_mean, x)


# ---- 4.2 Layer normalization -------------------------------------------------------------------------------


@exercise("4.2.1", "Twice as large means four times the variance; the shift moves the mean only.")
def mean_and_variance(answer):
    mistakes = {
        "So it is before the scale and the shift": (0, 1),
        "A scale of 2 makes the standard deviation 2; what is the variance?": (3, 2),
        "The first number is the mean: what does the shift do to it?": (0, 4),
        "The shift is added last, so the scale does not double it": (6, 4),
        "Mean first, then variance": (4, 3),
    }
    predicted(answer, (3, 4), 0.02, mistakes)


@exercise("4.2.2", "Next to a variance of 4e-6, an eps of 1e-5 is not small.")
def tiny_token(answer):
    x, variance, eps = 0.002, 0.002**2, 1e-5
    mistakes = {
        "eps is more than twice the variance here, and stands under the root with it": 1.0,
        "Under the root there is the variance as well as eps": x / eps**0.5,
        "The root is missing: divide by the root of variance plus eps": x / (variance + eps),
        "That is the variance after normalization; the standard deviation is its root": variance
        / (variance + eps),
    }
    predicted(answer, x / (variance + eps) ** 0.5, 0.05, mistakes)


def normalized(x, dims=-1, divisor=0, eps=1e-5):
    """x with mean 0 and variance 1 over `dims`; the variance divides by the count less `divisor`."""
    centred = x - x.mean(dims, keepdim=True)
    return centred / (x.var(dims, keepdim=True, correction=divisor) + eps).sqrt()


def layer_norm_basics(layer):
    """The probes of a fresh normalization with mean and variance."""
    x = torch.tensor([[1.0, 2.0, 3.0, 6.0]])
    centred, variance = x - x.mean(), x.var(correction=0)
    mistakes = {
        "It returns its input": x,
        "It subtracts the mean and does not divide": centred,
        "The variance is the unbiased one, which divides by D - 1": normalized(x, divisor=1),
        "It divides by the variance and not by its root": centred / variance,
        "It divides by the unbiased variance and not by its root; both are wrong": centred / x.var(),
        "The mean is not subtracted": x / variance.sqrt(),
        "The mean is not subtracted, and the variance is the unbiased one": x / x.std(),
        "It divides by the root of the mean square: RMSNorm": x / x.square().mean().sqrt(),
        "Scale and shift are exchanged": torch.ones(1, 4),
    }
    compare(ask(layer, x), normalized(x), mistakes, "For the token [1, 2, 3, 6]", tolerance=1e-3)

    tiny = torch.tensor([[0.001, -0.001, 0.001, -0.001]])
    mistakes = {
        "eps stands outside of the root": tiny / (tiny.std(correction=0) + 1e-5),
        "eps is missing": tiny / tiny.std(correction=0),
        "eps is subtracted": (tiny / (tiny.var(correction=0) - 1e-5).sqrt()),
        "eps is 1e-6 and not 1e-5": normalized(tiny, eps=1e-6),
        "eps is 1e-8 and not 1e-5": normalized(tiny, eps=1e-8),
    }
    compare(ask(layer, tiny), normalized(tiny), mistakes, "For the token [0.001, -0.001, 0.001, -0.001]")
    constant = torch.full((1, 4), 3.0)
    compare(ask(layer, constant), 0 * constant, (), "For a token of equal numbers")


@exercise("4.2.3", "Equal to nn.LayerNorm: outputs, gradients, eps, scale and shift.")
def layer_norm(answer):
    layer, x = build(answer, 4), torch.randn(4, 4, 4)
    result = ask(layer, x)  # (4, 4, 4): no wrong dimension raises an error
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
        name_mistake(result, mistakes, "It shows for 4 texts of 4 tokens with 4 features.")
    require(not moved_by_others(layer, x), "The result for a token changes when only other tokens change.")
    parameter(layer, "scale", torch.ones(4))
    parameter(layer, "shift", torch.zeros(4))
    layer_norm_basics(layer)

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
    compare(ask(layer, x), norm * scale + shift, mistakes, "With a random scale and shift")

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
    compare(gradient(layer), gradient(formula()), mistakes, "For the gradient of the input")
    wide = randomized(build(answer, 6))
    trains_like(wide, lambda x: normalized(x) * wide.scale + wide.shift, torch.randn(2, 3, 6))


@exercise("4.2.4", "Half the parameters of LayerNorm, and one thing less to compute.")
def rms_norm(answer):
    layer, x = build(answer, 4), torch.tensor([[1.0, -2.0, 3.0, 6.0]])
    result = ask(layer, x)
    require(
        not moved_by_others(layer, torch.randn(4, 4, 4)),
        "The result for a token changes when other tokens change.",
    )
    parameter(layer, "scale", torch.ones(4))
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
    compare(result, x / square.mean().sqrt(), mistakes, "For the token [1, -2, 3, 6]", tolerance=1e-3)
    tiny = 0.001 * torch.tensor([[1.0, -1.0, 1.0, -1.0]])
    mistakes = {
        "eps is missing": tiny / 0.001,
        "eps stands outside of the root": tiny / (0.001 + 1e-5),
        "eps is 1e-6 and not 1e-5": tiny / (1e-6 + 1e-6) ** 0.5,
        "eps is 1e-8 and not 1e-5": tiny / (1e-6 + 1e-8) ** 0.5,
    }
    compare(
        ask(layer, tiny),
        tiny / (1e-6 + 1e-5) ** 0.5,
        mistakes,
        "For the token [0.001, -0.001, 0.001, -0.001]",
    )
    count = count_parameters(layer)
    require(count == 4, f"For 4 features RMSNorm has 4 parameters, its scale; yours has {count}.")
    randomized(layer)
    right = x * (square.mean() + 1e-5).rsqrt()
    compare(ask(layer, x), right * layer.scale, {"The scale is not applied": right}, "With a random scale")
    wide = randomized(build(answer, 6))
    trains_like(wide, lambda x: F.rms_norm(x, (6,), wide.scale, 1e-5), torch.randn(2, 3, 6))


@exercise("4.2.5", "The scale and the shift cost nothing any more: they are part of the next layer.")
def fold_norm(answer):
    for outputs in (5, 3):  # a square weight first, with which no mistake raises an error
        norm, linear = randomized(SHIPPED["LayerNorm"](5)), randomized(nn.Linear(5, outputs))
        scale, shift, W, b = (p.detach().clone() for p in (*norm.parameters(), *linear.parameters()))
        folded = ask(answer, norm, linear)
        now = (norm.scale, norm.shift, linear.weight, linear.bias)
        unchanged = all(torch.equal(a, b) for a, b in zip((scale, shift, W, b), now, strict=True))
        require(unchanged, "It changes the norm or the layer that it is given; make a new layer.")
        require(isinstance(folded, nn.Linear), f"It returns {kind(folded)}, where an nn.Linear is wanted.")
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
        compare(folded.weight, W * scale, in_weight, f"{given} weight")
        require(folded.bias is not None, "The new layer has no bias, so the shift is lost.")
        compare(folded.bias, b + W @ shift, in_bias, f"{given} bias")


# ---- 4.3 GELU and the feed-forward network -----------------------------------------------------------------


@exercise("4.3.1", "A single matrix and a single bias, however many layers there were.")
def collapsed_layers(answer):
    one = 768 * 768 + 768
    mistakes = {
        "That is the whole stack. How many has the one layer that does the same?": 100 * one,
        "The bias is missing": 768 * 768,
        "Those are two layers; one is enough": 2 * one,
        "That is a single output; the layer has 768": 768 + 1,
    }
    predicted(answer, one, 0.0, mistakes)


@exercise("4.3.2", "4 texts · 1,024 tokens · 3,072 numbers · 4 bytes.")
def hidden_memory(answer):
    right = 4 * 1024 * 3072 * 4 / 2**20
    mistakes = {
        "A factor of 4 is missing: is it for one text, for 768 numbers, or without the bytes?": right / 4,
        "1 MB is 2**20 bytes here, not a million": right * 2**20 / 1e6,
        "float32 takes 4 bytes, not 2": right / 2,
        "float32 takes 4 bytes, not 8": right * 2,
        "float32 takes 4 bytes; 32 is the number of bits": right * 8,
        "That is for all twelve blocks; one is asked for": right * 12,
        "1 MB is 2**20 bytes; this looks like bytes": right * 2**20,
        "1 MB is 2**20 bytes; this looks like KB": right * 2**10,
    }
    predicted(answer, right, 0.02, mistakes)


@exercise("4.3.3", "Equal to nn.GELU(approximate='tanh'), value and derivative.")
def gelu(answer):
    module, x = build(answer), torch.tensor([-3.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 3.0])

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
        "It has sqrt(2π) in place of sqrt(2/π)": formula(root=(2 * torch.pi) ** 0.5),
        "The factor is 0.44715 and not 0.044715": formula(factor=0.44715),
        "It has sqrt(π/2) in place of sqrt(2/π)": formula(root=(torch.pi / 2) ** 0.5),
        "2/π is halved, not its root taken: ** 1/2 is not ** 0.5": formula(root=1 / torch.pi),
        "The root multiplies x only; it belongs in front of the whole bracket": formula(
            factor=0.044715 / (2 / torch.pi) ** 0.5
        ),
        "x is multiplied by 3 where it must be cubed": formula(factor=0.044715 * 3, power=1),
        "It returns its input": x,
    }
    result = ask(module, x)
    compare(result, right, mistakes, "For x = -3, -2, -1, -0.5, 0, 0.5, ...", tolerance=2e-5)
    require(not list(module.parameters()), "It has parameters; GELU learns nothing.")
    trains_like(module, lambda x: F.gelu(x, approximate="tanh"), torch.randn(2, 3, 4))


@exercise("4.3.4", "Out to four times the width, bent, and back; equal to PyTorch's parts.")
def feed_forward(answer):
    cfg = {**SMALL, "emb_dim": 6, "drop_rate": 0.5}  # no dropout in here: that is the block's
    module, x = build(answer, cfg), torch.randn(2, 3, 6)
    ask(module, x)
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
        "There is an activation behind the second layer, too": gelu(second(gelu(first(x)))),
        "The activation stands behind the second layer, not between the two": gelu(second(first(x))),
        "The activation stands before the first layer, not between the two": second(first(gelu(x))),
        "The input is added: the shortcut comes later, in the block": x + second(gelu(first(x))),
        "The hidden numbers are normalized; no norm belongs here": second(normalized(gelu(first(x)))),
    }
    compare(ask(module, x), second(gelu(first(x))), mistakes, "With random weights", tolerance=3e-5)
    trains_like(module, lambda x: second(gelu(first(x))), x)
    names = {f"layers.{place}.{name}" for place in (0, 2) for name in ("weight", "bias")}
    words = (
        "Weights saved with our class would not fit: self.layers must be Sequential(Linear, GELU, Linear)."
    )
    require(set(module.state_dict()) == names, words)


@exercise("4.3.5", "A gate times a path, at the cost of the network that it replaces.")
def swiglu(answer):
    for D in (192, 96):
        module, x = build(answer, D), torch.randn(2, 3, D)
        ask(module, x)
        layers = gate, up, down = layers_of(module, ("gate", "up", "down"), nn.Linear)
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
    compare(ask(module, x), down(F.silu(gate(x)) * up(x)), mistakes, "With random weights")
    trains_like(module, lambda x: down(F.silu(gate(x)) * up(x)), x)


# ---- 4.4 Shortcut connections ------------------------------------------------------------------------------


@exercise("4.4.1", "The derivative of x + f(x) is I + J: the I passes the gradient on, however small J is.")
def sum_or_product(answer):
    chosen(
        answer,
        a="A factor of 2 for each layer would explode. What matters is a term in the derivative that no "
        "small number multiplies.",
        b="",
        c="A product needs no parameters either, and it fails all the same: see the ablation above.",
        d="Products have derivatives too: diag(f(x)) + diag(x) J. Both terms are small if f(x) and J are.",
    )


@exercise(
    "4.4.2",
    "1.1 to the power of 12. Without shortcuts it would be a millionth of a millionth.",
)
def gradient_through_twelve(answer):
    mistakes = {
        "That is without the shortcuts": 0.1**12,
        "That is one layer; there are twelve": 1.1,
        "The layers follow one another, so their factors multiply, and do not add": 1 + 12 * 0.1,
        "The factors multiply, and do not add": 12 * 1.1,
        "That is only the path which passes through no layer; the others add to it": 1.0,
        "A shortcut adds 1 to the factor 0.1; it does not double": 2.0**12,
    }
    predicted(answer, 1.1**12, 0.05, mistakes)


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
    module = build(answer, layer)
    calls = []
    hook = layer.register_forward_hook(lambda *_: calls.append(1))
    result = ask(module, x)
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
    compare(result, x + fx, mistakes, "With a random layer")
    require(calls, "The layer itself never runs: call self.layer(x), not a copy and not its forward method.")
    require(len(calls) == 1, f"The layer runs {len(calls)} times in one forward pass; keep its output.")
    learns(module, layer)
    trains_like(module, lambda x: x + layer(x), x)
    layers = [nn.Linear(4, 1)]
    layers += [Function(lambda x, dim=dim: x.mean(dim=dim, keepdim=True)) for dim in (0, 1)]
    layers += [Function(lambda x: x[:, None])]  # as many numbers, in another shape
    for changing in layers:
        x = torch.randn(2, 3, 4)
        try:
            result = ask(build(answer, changing), x)
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
    module = build(answer, layer, 6)
    norm = F.layer_norm
    n = norm(x, (6,))
    mistakes = {
        "There is no norm": x + layer(x),
        "There is no shortcut": layer(n),
        "The shortcut starts at the normalized copy; it must carry x itself": n + layer(n),
        "The norm stands behind the addition (post-norm), not in front of the layer": norm(
            x + layer(x), (6,)
        ),
        "The norm stands behind the layer; put it in front": x + norm(layer(x), (6,)),
        "The result is normalized once more": norm(x + layer(n), (6,)),
        "Norm and layer are added to x side by side; the layer must read the normalized copy": x
        + n
        + layer(x),
        "The layer is not used": x + n,
        "The two are multiplied; add them": x * layer(n),
    }
    compare(ask(module, x), x + layer(n), mistakes, "With a random layer", tolerance=1e-3)
    learns(module, layer)
    rest = count_parameters(module) - 42
    words = (
        f"Besides the layer it has {rest} parameters; the LayerNorm for 6 features, made in __init__, has 12."
    )
    require(rest == 12, words)
    rest = [p for p in module.parameters() if p is not layer.weight and p is not layer.bias]
    bias, weight = sorted(rest, key=lambda p: p.sum().item())  # they start at 0 and at 1
    trains_like(module, lambda x: x + layer(norm(x, (6,), weight, bias)), x)


@exercise("4.4.5", "It starts as if the layer were not there, and lets it in as alpha learns.")
def rezero(answer):
    layer, x = randomized(nn.Linear(4, 4)), torch.randn(3, 4)
    module = build(answer, layer)
    result, fx = ask(module, x), layer(x)
    alpha = parameter(module, "alpha")
    require(alpha.numel() == 1, f"alpha is one number for the whole layer; this has {alpha.numel()}.")
    require(alpha.item() != 1, "alpha starts at 1; ReZero starts at 0.")
    mistakes = {
        "With alpha at 0 nothing comes out: x itself must pass": 0 * x,
        "With alpha at 0 the layer alone comes out: x itself must pass": fx,
        "alpha multiplies the input of the layer; it belongs to its output": x + layer(0 * x),
        "With alpha at 0 the layer comes in as a whole: alpha must multiply its output": x + fx,
    }
    compare(result, x, mistakes, "At the start")
    learns(module, layer)
    with torch.no_grad():
        alpha.fill_(0.5)
    mistakes = {
        "alpha has no effect: the layer never comes in": x,
        "alpha is squared": x + 0.25 * fx,
        "alpha weighs the layer against x; x must pass whole": 0.5 * x + 0.5 * fx,
    }
    compare(ask(module, x), x + 0.5 * fx, mistakes, "With alpha = 0.5")
    for start in (0.5, 0.0):  # at 0 alpha must be able to move
        alpha.data.fill_(start)
        trains_like(module, lambda x: x + alpha * layer(x), x)


# ---- 4.5 Attention and the transformer block ---------------------------------------------------------------


@exercise(
    "4.5.1", "The later tokens are what the model must predict, so each may see only itself and earlier ones."
)
def what_the_mask_hides(answer):
    chosen(
        answer,
        a="A token sees itself: its own key lies on the diagonal of the table, which the mask leaves open. "
        "Otherwise the first token would see nothing.",
        b="The other texts of a batch are never in the same table; the mask has nothing to do with them.",
        c="",
        d="That is dropout, in training. The mask is always the same, in training and in use.",
    )


@exercise("4.5.2", "T(T + 1)/2: the triangle with its diagonal.")
def open_pairs(answer):
    T = 1024
    mistakes = {
        "That is the whole table; the mask hides nearly half of it": T * T,
        "Half the table is nearly right; the diagonal is open too": T * T / 2,
        "The diagonal is open too: a token sees itself": T * (T - 1) / 2,
        "That is all twelve heads; one is asked for": 12 * T * (T + 1) / 2,
    }
    predicted(answer, T * (T + 1) // 2, 0.0002, mistakes)


SEEN = "No single classic mistake fits. What can be seen: "


def look_closer(result, again, with_another_end):
    """Raise Wrong if two runs differ, or if a change of the last token reached an earlier one."""
    require(same(result, again), SEEN + "two runs on the same input differ.")
    words = SEEN + "changing the last token changes what earlier ones get."
    require(same(result[:, :-1], with_another_end[:, :-1]), words)


def own_forward(answer, inherited):
    """Raise Wrong if the forward method that runs is that of the class named `inherited`."""
    first = next(c for c in answer.__mro__ if "forward" in vars(c))
    words = "It has no `forward` of its own, so the inherited one runs: is the name misspelt?"
    require(first is answer or first.__name__ != inherited, words)


def attention_mistakes(q, k, v, width):
    """What the classic mistakes of attention give, for q, k and v of shape (..., T, Dh) cut from `width`."""
    T, Dh = q.shape[-2:]
    future = torch.ones(T, T, dtype=torch.bool).triu(1)

    def attend(q=q, k=k, v=v, factor=Dh**-0.5, hidden=future, fill=float("-inf"), dim=-1):
        return (q @ k.transpose(-2, -1) * factor).masked_fill(hidden, fill).softmax(dim) @ v

    itself = torch.eye(T, dtype=torch.bool)
    scores = q @ k.transpose(-2, -1) / Dh**0.5
    all_weights = scores.softmax(-1)
    mistakes = {
        "The mask is missing: tokens see later ones": attend(hidden=future & ~future),
        "The mask is off by one: each token sees the next one": attend(hidden=future.triu(2)),
        "The mask hides the diagonal as well; a token sees itself": attend(hidden=future | itself),
        "The mask is upside down: it hides the past": [
            attend(hidden=future.T),
            attend(hidden=future.T | itself),
        ],
        "The mask comes after the softmax, so a row no longer sums to 1": all_weights.masked_fill(future, 0)
        @ v,
        "The mask writes 0 into the scores; e to the 0 is 1, so write -inf": attend(fill=0.0),
        "All is nan: 0 times infinity is nan; use masked_fill": torch.full_like(v, torch.nan),
        "The division by the root of Dh is missing": attend(factor=1),
        "The scores are divided by Dh and not by its root": attend(factor=1 / Dh),
        "Dh**1/2 is half of Dh; the root is Dh**0.5": attend(factor=0.5 / Dh),
        "The scores are multiplied by the root of Dh; divide": attend(factor=Dh**0.5),
        "The scores are divided by the root of T, not of Dh": attend(factor=T**-0.5),
        "The softmax runs over the queries (dim=-2); each row must sum to 1": attend(dim=-2),
        "The softmax is missing": [scores.masked_fill(future, fill) @ v for fill in (0.0, float("-inf"))],
        "Keys and values are exchanged": attend(k=v, v=k),
        "Queries and keys are exchanged": attend(q=k, k=q),
        "The queries are compared with themselves, not with the keys": attend(k=q),
        "The weights are applied to the keys, not the values": attend(v=k),
        "The weights are applied to the queries, not the values": attend(v=q),
    }
    if q.ndim == 4:
        mistakes["The softmax runs over the heads (dim=1); each row must sum to 1"] = attend(dim=1)
    if width != Dh:  # of one head the width is the whole
        words = "The scores are divided by the root of D, the whole width, not of Dh"
        mistakes[words] = attend(factor=width**-0.5)
    return mistakes


@exercise("4.5.3", "Equal to F.scaled_dot_product_attention.")
def attention_head(answer):
    q, k, v = (1.5 * torch.randn(3, 2, 5, 6)).unbind(0)
    right = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    result = ask(answer, q, k, v)

    def look_further():
        other_end = (torch.cat([t[:, :-1], t[:, -1:] + 3], dim=1) for t in (k, v))
        look_closer(result, ask(answer, q, k, v), ask(answer, q, *other_end))
        words = SEEN + "if all values are 1, a token does not get 1. Do its weights sum to 1?"
        require(same(ask(answer, q, k, torch.ones_like(v)), torch.ones_like(v)), words)

    compare(result, right, attention_mistakes(q, k, v, 6), otherwise=look_further)
    one = [t[:, :1] for t in (q, k, v)]
    compare(ask(answer, *one), v[:, :1], given="For a single token, which gets its own value,")
    heads = [torch.stack([t, t.flip(0), 2 * t], dim=1) for t in (q, k, v)]  # (B, H, T, Dh)
    wanted = F.scaled_dot_product_attention(*heads, is_causal=True)
    try:
        result = ask(answer, *heads)
    except Exception as error:
        raise Wrong(f"It works for (B, T, Dh), but not for (B, H, T, Dh). {in_words(error)}") from None
    compare(result, wanted, given="It works for (B, T, Dh); but for (B, H, T, Dh)")
    leaves = [t.clone().requires_grad_() for t in (q, k, v)]
    right = F.scaled_dot_product_attention(*leaves, is_causal=True)
    same_gradients(
        answer(*leaves), right, dict(zip(("the queries", "the keys", "the values"), leaves, strict=True))
    )


@exercise("4.5.4", "Two sublayers, each behind a norm and with a shortcut; dropout on what is added.")
def transformer_block(answer):
    block, x = build(answer, SMALL), 2 * torch.randn(2, 4, 8) + 1
    ask(block, x)
    att, ff, norm1, norm2, _ = layers_of(block, ("att", "ff", "norm1", "norm2", "drop_shortcut"))
    randomized(block, size=0.4)
    a = x + att(norm1(x))
    n1 = norm1(x)
    right = a + ff(norm2(a))
    post = norm1(x + att(x))
    first_lost, b = att(n1), n1 + att(n1)
    ff_first = x + ff(norm2(x))
    ff_first1 = x + ff(norm1(x))
    mistakes = {
        "The norms stand behind the additions (post-norm); GPT-2 has them in front": norm2(post + ff(post)),
        "Both shortcuts start at normalized copies; they must carry x itself": norm2(b) + ff(norm2(b)),
        "The first shortcut starts at the normalized copy; it must carry x itself": b + ff(norm2(b)),
        "The second shortcut starts at the normalized copy; it must carry x itself": norm2(a) + ff(norm2(a)),
        "The first shortcut is missing": first_lost + ff(norm2(first_lost)),
        "The second shortcut is missing": ff(norm2(a)),
        "Both shortcuts are missing": ff(norm2(att(n1))),
        "The second shortcut starts at the block's input, not behind the first addition": x + ff(norm2(a)),
        "Attention and feed-forward stand side by side, not in a row": x + att(n1) + ff(norm2(x)),
        "norm1 is used twice; the second sublayer has norm2": a + ff(norm1(a)),
        "The norms are exchanged": (x + att(norm2(x))) + ff(norm1(x + att(norm2(x)))),
        "The feed-forward network comes first; attention does": [
            ff_first + att(norm1(ff_first)),
            ff_first1 + att(norm2(ff_first1)),
        ],
        "There are no norms": (x + att(x)) + ff(x + att(x)),
        "The first norm is missing": (x + att(x)) + ff(norm2(x + att(x))),
        "The second norm is missing": a + ff(a),
        "The feed-forward network is missing": a,
        "Attention is missing": ff_first,
    }
    compare(ask(block, x), right, mistakes, "With random weights", tolerance=1e-3)

    require(norm1 is not norm2, "norm1 and norm2 are one and the same module.")
    for qkv_bias in (True, False):
        cfg = {**SMALL, "qkv_bias": qkv_bias, "drop_rate": 0.3}
        block, shipped = build(answer, cfg), SHIPPED["TransformerBlock"](cfg)
        mine, ours = (count_parameters(b.att) for b in (block, shipped))
        require(mine == ours, f"With qkv_bias {qkv_bias} attention has {mine} parameters; {ours} are right.")
    heads = getattr(block.att, "num_heads", 2)
    require(heads == 2, f"With n_heads 2 attention has {heads} heads.")
    require(same(ask(block, x), ask(block, x)), "Dropout acts in eval mode, too.")
    limit = getattr(block.att, "context_length", 12)
    require(limit == 12, f"With a context_length of 12 attention has {limit}.")
    dropouts = [m for m in block.modules() if isinstance(m, nn.Dropout)]
    rates = {m.p for m in dropouts}
    require(
        rates <= {0.3},
        f"With a drop_rate of 0.3 there is dropout with the rate {max(rates - {0.3}, default=0)}.",
    )
    att, ff, norm1, norm2 = block.att, block.ff, block.norm1, block.norm2
    for dropout in dropouts:
        if dropout is not getattr(att, "dropout", None):
            dropout.train().p = 1.0  # nothing is left of what is dropped
    a = x + att(norm1(x))
    mistakes = {
        "Dropout has no effect in training: drop_shortcut belongs on what each sublayer adds": a
        + ff(norm2(a)),
        "What attention adds is not dropped": a,
        "What the feed-forward network adds is not dropped": x + ff(norm2(x)),
        "Dropout strikes the shortcut itself; it belongs on what each sublayer adds": [
            0 * x,
            att(norm1(x)),
            ff(norm2(0 * x)),
        ],
        "Dropout stands in front of the sublayers; it belongs behind them": x + att(0 * x) + ff(0 * x),
    }
    compare(ask(block, x), x, mistakes, "If dropout lets nothing through, x must come out as it went in; but")

    block = randomized(build(answer, SMALL))

    def reference(x):
        x = x + block.att(block.norm1(x))
        return x + block.ff(block.norm2(x))

    trains_like(block, reference, x)


@exercise("4.5.5", "Equal to PyTorch's attention, head by head, dropout in its place.")
def multi_head_attention(answer):
    D, H, T = 8, 2, 5
    named = {"d_in": D, "d_out": D, "context_length": 12, "dropout": 0.0, "num_heads": H, "qkv_bias": True}
    att = randomized(build(answer, **named))
    x = torch.randn(2, T, D)
    result = ask(att, x)
    own_forward(answer, "MultiHeadAttention")
    *projections, out = layers_of(att, ("W_query", "W_key", "W_value", "out_proj"), nn.Linear)
    q, k, v = (project(x) for project in projections)

    def split(t):
        return t.view(2, T, H, D // H).transpose(1, 2)

    def cut(t):
        return t.reshape(2, H, T, D // H)

    def merge(t):
        return t.transpose(1, 2).reshape(2, T, -1)

    sdpa = functools.partial(F.scaled_dot_product_attention, is_causal=True)
    context = sdpa(split(q), split(k), split(v))
    mixed = sdpa(cut(q), cut(k), cut(v))
    mistakes = {
        "The heads are cut by view without a transpose, which mixes up the tokens": [
            out(merge(mixed)),
            out(mixed.reshape(2, T, D)),
        ],
        "The heads are put together without transposing back, which mixes up the tokens": out(
            context.reshape(2, T, D)
        ),
        "There is only one head: the features are not split": out(sdpa(q, k, v)),
        "The last projection, out_proj, is missing": merge(context),
        "Each head attends over the heads of one token: the tokens must be the last dimension but one": out(
            sdpa(*(t.view(2, T, H, D // H) for t in (q, k, v))).reshape(2, T, D)
        ),
    }
    for words, wrong in attention_mistakes(split(q), split(k), split(v), D).items():
        mistakes[words] = [out(merge(w)) for w in as_list(wrong)]

    def look_further():
        look_closer(result, ask(att, x), ask(att, torch.cat([x[:, :-1], x[:, -1:] + 3], dim=1)))

    compare(result, out(merge(context)), mistakes, "With random weights", otherwise=look_further)

    narrow = randomized(build(answer, 6, D, 12, 0.0, H))  # d_in is not d_out, another number of tokens

    def reference(x):
        q, k, v = (
            project(x).unflatten(-1, (H, -1)).transpose(1, 2)
            for project in (narrow.W_query, narrow.W_key, narrow.W_value)
        )
        return narrow.out_proj(sdpa(q, k, v).transpose(1, 2).flatten(2))

    for B, T in ((1, 12), (3, 1)):
        x = torch.randn(B, T, 6)
        compare(
            ask(narrow, x), reference(x), given=f"With d_in = 6, d_out = 8 and {T} tokens", tolerance=1e-3
        )
    trains_like(narrow, reference, torch.randn(2, 5, 6))

    dropping, x = randomized(build(answer, D, D, 12, 0.5, H)), torch.randn(64, 1, D)
    require(same(ask(dropping, x), ask(dropping, x)), "Dropout acts in eval mode, too.")
    dropping.train()
    long = torch.randn(2, 5, D)
    require(not same(ask(dropping, long), ask(dropping, long)), "Dropout has no effect in training.")
    with torch.no_grad():
        dropping.out_proj.weight.copy_(torch.eye(D))
        dropping.out_proj.bias.zero_()
    # A single token has one weight in each head, 1. Dropped by half it is 0 or 2, for the whole head.
    weights = (ask(dropping, x) / dropping.W_value(x)).view(64, H, D // H)
    whole = same(weights.amin(-1), weights.amax(-1)) and same(weights * (weights - 2), 0 * weights, 1e-3)
    require(whole, "Dropout must strike the attention weights, behind the softmax, and nothing else.")


# ---- 4.6 The GPT model -------------------------------------------------------------------------------------


@exercise("4.6.1", "One tensor of 38.6 million numbers does two jobs in GPT-2, and is counted once.")
def why_124m(answer):
    chosen(
        answer,
        a="Dropout has no parameters, and removes none: it sets activations to zero, in training.",
        b="The biases of query, key and value are 27,648 numbers, and GPT-2 has them: without them our model "
        "is smaller, not larger.",
        c="Buffers are no parameters, and our model has none; the mask is made when it is needed.",
        d="",
    )


def first_on_meta():
    """The first embedding made on "meta" loads much of PyTorch; the answer shall not pay for it."""
    nn.Embedding(1, 1, device="meta")


def counts_by_part(cfg):
    """Parameters of attention and of the feed-forward networks, over all blocks."""
    D, L = cfg["emb_dim"], cfg["n_layers"]
    return L * (4 * D * D + D + (3 * D if cfg["qkv_bias"] else 0)), L * (8 * D * D + 5 * D)


@exercise("4.6.2", "Two to one for the feed-forward networks, in every size.", prepare=first_on_meta)
def part_counts(answer):
    for name, bias in (("gpt2-small", False), ("gpt2-small", True), ("gpt2-xl", True)):
        cfg = {**GPT2_CONFIGS[name], "qkv_bias": bias}
        D, L = cfg["emb_dim"], cfg["n_layers"]
        att, ff = counts_by_part(cfg)
        mistakes = {
            "That is one block; count all of them": (att // L, ff // L),
            "Attention first, then feed-forward": (ff, att),
            "With qkv_bias False, query, key and value have no biases": (att + (not bias) * 3 * L * D, ff),
            "With qkv_bias True, query, key and value have biases": (att - bias * 3 * L * D, ff),
            "out_proj has a bias": (att - L * D, ff),
            "Attention has four matrices: out_proj is one of them": (att - L * (D * D + D), ff),
            "The feed-forward layers have biases, 4D and D": (att, ff - 5 * L * D),
            "Biases are parameters too": (4 * L * D * D, 8 * L * D * D),
            "The norms are counted, too; they belong to neither": (att, ff + 4 * L * D),
        }
        result = ask(answer, cfg)
        words = f"It returns {kind(result)}, where two numbers are wanted."
        require(not isinstance(result, torch.Tensor), words)
        predicted_for(f"{name} with qkv_bias {bias}", result, (att, ff), 0.0, mistakes)


def untied_count(cfg):
    """Parameters of a GPTModel with a head of its own."""
    V, T, D = cfg["vocab_size"], cfg["context_length"], cfg["emb_dim"]
    return 2 * V * D + T * D + sum(counts_by_part(cfg)) + cfg["n_layers"] * 4 * D + 2 * D


SMALLER = {**GPT_CONFIG_124M, "context_length": 500, "emb_dim": 480, "n_heads": 8, "n_layers": 3}
SMALLER["qkv_bias"] = True


@exercise(
    "4.6.3", "Every size counted to the last parameter, and no large model built.", prepare=first_on_meta
)
def model_size(answer):
    for name, cfg in {"a smaller configuration": SMALLER, **GPT2_CONFIGS}.items():
        n = untied_count(cfg)
        V, T, D, L = (cfg[key] for key in ("vocab_size", "context_length", "emb_dim", "n_layers"))
        MB = 2**20
        mistakes = {
            "The head is tied to the embedding; with a head of its own the model has V·D more": n - V * D,
            "The positional embedding is not counted": n - T * D,
            "The final norm is not counted": n - 2 * D,
            "The norms of the blocks are not counted": n - 4 * L * D,
            "Only the blocks are counted": n - 2 * V * D - T * D - 2 * D,
        }
        mistakes = {words: (wrong, wrong * 4 / MB) for words, wrong in mistakes.items()}
        mistakes |= {
            "1 MB is 2**20 bytes here, not a million": (n, n * 4 / 1e6),
            "float32 takes 4 bytes, not 2": (n, n * 2 / MB),
            "That is GB; MB are wanted": (n, n * 4 / 2**30),
            "That is the number of bytes; MB are wanted": (n, n * 4),
            "Each parameter takes 4 bytes": (n, n / MB),
            "First the parameters, then the MB": (n * 4 / MB, n),
            "16 bytes are for training; 4 are enough to run": (n, n * 16 / MB),
        }
        result = ask(answer, cfg)
        predicted_for(name, result, (n, n * 4 / MB), (0.0, 0.01), mistakes)


@exercise("4.6.4", "Every part in its place: the logits are those of GPT-2.")
def gpt_model(answer):
    model, ids = build(answer, SMALL), torch.tensor([[3, 1, 3, 7, 0], [2, 2, 5, 30, 4]])
    ask(model, ids)
    own_forward(answer, "GPTModel")
    names = ("tok_emb", "pos_emb", "drop_emb", "trf_blocks", "final_norm", "out_head")
    tok_emb, pos_emb, drop_emb, blocks, norm, head = layers_of(model, names)
    randomized(model, size=0.4)
    tok, pos = tok_emb(ids), pos_emb.weight
    x = tok + pos[:5]

    def through(x, blocks=blocks):
        for block in blocks:
            x = block(x)
        return x

    def logits(x):
        return head(norm(through(x)))

    right = logits(x)
    mistakes = {
        "The positions are missing": logits(tok),
        "The positions start at 1": logits(tok + pos[1:6]),
        "Every token gets the same position": logits(tok + pos[5]),
        "The positional embedding is multiplied; add it": logits(tok * pos[:5]),
        "The final norm is missing": head(through(x)),
        "The final norm stands before the blocks; it belongs behind them": head(through(norm(x))),
        "The output head is missing": norm(through(x)),
        "The output head and the final norm are missing": through(x),
        "The blocks are missing": head(norm(x)),
        "Only the first block is used": head(norm(blocks[0](x))),
        "Only the last block is used": head(norm(blocks[-1](x))),
        "The blocks run in reverse order": head(norm(through(x, reversed(blocks)))),
        "It returns probabilities; the model gives logits, without a softmax": right.softmax(dim=-1),
        "It returns log-probabilities; the model gives logits, without a softmax": right.log_softmax(dim=-1),
        "It returns the last position only; the model scores every position": [right[:, -1], right[:, -1:]],
        "The scores come from the embedding (tied); out_head is a part of its own": norm(through(x))
        @ tok_emb.weight.T,
    }
    compare(ask(model, ids), right, mistakes, "With random weights", tolerance=1e-3)
    compare(ask(model, ids[:1]), right[:1], given="For a batch of one text", tolerance=1e-3)
    result = model.train()(ids)
    same_gradients(result, right, {f"self.{name}": p for name, p in model.named_parameters()})
    model.eval()
    drop_emb.p = 0.5
    require(same(ask(model, ids), ask(model, ids)), "Dropout acts in eval mode, too.")
    drop_emb.train().p = 1.0  # nothing is left of what is dropped
    nothing = torch.zeros(2, 5, SMALL["emb_dim"])
    mistakes = {
        "Dropout on the embeddings has no effect in training: drop_emb belongs behind the addition": right,
        "Only the tokens are dropped, not the positions: drop_emb belongs behind the addition": logits(
            pos[:5].expand_as(tok)
        ),
        "Only the positions are dropped, not the tokens: drop_emb belongs behind the addition": logits(tok),
        "drop_emb stands behind the blocks; it belongs in front of them": head(norm(nothing)),
    }
    compare(
        ask(model, ids), logits(nothing), mistakes, "If dropout lets no embedding through,", tolerance=1e-3
    )


@exercise("4.6.5", "One tensor under two names: fewer parameters, and a gradient from both places.")
def tie_weights(answer):
    model = SHIPPED["GPTModel"](SMALL)
    embedding, head = (p.detach().clone() for p in (model.tok_emb.weight, model.out_head.weight))
    try:
        ask(answer, model)
    except NotAttempted:
        if model.out_head.weight is not model.tok_emb.weight:
            raise  # else only the `...` was left behind the right line
    words = "out_head is no linear layer any more, and cannot score; only its weight is to be shared."
    require(isinstance(model.out_head, nn.Linear), words)
    tok, out = model.tok_emb.weight, model.out_head.weight
    if tok is not out:
        shares = tok.shape == out.shape and tok.data_ptr() == out.data_ptr()
        require(
            not shares,
            "They share memory, but are still two parameters, each with its own gradient. Make them one.",
        )
        require(
            not (tok.shape == out.shape and torch.equal(tok, out)),
            "The numbers are copied: after one step of training they differ. Make the two one nn.Parameter.",
        )
        require(
            not torch.equal(out, head), "The head still has its own weight; the model itself must change."
        )
        raise Wrong("out_head.weight is not tok_emb.weight.")
    require(
        not torch.equal(tok, head) or torch.equal(embedding, head),
        "Tied the wrong way round: the head's numbers have replaced the embedding's.",
    )
    require(torch.equal(tok, embedding), "The numbers of the embedding have changed.")
    count = count_parameters(model)
    right = untied_count(SMALL) - SMALL["vocab_size"] * SMALL["emb_dim"]
    require(count == right, f"The model has {count} parameters; {right} are right.")


@exercise("4.6.6", "Three rates in their three places, in every block.")
def separate_dropout(answer):
    cfg = {**SMALL, "drop_rate": 0.4}
    model = ask(answer, cfg, 0.1, 0.2, 0.3)
    require(isinstance(model, nn.Module), f"It returns {kind(model)}, where a GPTModel is wanted.")
    try:
        rates = [model.drop_emb.p, *((b.att.dropout.p, b.drop_shortcut.p) for b in model.trf_blocks)]
    except AttributeError as error:
        raise Wrong(f"A part is missing: {error}.") from None
    require(
        len(rates) == 1 + SMALL["n_layers"],
        f"The model has {len(rates) - 1} blocks; {SMALL['n_layers']} are right.",
    )
    emb, *blocks = rates
    given = (
        f"With 0.1, 0.2, 0.3 for embedding, attention, shortcut the model has {emb} for the embedding "
        f"and, block by block, {blocks} for attention and shortcut."
    )
    mistakes = {
        "The rates of attention and shortcut are exchanged": [0.1] + [(0.3, 0.2)] * 3,
        "The embedding keeps the configuration's rate": [0.4] + [(0.2, 0.3)] * 3,
        "The first rate is used everywhere": [0.1] + [(0.1, 0.1)] * 3,
        "The configuration's rate is used everywhere": [0.4] + [(0.4, 0.4)] * 3,
        "Only the embedding gets its rate": [0.1] + [(0.4, 0.4)] * 3,
        "Only the first block gets its rates": [0.1, (0.2, 0.3), (0.4, 0.4), (0.4, 0.4)],
        "Only the last block gets its rates": [0.1, (0.4, 0.4), (0.4, 0.4), (0.2, 0.3)],
        "The shortcuts keep the configuration's rate": [0.1] + [(0.2, 0.4)] * 3,
        "Attention keeps the configuration's rate": [0.1] + [(0.4, 0.3)] * 3,
        "Embedding and attention are exchanged": [0.2] + [(0.1, 0.3)] * 3,
        "Embedding and shortcut are exchanged": [0.3] + [(0.2, 0.1)] * 3,
    }
    for words, wrong in mistakes.items():
        require(rates != wrong, f"{words}. {given}")
    require(rates == [0.1] + [(0.2, 0.3)] * 3, given)
    count, wanted = (count_parameters(m) for m in (model, SHIPPED["GPTModel"](cfg)))
    require(
        count == wanted,
        f"The model has {count} parameters; {wanted} are right. Is each block one of its own?",
    )


# ---- 4.7 Generating text -----------------------------------------------------------------------------------


@exercise("4.7.1", "The same function, without chance. Gradients are another switch, torch.no_grad().")
def what_eval_changes(answer):
    chosen(
        answer,
        a="That is torch.no_grad(); in eval mode gradients are computed as before.",
        b="",
        c="Layer normalization takes its mean from the token itself, always; batch normalization switches.",
        d="eval() changes no number of the model; it only sets a flag that dropout looks at.",
    )


@exercise("4.7.2", "n·P + n(n - 1)/2; and only the last position of each pass was ever read.")
def tokens_processed(answer):
    P, n = 10, 100
    mistakes = {
        "That is the length at the end; each step reads the whole text so far": P + n,
        "That is how many are made; each step reads the whole text so far": n,
        "The text grows by one token with each step": n * P,
        "The first step reads 10 tokens, and not 11": n * P + n * (n + 1) // 2,
        "The prompt is read in every step, too": n * (n - 1) // 2,
        "The text has its full length only at the end": n * (P + n),
    }
    predicted(answer, n * P + n * (n - 1) // 2, 0.005, mistakes)


@exercise("4.7.3", "A key and a value for each token, in every block, of every text.")
def cache_memory(answer):
    megabytes = 2 * 48 * 1600 * 1024 * 2 * 8 / 2**20
    mistakes = {
        "That is for one text, not for 8": megabytes / 8,
        "That is for one block, not for 48": megabytes / 48,
        "That is for 4 bytes a number; bfloat16 has 2": megabytes * 2,
        "That is half of it: keys and values count, and a number has 2 bytes": megabytes / 2,
        "That is in millions of bytes; an MB of the course is 2^20 bytes": megabytes * 1.048576,
    }
    predicted(answer, megabytes, 0.01, mistakes)


class Clockwork(nn.Module):
    """A stand-in for a GPT: its scores at a position depend on all tokens up to there, and on their order."""

    def __init__(self):
        super().__init__()
        self.table = torch.randn(31, 31, generator=torch.Generator().manual_seed(23))

    def forward(self, idx):
        T = idx.shape[1]
        if T > 12:
            raise ValueError(f"cannot process a sequence of {T} tokens, context_length is only 12")
        return self.table[(idx * torch.arange(1, T + 1)).cumsum(dim=1) % 31]  # (B, T, 31)


PROMPTS = torch.tensor([[3, 1, 4, 1, 5, 9], [2, 7, 1, 8, 2, 8]])


def best(logits):
    """The highest of the logits of one position, (B, V) -> (B, 1)."""
    return logits.argmax(dim=-1, keepdim=True)


def right_choice(model, idx, window=12):
    """The next token by the last `window` ones."""
    return best(model(idx[:, -window:])[:, -1])


def greedy_by(choose, model, idx, steps):
    """Append `steps` times what choose(model, idx) gives."""
    with torch.no_grad():
        for _ in range(steps):
            idx = torch.cat([idx, choose(model, idx)], dim=1)
    return idx


@exercise(
    "4.7.4",
    "Predict, choose, append: the right tokens, inside the window and beyond it.",
)
def greedy(answer):
    model, prompt = Clockwork(), PROMPTS
    steps = 5

    def loop(choose):
        return greedy_by(choose, model, prompt, steps)

    longer = greedy_by(right_choice, model, prompt, 10)  # outgrows the window of 12
    right_whole = longer[:, : 6 + steps]

    # First a text that stays within the window, so that nothing is cropped.
    graphs = []
    hook = model.register_forward_hook(lambda *_: graphs.append(torch.is_grad_enabled()))
    result = ask(answer, model, prompt, steps, 12)
    hook.remove()
    mistakes = {
        "It reads the first position; the last one scores what comes next": loop(
            lambda m, i: best(m(i)[:, 0])
        ),
        "The last token is not used: it is left out, or the position before it is read": loop(
            lambda m, i: best(m(i)[:, -2])
        ),
        "It takes the lowest logit": loop(lambda m, i: m(i)[:, -1].argmin(dim=-1, keepdim=True)),
        "It returns the new tokens only; the prompt belongs to the text": right_whole[:, 6:],
        "It makes one token too few": right_whole[:, :-1],
        "It makes one token too many": longer[:, : 6 + steps + 1],
        "It makes one token and stops": right_whole[:, :7],
        "It returns the prompt as it was": prompt,
        "Every row gets the token of the first row": loop(lambda m, i: best(m(i)[:1, -1]).expand(2, 1)),
        "The logits never change: they are computed once, before the loop": torch.cat(
            [prompt, right_whole[:, 6:7].expand(2, steps)], dim=1
        ),
    }

    def look_again():
        again = ask(answer, model, prompt, steps, 12)
        words = "Two runs on the same prompt differ: greedy choice leaves nothing to chance."
        require(same(result, again), words)

    compare(result, right_whole, mistakes, "For a prompt that fits the window", otherwise=look_again)

    named = functools.partial(answer, max_new_tokens=steps, context_size=12)  # as the notebook calls it
    alone = ask(named, model, prompt[:1])
    compare(alone, right_whole[:1], given="For a batch of one text")
    try:
        cropped = ask(answer, model, prompt, steps, 4)
        long = ask(answer, model, prompt, 10, 12)
    except ValueError as error:
        if "context_length" in str(error):
            raise Wrong(f"The text is never cut to the window, so the model refuses it: {error}.") from None
        raise
    right = loop(functools.partial(right_choice, window=4))
    wrong_end = loop(lambda m, i: best(m(i[:, :4])[:, -1]))
    mistakes = {
        "The window is cut at the wrong end: the model must see the last context_size tokens": wrong_end,
        "The window is not used: the model sees the whole text": right_whole,
        "What leaves the window is lost from the text as well; crop a copy": [right[:, -n:] for n in (4, 5)],
        "The window is one token too short": loop(functools.partial(right_choice, window=3)),
        "The window is one token too long": loop(functools.partial(right_choice, window=5)),
    }
    compare(cropped, right, mistakes, "For a window of 4 tokens and a prompt of 6")
    compare(long, longer, (), "For a text that outgrows the window of 12")
    compare(ask(answer, model, prompt, 0, 12), prompt, (), "For max_new_tokens = 0")
    require(
        not any(graphs),
        "The tokens are right, but a graph for gradients is built at every step: use torch.no_grad().",
    )


@exercise("4.7.5", "It ends where the model says so, and otherwise after max_new_tokens.")
def stop_token(answer):
    model, prompt = Clockwork(), PROMPTS[:1]
    longer = greedy_by(right_choice, model, prompt, 9)
    whole = longer[:, :-1]
    new = whole[0, 6:].tolist()
    place = next(i for i in range(2, 8) if new[i] not in new[:i])
    eos = new[place]
    end = 6 + place
    unused = next(i for i in range(31) if i not in whole[0].tolist())
    result = ask(answer, model, prompt, 8, 12, eos)
    mistakes = {
        "It never stops at the stop token": whole,
        "It stops before appending the stop token, which belongs to the text": whole[:, :end],
        "It stops one token too late": whole[:, : end + 2],
        "It returns the prompt as it was": prompt,
        "It stops after the first token": whole[:, :7],
        "It returns the new tokens only": whole[:, 6 : end + 1],
    }
    compare(result, whole[:, : end + 1], mistakes, f"With the stop token {eos}")
    never = ask(answer, model, prompt, 8, 12, unused)
    mistakes = {"Without a stop token it goes beyond max_new_tokens": longer}
    compare(never, whole, mistakes, "With a stop token that never comes")
    for place, given in ((-1, "as the last token of the prompt"), (0, "in the prompt only")):
        result = ask(answer, model, prompt, 8, 12, prompt[0, place].item())
        mistakes = {"A stop token in the prompt ends it; only a new one should": [prompt, whole[:, :7]]}
        compare(result, whole, mistakes, f"With the stop token {given}")


@exercise("4.7.6", "Sharper or flatter by temperature, and nothing outside the k best; each row sums to 1.")
def top_k(answer):
    logits = 2 * torch.randn(4, 7) + torch.tensor([[0.0], [9.0], [-5.0], [2.0]])
    t, k = 2.0, 3

    def keep(values, k=k, largest=True, dim=-1, fill=float("-inf")):
        picked = values.topk(k, dim=dim, largest=largest).indices
        return torch.full_like(values, fill).scatter(dim, picked, values.gather(dim, picked))

    scaled = logits / t
    right = keep(scaled).softmax(-1)
    probabilities = scaled.softmax(-1)
    everywhere = torch.where(scaled >= scaled.flatten().topk(k).values[-1], scaled, float("-inf"))
    mistakes = {
        "The temperature is not used": keep(logits).softmax(-1),
        "The logits are multiplied by the temperature; divide": keep(logits * t).softmax(-1),
        "The probabilities are divided by the temperature; divide the logits": keep(logits).softmax(-1) / t,
        "top_k is not used": probabilities,
        "The other logits are set to 0; e to the 0 is 1, so use -inf": keep(scaled, fill=0.0).softmax(-1),
        "The rest is cut off after the softmax, so a row no longer sums to 1": keep(probabilities, fill=0.0),
        "It keeps the k lowest": keep(scaled, largest=False).softmax(-1),
        "It keeps k - 1 tokens; the k-th best stays, too": keep(scaled, k - 1).softmax(-1),
        "It keeps k + 1 tokens": keep(scaled, k + 1).softmax(-1),
        "The k best are sought in all rows together": everywhere.softmax(-1),
        "The softmax runs over the rows (dim=0)": keep(scaled).softmax(0),
        "It returns logits; probabilities are wanted": keep(scaled),
        "It returns only the k best; all V places are wanted": scaled.topk(k).values.softmax(-1),
        "The k best are sought among the rows (dim=0)": keep(scaled, dim=0).softmax(-1),
    }
    compare(ask(answer, logits, t, k), right, mistakes, "For temperature 2 and top_k 3")
    compare(ask(answer, logits, 1.0, 7), logits.softmax(-1), (), "For temperature 1 and all seven tokens")
    compare(ask(answer, logits, 0.5, 1), keep(logits, 1).softmax(-1), (), "For temperature 0.5 and top_k 1")


# ---- Your own classes through the course -------------------------------------------------------------------

PARTS = {
    "LayerNorm": layer_norm,
    "GELU": gelu,
    "FeedForward": feed_forward,
    "MultiHeadAttention": multi_head_attention,
    "TransformerBlock": transformer_block,
    "GPTModel": gpt_model,
    "generate_text_simple": greedy,
}
SHIPPED = {name: getattr(helpers, name) for name in PARTS}
replaced = {}  # name -> (the reader's own, what stood under this name in the notebook)


def with_cache(part):
    """`part`; if it knows no key-value cache, as a class that keeps its inputs there and reads all anew."""
    if "cache" in inspect.signature(part.forward).parameters:
        return part

    class Keeping(part):
        def forward(self, x, cache=None, last_only=False):
            if cache is None:
                y = super().forward(x)
            else:
                B, T, *width = x.shape
                new = x.reshape(B, 1, T, -1)  # as keys and values
                seen, _ = (cache[0] if isinstance(cache, list) else cache).append(new, new)
                y = super().forward(seen.reshape(B, -1, *width))[:, -T:]
            return y[:, -1:] if last_only else y

    Keeping.__name__ = part.__name__
    return Keeping


def use(**own):
    """Go on with your own parts: `use(LayerNorm=MyLayerNorm)` puts yours in the place of the shipped one.

    It holds in this kernel, for all that is built from then on; helpers.py on disk is not touched. An answer
    that has not passed its check is not put in. One that knows no key-value cache works with `generate`, too,
    but slowly: it is given the whole text at every step.
    """
    for name, answer in own.items():
        if name not in PARTS:
            print(f"There is no part {name!r} to replace; there are {', '.join(PARTS)}.")
            continue
        verdict, words = judge(PARTS[name].examine, answer)
        if verdict != "right":
            print(f"{name}: {verdict}. Ours stays. {words}".rstrip())
            continue
        notebook = sys.modules["__main__"]
        before = replaced[name][1] if name in replaced else getattr(notebook, name, SHIPPED[name])
        if name in ("MultiHeadAttention", "TransformerBlock", "GPTModel"):
            answer = with_cache(answer)
        replaced[name] = (answer, before)
        setattr(helpers, name, answer)
        if hasattr(notebook, name):
            setattr(notebook, name, answer)
        print(f"{name}: right, and used from here on in this kernel; checks.use_shipped() takes it back.")


def use_shipped():
    """Take back what `use` has put in place: all parts are the shipped ones again."""
    notebook = sys.modules["__main__"]
    for name, (answer, before) in replaced.items():
        setattr(helpers, name, SHIPPED[name])
        if getattr(notebook, name, None) is answer:  # else the notebook has defined it anew
            setattr(notebook, name, before)
    print(f"Ours again: {', '.join(replaced) or 'nothing was replaced'}.")
    replaced.clear()
