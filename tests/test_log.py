"""metrics.jsonl and TensorBoard events."""

import json
import resource
import struct

import pytest

from clipjax.io import write_json
from clipjax.log import MetricsLog, read_log, scalars


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
    assert scalars(read_log(log.path)[0]) == {}


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
    log = MetricsLog(tmp_path / "metrics.jsonl", tmp_path / "events")
    log.append({"phase": "dann", "epoch": 1, "step": 7, "loss": [1.0, 2.0]})
    log.append({"phase": "dann", "step": 7, "evaluation": {"oracle": [0.25], "distance": [None]}})
    log.close()
    found = events_of(tmp_path / "events")
    assert ("dann/loss", 7, 1.5) in found and ("dann/evaluation/oracle", 7, 0.25) in found
    assert not any("distance" in name or "epoch" in name for name, _, _ in found)


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
