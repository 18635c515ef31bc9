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
HOLD = 30.0  # seconds for which other connections of a process outlive it; more than GRACE
AFRESH = 0.5  # seconds between looks for new connections
PATIENCE = 10.0  # seconds for a connection to be made, and for its first line
AGAIN = "start all processes again, and the run goes on from its last checkpoint."

# Holds the connections that its parent has sent last; ends with it where that says a word before,
# otherwise some time after it. Heeds no signal that is for the run.
_HOLDER = """
import os, signal, socket, sys, time
for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(one, signal.SIG_IGN)
parent, held = socket.socket(fileno=int(sys.argv[1])), []
while True:
    word, sent, _, _ = socket.recv_fds(parent, 16, 256)
    if word == b"done":
        break
    if not word:
        time.sleep(float(sys.argv[2]))
        break
    for number in held:
        os.close(number)
    held = sent
"""


def lost(place: tuple[int, int], other: int) -> str:
    """The sentence of a process when another one died."""
    return (
        f"process {place[0]} of {place[1]} lost contact with process {other}, which was killed or "
        f"cut off; {AGAIN}"
    )


def left(place: tuple[int, int], other: int, code: int) -> str:
    """The sentence of a process when another one ended, and this one cannot go on alone."""
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
    """

    def __init__(self, place: tuple[int, int], token: str, end: Callable[[str, int], Any]):
        self.place, self._token, self._end = place, token, end
        self._holder: socket.socket | None = None  # to the process that holds connections
        self._links: dict[int, socket.socket] = {}
        self._codes: dict[int, int] = {}  # of those that ended by themselves
        self._news, self._heard = ("", 0), threading.Event()  # why this one cannot go on
        self._speaking = threading.Lock()  # held for good by who ends the process

    def listen(self, server: socket.socket) -> None:
        """Process 0: takes up the others' connections."""
        _in_background(self._accept, server)
        _in_background(self._hold, server.getsockname()[1])

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
        """As `leave`, for a process that waits for the others then, and notices their death."""
        failed = getattr(sys, "last_value", None) is not None  # an exception that nobody caught
        self._depart(1 if failed else 0)
        if self._holder and not failed:
            with contextlib.suppress(OSError):  # somebody killed it
                self._holder.send(b"done")

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
        _in_background(self._hold, address[1])
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

    def _hold(self, port: int) -> None:
        """Lets what this process is connected to outlive it for a while.

        JAX's service for all runs in process 0, and gloo connects each process with each. Where
        such a connection breaks, the others abort, with a trace, mostly before they could say a
        word. So a small process holds them, too, and they break when all is said. Those at `port`,
        of the watch, are not among them.
        """
        if not os.path.isdir("/proc/self/fd"):
            return
        # One that was killed is none of theirs any more, and gives its connections up.
        self._holder, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-S", "-E", "-c", _HOLDER, str(there.fileno()), str(HOLD)]
        quiet = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
        self._process = subprocess.Popen(
            command, cwd="/", pass_fds=[there.fileno()], start_new_session=True, **quiet
        )
        there.close()
        before = None
        while self.place[0] not in self._codes and self._process.poll() is None:
            found = _connections(port)
            if found.keys() != before:
                with contextlib.suppress(OSError):  # one was closed meanwhile: not in the next look
                    socket.send_fds(self._holder, [b"hold"], list(found.values()))
                    before = found.keys()
            time.sleep(AFRESH)

    def _take(self, words: list[str]) -> None:
        if words[0] == "lost":
            self._missed(int(words[1]))
            return
        other, code = int(words[1]), int(words[2])
        self._codes[other] = code
        if code:
            self._pass_on(f"left {other} {code}", other)
            self._news = left(self.place, other, code), code
            self._heard.set()
            _in_background(self._end_after, GRACE, *self._news)

    def _missed(self, other: int) -> None:
        """A connection broke. In peace, if that process had ended, and not before this one did."""
        code = self._codes.get(other)
        if code or (code == 0 and self.place[0] in self._codes):
            return
        self._pass_on(f"lost {other}", other)
        self._end_after(0, lost(self.place, other), 1)

    def _pass_on(self, line: str, about: int) -> None:
        """Process 0 alone, or news would go back and forth."""
        if self.place[0] == 0:
            self._tell(line, but=about)

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
    server = _server() if place[0] == 0 else None
    mine = server and (socket.gethostname(), server.getsockname()[1], secrets.token_hex(16))
    name, port, token = gather(mine)[0]
    watch = Watch(place, token, end)
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


def _connections(but: int) -> dict[int, int]:
    """This process's TCP connections, inode -> descriptor; none at the port `but`.

    Nor those to ports of known services: storage, the Hub.
    """
    found = {}
    for name in os.listdir("/proc/self/fd"):
        number = int(name)
        with contextlib.suppress(OSError):  # closed meanwhile; not connected
            about = os.fstat(number)
            if number > 2 and stat.S_ISSOCK(about.st_mode) and _is_held(number, but):
                found[about.st_ino] = number
    return dict(list(found.items())[-250:])  # as many as a message takes


def _is_held(number: int, but: int) -> bool:
    with socket.socket(fileno=os.dup(number)) as one:
        if one.family not in (socket.AF_INET, socket.AF_INET6) or one.type != socket.SOCK_STREAM:
            return False
        mine, other = one.getsockname()[1], one.getpeername()[1]
        return other >= 1024 and but not in (mine, other)
