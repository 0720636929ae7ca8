"""Who may ask what: checks before a request is answered, and headers of every answer."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
import socket
from collections.abc import Sequence
from typing import Any

from graphfsl.io.errors import require

LEAST_TOKEN = 16  # letters
MOST_BODY = 4 * 2**20  # bytes
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
LOCAL = ("localhost", "127.0.0.1", "::1")
EVERY_ADDRESS = ("0.0.0.0", "::")


class Keys:
    """The tokens of people, and of programs that ask for predictions.

    Args:
        token: of the whole page; None draws one.
        host: where it is served; anything but this machine needs a token of the user's own.

    Raises:
        InputError: for a host without a token, and for a token that is easily guessed.
    """

    def __init__(self, token: str | None, host: str) -> None:
        require(
            token is not None or is_loopback(host),
            f"--host {host} lets other machines ask; give --token as well, {LEAST_TOKEN} letters "
            "or more",
        )
        require(
            token is None or len(token) >= LEAST_TOKEN,
            f"the token has {len(token or '')} letters; give {LEAST_TOKEN} or more",
        )
        self._secret = (token or secrets.token_urlsafe(32)).encode()

    def of(self, whose: str) -> str:
        """The token of a person or a program, which tells nothing of another's."""
        return hmac.new(self._secret, whose.encode(), hashlib.sha256).hexdigest()

    def fits(self, whose: str, token: str | None) -> bool:
        """Whether it is theirs; it takes as long for one that nearly is."""
        return hmac.compare_digest(self.of(whose).encode(), (token or "").encode())


def is_loopback(host: str) -> bool:
    """Whether a host is this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def reached_as(host: str) -> str:
    """What other machines call a host; where every address of this one is served, its name."""
    return socket.gethostname() if host in EVERY_ADDRESS else host


class Guard:
    """Refuses requests to other hosts and from other pages, and sets headers.

    A page of another site can make a browser ask this one. It cannot set Host to one of ours (a
    name of its own that leads here is refused), and its POST bears its own Origin.

    Args:
        app: what answers.
        host: where it is served.
        port: of it.
    """

    def __init__(self, app: Any, host: str, port: int) -> None:
        self._app, self._port = app, port
        self._names = {*LOCAL, host}
        self._is_open = not is_loopback(host)
        if self._is_open:
            self._names |= {socket.gethostname(), socket.getfqdn()}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer, or refuse with a line."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        headers = [(k.decode("latin-1").lower(), v.decode("latin-1")) for k, v in scope["headers"]]
        wrong = self._wrong(scope["method"], headers, scope["path"])
        if wrong is not None:
            await _refuse(send, *wrong)
            return

        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                own = {k.lower() for k, _ in message["headers"]}
                added = [(k.encode(), v.encode()) for k, v in HEADERS.items()]
                message["headers"] = [
                    *message["headers"],
                    *((k, v) for k, v in added if k not in own),
                ]
            await send(message)

        await self._app(scope, receive, with_headers)

    def _wrong(
        self, method: str, headers: Sequence[tuple[str, str]], path: str
    ) -> tuple[int, str] | None:
        host = _only(headers, "host")
        if host is None or not self._is_ours(host):
            return 421, "this page is asked for by another name than its own"
        if method in ("GET", "HEAD"):
            return None
        if method != "POST":
            return 405, "only GET and POST are answered"
        origin = _only(headers, "origin")
        is_program = path.startswith("/label-studio/")  # no browser: it sends no Origin
        if origin != f"http://{host}" and not (is_program and origin is None):
            return 403, "changes are made by this page only"
        kind = (_only(headers, "content-type") or "").partition(";")[0].strip().lower()
        if kind != "application/json":
            return 415, "changes are sent as application/json"
        length = _only(headers, "content-length")
        if length is None or not length.isdecimal() or int(length) > MOST_BODY:
            return 413, f"at most {MOST_BODY:,} bytes are read, and their number must be said"
        return None

    def _is_ours(self, host: str) -> bool:
        name, colon, port = host.rpartition(":")
        if not colon or not port.isdecimal() or int(port) != self._port:
            return False
        name = name.removeprefix("[").removesuffix("]").lower()
        if name in {own.lower() for own in self._names}:
            return True
        if not self._is_open:
            return False
        try:  # a number is no name that somebody could point here
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


def _only(headers: Sequence[tuple[str, str]], name: str) -> str | None:
    """A header that must stand once."""
    values = [value for own, value in headers if own == name]
    return values[0] if len(values) == 1 else None


async def _refuse(send: Any, status: int, line: str) -> None:
    headers = {**HEADERS, "content-type": "text/plain; charset=utf-8", "connection": "close"}
    encoded = [(k.encode(), v.encode()) for k, v in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": f"{line}\n".encode()})
