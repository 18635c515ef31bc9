"""Pushing to the Hub, against a stub: what is refused before anything is written, what is sent."""

import huggingface_hub as hub
import pytest
from huggingface_hub.errors import HTTPError

from clipjax.errors import ConfigError
from clipjax.export import push
from clipjax.study import export


class Stub:
    """Stands for `huggingface_hub.HfApi`; keeps what it was called with."""

    calls: list = []
    refuses = ""

    def whoami(self):
        if self.refuses == "whoami":
            raise HTTPError("no route to host")
        return {"name": "me", "orgs": [{"name": "lab"}]}

    def create_repo(self, repo, **options):
        self.calls.append(("create", repo, options))

    def upload_folder(self, **options):
        if self.refuses == "upload":
            raise HTTPError("403 Forbidden")
        self.calls.append(("upload", options["repo_id"], options))


@pytest.fixture(autouse=True)
def stub(monkeypatch):
    monkeypatch.setattr(Stub, "calls", [])
    monkeypatch.setattr(hub, "HfApi", Stub)
    monkeypatch.setattr(hub, "get_token", lambda: "hf_stub")


def test_a_directory_is_pushed_as_one_commit_to_a_private_model(tmp_path):
    api = push.check_push("lab/adapted")
    assert push.push(api, "lab/adapted", tmp_path) == "https://huggingface.co/lab/adapted"
    (create, repo, made), (upload, _, sent) = Stub.calls
    assert (create, upload, repo) == ("create", "upload", "lab/adapted")
    assert made == {"private": True, "exist_ok": True}
    assert (
        sent["folder_path"] == str(tmp_path)
        and "classifier.safetensors" in (sent["delete_patterns"])
    )


@pytest.mark.parametrize("name", ["adapted", "a/b/c", "/adapted", "me/", "me/bad name", ""])
def test_a_name_that_is_none_is_refused(name):
    with pytest.raises(ConfigError, match="is no name on the Hub; give owner/name"):
        push.check_push(name)


def test_who_may_not_write_is_told_before_anything_is_written(monkeypatch, tmp_path):
    """Through the export itself, which has written nothing then."""
    monkeypatch.setattr(export.report, "read", lambda workdir: {"rows": []})
    ask = lambda to: export.export(tmp_path, tmp_path / "out", push_to=to)
    with pytest.raises(ConfigError, match="me's, who cannot write to them; push to one of me, lab"):
        ask("them/adapted")
    monkeypatch.setattr(Stub, "refuses", "whoami")
    with pytest.raises(ConfigError, match="no route to host.*or go online"):
        ask("me/adapted")
    monkeypatch.setattr(hub, "get_token", lambda: None)
    with pytest.raises(ConfigError, match="needs a token of the Hub.*`hf auth login`, or set HF_T"):
        ask("me/adapted")
    assert not list(tmp_path.iterdir()) and not Stub.calls


def test_an_upload_that_fails_leaves_the_directory_and_says_how_to_go_on(monkeypatch, tmp_path):
    monkeypatch.setattr(Stub, "refuses", "upload")
    with pytest.raises(ConfigError, match="is written.*403.*push it by `hf upload me/x"):
        push.push(push.check_push("me/x"), "me/x", tmp_path)
