"""The checks of the exercises: right answers pass, mistakes are named, and nothing breaks a check."""

import ast
import contextlib
import inspect
import io
import subprocess
import sys
import threading
import time
from pathlib import Path

import answers
import pytest
import torch
from answers.section_4_2 import ByMoments, ByVarMean
from answers.section_4_3 import Appended, GELUByExp
from answers.section_4_5 import BlockInOneLine, HeadByHead, OtherArguments
from answers.section_4_6_model import GPTInOtherStyle
from answers.section_4_7 import greedy_in_a_list
from support import CHECKS, ROOT, say
from torch import nn

import helpers
from notebooks import checks
from notebooks.checks.own_parts import PARTS
from notebooks.checks.require import SMALL

FOLDER = Path(checks.__file__).parent
DECLARED = {name: check.mistakes for name, check in CHECKS.items() if hasattr(check, "mistakes")}


def cases(data):
    return [(name, i) for name, given in data.items() for i in range(len(given))]


@pytest.fixture(scope="module")
def right():
    """What the checks say about every right answer."""
    return {(name, i): say(name, answers.RIGHT[name][i]) for name, i in cases(answers.RIGHT)}


@pytest.fixture(scope="module")
def wrong():
    """What they say about every wrong one."""
    return {(name, i): say(name, answers.WRONG[name][i][0]) for name, i in cases(answers.WRONG)}


@pytest.fixture(scope="module")
def declared():
    """And about every mistake that an exercise declares."""
    return {
        (name, words): say(name, answer)
        for name, mistakes in DECLARED.items()
        for words, answer in mistakes.items()
    }


WITHOUT_BEYOND = """
import sys
from notebooks import checks

def cheat(model):
    from beyond import gpt2_tensors
    return gpt2_tensors(model)

checks.checkpoint(...)
assert "beyond" not in sys.modules
checks.checkpoint(cheat)
"""


def test_the_checks_do_not_need_beyond():
    """beyond.py is made from notebooks that run the checks."""
    command = [sys.executable, "-c", WITHOUT_BEYOND]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert run.returncode == 0, run.stderr
    stub, cheat = run.stdout.splitlines()
    assert "not attempted yet" in stub and "gpt2_tensors is out of reach" in cheat


def test_every_check_has_right_and_wrong_answers():
    assert set(answers.RIGHT) == set(answers.WRONG) == set(CHECKS)
    assert all(len(answers.WRONG[name]) + len(DECLARED.get(name, ())) >= 3 for name in CHECKS)


@pytest.mark.parametrize("name, i", cases(answers.RIGHT))
def test_right_answers_pass(right, name, i):
    assert ": right. " in right[name, i]


@pytest.mark.parametrize("name, i", cases(answers.WRONG))
def test_wrong_answers_are_named(wrong, name, i):
    line, words = wrong[name, i], answers.WRONG[name][i][1]
    assert ": not right yet. " in line and words in line and "The check could not" not in line


@pytest.mark.parametrize("name, words", [(name, words) for name in DECLARED for words in DECLARED[name]])
def test_declared_mistakes_are_named(declared, name, words):
    assert f": not right yet. {words}" in declared[name, words]


@pytest.mark.parametrize("name", DECLARED)
def test_the_declared_answer_is_right(name):
    assert ": right. " in say(name, CHECKS[name].right)


# What an answer might do that has nothing to do with the question.


class BadError(Exception):
    def __str__(self):
        raise ValueError


def raises(error):
    def function(*args):
        raise error

    return function


def forever(*args):
    while True:
        pass


def deeper(*args):
    return deeper(*args)


def without_forward(*args):
    return nn.Module()


class NoArguments(nn.Module):
    def __init__(self):
        super().__init__()


class NotMade(nn.Module):
    def __new__(cls, *args):
        return 3


class Strange:
    """Not equal to itself, without a name, callable with anything, an attribute for everything."""

    def __eq__(self, other):
        raise TypeError

    def __repr__(self):
        raise TypeError

    def __getattr__(self, name):
        raise RuntimeError(name)

    def __call__(self, *args, **kwargs):
        return self


def module_that(function):
    return type(
        "Odd", (nn.Module,), {"__init__": lambda self, *a: nn.Module.__init__(self), "forward": function}
    )


