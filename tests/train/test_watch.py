"""What processes tell each other of their ends; here all of them in one, with connections to it."""

import queue
import socket
import time

import pytest

from clipjax.train.distributed import heartbeat as watch


@pytest.fixture
def three(monkeypatch):
    """The watches of three processes, connected, and what each was ended with."""
    monkeypatch.setattr(watch, "GRACE", 0.2)
    monkeypatch.setattr(watch.Watch, "_hold", lambda self, port: None)
    ends = [queue.Queue() for _ in range(3)]
    note = lambda i: lambda *what: ends[i].put(what)
    watches = [watch.Watch((i, 3), "secret", note(i)) for i in range(3)]
    server = socket.create_server(("localhost", 0))
    watches[0].listen(server)
    for one in watches[1:]:
        one.connect(server.getsockname())
    limit = time.monotonic() + 10
    while [len(one._links) for one in watches] != [2, 1, 1] and time.monotonic() < limit:
        time.sleep(0.01)
    yield watches, ends, server
    server.close()


def cut(watches, index):
    """The connection breaks, as where the process is killed."""
    watches[index]._links[0].shutdown(socket.SHUT_RDWR)


def test_all_learn_which_one_was_killed(three):
    watches, ends, _ = three
    cut(watches, 1)
    for index in (0, 2):
        sentence, code = ends[index].get(timeout=10)
        assert f"process {index} of 3 lost contact with process 1," in sentence and code == 1


def test_one_that_failed_ends_the_others_after_a_while_with_its_code(three):
    watches, ends, _ = three
    watches[2].leave(75)
    cut(watches, 2)
    for index in (0, 1):
        sentence, code = ends[index].get(timeout=10)
        assert "ends because process 2 ended with exit code 75" in sentence and code == 75
    time.sleep(0.3)
    assert all(end.empty() for end in ends)  # it was told once


def test_an_end_in_peace_is_told_to_nobody(three):
    watches, ends, _ = three
    for one in watches:
        one.finish()
    time.sleep(0.2)  # their lines arrive
    for index in (1, 2):
        cut(watches, index)
    time.sleep(0.4)
    assert all(end.empty() for end in ends)


def test_a_stranger_is_sent_away_and_missed_by_nobody(three):
    watches, ends, server = three
    with socket.create_connection(server.getsockname()) as link:
        link.sendall(b"GET / HTTP/1.1\r\n")
        assert link.recv(10) == b""
    with socket.create_connection(server.getsockname()) as link:
        link.sendall(b"hello guess 1\n")
        assert link.recv(10) == b""
    assert ends[0].empty() and set(watches[0]._links) == {1, 2}


def test_those_connections_are_held_that_are_not_the_watchs_own():
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("localhost", port)) as one, server.accept()[0] as other:
            assert {one.fileno(), other.fileno()} <= set(watch._connections(0).values())
            assert not {one.fileno(), other.fileno()} & set(watch._connections(port).values())
            assert server.fileno() not in watch._connections(0).values()
