"""metrics.jsonl, and trackers of experiments."""

import functools
import json
import resource
import struct
import sys
import time
import types

import pytest

from clipjax.errors import ConfigError
from clipjax.io import write_json
from clipjax.log import MetricsLog, read_log, scalars, sinks


def test_a_line_that_a_kill_cut_short_is_not_read(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.append({"phase": "a", "step": 1})
    with log.path.open("a") as file:
        file.write('{"phase": "a", "st')
    assert read_log(log.path) == [{"phase": "a", "step": 1}]
    log.rewind(lambda record: True)
    log.append({"phase": "a", "step": 2})
    assert [record["step"] for record in read_log(log.path)] == [1, 2]
    assert read_log(tmp_path / "none.jsonl") == []


def test_numbers_that_are_not_finite_are_null(tmp_path):
    """RFC 8259 has no NaN: other readers than Python's refuse a file with one."""

    def refuse(word):
        raise AssertionError(word)

    record = {"phase": "a", "step": 1, "loss": [0.1, float("nan")], "evaluation": {"x": 1e999}}
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.append(record)
    write_json(tmp_path / "results.json", {"rows": (record, [])})
    wanted = record | {"loss": [0.1, None], "evaluation": {"x": None}}
    found = json.loads((tmp_path / "results.json").read_text(), parse_constant=refuse)
    assert found == {"rows": [wanted, []]}
    assert json.loads(log.path.read_text(), parse_constant=refuse) == wanted
    assert scalars(read_log(log.path)[0]) == ("a", {})


def tracked(name, folder):
    """Send two records to a tracker, as a run does."""
    about = sinks.About("dann", "dann", "run-1234", folder / "events", {"seeds": (0, 1), "lr": 0.1})
    opened = functools.partial(sinks.TRACKERS[name].open, about)
    log = MetricsLog(folder / "metrics.jsonl", {name: opened})
    log.append({"phase": "dann", "epoch": 1, "step": 7, "loss": [1.0, 2.0]})
    log.append({"phase": "dann", "step": 7, "evaluation": {"oracle": [0.25], "distance": [None]}})
    log.close()


def events_of(folder):
    """(name, step, value) of the scalars in an event file: records framed by lengths and CRCs."""
    from tensorboardX.proto.event_pb2 import Event

    (path,) = folder.glob("events.*")
    data, found = path.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        event = Event.FromString(data[12 : 12 + length])
        data = data[16 + length :]
        found += [(v.tag, event.step, v.simple_value) for v in event.summary.value]
    return found


def test_numbers_go_to_tensorboard(tmp_path):
    pytest.importorskip("tensorboardX", reason='pip install -e ".[tensorboard]"')
    tracked("tensorboard", tmp_path)
    found = events_of(tmp_path / "events" / "dann")
    assert ("dann/loss", 7, 1.5) in found and ("dann/evaluation/oracle", 7, 0.25) in found
    assert not any("distance" in name or "epoch" in name for name, _, _ in found)


def wandb_records(data, block=1 << 15):
    """Records of W&B's file: LevelDB's log format, behind a header of seven bytes."""
    at, record = 7, b""
    while at < len(data):
        if block - at % block < 7:  # the end of a block has no room for a header
            at += block - at % block
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        record, at = record + data[at + 7 : at + 7 + length], at + 7 + length
        if kind in (1, 4):  # whole, or the last of its pieces
            yield record
            record = b""


def test_numbers_go_to_wandb(tmp_path, monkeypatch, capsys):
    pytest.importorskip("wandb", reason='pip install -e ".[wandb]"')
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.setenv("WANDB_MODE", "offline")
    tracked("wandb", tmp_path)
    assert capsys.readouterr() == ("", "")
    (path,) = (tmp_path / "events").rglob("*.wandb")
    for _ in range(100):  # W&B's own process writes on for a moment
        records = [Record.FromString(data) for data in wandb_records(path.read_bytes())]
        if "exit" in (kinds := [record.WhichOneof("record_type") for record in records]):
            break
        time.sleep(0.1)
    assert "exit" in kinds
    (run,) = [r.run for r in records if r.WhichOneof("record_type") == "run"]
    assert (run.display_name, run.run_group, run.project) == ("dann", "run-1234", "clipjax")
    config = {item.key: item.value_json for item in run.config.update}
    assert config["lr"] == "0.1" and json.loads(config["seeds"]) == [0, 1]
    logged = {}
    for record in records:
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            logged |= {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items}
    assert logged["dann/loss"] == 1.5 and logged["dann/evaluation/oracle"] == 0.25
    assert logged["dann/step"] == 7 and not any("distance" in name for name in logged)


def test_numbers_go_to_mlflow_and_a_run_that_goes_on_is_the_same(tmp_path, monkeypatch):
    pytest.importorskip("mlflow", reason='pip install -e ".[mlflow]"')
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # a database takes seconds to make
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    tracked("mlflow", tmp_path)
    tracked("mlflow", tmp_path)
    client = MlflowClient((tmp_path / "store").as_uri())
    experiment = client.get_experiment_by_name("clipjax").experiment_id
    (run,) = client.search_runs([experiment])
    assert (run.info.run_name, run.info.status) == ("dann", "FINISHED")
    assert run.data.params == {"lr": "0.1", "seeds": "(0, 1)"}
    assert run.data.metrics == {"dann/loss": 1.5, "dann/evaluation/oracle": 0.25}
    assert [m.step for m in client.get_metric_history(run.info.run_id, "dann/loss")] == [7, 7]


class Broken:
    """A tracker whose server is gone."""

    def write(self, place, values, step):
        raise OSError("no route\nto host")


def test_a_tracker_that_fails_is_said_once_and_costs_nothing_else(tmp_path, capsys):
    log = MetricsLog(tmp_path / "m", {"wandb": Broken})
    log.append({"phase": "a", "step": 1, "loss": 1.0})
    log.append({"phase": "a", "step": 2, "loss": 2.0})
    log.close()
    assert [record["loss"] for record in read_log(log.path)] == [1.0, 2.0]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("clipjax: wandb gets no more numbers (no route to host); ")


def test_trackers_that_cannot_work_are_refused_in_a_sentence(monkeypatch):
    monkeypatch.setattr(sinks.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"track=mlflow needs mlflow: pip install 'clipjax\[mlf"):
        sinks.check("mlflow")
    monkeypatch.setattr(sinks.importlib.util, "find_spec", lambda name: name)
    online = types.SimpleNamespace(settings=types.SimpleNamespace(mode="online"))
    wandb = types.SimpleNamespace(setup=lambda: online, login=lambda prompt: False)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    with pytest.raises(ConfigError, match="run `wandb login`, or set WANDB_MODE=offline"):
        sinks.check("tensorboard,wandb")
    online.settings.mode = "offline"
    sinks.check("wandb")
    sinks.check("")


def test_records_that_a_full_disk_refuses_are_written_once_there_is_room(tmp_path, capsys):
    log, (_, hard) = MetricsLog(tmp_path / "m"), resource.getrlimit(resource.RLIMIT_FSIZE)
    log.append({"a": 1})
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (12, hard))  # as if the disk were full
        log.append({"b": 2})
        log.append({"c": 3})
        with pytest.raises(OSError, match="File too large"):
            log.close()
        assert read_log(log.path) == [{"a": 1}]
        assert log.path.read_text().endswith("}\n")  # no part of a record is left behind
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, hard))
    log.append({"d": 4})
    assert read_log(log.path) == [{"a": 1}, {"b": 2}, {"c": 3}, {"d": 4}]
    (line,) = capsys.readouterr().err.splitlines()
    assert "m could not be written (File too large)" in line