RESULTS = {
    "None": None,
    "NotImplemented": NotImplemented,
    "text": "a",
    "int": 777,
    "complex": 1j,
    "list": [[1.0]],
    "dict": {"x": 1},
    "nan": float("nan"),
    "tuple of None": (None, None),
    "empty": torch.empty(0),
    "scalar": torch.tensor(1.0),
    "bool tensor": torch.ones(2, 3, dtype=torch.bool),
    "complex tensor": torch.ones(2, 3, dtype=torch.complex64),
    "half": torch.ones(2, 5, dtype=torch.half),
    "nan tensor": torch.full((2, 5, 6), float("nan")),
    "infinite": torch.full((3, 4), float("inf")),
    "meta": torch.ones(3, 4, device="meta"),
    "sparse": torch.eye(4).to_sparse(),
    "huge": torch.zeros(1).expand(1 << 20),
    "strange": Strange(),
    "module": nn.Linear(2, 2),
    "class": int,
}
ACTIONS = {
    "SystemExit": raises(SystemExit("bye")),
    "KeyboardInterrupt": raises(KeyboardInterrupt()),
    "NotImplementedError": raises(NotImplementedError()),
    "StopIteration": raises(StopIteration()),
    "MemoryError": raises(MemoryError()),
    "an error that cannot be printed": raises(BadError()),
    "many lines": raises(ValueError("one\n\ntwo\n" * 500)),
    "recursion": deeper,
    "takes nothing": lambda: 3,
    "a module without forward": without_forward,
    "prints": lambda *args: print("a line\n" * 1000),
}
ODD = {f"is {name}": result for name, result in RESULTS.items()}
ODD |= {f"returns {name}": lambda *args, r=result: r for name, result in RESULTS.items()}
ODD |= {f"forward returns {name}": module_that(lambda *args, r=result: r) for name, result in RESULTS.items()}
ODD |= ACTIONS | {f"forward: {name}": module_that(action) for name, action in ACTIONS.items()}
ODD |= {"makes no module": NotMade, "a gap": lambda *args: ... / 2}
ODD |= {"no arguments": NoArguments, "no module": Strange, "Module itself": nn.Module, "Linear": nn.Linear}


@pytest.mark.parametrize("name", CHECKS)
def test_whatever_an_answer_does_the_check_says_so_in_one_line(name):
    for what, answer in ODD.items():
        start = time.perf_counter()
        line = say(name, answer)
        assert ": not right yet. " in line, f"{what}: {line}"
        assert len(line) < 600 and time.perf_counter() - start < 2.5, what


def test_an_answer_that_never_ends_is_stopped():
    for answer in (forever, module_that(forever), module_that(lambda self, x: time.sleep(60))):
        start = time.perf_counter()
        line = say("layer_norm" if isinstance(answer, type) else "greedy", answer)
        assert "a loop that never ends, or too much work?" in line and time.perf_counter() - start < 2.5


def stubborn(*args):
    end = time.monotonic() + 4  # or it would take a core from all other tests
    while time.monotonic() < end:  # draws nothing, since it is still at work while later tests draw
        with contextlib.suppress(BaseException):
            torch.ones(3).sum()


def test_an_answer_that_will_not_be_stopped_is_left_behind():
    threads = torch.get_num_threads()
    assert "a loop that never ends" in say("gelu", module_that(stubborn))
    assert torch.get_num_threads() == threads


def test_an_interrupt_ends_a_check(monkeypatch):
    def interrupted(self, seconds=None, join=threading.Thread.join):
        monkeypatch.setattr(threading.Thread, "join", join)
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "join", interrupted)
    assert say("greedy", forever).endswith("You interrupted the check.")


def test_the_line_of_the_mistake_is_shown(tmp_path):
    (tmp_path / "cell.py").write_text("def answer(q, k, v):\n    scores = ... / 8\n    return scores\n")
    namespace = {}
    exec(compile((tmp_path / "cell.py").read_text(), tmp_path / "cell.py", "exec"), namespace)
    line = say("attention_head", namespace["answer"])
    assert "It fails at `scores = ... / 8`. TypeError: unsupported operand" in line
    assert "Is there a `...` left?" in line


def test_a_check_leaves_the_random_numbers_and_threads_alone():
    torch.manual_seed(1)
    expected, threads = torch.randn(3), torch.get_num_threads()
    torch.manual_seed(1)
    say("layer_norm", ByMoments)
    say("layer_norm", module_that(lambda self, x: torch.manual_seed(5)))
    say("layer_norm", module_that(lambda self, x: torch.set_default_dtype(torch.float64)))
    assert torch.equal(torch.randn(3), expected) and torch.get_num_threads() == threads
    assert torch.get_default_dtype() is torch.float32


def test_a_notebooks_own_copy_of_the_courses_class_is_out_of_reach_too(notebook):
    source = inspect.getsource(helpers.FeedForward)
    exec("import torch\nfrom torch import nn\nfrom helpers import GELU, check_sizes", vars(notebook))
    exec(source, vars(notebook))
    for answer in (notebook.FeedForward, type("MyFeedForward", (notebook.FeedForward,), {})):
        assert "Write it yourself" in say("feed_forward", answer)


def literals(tree):
    """Texts of a module that a reader may be told, each without what is filled in."""
    silent = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr)}  # docstrings
    return {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in silent
        if len(node.value) > 12 and " " in node.value
    }


SILENT = ("__init__", "hints", "own_parts")
MODULES = [path for path in sorted(FOLDER.glob("*.py")) if path.stem not in SILENT]


