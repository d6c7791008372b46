"""The exercises in the notebooks: their form, their stubs, and their folded solutions."""

import contextlib
import copy
import io
import re
import textwrap
from pathlib import Path

import pytest
import torch
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell
from support import read_notebook

from notebooks import checks
from notebooks.checks.hints import HINTS, given

ROOT = Path(__file__).resolve().parents[1]
PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))
FENCE = re.compile(r"```python\n(.*?)```", re.S)


def section(path):
    """What the numbers of a notebook's exercises begin with: "4.6", or "beyond 3"."""
    return re.match(r"4\.\d|beyond_\d", path.name)[0].replace("_", " ")


def exercises(path):
    """The exercises of a notebook by number: task, stub, check and solution cell."""
    cells = read_notebook(path).cells
    found = {}
    for place, cell in enumerate(cells):
        number = re.search(r"^### Exercise ((?:4\.\d|beyond \d)\.\d): \S", cell.source, re.M)
        if cell.cell_type == "markdown" and number:
            found[number[1]] = cells[place : place + 4]
    return found


ALL = {number: (path, cells) for path in PATHS for number, cells in exercises(path).items()}
each = pytest.mark.parametrize("number", ALL)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_exercises_are_numbered_from_one(path):
    found = list(exercises(path))
    assert found == [f"{section(path)}.{n}" for n in range(1, len(found) + 1)]
    assert (0 if path.name.startswith("beyond") else 3) <= len(found) <= 6


def test_each_check_has_its_exercise():
    used = {number: re.match(r"checks\.(\w+)\(", cells[2].source)[1] for number, (_, cells) in ALL.items()}
    assert used == {c.number: name for name, c in vars(checks).items() if hasattr(c, "number")}


@each
def test_form(number):
    task, stub, check, solution = ALL[number][1]
    assert [cell.cell_type for cell in ALL[number][1]] == ["markdown", "code", "code", "markdown"]
    assert re.search(r"\*\*Difficulty\*\* [123] of 3 · \*\*Time\*\* \d+ minutes?\n", task.source)
    assert "..." in stub.source and re.fullmatch(r"checks\.\w+\((my_\w+|My\w+)\)", check.source)
    assert solution.source.startswith("<details><summary>Solution</summary>\n\n```python\n")
    assert "\n</details>" in solution.source


@each
def test_what_a_check_puts_out_of_reach_by_name_is_there(number):
    path, cells = ALL[number]
    judge = getattr(checks, re.match(r"checks\.(\w+)\(", cells[2].source)[1]).judge
    code = [cell.source for cell in read_notebook(path).cells if cell.cell_type == "code"]
    for name in judge.keywords["write"]:
        assert not isinstance(name, str) or any(
            f"def {name.removeprefix('beyond.')}(" in source for source in code
        )
    for name in judge.keywords["by_hand"]:
        assert any(hasattr(place, name) for place in (torch, torch.nn.functional, torch.Tensor))


@each
def test_there_are_hints(number, capsys):
    hints = HINTS[number]
    assert 2 <= len(hints) <= 3
    given.clear()
    for n in (*range(1, len(hints) + 1), len(hints)):  # the last one is repeated
        checks.hint(number)
        printed = capsys.readouterr().out
        assert printed.startswith(f"Exercise {number}, hint {n} of {len(hints)}: {hints[n - 1]}\n")
        assert ("That was the last hint." in printed) == (n == len(hints))


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_the_exercises_say_how_to_get_a_hint(path):
    if not exercises(path):
        return
    cells = read_notebook(path).cells
    intro = next(cell.source for cell in cells if "## Exercises" in cell.source.splitlines())
    number = re.search(r'checks\.hint\("([^"]+)"\)', intro)[1]
    assert number in exercises(path)


def test_a_hint_for_what_is_no_exercise(capsys):
    checks.hint("4.9")
    assert capsys.readouterr().out.startswith("There is no exercise '4.9'; ask by number")


