"""Processes of one run that watch each other: one that is killed is missed at once, by name.

JAX notices a dead process by itself, after some 30 s of silence, and aborts the others with a C++
trace. Here each process holds a connection to process 0, which breaks the moment that one of its
ends dies, and whoever learns of it ends with one sentence and exit code 1. Where no connection
comes about (a firewall), JAX's way remains.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

GRACE = 10.0  # seconds in which the others may end by themselves after one that ended with an error
HOLD = 30.0  # seconds for which connections to process 0 outlive it; more than GRACE
PATIENCE = 10.0  # seconds for a connection to be made, and for its first line
AGAIN = "start all processes again, and the run goes on from its last checkpoint."

# Ends with its parent where that says a word before, otherwise some time after it; heeds no signal
# that is for the run.
_HOLDER = """
import signal, sys, time
for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(one, signal.SIG_IGN)
if not sys.stdin.buffer.read():
    time.sleep(float(sys.argv[1]))
"""


def lost(place: tuple[int, int], other: int) -> str:
    """What a process says when another one died."""
    return (
        f"process {place[0]} of {place[1]} lost contact with process {other}, which was killed or "
        f"cut off; {AGAIN}"
    )


def left(place: tuple[int, int], other: int, code: int) -> str:
    """What a process says when another one ended by itself, and this one cannot go on alone."""
    return (
        f"process {place[0]} of {place[1]} ends because process {other} ended with exit code "
        f"{code}; what that one said tells why. To go on, {AGAIN}"
    )


class Watch:
    """This process's part in it; `begin` makes one.

    Lines go over the connections: "hello TOKEN INDEX" first, "left INDEX CODE" from one that ends
    in an orderly way, "lost INDEX" from process 0 to all others.

    Args:
      place: index of this process, and their number.
      token: what tells the run's processes from strangers.
      end: is given a sentence and an exit code, and ends the process.
      holder: what holds the connections of process 0, to be told of its orderly end.
    """

    def __init__(
        self,
        place: tuple[int, int],
        token: str,
        end: Callable[[str, int], Any],
        holder: subprocess.Popen | None = None,
    ):
        self.place, self._token, self._end, self._holder = place, token, end, holder
        self._links: dict[int, socket.socket] = {}
        self._codes: dict[int, int] = {}  # of those that ended by themselves
        self._news, self._heard = ("", 0), threading.Event()  # why this one cannot go on
        self._speaking = threading.Lock()  # held for good by who ends the process

    def listen(self, server: socket.socket) -> None:
        """Process 0: takes up the others' connections."""
        _in_background(self._accept, server)

    def connect(self, address: tuple[str, int]) -> None:
        """All others: connects to process 0."""
        _in_background(self._reach, address)

    def leave(self, code: int) -> None:
        """To be called before this process ends by itself, once: no other is to miss it.

        Does not return where the process is being ended for another's sake already.
        """
        self._speaking.acquire()
        self._depart(code)

    def finish(self) -> None:
        """As `leave`, of a process that waits for the others then, and misses them still."""
        failed = getattr(sys, "last_value", None) is not None  # an exception that nobody caught
        self._depart(1 if failed else 0)
        if self._holder and not failed:
            with contextlib.suppress(OSError):  # somebody killed it
                self._holder.stdin.write(b"done")
                self._holder.stdin.flush()

    def settle(self, seconds: float) -> None:
        """Ends this process where another one's end is known within some seconds."""
        if self._heard.wait(seconds):
            self._end_after(0, *self._news)

    def _depart(self, code: int) -> None:
        self._codes.setdefault(self.place[0], code)
        self._tell(f"left {self.place[0]} {code}")

    def _accept(self, server: socket.socket) -> None:
        while True:
            try:
                link, _ = server.accept()
            except OSError:  # closed, as the process ends
                return
            _in_background(self._greet, link)

    def _greet(self, link: socket.socket) -> None:
        link.settimeout(PATIENCE)
        lines = link.makefile("r", encoding="utf-8", errors="replace")
        try:
            words = lines.readline(200).split()
        except OSError:
            words = []
        if len(words) != 3 or words[:2] != ["hello", self._token]:
            link.close()  # a stranger
            return
        self._follow(link, lines, int(words[2]))

    def _reach(self, address: tuple[str, int]) -> None:
        try:
            link = socket.create_connection(address, PATIENCE)
            lines = link.makefile("r", encoding="utf-8", errors="replace")
            _send(link, f"hello {self._token} {self.place[0]}")
        except OSError:  # process 0 cannot be reached at this port: JAX alone watches then
            return
        self._follow(link, lines, 0)

    def _follow(self, link: socket.socket, lines, other: int) -> None:
        """Reads what another process sends, until its end."""
        link.settimeout(None)
        _keep_alive(link)
        self._links[other] = link
        with contextlib.suppress(OSError):  # reset, or silent for too long: gone like one that ends
            for line in lines:
                self._take(line.split())
        self._missed(other)

    def _take(self, words: list[str]) -> None:
        if words[0] == "lost":
            self._missed(int(words[1]))
            return
        other, code = int(words[1]), int(words[2])
        self._codes[other] = code
        if code:
            self._tell(f"left {other} {code}", but=other)
            self._news = left(self.place, other, code), code
            self._heard.set()
            _in_background(self._end_after, GRACE, *self._news)

    def _missed(self, other: int) -> None:
        """A connection broke. In peace, if that process had ended, and not before this one did."""
        code = self._codes.get(other)
        if code or (code == 0 and self.place[0] in self._codes):
            return
        self._tell(f"lost {other}", but=other)
        self._end_after(0, lost(self.place, other), 1)

    def _end_after(self, seconds: float, sentence: str, code: int) -> None:
        time.sleep(seconds)
        self._speaking.acquire()
        self._end(sentence, code)

    def _tell(self, line: str, but: int = -1) -> None:
        """To all that this process has a connection to: process 0, or all others if it is that."""
        for other, link in list(self._links.items()):
            if other != but:
                with contextlib.suppress(OSError):  # gone, which its own thread takes up
                    _send(link, line)


