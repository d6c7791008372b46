"""Running an answer safely: whatever it does, there is a verdict, and a line that says why."""

import contextlib
import copy
import ctypes
import functools
import inspect
import io
import threading
import traceback
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
        with all_as_before(), out_of_reach(write):
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


@contextlib.contextmanager
def all_as_before():
    """Undo what an answer changes outside itself, so that it spoils no later check.

    These are random numbers, PyTorch's settings, warnings, names in PyTorch and helpers.py that were given
    another value, and the configurations.
    """
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    deterministic = torch.are_deterministic_algorithms_enabled()
    places = (torch, torch.Tensor, nn, nn.Module, nn.functional, helpers)
    places += tuple(part for part in vars(helpers).values() if isinstance(part, type))
    names = [(place, dict(vars(place))) for place in places]
    configs = [(value, copy.deepcopy(value)) for value in vars(helpers).values() if type(value) is dict]
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            yield
    finally:
        for config, before in configs:
            config.clear()
            config.update(before)
        for place, before in names:
            for name, value in vars(place).copy().items():
                if name in before and value is not before[name]:
                    setattr(place, name, before[name])
        torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)
        torch.use_deterministic_algorithms(deterministic)


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


@contextlib.contextmanager
def out_of_reach(parts):
    """While this lasts, the course's own `parts` raise Wrong when called: functions, and forward methods.

    Their code is exchanged, so it makes no difference under which name an answer reaches them.
    """
    functions = [inspect.unwrap(part.forward if isinstance(part, type) else part) for part in parts]
    codes = [function.__code__ for function in functions]
    try:
        for function in functions:
            name = function.__qualname__
            words = f"Write it yourself: the course's {name} is out of reach while this check runs."
            source = f"def f(*a, **k):\n from notebooks.checks.runner import Wrong\n raise Wrong({words!r})"
            found = {}
            exec(source, found)
            function.__code__ = found["f"].__code__
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