@each
def test_the_stub_is_not_attempted(number):
    outputs = ALL[number][1][2].outputs
    assert [output.text for output in outputs] == [f"Exercise {number}: not attempted yet.\n"]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_the_minutes_add_up(path):
    minutes = [
        int(re.search(r"\*\*Time\*\* (\d+)", cells[0].source)[1]) for cells in exercises(path).values()
    ]
    head = read_notebook(path).cells[0].source
    more = f", and {sum(minutes)} for the exercises" if minutes else ""
    lesson = re.search(rf"\*\*Time:\*\* (\d+) minutes{more}\.", head)[1]
    row = next(
        line for line in (ROOT / "README.md").read_text().splitlines() if f"(notebooks/{path.name})" in line
    )
    assert row.endswith(f"| {lesson} + {sum(minutes)} |" if minutes else f"| {lesson} |")


@pytest.fixture(scope="module")
def namespaces():
    """For each notebook, what its imports and exported cells define: all that an exercise may need."""
    found = {}
    for path in PATHS:
        code = [c.source for c in read_notebook(path).cells if c.cell_type == "code"]
        found[path] = {"__name__": "notebook"}
        with contextlib.chdir(path.parent), torch.enable_grad():  # on again afterwards
            for source in code:
                if re.match(r"import |from |#\| export", source):
                    exec(source, found[path])
    torch.set_printoptions(profile="default")  # the notebooks print three digits
    return found


@each
def test_the_solution_is_right(number, namespaces):
    path, (_, stub, check, solution) = ALL[number]
    first, *more = FENCE.findall(solution.source.split("</details>")[0])
    name = re.search(r"\((\w+)\)", check.source)[1]
    assert re.search(rf"^(def |class )?{name}\b", stub.source, re.M)
    namespace = dict(namespaces[path])
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(first, namespace)
        exec(check.source, namespace)
    assert out.getvalue().startswith(f"Exercise {number}: right. ")
    for source in more:
        exec(source, namespace)


def test_the_larger_sizes_are_those_in_the_solution(namespaces, capsys):
    path, cells = ALL["4.6.3"]
    namespace = dict(namespaces[path])
    for source in FENCE.findall(cells[3].source):
        exec(source, namespace)
    printed = re.findall(r"gpt2-(?:medium|large|xl) \((\d+), ([\d.]+)\)", capsys.readouterr().out)
    millions, megabytes = (
        " and ".join(", ".join(f"{n:,.0f}" for n in numbers).rsplit(", ", 1))
        for numbers in ([int(p) / 1e6 for p, _ in printed], [float(m) for _, m in printed])
    )
    assert f"gives {millions} million parameters, or {megabytes} MB" in cells[3].source


def test_a_whole_notebook_on_your_own_parts():
    """What 4.6 says: the solutions of 4.2 to 4.5 in a new cell, `use` in the next, and the same outputs."""
    path, (task, *_) = ALL["4.6.1"]
    recipe, use = map(textwrap.dedent, FENCE.findall(task.source))
    use = use.replace(")", ", MultiHeadAttention=MyMultiHeadAttention, TransformerBlock=MyTransformerBlock)")
    for number in ("4.2.3", "4.3.3", "4.3.4", "4.5.4", "4.5.5"):
        recipe += "\n\n" + FENCE.search(ALL[number][1][3].source)[1]
    stored = read_notebook(path)
    first = next(place for place, cell in enumerate(stored.cells) if "from helpers import" in cell.source)
    own = copy.deepcopy(stored)
    own.cells[first + 1 : first + 1] = [new_code_cell(recipe), new_code_cell(use)]
    resources = {"metadata": {"path": str(path.parent)}}
    NotebookClient(own, timeout=300, resources=resources, coalesce_streams=True).execute()
    used = own.cells.pop(first + 2).outputs[0].text
    assert used.count("right, and used from here on") == 5
    del own.cells[first + 1]
    for old, new in zip(stored.cells, own.cells, strict=True):
        if old.cell_type == "code" and "kept_for_backward" not in old.source:  # depends on how one computes
            assert [output.text for output in new.outputs] == [output.text for output in old.outputs]
