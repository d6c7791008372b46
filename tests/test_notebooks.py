"""What nbval does not see: the form of the stored notebooks, their links and their pictures."""

import ast
import re
import sys
from pathlib import Path

import pytest
from support import NOTEBOOKS, ROOT, read_notebook

from notebooks.refresh import EXPORTS

CHAPTER = [path for path in NOTEBOOKS if path.name.startswith("4.")]
BEYOND = [path for path in NOTEBOOKS if path.name.startswith("beyond_")]
NAMES = [
    "4.1_llm_architecture",
    "4.2_layer_normalization",
    "4.3_feed_forward_gelu",
    "4.4_shortcut_connections",
    "4.5_transformer_block",
    "4.6_gpt_model",
    "4.7_generating_text",
    "beyond_1_released_weights",
    "beyond_2_training",
    "beyond_3_fast_generation",
    "beyond_4_after_gpt2",
    "beyond_5_inside",
]
METADATA = (  # of a cell; other tags could make nbval skip it
    {},
    {"tags": ["hide-output"]},  # an answer to a prediction: folded in the web edition
    {"tags": ["hide-input"], "jupyter": {"source_hidden": True}},  # not the lesson: folded in JupyterLab, too
)
IMAGE = re.compile(r"!\[([^\]]*)\]\(([^)\s]+)\)")
LINK = re.compile(r"(?<!!)\[[^\]]+\]\(([^)\s]+)\)")


def each(paths):
    return pytest.mark.parametrize("path", paths, ids=lambda path: path.stem)


def cells(path, kind):
    return [cell for cell in read_notebook(path).cells if cell.cell_type == kind]


def prose(path):
    return "\n\n".join(cell.source for cell in cells(path, "markdown"))


def outputs(path):
    return [output for cell in cells(path, "code") for output in cell.outputs]


def test_all_are_there():
    assert [path.stem for path in NOTEBOOKS] == NAMES


@each(NOTEBOOKS)
def test_committed_as_executed_from_top_to_bottom(path):
    counts = [cell.execution_count for cell in cells(path, "code")]
    assert counts == list(range(1, len(counts) + 1))  # nbval never compares a cell without a count
    assert all(cell.source.strip() for cell in read_notebook(path).cells)


@each(NOTEBOOKS)
def test_outputs_hold_on_every_machine(path):
    for output in outputs(path):
        assert output.output_type == "stream" and output.name == "stdout", "only printed text is compared"
        assert not re.search(r" at 0x[0-9a-f]{6,}|/(home|root|Users|tmp)/", output.text), (
            "an address or a path"
        )
        assert not re.search(r"-0\.0+\b|\d\.\d+e-\d", output.text), "rounding residue"
        assert not re.search(r"\d\.\d{6,}", output.text), "more digits than float32 holds everywhere"


@each(NOTEBOOKS)
def test_an_output_is_ignored_only_with_its_reason(path):
    for cell in cells(path, "code"):
        assert "NBVAL_SKIP" not in cell.source
        if "NBVAL_IGNORE_OUTPUT" in cell.source:
            assert re.match(r"# NBVAL_IGNORE_OUTPUT\n# \w+", cell.source)
        assert cell.metadata in METADATA
        if re.search(r"\binteract\(", cell.source):
            assert "NBVAL_IGNORE_OUTPUT" in cell.source and not cell.outputs, "a slider is never stored"


@each(NOTEBOOKS)
def test_pictures_are_local_and_described(path):
    images = IMAGE.findall(prose(path))
    assert len(images) >= (3 if path in CHAPTER else 2) and "<img" not in prose(path)
    for alt, target in images:
        assert target.startswith("../figures/") and (path.parent / target).is_file(), target
        assert len(alt.split()) >= 8, f"{target} needs a description: {alt!r}"


@each(NOTEBOOKS)
def test_links_resolve(path):
    for target in LINK.findall(prose(path)):
        assert re.match(r"https://|mailto:", target) or (path.parent / target).exists(), target


