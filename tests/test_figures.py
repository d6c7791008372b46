"""The pictures are what the code draws, and `show` says when a reader's differs."""

import re

import matplotlib.pyplot as plt
import pytest
import torch
from support import NOTEBOOKS, ROOT

from figures import drawing
from figures.diagrams import DIAGRAMS, draw_all
from figures.drawing import same_picture
from helpers import GPT_CONFIG_124M, GPTModel, count_parameters

FIGURES = ROOT / "figures"


# The plots are compared by the notebooks that draw them, in `show`, while nbval runs them.
def test_diagrams_are_fresh(tmp_path):
    draw_all(tmp_path)
    for name in DIAGRAMS:
        fresh, stored = (folder / f"{name}.svg" for folder in (tmp_path, FIGURES))
        same = same_picture(fresh.read_text(encoding="utf-8"), stored.read_text(encoding="utf-8"))
        assert same, f"{name}.svg is stale, run: python notebooks/refresh.py"


def test_every_picture_has_code_that_draws_it():
    sources = "".join(path.read_text(encoding="utf-8") for path in NOTEBOOKS)
    plots = set(re.findall(r'show\(.*, \\"(\w+)\\"\)', sources))
    assert plots | set(DIAGRAMS) == {path.stem for path in FIGURES.glob("*.svg")}


def test_the_parameters_in_the_diagrams_are_those_of_the_model():
    with torch.device("meta"):
        model = GPTModel(GPT_CONFIG_124M)
    block = model.trf_blocks[0]
    parts = (model, model.tok_emb, model.pos_emb, model.trf_blocks, model.final_norm, model.out_head)
    parts += (block, block.att, block.ff, block.ff.layers[0], block.ff.layers[2], block.norm1)
    counts = {count_parameters(part) for part in parts}
    drawn = re.findall(r"\d{1,3}(?:,\d{3})+", (FIGURES / "diagrams.py").read_text(encoding="utf-8"))
    assert {int(number.replace(",", "")) for number in drawn} - {50257} == counts


PICTURE = (
    '<path id="a1234567890" d="M 1 2.5" style="fill: #0e1111; opacity: 0.3"/><use href="#a1234567890" x="3"/>'
)


@pytest.mark.parametrize(
    "old, new, same",
    [
        ("a1234567890", "b0987654321", True),  # another id, used in the same places
        ("M 1 2.5", "M 1.01 2.49", True),
        ('x="3"', 'x="3.04"', True),
        ("M 1 2.5", "M 1 2.7", False),
        ("M 1 2.5", "L 1 2.5", False),
        ("M 1 2.5", "M 1 2.5 3", False),
        ("#0e1111", "#0e9999", False),
        ("opacity: 0.3", "opacity: 0.34", False),
        ('href="#a1234567890"', 'href="#c1111111111"', False),
    ],
)
def test_same_picture(old, new, same):
    assert same_picture(PICTURE, PICTURE.replace(old, new)) is same


def test_show_says_whether_the_picture_is_the_stored_one(tmp_path, monkeypatch, capsys):
    shown = []
    monkeypatch.setattr(drawing, "FIGURES", tmp_path)
    monkeypatch.setattr(drawing, "display", shown.append)
    monkeypatch.delenv("COURSE_REFRESH", raising=False)

    def plot(height):
        fig, ax = plt.subplots()
        ax.bar([0], [height])
        ax.set_ylim(0, 9)
        return fig

    drawing.save(plot(2), tmp_path / "bar.svg")
    stored = (tmp_path / "bar.svg").read_bytes()
    drawing.show(plot(2), "bar")
    assert "shown below" in capsys.readouterr().out and not shown
    drawing.show(plot(3), "bar")
    assert "Your picture, which differs" in capsys.readouterr().out and len(shown) == 1
    (tmp_path / "my_notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "my_notebooks")  # a reader's copy, in which the stored picture is folded
    drawing.show(plot(2), "bar")
    assert capsys.readouterr().out == "" and len(shown) == 2
    assert (tmp_path / "bar.svg").read_bytes() == stored  # a reader's experiment changes no file
    assert not plt.get_fignums()
