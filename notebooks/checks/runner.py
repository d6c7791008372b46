"""Running an answer safely: whatever it does, there is a verdict, and a line that says why."""

import contextlib
import ctypes
import functools
import io
import threading
import traceback
from pathlib import Path

import torch

import helpers

SECONDS = 1.8  # the most that examining an answer may take


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
    # The first gradient loads this, which takes time and must not be interrupted.
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
            found.append(("not right yet", describe_error(error)))

    def quietly():
        with contextlib.suppress(BaseException):  # TooLong may come at any moment
            work()

    # In a thread, since only a thread can be stopped in every kernel and on every system. Afterwards all is
    # as it was: random numbers, threads, the default dtype. What an answer prints is dropped.
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
