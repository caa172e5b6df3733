"""Mutual monitoring of the processes of a run: if one process ends, the others report it and exit.

Every process keeps a TCP connection to the first one open. The kernel closes the connection
however the process ends, and TCP keepalive detects a lost machine. JAX's own heartbeats, which are
slower and do not name the lost process, remain as a fallback.
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

from vcjax.runtime import hosts, preemption

log = logging.getLogger(__name__)

HEARTBEAT_TIMEOUT = 40  # seconds, for JAX's own heartbeats
_KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}  # detects a loss in 30 s
_PATIENCE = 35  # seconds to wait for the cause of a failed collective
_KEY = "vcjax/peers"
_LEFT = "left"


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """End this process, with an explanation, if another process of the run dies or fails.

    An error raised inside the context is reported to the other processes. In a run of one process
    the context does nothing.
    """
    if jax.process_count() == 1:
        yield
        return
    links = _Links()
    try:
        yield
    except (SystemExit, preemption.StopRequested):
        links.leave(_LEFT)
        raise
    except BaseException as error:
        if _is_of_another(error):
            time.sleep(_PATIENCE)  # the link names the failed process and ends this one
        links.leave(f"1 {links.me} failed: {str(error) or type(error).__name__}")
        raise
    links.leave(_LEFT)


def _is_of_another(error: BaseException) -> bool:
    return isinstance(error, jax.errors.JaxRuntimeError) or "Gloo" in str(error)


class _Links:
    """The connections of the first process to all other processes, or of another to the first.

    The protocol has one line per message: `left`, or an exit code and the event that caused it.
    """

    def __init__(self) -> None:
        state = hosts.coordination()
        self.me = f"process {jax.process_index()} (pid {os.getpid()} on {socket.gethostname()})"
        self._sockets: list[socket.socket] = []
        self._leaving = False
        try:
            if jax.process_index() == 0:
                self._serve(state.client)
            else:
                self._join(state.client, state.coordinator_address)
        except OSError as error:
            log.warning("processes cannot connect (%s); falling back to JAX's heartbeats", error)

    def leave(self, line: str) -> None:
        self._leaving = True  # from here on, the end of another process is no failure
        for link in list(self._sockets):
            with contextlib.suppress(OSError):
                link.sendall(f"{line}\n".encode())

    def _serve(self, client: Any) -> None:
        family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
        server = socket.create_server(
            ("", 0), family=family, dualstack_ipv6=family == socket.AF_INET6
        )
        token = secrets.token_hex(16)  # without it, a port scanner could end the run
        address = {"port": server.getsockname()[1], "token": token, "who": self.me}
        client.key_value_set(_KEY, json.dumps(address))
        threading.Thread(target=self._accept, args=(server, token), daemon=True).start()

    def _accept(self, server: socket.socket, token: str) -> None:
        while True:
            link, _ = server.accept()
            threading.Thread(target=self._greet, args=(link, token), daemon=True).start()

    def _greet(self, link: socket.socket, token: str) -> None:
        lines = link.makefile(encoding="utf-8")
        received, _, who = lines.readline(1000).strip().partition(" ")
        if secrets.compare_digest(received.encode(), token.encode()):
            self._listen(link, lines, who)
        else:
            link.close()

    def _join(self, client: Any, coordinator: str) -> None:
        address = json.loads(client.blocking_key_value_get(_KEY, 60_000))
        host = coordinator.rsplit(":", 1)[0].strip("[]")
        link = socket.create_connection((host, address["port"]), timeout=60)
        link.settimeout(None)
        link.sendall(f"{address['token']} {self.me}\n".encode())
        lines = link.makefile(encoding="utf-8")
        who = address["who"]
        threading.Thread(target=self._listen, args=(link, lines, who), daemon=True).start()

    def _listen(self, link: socket.socket, lines: Any, who: str) -> None:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE.items():
            if hasattr(socket, name):  # these options exist on Linux only
                link.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        self._sockets.append(link)
        try:
            line = lines.readline().strip()
        except OSError:  # the keepalive timed out
            line = ""
        self._sockets.remove(link)
        if line != _LEFT and not self._leaving:
            self._end(line or f"{preemption.EXIT_CODE} {who} died")

    def _end(self, line: str) -> NoReturn:
        self.leave(line)
        code, _, event = line.partition(" ")
        log.error("vcjax: %s; the run ends. The same command resumes it", event)
        preemption.end_workers()
        sys.stderr.flush()
        os._exit(int(code))
