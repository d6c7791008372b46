"""Running an answer safely: whatever it does, there is a verdict, and a line that says why."""

import builtins
import contextlib
import ctypes
import functools
import importlib
import inspect
import io
import math
import sys
import threading
import traceback
import types
import warnings
from pathlib import Path

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

import helpers

SECONDS = 1.8  # the most that examining an answer may take


class Wrong(Exception):
    """The answer is not right; the message says what shows it."""


class NotAttempted(Exception):
    """The `...` of the stub is still there."""


class TooLong(BaseException):
    """Raised inside an answer that does not come to an end."""


def exercise(number, praise, prepare=lambda: None, write=(), by_hand=()):
    """Make a check of a function that raises Wrong: it examines an answer and prints one line.

    `prepare` runs before the time of the answer begins to count. `write` lists the course's classes and
    functions that the reader is asked to write, and `by_hand` the names of PyTorch's functions that do the
    same. None of them can be called while the check runs, except by the check itself, in `within_reach()`.
    """

    def decorate(examine):
        @functools.wraps(examine)
        def check(answer):
            prepare()
            verdict, words = check.judge(answer)
            print(f"Exercise {number}: {verdict}. {praise if verdict == 'right' else words}".rstrip())

        check.number, check.judge = number, functools.partial(judge, examine, write=write, by_hand=by_hand)
        return check

    return decorate


def judge(examine, answer, write, by_hand):
    """A verdict on `answer` and what there is to say about it in one line, whatever the answer does."""
    # The first gradient loads this, which takes time and must not be interrupted.
    import torch.fx.experimental.symbolic_shapes  # noqa: F401

    found = []

    def work():
        try:
            torch.set_num_threads(1)  # the work is small, and threads that wait for it cost more
            torch.default_generator.manual_seed(0)
            if answer is ...:
                raise NotAttempted
            with PyTorchOutOfReach(by_hand) if by_hand else contextlib.nullcontext():
                examine(answer)
            found.append(("right", ""))
        except NotAttempted:
            found.append(("not attempted yet", ""))
        except Wrong as wrong:
            found.append(("not right yet", str(wrong)))
        except BaseException as error:  # an answer may raise anything, SystemExit too
            found.append(("not right yet", describe_error(error)))

    def quietly():
        with contextlib.suppress(BaseException):  # TooLong may come at any moment
            work()

    # In a thread, since only a thread can be stopped in every kernel and on every system. What an answer
    # prints is dropped.
    thread, silence = threading.Thread(target=quietly, daemon=True), io.StringIO()
    with contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence):
        with all_as_before(), out_of_reach(write, answer):
            torch.set_default_dtype(torch.float32)
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
    verdict, words = ("not right yet", too_late) if late or not found else found[0]
    return verdict, " ".join(words.split())  # an answer may have put anything into the words


SETTINGS = (  # PyTorch's, each with the function that sets it
    (torch.get_num_threads, torch.set_num_threads),
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms),
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    (torch.is_anomaly_enabled, torch.set_anomaly_enabled),
)


@contextlib.contextmanager
def all_as_before():
    """Undo what an answer changes outside itself, so that it spoils no later check.

    These are random numbers, settings, warnings, hooks for all modules, the configurations, and whatever was
    given another value in PyTorch, helpers.py, or these checks.
    """
    settings = [read() for read, _ in SETTINGS]
    checks = [module for name, module in sys.modules.items() if name.startswith(__package__)]
    places = [builtins, math, torch, torch.Tensor, nn.functional, nn.modules.module, helpers, *checks]
    places += [part for module in (nn, helpers) for part in vars(module).values() if isinstance(part, type)]
    names = [(place, dict(vars(place))) for place in places]
    dicts = [value for place in (helpers, nn.modules.module) for value in vars(place).values()]
    dicts = [value for value in dicts if isinstance(value, dict) and value is not vars(builtins)]
    dicts += [inner for value in dicts for inner in value.values() if isinstance(inner, dict)]
    contents = [(value, value.copy()) for value in dicts]
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            yield
    finally:
        for place, before in names:
            for name, value in before.items():
                if vars(place).get(name, names) is not value:
                    setattr(place, name, value)
            for name in vars(place).keys() - before.keys() if isinstance(place, type) else ():
                delattr(place, name)
        for value, before in contents:
            if value != before:
                value.clear()
                value.update(before)
        for (read, change), before in zip(SETTINGS, settings, strict=True):
            if read() != before:  # some load half of PyTorch
                change(before)


