"""Weights from the Hub: from a cache without network, and from a server that speaks like it."""

from __future__ import annotations

import http.server
import json
import os
import pathlib
import subprocess
import sys
import threading

import pytest
from huggingface_hub import constants
from safetensors.numpy import save_file

from minmax_jax.pretrained import open_weights
from tests.pretrained import writers

ROOT = pathlib.Path(__file__).parents[2]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONFIG = {"architecture": "resnet18.a1_in1k", "num_classes": 2}


@pytest.fixture
def snapshot(tmp_path, monkeypatch):
    """The folder of somebody/model in an offline cache."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    model = tmp_path / "models--somebody--model"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text(COMMIT)
    folder = model / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    # The library notes files that a repository does not have.
    absent = model / ".no_exist" / COMMIT
    absent.mkdir(parents=True)
    (absent / "config.json").touch()
    return folder


def test_what_is_cached_needs_no_network(snapshot):
    save_file(writers.torch_arrays()[0], snapshot / "model.safetensors")
    weights = open_weights("hf:somebody/model")
    assert weights.address == "hf:somebody/model"
    assert (weights.format, weights.description.name) == ("safetensors", "")
    (snapshot / "config.json").write_text(json.dumps(CONFIG))
    for address in ("hf:somebody/model", "hf:somebody/model@main", f"hf:somebody/model@{COMMIT}"):
        assert open_weights(address).description.name == "resnet18"


def test_what_is_not_cached_offline(snapshot):
    del snapshot
    for address in ("hf:somebody/model", "hf:somebody/other", "hf:somebody/model@v2"):
        refused(address, "not in the cache, and the Hub is out of reach or HF_HUB_OFFLINE is set")


def refused(address, reason):
    with pytest.raises(ValueError, match=reason) as error:
        open_weights(address)
    assert address in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("address", ["hf:", "hf:model", "hf:a/b/c", "hf:a/b@", "hf:../../x"])
def test_addresses_of_another_form(address):
    refused(address, "are not of the form hf:OWNER/NAME")


class Hub(http.server.BaseHTTPRequestHandler):
    """Two repositories: a/new has safetensors and config.json, a/old has a file of another name."""

    files: dict[str, bytes] = {}

    def do_HEAD(self):
        self._answer()

    def do_GET(self):
        self.wfile.write(self._answer())

    def _answer(self) -> bytes:
        parts = self.path.split("/")  # "", owner, name, "resolve", revision, file
        content, error = self.files.get(self.path), None
        if parts[1:3] not in (["a", "new"], ["a", "old"]):
            error = "RepoNotFound"
        elif parts[4:5] != ["main"]:
            error = "RevisionNotFound"
        elif content is None:
            error = "EntryNotFound"
        self.send_response(404 if error else 200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{abs(hash(self.path))}"')
        self.send_header("Content-Length", str(len(content or b"")))
        if error:
            self.send_header("X-Error-Code", error)
        self.end_headers()
        return content or b""

    def log_message(self, *_):
        pass


_CLIENT = """
import json, sys
from minmax_jax.pretrained import open_weights
for address in sys.argv[1:]:
    try:
        weights = open_weights(address)
        print(json.dumps([weights.format, weights.description.name, len(weights.shapes)]))
    except ValueError as error:
        print(json.dumps(str(error)))
"""


def test_a_server_like_the_hub(tmp_path):
    save_file(writers.torch_arrays()[0], tmp_path / "model")
    Hub.files = {
        "/a/new/resolve/main/model.safetensors": (tmp_path / "model").read_bytes(),
        "/a/new/resolve/main/config.json": json.dumps(CONFIG).encode(),
        "/a/old/resolve/main/pytorch_model.bin": b"nonsense",
    }
    addresses = ["hf:a/new", "hf:a/new@main", "hf:a/old", "hf:a/new@v2", "hf:a/none"]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        # The library reads its settings when it is imported, so another process has to.
        settings = {
            "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
            "HF_HOME": str(tmp_path / "cache"),
            "HF_HUB_OFFLINE": "0",
            "NO_PROXY": "127.0.0.1",
            "PYTHONPATH": str(ROOT),
        }
        done = subprocess.run(
            [sys.executable, "-c", _CLIENT, *addresses],
            env=os.environ | settings,
            capture_output=True,
            text=True,
            timeout=120,
        )
        server.shutdown()
    assert done.returncode == 0, done.stderr
    new, again, old, revision, absent = map(json.loads, done.stdout.splitlines())
    assert new == again == ["safetensors", "resnet18", len(writers.torch_arrays()[0])]
    assert "weights file" in old and "pytorch_model.bin is of no known format" in old
    assert revision == "weights hf:a/new@v2 have no revision 'v2'."
    assert absent == "weights hf:a/none do not exist, or are private."
