"""Hub ids, against a small server on this machine that answers as the Hub does."""

import http.server
import json
import pathlib
import re
import shutil
import threading
import time
import urllib.parse

import pytest
from huggingface_hub import close_session, constants
from safetensors.numpy import load_file

from clipjax import load_clip, load_tokenizer, save_clip
from clipjax.data.images.preprocess import load_preprocess
from clipjax.errors import CheckpointError
from clipjax.model.hf.hub import (
    CONFIG,
    PREPROCESSORS,
    TOKENIZER_FILES,
    copy_tokenizer,
    find_model,
    find_part,
    find_preprocessor,
)
from tests.conftest import TINY, random_params
from tests.conftest import small_config as small

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NOWHERE = "http://127.0.0.1:9"  # the port of "discard": nobody listens
# Repositories that answer with a status, an X-Error-Code and an X-Error-Message, as the Hub does to
# strangers, logins without permission, expired tokens and tokens that are too narrow.
REFUSED = {
    "gated": (403, "GatedRepo", "Access to model me/gated is restricted"),
    "gated-stranger": (401, "GatedRepo", "Access to model me/gated is restricted"),
    "private": (401, "RepoNotFound", "Repository not found"),
    "unknown": (401, "", "Invalid username or password."),
    "expired": (401, "", "Invalid credentials in Authorization header"),
    "forbidden": (403, "", "Your token lacks the scope"),
    "broken": (500, "", ""),
}


WEIGHTS = "diffusion_pytorch_model"
SHARD = f"{WEIGHTS}-00001-of-00001.safetensors"
DIFFUSION = (
    "model_index.json",
    "unet/config.json",
    f"unet/{SHARD}",
    f"unet/{WEIGHTS}.safetensors.index.json",
    "vae/config.json",
    f"vae/{WEIGHTS}.fp16.safetensors",
    "tokenizer/vocab.json",
    "safety_checker/model.safetensors",
)


def small_config():
    """A small CLIP for the tiny one's words."""
    words = {"vocab_size": 3043, "bos_token_id": 3041, "eos_token_id": 3042, "pad_token_id": 3042}
    return small(text=words)


class Hub(http.server.BaseHTTPRequestHandler):
    """/<owner>/<name>/resolve/<revision>/<file> out of `root`; notes what was fetched."""

    root: pathlib.Path
    asked: list[str]  # by HEAD or GET
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

    def send_nothing(self, status, code, message=""):
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", message)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        if self.path.startswith("/api/models/") and "/discussions" in self.path:
            if "/quiet/" in self.path:
                self.send_nothing(403, "", "Discussions are disabled for this repo")
            else:
                self.send_json({"discussions": self.discussions(), "count": 1, "start": 0})
            return
        owner, name, _, revision, file = (self.path.strip("/").split("/", 4) + [""] * 5)[:5]
        self.asked.append(f"{name}/{file}")
        revision = urllib.parse.unquote(revision)
        at_pull_request = revision == "refs/pr/7" and name == "converted"
        repository = self.root / owner / (name + "-pr" if at_pull_request else name)
        path = repository / file
        if name in REFUSED:
            self.send_nothing(*REFUSED[name])
        elif not repository.exists():
            self.send_nothing(404, "RepoNotFound")
        elif revision not in ("main", COMMIT) and not at_pull_request:
            self.send_nothing(404, "RevisionNotFound")
        elif not path.is_file():
            self.send_nothing(404, "EntryNotFound")
        else:
            self.send_file(path, COMMIT[::-1] if at_pull_request else COMMIT, body)

    def send_file(self, path, commit, body):
        data = path.read_bytes()
        self.send_response(200)
        self.send_header("ETag", f'"{hash(data)}"')
        self.send_header("X-Repo-Commit", commit)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.fetched.append("/".join(path.parts[-2:]))
            self.wfile.write(data)


