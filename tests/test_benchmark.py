"""The benchmark runs, in small, with its own checks that what it compares computes the same."""

import benchmark
import pytest
import torch


@pytest.fixture
def small(monkeypatch):
    """The benchmark with tiny models, one round each, nothing compiled, and without the full-size memory."""
    tiny = {"vocab_size": 500, "emb_dim": 192, "n_heads": 3, "n_layers": 1}
    for name in ("CONFIG", "TRAINED"):
        monkeypatch.setattr(benchmark, name, getattr(benchmark, name) | tiny)
    measure = benchmark.measure
    monkeypatch.setattr(benchmark, "measure", lambda functions, rounds: measure(functions, 1))
    monkeypatch.setattr(benchmark, "measure_memory", lambda: None)
    monkeypatch.setattr(torch, "compile", lambda model: model)


def test_every_part_runs_and_prints_its_rows(small, capfd):
    torch.manual_seed(0)
    benchmark.main()
    table = [line.split(" | ") for line in capfd.readouterr().out.splitlines() if line.startswith("| ")]
    titles, (_, *rows) = [row for row in table if len(row) < 5], [row for row in table if len(row) == 5]
    assert len(titles) == 6 and len(rows) == 21
    assert all(float(median) >= 0 for _, median, *_ in rows)
    assert all(spread == f"{median} to {median}" for _, median, spread, *_ in rows)  # of a single round
