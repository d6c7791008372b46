"""`train` and what it is made of: the steps, the checkpoint, and resuming, on tiny models."""

import json
import math
import os
import re
import signal
import subprocess
import sys

import pytest
import torch
from support import ROOT, SMALL
from torch.nn import functional as F

from beyond import TextDataset, batch_loss, learning_rate, mean_loss, train
from helpers import GPTModel, tie_weights

TEXT = torch.arange(400) ** 2 % 47  # what comes next depends on more than the last token
DATA, HELD_OUT = TextDataset(TEXT[:300], length=8), TextDataset(TEXT[300:], length=8)


def small_model(drop_rate=0.1, tied=False):
    torch.manual_seed(5)
    model = GPTModel({**SMALL, "drop_rate": drop_rate})
    if tied:
        tie_weights(model)
    return model


def run(model, steps=12, **options):
    """Train on the tiny text, with random numbers that don't depend on how the model was made."""
    torch.manual_seed(7)
    return train(model, DATA, HELD_OUT, steps, **{"batch_size": 4, "warmup": 3, "every": 5, **options})


class Stop(BaseException):
    """Raised in the middle of a training run."""


def stop_at(step):
    def watch(now):
        if now == step:
            raise Stop

    return watch


# Windows


def test_windows_and_their_targets_are_all_there():
    data = TextDataset(torch.arange(10), length=4)
    pairs = [(inputs.tolist(), targets.tolist()) for inputs, targets in data]
    assert pairs == [([i, i + 1, i + 2, i + 3], [i + 1, i + 2, i + 3, i + 4]) for i in range(6)]
    assert len(data) == 6 and data[-1][1].tolist() == [6, 7, 8, 9]
    with pytest.raises(IndexError):
        data[6]
    assert len(TextDataset(torch.arange(10), length=9)) == 1


@pytest.mark.parametrize("length", [-1, 0, 10, 11])
def test_a_length_without_a_window_is_refused(length):
    with pytest.raises(ValueError, match=f"length must be from 1 to 9, got {length}"):
        TextDataset(torch.arange(10), length)


# The parts of a step


def test_the_learning_rate_rises_then_falls():
    rates = [learning_rate(step, 100, 2.0, 10) for step in range(101)]
    assert rates[0] == 0.2 and rates[9] == rates[10] == max(rates) == 2.0
    assert rates[55] == pytest.approx(1.1) and rates[100] == pytest.approx(0.2)
    assert rates[:10] == sorted(rates[:10]) and rates[10:] == sorted(rates[10:], reverse=True)
    assert learning_rate(0, 5, 2.0, 0) == 2.0  # without warm-up
    assert learning_rate(5, 5, 2.0, 5) == 2.0  # and with nothing else


def test_the_mean_loss_counts_each_token_once_and_without_dropout():
    model = small_model().train()
    inputs, targets = TEXT[300:396].view(12, 8), TEXT[301:397].view(12, 8)
    found = [mean_loss(model, HELD_OUT, batch_size) for batch_size in (5, 12, 100)]
    with torch.no_grad():
        right = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten()).item()
    assert found == [pytest.approx(right, abs=1e-5)] * 3 and not model.training
    assert batch_loss(model, inputs, targets).item() == pytest.approx(right, abs=1e-5)