class PyTorchOutOfReach(TorchFunctionMode):
    """Raises Wrong where one of PyTorch's functions is called that an answer is to write by hand."""

    def __init__(self, names):
        super().__init__()
        self.names = names

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name = getattr(function, "__name__", "")
        if name in self.names:
            raise Wrong(f"Write it by hand: PyTorch's {name} is out of reach while this check runs.")
        return function(*args, **(kwargs or {}))


within_reach = torch._C.DisableTorchFunction  # a context in which a check may call PyTorch's own function


def method(part, name="forward"):
    """The function that runs when a part is called, without its decorators; None if there is none."""
    return inspect.unwrap(getattr(part, name, None) if isinstance(part, type) else part)


def definitions(part, answer):
    """The functions that run `part`: the one in helpers.py and its twin that a lesson defines in a notebook.

    What a lesson doesn't export is given by its name. A reader may have used a name for something else, so a
    twin has the same code.
    """
    name, _, own_method = (part if isinstance(part, str) else part.__qualname__).partition(".")
    kind = answer if isinstance(answer, type) else type(answer)
    own = [inspect.unwrap(f) for f in (answer, *vars(kind).values()) if isinstance(f, types.FunctionType)]
    spaces = [vars(sys.modules["__main__"]), *(getattr(f, "__globals__", {}) for f in own)]
    twins = [answer, *kind.__mro__, *(space.get(name) for space in spaces)]
    twins = [t for t in twins if isinstance(t, (type, types.FunctionType)) and t.__name__ == name]
    if isinstance(part, str):
        found = [method(t) for t in twins]
    else:
        ours = getattr(helpers, name) if own_method else part
        found = [method(part), *(method(t, own_method or "forward") for t in twins if is_same(t, ours))]
    return [f for f in found if isinstance(f, types.FunctionType)]


def is_same(one, other):
    """Whether two functions, or all methods of two classes, use the same names in the same order.

    Their bytecode may differ: it depends on whether a name was imported in the same cell.
    """

    def names(thing):
        functions = vars(thing) if isinstance(thing, type) else {"": inspect.unwrap(thing)}
        codes = {name: getattr(function, "__code__", None) for name, function in functions.items()}
        return {name: (code.co_names, code.co_varnames) for name, code in codes.items() if code}

    return names(one) == names(other)


def refuse(*arguments, **named):
    from notebooks.checks.runner import Wrong

    raise Wrong("WORDS")


def refusal(function):
    """The code of `refuse` for one function, which has as many free variables."""
    words = f"Write it yourself: the course's {function.__qualname__} is out of reach while this check runs."
    code = refuse.__code__
    constants = tuple(words if constant == "WORDS" else constant for constant in code.co_consts)
    return code.replace(co_consts=constants, co_freevars=function.__code__.co_freevars)


def in_beyond(part, answer):
    """The function that `beyond.name` stands for, or just its name as long as there is no answer."""
    if not (isinstance(part, str) and part.startswith("beyond.")):
        return part
    name = part.removeprefix("beyond.")
    return name if answer is ... else getattr(importlib.import_module("beyond"), name)


@contextlib.contextmanager
def out_of_reach(parts, answer):
    """While this lasts, the course's own `parts` raise Wrong when called.

    These are functions, forward methods of classes, and other methods by name, such as `LayerNorm.__init__`.
    Their code is exchanged, so it makes no difference under which name an answer reaches them. A function of
    beyond.py is given as `beyond.name`, and imported only for an answer: the checks must not need that file.
    """
    functions = {id(f): f for part in parts for f in definitions(in_beyond(part, answer), answer)}.values()
    codes = [function.__code__ for function in functions]
    try:
        for function in functions:
            function.__code__ = refusal(function)
        yield
    finally:
        for function, code in zip(functions, codes, strict=True):
            function.__code__ = code


def describe_error(error):
    """What an answer raised, and at which of its lines."""
    folders = (str(Path(file).parent) for file in (__file__, torch.__file__, threading.__file__))
    libraries = (helpers.__file__, *folders)  # none of their lines is the reader's
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
    if not lines:  # not even inside the answer
        return f"The check could not use your answer. {raised}"
    place = f" at `{lines[-1]}`" if lines[-1] else ""
    return f"It fails{place}. {raised}"