@pytest.fixture(scope="module")
def repositories(tmp_path_factory):
    """Models of the owner "me" as they lie on the Hub, built once."""
    root = tmp_path_factory.mktemp("hub")
    mine = root / "me"
    config = small_config()
    save_clip(mine / "single", config, random_params(config))
    for name in ("sharded", "pickled", "quiet", "converted", "converted-pr", "torn"):
        shutil.copytree(mine / "single", mine / name)
    for unused in ("pytorch_model.bin", "open_clip_pytorch_model.bin", "flax_model.msgpack"):
        (mine / "single" / unused).write_bytes(b"x" * 100)
    copy_tokenizer(TINY, mine / "single")
    shutil.copyfile(TINY / "preprocessor_config.json", mine / "single/preprocessor_config.json")
    shard = "model-00001-of-00001.safetensors"
    index = {"weight_map": dict.fromkeys(load_file(mine / "single/model.safetensors"), shard)}
    for name in ("sharded", "torn"):  # torn: its index names a shard that is not there
        (mine / name / "model.safetensors.index.json").write_text(json.dumps(index))
    (mine / "sharded/model.safetensors").rename(mine / "sharded" / shard)
    (mine / "torn/model.safetensors").unlink()
    for name in ("pickled", "quiet", "converted"):
        (mine / name / "model.safetensors").rename(mine / name / "pytorch_model.bin")
    for name in DIFFUSION:
        (mine / "diffusion" / name).parent.mkdir(parents=True, exist_ok=True)
        about = {"file": name, "_class_name": "FluxPipeline"}
        (mine / "diffusion" / name).write_text(json.dumps(about))
    index = {"weight_map": {"conv_in.bias": SHARD}}
    (mine / "diffusion/unet" / f"{WEIGHTS}.safetensors.index.json").write_text(json.dumps(index))
    return root