def test_every_mistake_that_a_check_can_name_is_made_by_an_answer(right, wrong, declared):
    odd = [say(name, answer) for name in ("gelu", "embed") for answer in (..., *ODD.values())]
    said = "\n".join([*right.values(), *wrong.values(), *declared.values(), *odd])
    said += "You interrupted the check."  # in a test of its own
    never = {
        (path.stem, text)
        for path in MODULES
        for text in literals(ast.parse(path.read_text(encoding="utf-8")))
        if text.strip() not in said
    }
    assert never == set()


def test_a_section_builds_on_no_other_section():
    for path in FOLDER.glob("section_*.py"):
        imports = [
            n for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.ImportFrom)
        ]
        assert {n.module for n in imports if n.level} <= {"require", "runner"}
        assert not any("checks" in n.module for n in imports if not n.level)


# Your own classes through the course


OWN = {
    "LayerNorm": ByMoments,
    "GELU": GELUByExp,
    "FeedForward": Appended,
    "MultiHeadAttention": HeadByHead,
    "TransformerBlock": BlockInOneLine,
    "GPTModel": GPTInOtherStyle,
    "generate_text_simple": greedy_in_a_list,
}


@pytest.fixture
def notebook(monkeypatch):
    """A stand-in for the notebook that calls `use`, with what it has imported or defined."""
    module = type(sys)("__main__")
    module.LayerNorm, module.GPTModel = type("LayerNorm", (nn.Module,), {}), helpers.GPTModel
    monkeypatch.setitem(sys.modules, "__main__", module)
    yield module
    with contextlib.redirect_stdout(io.StringIO()):
        checks.use_shipped()


def test_use_puts_your_parts_everywhere_and_takes_them_back(notebook, capsys):
    shipped, defined = {name: getattr(helpers, name) for name in OWN}, notebook.LayerNorm
    torch.manual_seed(5)
    reference, ids = helpers.GPTModel(SMALL).eval(), torch.tensor([[3, 1, 4]])

    checks.use(**OWN)
    assert capsys.readouterr().out.count("used from here on") == len(OWN) == len(PARTS)
    for name, own in OWN.items():
        assert getattr(helpers, name) is own and getattr(notebook, name, own) is own
    model = notebook.GPTModel(SMALL).eval()
    for part in ("LayerNorm", "GELU", "FeedForward", "MultiHeadAttention", "TransformerBlock", "GPTModel"):
        assert any(isinstance(module, OWN[part]) for module in model.modules()), part
    assert not any(type(module) in shipped.values() for module in model.modules())
    model.load_state_dict(reference.state_dict())
    torch.testing.assert_close(model(ids), reference(ids))
    for name, own in OWN.items():  # the checks still know what is right, and a second use is no harm
        assert say(PARTS[name].__name__, own).split(": ")[1].startswith("right")
    checks.use(LayerNorm=ByVarMean)

    checks.use_shipped()
    assert all(getattr(helpers, name) is part for name, part in shipped.items())
    assert notebook.LayerNorm is defined and notebook.GPTModel is shipped["GPTModel"]
    checks.use_shipped()
    assert "nothing was replaced" in capsys.readouterr().out


@pytest.mark.parametrize("name", OWN)
def test_a_model_with_one_part_of_yours_gives_the_same_logits_and_text(notebook, name, capsys):
    prompt = torch.tensor([[3, 1, 4]])
    torch.manual_seed(5)
    reference = helpers.GPTModel(SMALL).eval()
    logits, text = reference(prompt), helpers.generate_text_simple(reference, prompt, 12, 12)

    checks.use(**{name: OWN[name]})
    assert capsys.readouterr().out.startswith(f"{name}: right, and used from here on")
    model = helpers.GPTModel(SMALL).eval()
    model.load_state_dict(reference.state_dict())
    torch.testing.assert_close(model(prompt), logits)
    assert torch.equal(helpers.generate_text_simple(model, prompt, 12, 12), text)


def test_use_takes_only_what_passes(notebook, capsys):
    shipped, gelu = helpers.LayerNorm, helpers.GELU
    for own, words in (
        (
            {"LayerNorm": answers.section_4_2.layer_norm(lambda x: answers.section_4_2.norm(x, 1))},
            "LayerNorm: not right yet. Ours stays. Mean and variance",
        ),
        ({"MultiHeadAttention": OtherArguments}, "got an unexpected keyword argument 'd_in'"),
        ({"LayerNorm": ...}, "LayerNorm: not attempted yet. Ours stays."),
        ({"generate_text_simple": lambda *a: greedy_in_a_list(*a)}, "its arguments need the names of ours"),
        ({"Layernorm": ByMoments}, "There is no part 'Layernorm' to replace; choose from LayerNorm,"),
        ({"LayerNorm": ByMoments, "GELU": None}, "GELU: not right yet."),
    ):
        checks.use(**own)
        assert words in capsys.readouterr().out
        assert helpers.GELU is gelu
    assert helpers.LayerNorm is ByMoments  # the last one passed, its neighbour did not
    checks.use_shipped()
    assert helpers.LayerNorm is shipped