@each(NOTEBOOKS)
def test_linked_to_its_neighbours(path):
    head, place = read_notebook(path).cells[0].source, NOTEBOOKS.index(path)
    assert "(../README.md)" in head
    for neighbour in (*NOTEBOOKS[max(0, place - 1) : place], *NOTEBOOKS[place + 1 : place + 2]):
        assert f"({neighbour.name})" in head


@each(NOTEBOOKS)
def test_the_setup_cell_finds_the_course_or_says_what_to_do(path, tmp_path, monkeypatch):
    setup = cells(path, "code")[0].source
    monkeypatch.setattr(sys, "path", [])
    course = tmp_path / "course"
    for name in ("notebooks/checks", "my_notebooks", "../elsewhere"):
        (course / name).mkdir(parents=True)
    for folder in (tmp_path, tmp_path / "elsewhere"):
        monkeypatch.chdir(folder)
        with pytest.raises(FileNotFoundError, match=r"^\S+ is not inside the course: download [^.]+\.$"):
            exec(setup, {})
    for folder in (course, course / "notebooks", course / "my_notebooks"):
        monkeypatch.chdir(folder)
        exec(setup, {})
        assert sys.path == [str(course)]
        sys.path.clear()


@each(NOTEBOOKS)
def test_what_trains_a_model_runs_on_one_thread(path):
    loops = [
        node
        for cell in cells(path, "code")
        for node in ast.walk(ast.parse(cell.source))
        if isinstance(node, ast.For) and re.search(r"\.step\(\)", ast.unparse(node))
    ]
    assert not loops or "\ntorch.set_num_threads(1)  # " in cells(path, "code")[1].source  # the imports


@each(NOTEBOOKS)
def test_ends_with_shutting_down_and_what_comes_next(path):
    following = [other.name for other in NOTEBOOKS[NOTEBOOKS.index(path) + 1 :]] + ["../README.md"]
    shut_down = r"Shut down this kernel \(\*\*Kernel → Shut Down Kernel\*\*\), then open "
    last = read_notebook(path).cells[-1].source.splitlines()[-1]
    assert re.fullmatch(rf"{shut_down}(the )?\[[^\]]+\]\({re.escape(following[0])}\)\.", last), last


@each(NOTEBOOKS)
def test_one_title_and_a_gap_after_every_folded_text(path):
    headings = re.findall(r"^# .+", re.sub(r"^```.*?^```$", "", prose(path), flags=re.M | re.S), re.M)
    assert len(headings) == 1 and read_notebook(path).cells[0].source.startswith(headings[0])
    for cell in read_notebook(path).cells:
        # JupyterLab leaves no gap between folded text and what follows it in the same cell.
        assert not re.search(r"</details>(?!\n<br>\n\n)\s*\S", cell.source)


@each(CHAPTER)
def test_has_the_anatomy_of_a_lesson(path):
    text = prose(path)
    assert text.startswith(f"# {path.name[:3]} ") and f"course_map_{path.name[:3]}.svg" in text
    wanted = [
        "## What you will be able to do",
        "## The problem",
        "## Exercises",
        "## Summary",
    ]
    places = [text.find(heading) for heading in wanted]
    assert -1 not in places and places[0] < places[1] < places[-1]
    assert re.search(r"^## (Cost|.* cost|Memory)", text, re.M)
    assert re.search(r"^## (A )?[Cc]heck", text, re.M)
    assert re.search(r"^## (Ablation|A common bug)\b", text, re.M)
    for phrase in (
        "**Predict before you run.**",
        "**Common mistakes.**",
        "**Three questions, from memory.**",
    ):
        assert phrase in text
    assert 30 <= len(read_notebook(path).cells) <= 80 and path.stat().st_size < 500_000


