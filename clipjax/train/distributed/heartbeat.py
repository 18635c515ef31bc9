"""Processes of one run watch each other, so that a death is noticed at once and named.

JAX notices it after some 30 s of silence and aborts the others with a C++ trace. Here each process
keeps a connection to process 0, which breaks when either dies; who learns of it ends with one
sentence and exit code 1. Without a connection (a firewall) JAX's way remains.
"""

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

GRACE = 10.0  # seconds in which the others may end by themselves after one that failed
HOLD = 30.0  # seconds by which a process's other connections outlive it; more than GRACE
AFRESH = 0.5  # seconds between looks for new connections
PATIENCE = 10.0  # seconds for a connection to be made, and for its first line
AGAIN = "start all processes again, and the run goes on from its last checkpoint."

# Keeps the connections that its parent sent last open: until the parent says that it is done, else
# for a while after its death. Ignores the signals that are meant for the run.
_HOLDER = """
import os, signal, socket, sys, time
for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(one, signal.SIG_IGN)
parent, held = socket.socket(fileno=int(sys.argv[1])), []
while (found := socket.recv_fds(parent, 16, 256))[0] == b"hold":
    for number in held:
        os.close(number)
    held = found[1]
if not found[0]:
    time.sleep(float(sys.argv[2]))
"""