def test_a_run_is_the_plain_loop():
    ours, plain = small_model(), small_model()
    losses, _ = run(ours, every=100)
    torch.manual_seed(7)
    optimizer = torch.optim.AdamW(plain.parameters(), betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    for step, loss in enumerate(losses):
        starts = torch.randint(len(DATA), (4,))
        windows = TEXT[starts[:, None] + torch.arange(9)]
        logits = plain.train()(windows[:, :-1])
        mine = F.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
        assert mine.item() == pytest.approx(loss, abs=1e-5)
        optimizer.zero_grad()
        mine.backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = learning_rate(step, 12, 4e-3, 3)
        optimizer.step()
    for one, other in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_gradients_are_clipped_and_the_schedule_holds(monkeypatch):
    seen, step = [], torch.optim.AdamW.step

    def watched(self, *arguments):
        (group,) = self.param_groups
        seen.append((torch.stack([p.grad.norm() for p in group["params"]]).norm().item(), group["lr"]))
        return step(self, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    model = small_model()
    model.out_head.weight.data *= 50  # sure of everything, so its gradients are large
    run(model, lr=0.01)
    norms, rates = zip(*seen, strict=True)
    assert norms[0] == pytest.approx(1, abs=1e-3) and max(norms) < 1.001
    assert rates == tuple(learning_rate(step, 12, 0.01, 3) for step in range(12))


def test_the_loss_falls_to_almost_nothing_on_a_tiny_text():
    losses, val_losses = run(small_model(drop_rate=0.0), steps=150, batch_size=16, lr=0.01, every=50)
    assert abs(losses[0] - math.log(SMALL["vocab_size"])) < 0.5 and losses[-1] < 0.2
    assert len(losses) == 150 and list(val_losses) == [0, 50, 100, 150]
    assert val_losses[150] < val_losses[0] - 1.5  # the squares modulo 47 repeat


def test_what_it_reports_and_when():
    model, seen = small_model(), []
    losses, val_losses = run(model, watch=lambda step: seen.append((step, model.training)))
    assert seen == [(0, False), (5, False), (10, False), (12, False)]
    assert list(val_losses) == [0, 5, 10, 12] and len(losses) == 12 and not model.training
    assert val_losses[12] == mean_loss(model, HELD_OUT)


# Checkpoints


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("at", [0, 5, 10, 12])
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(tmp_path, at, tied):
    path, whole = tmp_path / "checkpoint.pt", small_model(tied=tied)
    history = run(whole)
    with pytest.raises(Stop):
        run(small_model(tied=tied), path=path, watch=stop_at(at))
    resumed = small_model(tied=tied)
    with torch.no_grad():
        resumed.pos_emb.weight.zero_()  # what it starts with makes no difference
    torch.manual_seed(99)
    assert train(resumed, DATA, HELD_OUT, 12, 4, warmup=3, every=5, path=str(path)) == history
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[name]), name
    assert (resumed.out_head.weight is resumed.tok_emb.weight) == tied
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pt"]
    assert train(resumed, DATA, HELD_OUT, 12, path=path) == history  # finished: nothing left to do


def test_a_checkpoint_beyond_the_last_step_is_refused(tmp_path):
    run(small_model(), path=tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match="steps must be at least 12, got 10"):
        run(small_model(), steps=10, path=tmp_path / "checkpoint.pt")


def test_a_run_that_dies_while_it_saves_leaves_the_last_checkpoint_whole(tmp_path, monkeypatch):
    path, save, history = tmp_path / "checkpoint.pt", torch.save, run(small_model())

    def dies_at_step_10(state, file):
        save(state, file)
        if len(state[2]) == 10:
            os.truncate(file, os.path.getsize(file) // 2)
            raise Stop

    monkeypatch.setattr(torch, "save", dies_at_step_10)
    with pytest.raises(Stop):
        run(small_model(), path=path)
    monkeypatch.undo()
    assert len(torch.load(path)[2]) == 5
    assert run(small_model(), path=path) == history


KILLED = """
import json, os, signal, sys

sys.path[:0] = {paths!r}
import torch
from test_training import run, small_model


def kill_soon(step):
    if signal.getitimer(signal.ITIMER_PROF)[0] == 0:  # not set yet; it counts the time of the processor
        signal.setitimer(signal.ITIMER_PROF, wait)


torch.set_num_threads(1)
run(small_model(), steps=1)  # which imports what is still missing
for wait in (0.001, 0.2, 0.05):  # each child goes on where the one before was killed
    if os.fork() == 0:
        run(small_model(), steps=100_000, every=1, path={path!r}, watch=kill_soon)
    print(json.dumps([os.waitstatus_to_exitcode(os.wait()[1]), torch.load({path!r})[2]]), flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="processes don't fork there")
def test_a_killed_run_leaves_a_whole_checkpoint(tmp_path):
    code = KILLED.format(paths=[str(ROOT), str(ROOT / "tests")], path=str(tmp_path / "checkpoint.pt"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    killed, history = [json.loads(line) for line in done.stdout.splitlines()], []
    assert [code for code, _ in killed] == [-signal.SIGPROF] * 3, done.stderr
    for _, losses in killed:
        assert losses[: len(history)] == history and len(losses) >= len(history)
        history = losses
    assert len(history) > 1


# What can't be trained


@pytest.mark.parametrize("name", ["steps", "batch_size", "every"])
def test_sizes_are_checked_first(name, tmp_path):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        run(small_model(), **{name: 0}, path=tmp_path / "checkpoint.pt")
    assert not list(tmp_path.iterdir())


def test_a_window_longer_than_the_context_is_named():
    long = TextDataset(TEXT, length=13)
    with pytest.raises(ValueError, match="got a sequence of 13 tokens, context_length is only 12"):
        train(small_model(), long, long, 1)


def test_a_token_that_the_model_does_not_know_is_named():
    unknown = TextDataset(TEXT + 61, length=8)
    with pytest.raises(ValueError, match=re.escape("token ids must lie in 0 ... 60")):
        train(small_model(), unknown, unknown, 1)


def test_gradients_that_are_not_finite_stop_the_run():
    model = small_model()
    model.final_norm.scale.data[0] = float("inf")
    with pytest.raises(RuntimeError, match="non-finite"):
        run(model)


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    run(small_model(), path=tmp_path / "checkpoint.pt")
    with pytest.raises(RuntimeError, match="Error"):
        run(GPTModel({**SMALL, "n_layers": 1}), path=tmp_path / "checkpoint.pt")


# Two processes

WORKERS = """
import os, sys

sys.path[:0] = {paths!r}
import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from test_training import DATA, small_model
from beyond import batch_loss
from torch.utils.data import default_collate

torch.set_num_threads(1)
rank = int(os.fork() == 0)
distributed.init_process_group("gloo", init_method="file://{folder}/meeting", rank=rank, world_size=2)
model = DistributedDataParallel(small_model(drop_rate=0.0))
windows = [DATA[i] for i in range(4 * rank, 4 * rank + 4)]  # a half of the batch each
batch_loss(model, *default_collate(windows)).backward()
torch.save([p.grad for p in model.parameters()], f"{folder}/gradients_{{rank}}.pt")
distributed.destroy_process_group()
if rank == 0 and os.wait()[1]:
    raise SystemExit("the other process failed")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="gloo finds the other process by the name lo")
def test_two_processes_have_the_gradients_of_one(tmp_path):
    code = WORKERS.format(paths=[str(ROOT), str(ROOT / "tests")], folder=tmp_path)
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=100)
    model = small_model(drop_rate=0.0)
    inputs, targets = (torch.stack(part) for part in zip(*[DATA[i] for i in range(8)], strict=True))
    batch_loss(model, inputs, targets).backward()
    for rank in range(2):
        gradients = torch.load(tmp_path / f"gradients_{rank}.pt")
        for p, gradient in zip(model.parameters(), gradients, strict=True):
            torch.testing.assert_close(p.grad, gradient)
