"""A mail server and a webhook's receiver, real ones, on ports of their own."""

from __future__ import annotations

import asyncio
import email
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.policy import default
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

TLS = Path(__file__).parents[1] / "support" / "tls"


@dataclass
class Mailbox:
    """What a mail server took, and how it behaves."""

    port: int = 0
    user: str = ""
    password: str = ""
    refuse: tuple[str, ...] = ()  # recipients
    put_off: tuple[str, ...] = ()  # recipients that are to be tried again
    goodbye: str = "221 Bye"  # to QUIT
    mails: list[EmailMessage] = field(default_factory=list)
    recipients: list[list[str]] = field(default_factory=list)
    logins: list[tuple[str, str]] = field(default_factory=list)

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address in self.refuse:
            return "550 no such user"
        if address in self.put_off:
            return "450 greylisted, come back"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_MAIL(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if self.user and not session.authenticated:
            return "530 log in first"
        envelope.mail_from = address
        return "250 OK"

    async def handle_QUIT(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        return self.goodbye

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        assert isinstance(envelope.content, bytes)
        found = email.message_from_bytes(envelope.content, policy=default)
        assert isinstance(found, EmailMessage)
        self.mails.append(found)
        self.recipients.append(list(envelope.rcpt_tos))
        return "250 OK"

    def authenticate(
        self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any
    ) -> AuthResult:
        assert isinstance(data, LoginPassword)
        said = data.login.decode(), data.password.decode()
        self.logins.append(said)
        return AuthResult(success=said == (self.user, self.password), handled=False)


@contextmanager
def mail_server(box: Mailbox, *, tls: str = "", port: int = 0) -> Iterator[Mailbox]:
    """Serve `box`; `tls`: "", "starttls" or "ssl"."""
    context = None
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(TLS / "server.pem", TLS / "server.key")
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def factory() -> SMTP:
        return SMTP(
            box, hostname="mail.test", loop=loop, authenticator=box.authenticate if box.user else None,
            auth_require_tls=False,
            tls_context=context if tls == "starttls" else None, require_starttls=tls == "starttls",
        )  # fmt: skip

    async def open_() -> asyncio.Server:
        return await loop.create_server(
            factory, "127.0.0.1", port, ssl=context if tls == "ssl" else None, reuse_address=True
        )

    server = asyncio.run_coroutine_threadsafe(open_(), loop).result(10)
    box.port = server.sockets[0].getsockname()[1]
    try:
        yield box
    finally:

        async def close() -> None:
            server.close()
            tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(close(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


@dataclass
class Hook:
    """What a webhook's receiver got, and what it answers: the statuses in turn, the last one for ever."""

    statuses: list[int] = field(default_factory=lambda: [204])
    port: int = 0
    paths: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    bodies: list[Any] = field(default_factory=list)

    @property
    def seen(self) -> dict[str, Any]:
        """By idempotency key: what a receiver that keeps its promise does once."""
        return {h["Idempotency-Key"]: b for h, b in zip(self.headers, self.bodies, strict=True)}


@contextmanager
def http_server(hook: Hook) -> Iterator[Hook]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers["Content-Length"]))
            hook.paths.append(self.path)
            hook.headers.append(dict(self.headers))
            hook.bodies.append(json.loads(data))
            status = hook.statuses.pop(0) if len(hook.statuses) > 1 else hook.statuses[0]
            self.send_response(status)
            if status == 302:
                self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hook.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield hook
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
