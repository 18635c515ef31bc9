"""Hub ids, against a small server on this machine that answers as the Hub does."""

import http.server
import json
import os
import pathlib
import subprocess
import sys
import threading
import urllib.parse

import pytest

from clipjax import save_clip
from tests.conftest import random_params, small_config

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(http.server.BaseHTTPRequestHandler):
    """/<owner>/<name>/resolve/<revision>/<file> out of `root`; notes what was fetched."""

    root: pathlib.Path
    fetched: list[str]

    def log_message(self, *args):
        pass

    def discussions(self):
        """The Hub's bot offers "converted" as safetensors; somebody else does so for "pickled"."""
        converted = "/converted/" in self.path
        return [
            {
                "num": 7,
                "author": {"name": "SFconvertbot" if converted else "somebody"},
                "title": "Adding `safetensors` variant of this model",
                "status": "open",
                "isPullRequest": True,
                "createdAt": "2023-01-01T00:00:00.000Z",
                "repo": {"name": "me/converted", "type": "model"},
            }
        ]

    def send_json(self, data):
        body = json.dumps(data).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        if self.path.startswith("/api/models/") and "/discussions" in self.path:
            self.send_json({"discussions": self.discussions(), "count": 1, "start": 0})
            return
        owner, name, _, revision, file = (self.path.strip("/").split("/") + [""] * 5)[:5]
        revision = urllib.parse.unquote(revision)
        at_pull_request = revision == "refs/pr/7" and name == "converted"
        path = self.root / owner / (name + "-pr" if at_pull_request else name) / file
        code = (
            "RepoNotFound"
            if not path.parent.exists()
            else "RevisionNotFound"
            if revision not in ("main", COMMIT) and not at_pull_request
            else "EntryNotFound"
        )
        if code != "EntryNotFound" or not path.is_file():
            self.send_response(404)
            self.send_header("X-Error-Code", code)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        data = path.read_bytes()
        self.send_response(200)
        self.send_header("ETag", f'"{hash(data)}"')
        self.send_header("X-Repo-Commit", COMMIT[::-1] if at_pull_request else COMMIT)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.fetched.append(f"{name}/{file}")
            self.wfile.write(data)


@pytest.fixture
def hub(tmp_path):
    root = tmp_path / "hub"
    config = small_config()
    save_clip(root / "me" / "single", config, random_params(config))
    for unused in ("pytorch_model.bin", "open_clip_pytorch_model.bin", "flax_model.msgpack"):
        (root / "me" / "single" / unused).write_bytes(b"x" * 100)
    sharded = root / "me" / "sharded"
    save_clip(sharded, config, random_params(config))
    (sharded / "model.safetensors").rename(sharded / "model-00001-of-00001.safetensors")
    from safetensors.numpy import load_file

    names = load_file(sharded / "model-00001-of-00001.safetensors")
    index = {"weight_map": dict.fromkeys(names, "model-00001-of-00001.safetensors")}
    (sharded / "model.safetensors.index.json").write_text(json.dumps(index))
    for name in ("pickled", "converted"):
        pickled = root / "me" / name
        save_clip(pickled, config, random_params(config))
        (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    save_clip(root / "me" / "converted-pr", config, random_params(config))
    handler = type("Handler", (Hub,), {"root": root, "fetched": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield handler, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


SCRIPT = """
import sys
from clipjax import ClipjaxError, load_clip
for wish in sys.argv[1:]:
    name, _, revision = wish.partition("@")
    try:
        config, params = load_clip(name, revision=revision or None)
        print("loaded", config.projection_dim)
    except ClipjaxError as error:
        print("refused", error)
"""


def ask(tmp_path, endpoint, *wishes, offline="0"):
    env = {k: v for k, v in os.environ.items() if "proxy" not in k.lower()}
    env |= {
        "HF_ENDPOINT": endpoint,
        "HF_HUB_OFFLINE": offline,
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_ETAG_TIMEOUT": "3",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    command = [sys.executable, "-c", SCRIPT, *wishes]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_hub_ids_are_fetched_once_and_only_what_is_needed(tmp_path, hub):
    handler, endpoint = hub
    wishes = ["me/single", f"me/single@{COMMIT}", "me/sharded"]
    assert ask(tmp_path, endpoint, *wishes) == ["loaded 16"] * 3
    assert sorted(handler.fetched) == [
        "sharded/config.json",
        "sharded/model-00001-of-00001.safetensors",
        "sharded/model.safetensors.index.json",
        "single/config.json",
        "single/model.safetensors",
    ]
    # What is cached needs no network.
    assert ask(tmp_path, "http://127.0.0.1:9", "me/single", offline="1") == ["loaded 16"]


def test_safetensors_of_the_hubs_own_conversion_are_found(tmp_path, hub):
    """As for openai/clip-vit-base-patch32, whose main branch has pickles only."""
    handler, endpoint = hub
    assert ask(tmp_path, endpoint, "me/converted") == ["loaded 16"]
    assert "converted/pytorch_model.bin" not in handler.fetched


def test_what_the_hub_refuses_is_explained(tmp_path, hub):
    handler, endpoint = hub
    (handler.root / "me" / "torn").mkdir()
    for file in ("config.json", "model.safetensors.index.json"):
        source = handler.root / "me" / "sharded" / file
        (handler.root / "me" / "torn" / file).write_bytes(source.read_bytes())
    wishes = ["me/pickled", "me/nothing", "me/single@v9", "me/torn", "me/not--possible"]
    pickled, unknown, revision, torn, impossible = ask(tmp_path, endpoint, *wishes)
    assert "has no model-00001-of-00001.safetensors" in torn
    assert "neither a directory here nor a possible Hub id" in impossible
    assert "pickle" in pickled and "save_pretrained" in pickled
    assert "no model 'me/nothing'" in unknown
    assert "no revision 'v9'" in revision
    (offline,) = ask(tmp_path, "http://127.0.0.1:9", "me/other", offline="1")
    assert (
        "no directory 'me/other'" in offline
        and str(tmp_path / "hf") in offline
        and "tiny" in offline
    )
    (unreachable,) = ask(tmp_path, "http://127.0.0.1:9", "me/other")
    assert "cannot be reached" in unreachable
