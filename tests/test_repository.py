"""The promises of the README, and the style of the code."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]], ids=" ".join)
def test_ruff(command):
    result = subprocess.run(
        [sys.executable, "-m", "ruff", *command, "."], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_requirement_is_pinned_and_has_its_reason():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    requirements = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w-]+==[\d.]+ +# .+", line) for line in requirements)
    assert "torch==2.13.0" in (line.split()[0] for line in requirements)


def test_readme_links_resolve():
    for target in re.findall(r"\]\(([^)\s#]+)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), target
    for alt, target in re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", README):
        assert not target.startswith("http") and len(alt.split()) >= 8


def test_readme_lists_the_seven_notebooks():
    assert sorted(set(re.findall(r"\(notebooks/(4\.\d_\w+\.ipynb)\)", README))) == sorted(
        path.name for path in (ROOT / "notebooks").glob("*.ipynb")
    )


def test_readme_opens_the_first_notebook_from_the_repository():
    command = re.search(r"^python3 -m venv .* (notebooks/4\.1\S+)$", README, re.M)
    assert command and (ROOT / command[1]).exists()
    assert "jupyter lab --notebook-dir=. " in command[0]  # else the pictures lie outside of what is served


def test_ci_runs_the_readmes_test_command():
    command = re.search(r"^python3 -m venv .*pytest$", README, re.M)
    assert command and "requirements.txt" in command[0]
    assert "grep -m1 '^python3 -m venv .*pytest$' README.md" in (ROOT / ".ci" / "run").read_text()