class Watch:
    """One process's part; `begin` makes it. `end(sentence, code)` ends the process.

    The first line of a connection is "hello TOKEN INDEX", which tells the run's processes from
    strangers. Then a process sends "INDEX CODE" before it ends by itself, and process 0 tells all
    others of errors, and of deaths as "INDEX lost". `place` is (index, number of processes).
    """

    def __init__(self, place: tuple[int, int], token: str, end: Callable[[str, int], Any]):
        self.place, self._token, self._end = place, token, end
        self._holder: socket.socket | None = None  # to the process that holds connections
        self._links: dict[int, socket.socket] = {}
        self._codes: dict[int, int] = {}  # of processes that ended by themselves
        self._news, self._heard = ("", 0), threading.Event()  # why this process cannot go on
        self._speaking = threading.Lock()  # never released by who ends the process

    def listen(self, server: socket.socket) -> None:
        """Accept the others' connections, in process 0."""
        _in_background(self._accept, server)
        _in_background(self._hold, server.getsockname()[1])

    def connect(self, address: tuple[str, int]) -> None:
        """Connect to process 0, from all others."""
        _in_background(self._reach, address)

    def leave(self, code: int) -> None:
        """Tell the others that this process ends by itself; call it once, before the end.

        Does not return where another process's end already ends this one.
        """
        self._speaking.acquire()
        self._depart(code)

    def finish(self) -> None:
        """Like `leave`, but the process then waits for the others and still notices their death."""
        failed = getattr(sys, "last_value", None) is not None  # an uncaught exception
        self._depart(1 if failed else 0)
        if self._holder and not failed:
            with contextlib.suppress(OSError):  # somebody killed it
                self._holder.send(b"done")

    def settle(self, seconds: float) -> None:
        """End this process if another one's failure becomes known within some seconds."""
        if self._heard.wait(seconds):
            self._end_after(0, *self._news)

    def _depart(self, code: int) -> None:
        self._codes.setdefault(self.place[0], code)
        self._tell(f"{self.place[0]} {code}")

    def _accept(self, server: socket.socket) -> None:
        with contextlib.suppress(OSError):  # closed, as the process ends
            while True:
                _in_background(self._greet, server.accept()[0])

    def _greet(self, link: socket.socket) -> None:
        link.settimeout(PATIENCE)
        lines, words = link.makefile("r", encoding="utf-8", errors="replace"), []
        with contextlib.suppress(OSError):
            words = lines.readline(200).split()
        if len(words) == 3 and words[:2] == ["hello", self._token]:
            self._follow(link, lines, int(words[2]))
        else:
            link.close()

    def _reach(self, address: tuple[str, int]) -> None:
        try:
            link = socket.create_connection(address, PATIENCE)
            lines = link.makefile("r", encoding="utf-8", errors="replace")
            link.sendall(f"hello {self._token} {self.place[0]}\n".encode())
        except OSError:  # JAX alone watches then
            return
        _in_background(self._hold, address[1])
        self._follow(link, lines, 0)

    def _follow(self, link: socket.socket, lines, other: int) -> None:
        """Read what another process sends until its end."""
        link.settimeout(None)
        # The other machine has 20 s to answer the system: less than JAX waits
        # (`processes.HEARTBEAT`), so that our sentence comes before its abort.
        link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (("TCP_KEEPIDLE", 5), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
            if hasattr(socket, name):
                link.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        self._links[other] = link
        with contextlib.suppress(OSError):  # reset or timed out: gone, like one that ends
            for line in lines:
                about, code = line.split()
                self._learn(int(about), None if code == "lost" else int(code))
        self._learn(other, None)

    def _learn(self, other: int, code: int | None) -> None:
        """Take up that a process ends with an exit code, or (None) that its connection broke."""
        if code is None:
            known = self._codes.get(other)
            if known or (known == 0 and self.place[0] in self._codes):  # said before; all is done
                return
            news, seconds = f"lost contact with process {other}, which was killed or cut off; ", 0
        else:
            self._codes[other] = code
            if code == 0:
                return
            news, seconds = f"ends because process {other} ended with exit code {code}", GRACE
            news += "; what that one said tells why. To go on, "
        if self.place[0] == 0:
            self._tell(f"{other} {'lost' if code is None else code}", but=other)
        sentence = f"process {self.place[0]} of {self.place[1]} {news}{AGAIN}"
        self._news = sentence, code or 1
        self._heard.set()
        _in_background(self._end_after, seconds, *self._news)

    def _end_after(self, seconds: float, sentence: str, code: int) -> None:
        time.sleep(seconds)
        self._speaking.acquire()
        self._end(sentence, code)

    def _tell(self, line: str, but: int = -1) -> None:
        for other, link in list(self._links.items()):
            if other != but:
                with contextlib.suppress(OSError):  # gone, as its own thread notices
                    link.sendall(f"{line}\n".encode())

    def _hold(self, port: int) -> None:
        """Let this process's connections outlive it for a while, but for those at `port`, ours.

        If one to JAX's service (in process 0) or of gloo breaks, the others abort with a trace,
        mostly before they could say a word. A small process keeps them open until all is said.
        """
        if not os.path.isdir("/proc/self/fd"):
            return
        self._holder, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-S", "-E", "-c", _HOLDER, str(there.fileno()), str(HOLD)]
        quiet = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
        # A session of its own: signals to the run's process group do not reach it.
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


def begin(
    place: tuple[int, int],
    gather: Callable[[Any], list],
    coordinator: str,
    end: Callable[[str, int], Any],
) -> Watch:
    """Start to watch; all processes call it together, before they compute together.

    `gather` gives a value's counterparts of all processes, by index; `coordinator` is host:port of
    process 0, or "" to reach it by its machine's name.
    """
    server = mine = None
    if place[0] == 0:  # a free port, at all addresses of the machine, as JAX listens
        dual = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if dual else socket.AF_INET
        server = socket.create_server(("", 0), family=family, backlog=1024, dualstack_ipv6=dual)
        mine = socket.gethostname(), server.getsockname()[1], secrets.token_hex(16)
    name, port, token = gather(mine)[0]
    watch = Watch(place, token, end)
    if server:
        watch.listen(server)
    else:
        watch.connect((coordinator.rpartition(":")[0].strip("[]") or name, port))
    return watch


def _in_background(run: Callable, *args) -> None:
    threading.Thread(target=run, args=args, daemon=True).start()


def _connections(but: int) -> dict[int, int]:
    """This process's TCP connections, inode -> descriptor.

    Without those that have the port `but` at an end, or a known service's (storage, the Hub).
    """
    found = {}
    for number in map(int, os.listdir("/proc/self/fd")):
        with contextlib.suppress(OSError):  # closed meanwhile, or not connected
            about = os.fstat(number)
            if number <= 2 or not stat.S_ISSOCK(about.st_mode):
                continue
            with socket.socket(fileno=os.dup(number)) as one:
                inet = one.family in (socket.AF_INET, socket.AF_INET6)
                if inet and one.type == socket.SOCK_STREAM:
                    mine, other = one.getsockname()[1], one.getpeername()[1]
                    if other >= 1024 and but not in (mine, other):
                        found[about.st_ino] = number
    return dict(list(found.items())[-250:])  # as many as a message takes
