"""download_gpt2: Hugging Face's own client, against a server that the test starts on this machine."""

import os
import re
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import constants
from huggingface_hub.utils import close_session
from safetensors.torch import save
from support import ROOT, SMALL

from beyond import download_gpt2, gpt2_tensors, load_gpt2_weights
from helpers import GPT2_CONFIGS, GPTModel

PAGE = b"<!DOCTYPE html><title>Log in to the network</title>"
FILE = "/openai-community/gpt2/resolve/main/model.safetensors"


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = GPTModel(SMALL).eval()
    model.out_head.weight = model.tok_emb.weight
    return model


@pytest.fixture(scope="module")
def content(model):
    """The bytes of a released file with the weights of `model`."""
    tensors = {name: torch.cat([p.detach() for p in parts]) for name, parts in gpt2_tensors(model).items()}
    return save({n: (t.t() if ".c_" in n else t).contiguous() for n, t in tensors.items()})


class Handler(BaseHTTPRequestHandler):
    """Answers as Hugging Face does, or as `server.hub` says."""

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        hub = self.server.hub
        if "/resolve/" not in self.path:  # the client asks for a list of programs that it may run in, too
            return self.send_error(404)
        hub.requests.append((self.command, self.path, self.headers.get("Range"), self.headers))
        content, status, start = hub.content, hub.status, 0
        if body and hub.page_instead:
            content = PAGE
        elif self.headers.get("Range"):
            start, status = int(re.fullmatch(r"bytes=(\d+)-", self.headers["Range"])[1]), 206
        self.send_response(status)
        if hub.is_hugging_face:
            self.send_header("X-Repo-Commit", "0" * 40)
            self.send_header("ETag", f'"{len(hub.content)}"')
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if body:
            stop = len(content)
            if hub.cuts:
                stop = hub.cuts.pop(0)  # then the connection closes
            self.wfile.write(content[start:stop])

    def log_message(self, *_):
        pass


def ask(endpoint, monkeypatch):
    """Let the client ask the server at `endpoint`, as HF_ENDPOINT does when the client is imported."""
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    path = "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + path)


@pytest.fixture
def hub(content, tmp_path, monkeypatch):
    """A server in the place of Hugging Face's, an empty cache, and a client that waits for nothing."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        endpoint = f"http://127.0.0.1:{server.server_port}"
        server.hub = SimpleNamespace(content=content, status=200, is_hugging_face=True, page_instead=False)
        server.hub.requests, server.hub.cuts, server.hub.endpoint = [], [], endpoint
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        ask(endpoint, monkeypatch)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)  # the file is small, too
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        monkeypatch.setattr(time, "sleep", lambda seconds: None)
        close_session()  # a new one reads the environment again
        yield server.hub
        close_session()
        server.shutdown()


def methods(hub):
    return [method for method, *_ in hub.requests]


def assert_fails(*words, error=OSError):
    with pytest.raises(error) as caught:
        download_gpt2()
    assert type(caught.value) is error
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert "\n" not in message and len(message) < 400
    return message


# It arrives


def test_whole_file_arrives_loads_and_is_kept(hub, content, model):
    path = download_gpt2()
    assert path.read_bytes() == content and methods(hub) == ["HEAD", "GET"]
    assert {request_path for _, request_path, *_ in hub.requests} == {FILE}
    torch.manual_seed(1)
    ours, x = GPTModel(SMALL).eval(), torch.arange(12)[None]
    load_gpt2_weights(ours, path)
    assert torch.equal(ours(x), model(x))
    assert download_gpt2() == path and methods(hub) == ["HEAD", "GET", "HEAD"]


def test_each_size_has_its_repository(hub):
    for name in GPT2_CONFIGS:
        download_gpt2(name)
    repositories = [request_path.split("/")[2] for _, request_path, *_ in hub.requests[::2]]
    assert repositories == ["gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"]


@pytest.mark.parametrize("name", ["gpt2", "gpt2-tiny", "", None])
def test_other_names_are_refused(name, hub):
    with pytest.raises(ValueError, match="one of gpt2-small, gpt2-medium, gpt2-large, gpt2-xl, got"):
        download_gpt2(name)
    assert not hub.requests


def test_no_login_is_sent(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_" + "x" * 34)
    download_gpt2()
    assert all(headers.get("Authorization") is None for *_, headers in hub.requests)


def test_a_broken_connection_is_resumed(hub, content):
    hub.cuts = [2_999, 50_123]
    assert len(content) > 60_000 and download_gpt2().read_bytes() == content
    ranges = [given for method, _, given, _ in hub.requests if method == "GET"]
    assert ranges == [None, "bytes=2000-", "bytes=50000-"]  # whole chunks are kept


# It doesn't


def test_connection_that_breaks_for_good_leaves_nothing_behind(hub, content, tmp_path):
    hub.cuts = [len(content) // 2] * 9
    assert_fails("can't download", FILE, "check your connection and try again", "in a browser")
    hub.cuts = []
    assert not [*(tmp_path / "cache").rglob("blobs/*")]
    assert download_gpt2().read_bytes() == content


@pytest.mark.parametrize("status", [401, 403, 404, 503])
def test_status_is_named(status, hub):
    hub.status = status
    assert_fails(FILE, f"the server answers {status}", "a firewall may block it", "in a browser")


def test_login_page_of_a_network_is_named(hub):
    hub.content, hub.is_hugging_face = PAGE, False
    assert_fails(FILE, "the answer isn't from Hugging Face; a login page")


def test_page_in_the_place_of_the_file_is_not_kept(hub, content):
    hub.page_instead = True
    assert_fails(f"should be of size {len(content)} but has size {len(PAGE)}", "try again")
    hub.content = PAGE  # now the announced size is the page's, too
    assert_fails("is a web page, perhaps", "download_gpt2() fetches the right file", error=ValueError)
    hub.content, hub.page_instead = content, False
    assert download_gpt2().read_bytes() == content


def test_page_that_was_cached_is_fetched_again(hub, content):
    download_gpt2().resolve().write_bytes(PAGE)
    assert_fails("is a web page", error=ValueError)
    assert download_gpt2().read_bytes() == content


def test_no_server_needs_the_cache(hub, monkeypatch):
    ask("http://127.0.0.1:9", monkeypatch)
    assert_fails("http://127.0.0.1:9", "refused", "check your connection and try again")
    ask(hub.endpoint, monkeypatch)
    path = download_gpt2()
    ask("http://127.0.0.1:9", monkeypatch)
    assert download_gpt2() == path


def test_dead_proxy_is_named(hub, monkeypatch):
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    close_session()
    assert_fails(FILE, "check your connection and try again")
    assert not hub.requests


def test_offline_mode_needs_the_cache(hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert_fails("offline mode is on, and the file isn't in the cache; unset HF_HUB_OFFLINE and restart")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    path = download_gpt2()
    asked = len(hub.requests)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert download_gpt2() == path and len(hub.requests) == asked


def test_settings_in_the_environment_hold(hub, content, tmp_path):
    given = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")} | given
    command = [sys.executable, "-c", "from beyond import download_gpt2; print(download_gpt2())"]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100)
    assert run.returncode == 0, run.stderr
    path = tmp_path / run.stdout.strip()
    assert path.is_relative_to(tmp_path / "home") and path.read_bytes() == content
