"""metrics.jsonl and TensorBoard events."""

import struct

import pytest

from clipjax.log import MetricsLog, read_log


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