def begin(
    place: tuple[int, int],
    gather: Callable[[Any], list],
    coordinator: str,
    end: Callable[[str, int], Any],
) -> Watch:
    """Starts to watch; all processes call it together, before they compute together.

    Args:
      place: index of this process, and their number.
      gather: what every process has, by index.
      coordinator: host:port of process 0; "" to reach it by its machine's name.
      end: as in `Watch`.
    """
    holder = server = None
    if place[0] == 0:
        holder, server = _hold_connections(), _server()
    mine = server and (socket.gethostname(), server.getsockname()[1], secrets.token_hex(16))
    name, port, token = gather(mine)[0]
    watch = Watch(place, token, end, holder)
    if server:
        watch.listen(server)
    else:
        watch.connect((coordinator.rpartition(":")[0].strip("[]") or name, port))
    return watch


def _server() -> socket.socket:
    """Listens at a free port, at all addresses of the machine, as JAX does."""
    if socket.has_dualstack_ipv6():
        return socket.create_server(
            ("", 0), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024
        )
    return socket.create_server(("", 0), backlog=1024)


def _send(link: socket.socket, line: str) -> None:
    link.sendall(f"{line}\n".encode())


def _keep_alive(link: socket.socket) -> None:
    """Lets the system ask whether the other machine is still there: it has 20 s to answer.

    Less than JAX waits (`processes.HEARTBEAT`), so that the sentence comes before its abort.
    """
    link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 5), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):
            link.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _in_background(run: Callable, *args) -> None:
    threading.Thread(target=run, args=args, daemon=True).start()


def _hold_connections() -> subprocess.Popen | None:
    """Keeps the connections that process 0 has open for a while after its end.

    JAX's service for all processes runs in process 0. The others abort, with a trace, as soon as
    their connection to it breaks, mostly before they could say a word. So a small process holds
    these connections too, and they break when all is said. Nothing answers meanwhile.
    """
    held = _connections()
    if not held:
        return None
    return subprocess.Popen(
        [sys.executable, "-S", "-E", "-c", _HOLDER, str(HOLD)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        pass_fds=held,
        start_new_session=True,
    )


def _connections() -> list[int]:
    """Descriptors of this process's TCP connections; none where there is no /proc."""
    found = []
    with contextlib.suppress(FileNotFoundError):
        found = [int(name) for name in os.listdir("/proc/self/fd")]
    return [number for number in found if number > 2 and _is_connection(number)]


def _is_connection(number: int) -> bool:
    try:
        if not stat.S_ISSOCK(os.fstat(number).st_mode):
            return False
        with socket.socket(fileno=os.dup(number)) as one:
            one.getpeername()  # raises where it only listens
            return one.type == socket.SOCK_STREAM and one.family != socket.AF_UNIX
    except OSError:
        return False
