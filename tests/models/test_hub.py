"""Weights from the hub, here a small stand-in for it on loopback: a killed download goes on where it was."""

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

WEIGHTS = bytes(range(256)) * 4096 * 24  # the library writes chunks of 10 MiB
SHA256 = hashlib.sha256(WEIGHTS).hexdigest()
COMMIT = "a" * 40
FIRST = 12 << 20
LFS = {"sha256": SHA256, "size": len(WEIGHTS), "pointerSize": 1}
INFO = {"id": "o/m", "modelId": "o/m", "sha": COMMIT, "private": False, "tags": [], "downloads": 0}
FILES = [
    {"rfilename": "config.json", "size": 2},
    {"rfilename": "model.safetensors", "size": len(WEIGHTS), "lfs": LFS},
    {"rfilename": "pytorch_model.bin", "size": len(WEIGHTS), "lfs": LFS},
]
TREE = [
    {"type": "file", "path": entry["rfilename"], "size": entry["size"], "oid": "1" * 40}
    | ({"lfs": {"oid": SHA256, "size": len(WEIGHTS), "pointerSize": 1}} if "lfs" in entry else {})
    for entry in FILES
]


class Hub(ThreadingHTTPServer):
    """What the library asks of the hub; until `go_on` is set, weights stop after the first 12 MiB."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.go_on, self.weights = threading.Event(), WEIGHTS
        self.asked: list[tuple[str, str | None]] = []


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET(body=False)

    def do_GET(self, *, body: bool = True) -> None:
        hub, asked = self.server, self.headers.get("Range")
        if self.path.startswith("/api/"):
            content, tag = json.dumps(TREE if "/tree/" in self.path else INFO | {"siblings": FILES}).encode(), ""
        elif self.path.endswith("config.json"):
            content, tag = b"{}", "b" * 40
        else:
            content, tag = hub.weights, SHA256
            hub.asked += [(self.path.rsplit("/", 1)[1], asked)] if body else []
        first = int(asked.split("=")[1].split("-")[0]) if asked else 0
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(content) - first))
        self.send_header("ETag", f'"{tag}"')
        self.send_header("X-Repo-Commit", COMMIT)
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if not body:
            return
        self.wfile.write(content[first:FIRST] if len(content) > FIRST > first else content[first:])
        if len(content) > FIRST > first:
            hub.go_on.wait()
            self.wfile.write(content[FIRST:])


@pytest.fixture
def hub():
    pytest.importorskip("huggingface_hub")
    with Hub() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.go_on.set()
        server.shutdown()


def fetching(hub: Hub, home: Path) -> subprocess.Popen:
    """`fetch` in a process of its own, which can be killed."""
    code = "from virnuc_dagster.models.hub import fetch; print(*fetch('o/m'))"
    settings = {"HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_HOME": str(home), "HF_HUB_OFFLINE": "0"}
    environment = {**os.environ, **settings, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", code], cwd=home, env=environment, **pipes)


def test_a_killed_download_goes_on_where_it_was(hub, tmp_path):
    killed = fetching(hub, tmp_path)
    while not any(path.stat().st_size for path in tmp_path.rglob("*partial")):
        assert killed.poll() is None, killed.communicate()
        time.sleep(0.05)
    killed.kill()
    killed.communicate()
    (partial,) = tmp_path.rglob("*partial")
    kept = partial.stat().st_size
    hub.go_on.set()

    out, err = fetching(hub, tmp_path).communicate()

    folder, revision = out.split()
    assert kept > 0
    assert (revision, Path(folder, "model.safetensors").read_bytes() == WEIGHTS) == (COMMIT, True), err
    assert hub.asked == [("model.safetensors", None), ("model.safetensors", f"bytes={kept}-")]
    assert sorted(path.name for path in Path(folder).iterdir()) == ["config.json", "model.safetensors"]
    assert not list(tmp_path.rglob("*partial"))


def test_weights_of_another_digest_are_refused_and_not_kept(hub, tmp_path):
    hub.weights = b"x" * len(WEIGHTS)
    hub.go_on.set()

    _, err = fetching(hub, tmp_path).communicate()

    assert f"the hub states {SHA256}" in err
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size >= len(WEIGHTS)] == []
