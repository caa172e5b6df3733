"""The processes of a run watch one another: when one ends, the others say which, and end too.

Each keeps a connection to the first open, which the kernel closes whatever ends the process, and
whose keepalive tells of a machine that is gone. jax's own heartbeats, slower and without a name,
stay behind it.
"""

import contextlib
import json
import logging
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, NoReturn

import jax

from vcjax.runtime import preemption

log = logging.getLogger(__name__)

HEARTBEAT_TIMEOUT = 40  # seconds, of jax's own
_KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}  # 30 s for a lost machine
_PATIENCE = 35  # seconds to learn whose end made a collective fail
_KEY = "vcjax/peers"
_LEFT = "left"


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """While it is open, the end of another process of the run ends this one, and is explained.

    An error inside is told to the others.
    """
    if jax.process_count() == 1:
        yield
        return
    links = _Links()
    try:
        yield
    except (SystemExit, preemption.Stopped):
        links.leave(_LEFT)
        raise
    except BaseException as error:
        if _is_of_another(error):
            time.sleep(_PATIENCE)  # in which the link says whose
        links.leave(f"1 {links.me} failed: {str(error) or type(error).__name__}")
        raise
    links.leave(_LEFT)


def _is_of_another(error: BaseException) -> bool:
    return isinstance(error, jax.errors.JaxRuntimeError) or "Gloo" in str(error)


class _Links:
    """The first process's connections to all others; or of another to the first.

    A line is `left`, or EXIT_CODE and what happened.
    """

    def __init__(self) -> None:
        from jax._src import distributed

        state: Any = distributed.global_state
        self.me = f"process {jax.process_index()} (pid {os.getpid()} on {socket.gethostname()})"
        self._sockets: list[socket.socket] = []
        self._leaving = False
        try:
            if jax.process_index() == 0:
                self._serve(state.client)
            else:
                self._join(state.client, state.coordinator_address)
        except OSError as error:
            log.warning("processes cannot watch one another (%s): jax's heartbeats do", error)

    def leave(self, line: str) -> None:
        self._leaving = True  # the others may end before this one
        for link in list(self._sockets):
            with contextlib.suppress(OSError):
                link.sendall(f"{line}\n".encode())

    def _serve(self, client: Any) -> None:
        family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
        server = socket.create_server(
            ("", 0), family=family, dualstack_ipv6=family == socket.AF_INET6
        )
        token = secrets.token_hex(16)  # or any scanner of ports could end the run
        told = {"port": server.getsockname()[1], "token": token, "who": self.me}
        client.key_value_set(_KEY, json.dumps(told))
        threading.Thread(target=self._accept, args=(server, token), daemon=True).start()

    def _accept(self, server: socket.socket, token: str) -> None:
        while True:
            link, _ = server.accept()
            threading.Thread(target=self._greet, args=(link, token), daemon=True).start()

    def _greet(self, link: socket.socket, token: str) -> None:
        lines = link.makefile(encoding="utf-8")
        said, _, who = lines.readline(1000).strip().partition(" ")
        if secrets.compare_digest(said.encode(), token.encode()):
            self._listen(link, lines, who)
        else:
            link.close()

    def _join(self, client: Any, coordinator: str) -> None:
        told = json.loads(client.blocking_key_value_get(_KEY, 60_000))
        host = coordinator.rsplit(":", 1)[0].strip("[]")
        link = socket.create_connection((host, told["port"]), timeout=60)
        link.settimeout(None)
        link.sendall(f"{told['token']} {self.me}\n".encode())
        lines = link.makefile(encoding="utf-8")
        threading.Thread(target=self._listen, args=(link, lines, told["who"]), daemon=True).start()

    def _listen(self, link: socket.socket, lines: Any, who: str) -> None:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE.items():
            if hasattr(socket, name):  # Linux
                link.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        self._sockets.append(link)
        try:
            line = lines.readline().strip()
        except OSError:  # the keepalive's
            line = ""
        self._sockets.remove(link)
        if line != _LEFT and not self._leaving:
            self._end(line or f"{preemption.EXIT_CODE} {who} died")

    def _end(self, line: str) -> NoReturn:
        self.leave(line)
        code, _, happened = line.partition(" ")
        log.error("vcjax: %s; this run ends. The same command goes on from what is kept", happened)
        preemption.end_workers()
        sys.stderr.flush()
        os._exit(int(code))