@each(CHAPTER)
def test_a_lesson_is_short(path):
    headings = [cell.source.startswith("## Exercises") for cell in read_notebook(path).cells]
    assert headings.index(True) <= (55 if "4.5" in path.name else 45)


@each(NOTEBOOKS)
def test_a_cell_fits_a_screen(path):
    for cell in cells(path, "code"):
        lines = cell.source.removeprefix("#| export\n").splitlines()
        assert len(lines) <= (35 if path in CHAPTER else 40) or "hide-input" in cell.metadata.get("tags", ())


@each(CHAPTER)
def test_most_cells_are_short(path):
    lesson = read_notebook(path).cells
    lesson = lesson[: [cell.source.startswith("## Exercises") for cell in lesson].index(True)]
    visible = [c for c in lesson if c.cell_type == "code" and "hide-input" not in c.metadata.get("tags", ())]
    lengths = [len(cell.source.splitlines()) for cell in visible]
    assert sum(length <= 7 for length in lengths) > len(lengths) / 2, lengths


@each(BEYOND)
def test_has_the_anatomy_of_a_notebook_beyond_the_chapter(path):
    text, number = prose(path), path.stem.split("_")[1]
    assert re.match(rf"# Beyond {number}\b", text, re.I) and f"course_map_beyond_{number}.svg" in text
    assert -1 < text.find("## What you will be able to do") < text.find("## Summary")
    starts = [cell.source.splitlines()[0] for cell in read_notebook(path).cells if cell.source]
    assert starts.index("## Exercises") <= 60 and len(starts) <= 80 and path.stat().st_size < 500_000


@each(BEYOND)
def test_an_extra_section_is_announced(path):
    found = [cell.source for cell in read_notebook(path).cells]
    first, last = (
        next(i for i, s in enumerate(found) if s.startswith(f"## {name}")) for name in ("Ex", "Summary")
    )
    extras = [i for i, source in enumerate(found) if source.startswith("## Extra: ")]
    announced = re.search(r"The extra section takes (\d+) more", found[0])
    assert len(extras) == bool(announced)
    for start in extras:
        assert first < start < last
        assert f"This section is optional and takes {announced[1]} minutes." in " ".join(found[start].split())


@each(NOTEBOOKS)
def test_every_notebook_asserts_its_claims(path):
    source = "\n".join(cell.source for cell in cells(path, "code"))
    asserted = re.findall(r"^\s*(?:assert |compare\.)", source, re.M)
    assert len(asserted) >= (5 if path in CHAPTER else 3)
    assert "#| export" in source or path in BEYOND


def test_notebooks_import_only_what_earlier_ones_finished_and_define_nothing_twice():
    finished = {"helpers": set(), "beyond": set(), "llama": set()}
    for path in NOTEBOOKS:
        new = set()
        for cell in cells(path, "code"):
            tree = ast.parse(cell.source)
            for node in ast.walk(tree):
                if isinstance(node, ast.ImportFrom) and node.module in finished:
                    assert {alias.name for alias in node.names} <= finished[node.module], path.name
                if isinstance(node, ast.Import):
                    assert not {alias.name for alias in node.names} & finished.keys(), path.name
            for node in tree.body:
                if isinstance(node, ast.FunctionDef | ast.ClassDef):
                    known = new.union(*finished.values())
                    assert node.name not in known, f"{path.name} defines {node.name} again"
                    if cell.source.startswith("#| export"):
                        new.add(node.name)
                elif isinstance(node, ast.Assign) and cell.source.startswith("#| export"):
                    new |= {target.id for target in node.targets}
        (file,) = (file for file, (starts, _) in EXPORTS.items() if path.name.startswith(starts))
        finished[file.removesuffix(".py")] |= new


def test_every_picture_is_shown_somewhere():
    shown = {Path(target).name for path in NOTEBOOKS for _, target in IMAGE.findall(prose(path))}
    assert shown == {path.name for path in (ROOT / "figures").glob("*.svg")}
