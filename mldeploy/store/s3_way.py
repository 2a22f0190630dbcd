"""The way to a server: its address, a proxy, TLS. Makes sockets, and reads nothing but a proxy's answer.

Rules: certificates are verified, by the system's authorities (botocore's where it has none) and by those of
AWS_CA_BUNDLE; proxies are those of the environment (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY), which
speak HTTP; what goes wrong is a `Failed` whose failure has a cause (`store/s3_heard.py`).
Left out: HTTP (`store/s3_http.py`), proxies of other kinds.
"""

from __future__ import annotations

import base64
import contextlib
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from mldeploy.store.s3_answer import Hearing, head_of, said
from mldeploy.store.s3_heard import Failed, Failure
from mldeploy.store.s3_input import Input, bounded

if TYPE_CHECKING:
    import ssl

#: Seconds to make a connection.
CONNECT = 5.0
_PORTS = {"http": 80, "https": 443}


class Way:
    """The way to the server of `base` (http://host:port). The constructor reads the proxies, and
    raises Failed where there can be no way.

    `host`: as a request names it. `secure`: whether it is TLS. `prefix`: what the target of a request begins
    with, and `headers`: what it says beside, for a proxy. `ca_bundle`: a file of further authorities, in PEM.
    """

    def __init__(self, base: str, ca_bundle: str = "") -> None:
        try:
            parts = urlsplit(base)
            self._address = parts.hostname or "", parts.port or _PORTS[parts.scheme]
        except (ValueError, KeyError) as error:
            raise Failed(Failure(cause="unreachable", said=f"{base} is not the URL of a server")) from error
        self.secure = parts.scheme == "https"
        netloc = parts.netloc.rpartition("@")[2]
        self.host = netloc.removesuffix(f":{_PORTS[parts.scheme]}")
        self._ca_bundle = ca_bundle
        self._context: ssl.SSLContext | None = None
        self._proxy = _proxy_of(parts.scheme, netloc)
        open_proxy = None if self.secure else self._proxy
        self.prefix = f"http://{self.host}" if open_proxy else ""
        self.headers: Mapping[str, str] = open_proxy.headers if open_proxy else {}

    def connect(self, silence: float) -> socket.socket:
        """A new connection, bounded by `silence` seconds (`store/s3_input.py`). Raises Failed."""
        made = self._proxy.connect() if self._proxy else _connect(*self._address)
        try:
            with Hearing():
                made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._proxy and self.secure:
                _tunnel(made, self._proxy, *self._address)
            if self.secure:
                made = self._wrapped(made)
            with Hearing():
                bounded(made, silence, secure=self.secure)
        except BaseException:
            made.close()
            raise
        return made

    def _wrapped(self, made: socket.socket) -> socket.socket:
        import ssl

        try:
            if self._context is None:
                self._context = _context_of(self._ca_bundle)
            return self._context.wrap_socket(made, server_hostname=self._address[0])
        except ssl.SSLError as error:
            why = getattr(error, "verify_message", "") or error.reason or str(error)
            raise Failed(Failure(cause="tls", said=str(why))) from error
        except OSError as error:
            raise _unreachable(f"no TLS with {self.host}", error) from error


class _Proxy:
    """A proxy's address, and what a request to it says beside."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme != "http":
            why = f"proxies that speak {parts.scheme} cannot be used for transfers"
            raise Failed(Failure(cause="unreachable", said=why))
        try:
            self.address = parts.hostname or "", parts.port or 80
        except ValueError as error:
            raise Failed(Failure(cause="unreachable", said=f"the proxy's URL: {error}")) from error
        user = f"{unquote(parts.username)}:{unquote(parts.password or '')}" if parts.username else ""
        told = {"proxy-authorization": "Basic " + base64.b64encode(user.encode()).decode()}
        self.headers = told if user else {}

    def connect(self) -> socket.socket:
        """A new connection to it. Raises Failed, which names it."""
        try:
            return _connect(*self.address)
        except Failed as error:
            why = f"the proxy {error.failure.said}"
            raise Failed(Failure(cause="unreachable", said=why)) from error


def _proxy_of(scheme: str, netloc: str) -> _Proxy | None:
    if not any(name.lower().endswith("_proxy") for name in os.environ):
        return None  # the usual case, and what reads them takes long to load
    from urllib import request

    proxies = request.getproxies_environment()
    url = proxies.get(scheme) or proxies.get("all")
    if not url or request.proxy_bypass_environment(netloc, proxies):  # type: ignore[attr-defined]
        return None
    host = urlsplit(f"//{netloc}").hostname or ""
    return None if _in_networks(host, proxies.get("no", "")) else _Proxy(url)


def _in_networks(host: str, networks: str) -> bool:
    """Whether the address `host` is one of `networks` (10.0.0.0/8, ::1), which urllib does not look for."""
    import ipaddress

    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(host)
        for one in networks.split(","):
            with contextlib.suppress(ValueError):  # a name
                if address in ipaddress.ip_network(one.strip().strip("[]"), strict=False):
                    return True
    return False


def _connect(host: str, port: int) -> socket.socket:
    try:
        return socket.create_connection((host, port), CONNECT)
    except (socket.gaierror, UnicodeError) as error:
        raise Failed(Failure(cause="unresolved", said=f"{host}: {said(error)}")) from error
    except ConnectionRefusedError as error:
        raise Failed(Failure(cause="refused", said=f"{host}:{port}: {said(error)}")) from error
    except OSError as error:
        raise _unreachable(f"{host}:{port}", error) from error


def _unreachable(what: str, error: OSError) -> Failed:
    why = "no answer in time" if isinstance(error, TimeoutError) else said(error)
    return Failed(Failure(cause="unreachable", said=f"{what}: {why}"))


def _tunnel(made: socket.socket, proxy: _Proxy, host: str, port: int) -> None:
    """Through the proxy to the server itself: what follows on the connection is between it and us."""
    name = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    lines = "".join(f"{key}: {value}\r\n" for key, value in proxy.headers.items())
    with Hearing():
        made.sendall(f"CONNECT {name} HTTP/1.1\r\nhost: {name}\r\n{lines}\r\n".encode("latin-1"))
        # a byte at a time: what comes after the head is TLS's
        status = head_of(Input(made.recv_into, 1))[0]
    if not 200 <= status < 300:
        raise Failed(Failure(cause="unreachable", said=f"the proxy {proxy.address[0]} answers {status}"))


def _context_of(ca_bundle: str) -> ssl.SSLContext:
    import ssl

    context = ssl.create_default_context()
    paths = ssl.get_default_verify_paths()
    if not paths.cafile and not paths.capath:  # a machine without authorities of its own
        import botocore

        context.load_verify_locations(Path(botocore.__file__).with_name("cacert.pem"))
    if ca_bundle:
        context.load_verify_locations(Path(ca_bundle).expanduser())
    return context