@pytest.fixture
def hub(repositories, tmp_path, monkeypatch):
    """The server as this process's Hub, with an empty cache of its own."""
    handler = type("Handler", (Hub,), {"root": repositories, "asked": [], "fetched": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    # huggingface_hub tries five times, 23 s in all, before it says that nobody answers.
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    go(monkeypatch, f"http://127.0.0.1:{server.server_port}")
    yield handler
    server.shutdown()
    server.server_close()
    close_session()


def go(monkeypatch, endpoint, offline=False):
    """What HF_ENDPOINT and HF_HUB_OFFLINE do to a new process."""
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(
        constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        endpoint + "/{repo_id}/resolve/{revision}/{filename}",
    )
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    close_session()


def refusal(name, revision=None):
    with pytest.raises(CheckpointError) as caught:
        find_model(name, revision)
    message = str(caught.value)
    assert len(message.splitlines()) == 1, message
    return message


@pytest.mark.slow
def test_hub_ids_are_fetched_once_and_only_what_is_needed(hub, monkeypatch):
    for name, revision in (("me/single", None), ("me/single", COMMIT), ("me/sharded", None)):
        config, params = load_clip(name, revision=revision)
        assert config == small_config() and params["visual_projection"]
    tokenizer = [f for f in TOKENIZER_FILES if (TINY / f).exists()]
    assert sorted(hub.fetched) == sorted(
        [
            "sharded/config.json",
            "sharded/model-00001-of-00001.safetensors",
            "sharded/model.safetensors.index.json",
            "single/config.json",
            "single/model.safetensors",
            "single/preprocessor_config.json",
            *(f"single/{file}" for file in tokenizer),
        ]
    )
    go(monkeypatch, NOWHERE, offline=True)  # what is cached needs no network
    assert load_clip("me/single")[0] == small_config()


def asked(hub):
    """What was asked for of repositories; the client asks for a list of agents besides, once."""
    return {file for file in hub.asked if not file.startswith("agent-harnesses/")}


@pytest.mark.slow
def test_a_tokenizer_is_fetched_without_the_weights(hub, monkeypatch):
    tokenize = load_tokenizer("me/single")
    assert tokenize(["a cat"]).shape == (1, small_config().text.max_position_embeddings)
    assert asked(hub) == {f"single/{file}" for file in (CONFIG, *TOKENIZER_FILES)}
    go(monkeypatch, NOWHERE, offline=True)
    assert load_tokenizer("me/single")(["a cat"]).tolist() == tokenize(["a cat"]).tolist()
    assert "cannot be reached" in refusal("me/single")  # the model itself is not in the cache


def test_a_preprocessor_is_fetched_without_the_weights(hub):
    directory = find_preprocessor("me/single")
    assert load_preprocess(directory) == load_preprocess(TINY)
    assert asked(hub) == {f"single/{file}" for file in (CONFIG, *PREPROCESSORS)}
    assert find_preprocessor("tiny") == TINY


def test_a_repository_without_vocabulary_has_no_tokenizer(hub):
    with pytest.raises(CheckpointError, match="neither vocab.json"):
        load_tokenizer("me/pickled")  # and its pickle is nobody's concern here


def test_safetensors_of_the_hubs_own_conversion_are_found(hub):
    """As for openai/clip-vit-base-patch32, whose main branch has pickles only."""
    assert load_clip("me/converted")[0] == small_config()
    assert "converted/pytorch_model.bin" not in hub.fetched
    assert "converted-pr/model.safetensors" in hub.fetched


def test_what_the_hub_lacks_is_explained(hub):
    for name in ("me/pickled", "me/quiet"):
        message = refusal(name)
        assert "pickle" in message and "save_pretrained" in message
    assert "no model 'me/nothing'" in refusal("me/nothing")
    assert "no revision 'v9'" in refusal("me/single", "v9")
    assert "has no model-00001-of-00001.safetensors" in refusal("me/torn")
    assert "neither a directory here nor a possible Hub id" in refusal("me/not--possible")


@pytest.mark.parametrize("loader", [load_clip, load_tokenizer])
@pytest.mark.parametrize(
    "name, words",
    [
        ("gated", ("is gated", "accept its terms", "hf auth login")),
        ("gated-stranger", ("is gated", "accept its terms", "hf auth login")),
        ("private", ("no model 'me/private'", "private", "hf auth login")),
        ("unknown", ("401: Invalid username", "private or misspelt", "hf auth login")),
        ("expired", ("token", "401: Invalid credentials", "hf auth logout")),
        ("forbidden", ("403: Your token lacks the scope", "ask its owner", "hf auth login")),
        ("broken", ("refused", "500", "try again later")),
    ],
)
def test_who_may_not_read_a_model_learns_why(hub, loader, name, words):
    with pytest.raises(CheckpointError) as caught:
        loader(f"me/{name}")
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert len(message.splitlines()) == 1 and "cannot be reached" not in message


def test_without_a_network_the_cache_and_the_embedded_model_are_named(
    hub, monkeypatch, capfd, caplog
):
    go(monkeypatch, NOWHERE, offline=True)
    offline = refusal("me/other")
    assert "no directory 'me/other'" in offline and "tiny" in offline
    assert constants.HF_HUB_CACHE in offline
    go(monkeypatch, NOWHERE)
    waits = []
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", waits.append)
    capfd.readouterr()
    with caplog.at_level("WARNING"):
        assert "cannot be reached" in refusal("me/other")
    said = capfd.readouterr().err
    assert len(waits) == 5 and not caplog.records  # tried again, and said once
    assert re.fullmatch(
        r"note: the Hub does not answer for me/other \(.*\); trying again.*\n", said
    )


def test_parts_of_a_diffusion_model_are_fetched_alone(hub, monkeypatch):
    names = {"unet": f"{WEIGHTS}.safetensors.index.json", "vae": f"{WEIGHTS}.fp16.safetensors"}
    names["tokenizer"] = "vocab.json"
    for part, name in names.items():
        assert (find_part("me/diffusion", part) / name).exists()
    assert (find_part("me/diffusion", "unet") / SHARD).exists()
    wanted = {name for name in DIFFUSION if name.split("/")[0] in names}
    assert set(hub.fetched) == wanted  # nothing of the others, and no file twice
    assert len(hub.fetched) == len(wanted)
    with pytest.raises(CheckpointError, match="no text_encoder/config.json; it is a FluxPipeline"):
        find_part("me/diffusion", "text_encoder")
    with pytest.raises(CheckpointError, match="neither a directory nor a Hub id like"):
        find_part("diffusion", "unet")
    go(monkeypatch, NOWHERE, offline=True)
    for part, name in names.items():
        assert (find_part("me/diffusion", part) / name).exists()


@pytest.mark.parametrize("name", ["tiny", TINY])
def test_a_directory_has_no_revision(name):
    assert "which has no revision 'v2'" in refusal(name, "v2")
    with pytest.raises(CheckpointError, match="leave revision empty"):
        load_tokenizer(name, revision="v2")
