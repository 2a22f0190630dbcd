"""Webhooks: `http(s)://` URLs, which get one POST of JSON as they stand.

The body is a document of its own schema; the fields `title`, `message` and `type` in it are those that
`json://` receivers know from Apprise. The header `Idempotency-Key` is the notice's identity.
"""

from __future__ import annotations

import base64
import http.client
import ssl
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit, urlunsplit
from urllib.request import HTTPRedirectHandler, HTTPSHandler, Request, build_opener

import msgspec

from mldeploy.errors import NotificationError
from mldeploy.reporting.message import SCHEMA, Message

#: Seconds for the connection, and for each part of the answer.
TIMEOUT = 15.0
KEY = "Idempotency-Key"


def body(message: Message) -> dict[str, Any]:
    """What a webhook gets."""
    return {
        "schema": SCHEMA,
        "id": message.identity,
        "title": message.title,
        "message": message.brief,
        "type": message.kind,
        "report": message.document,
    }


def send(url: str, message: Message) -> None:
    """POST `message` to an http(s) URL; `user:password@` in it is sent as basic authentication.

    Any 2xx is taken for "arrived"; redirects are not followed. Raises NotificationError.
    """
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    bare = urlunsplit(parts._replace(netloc=host, fragment=""))
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "mldeploy",
        KEY: message.identity,
    }
    if at:
        name, _, password = user.partition(":")
        pair = f"{unquote(name)}:{unquote(password)}".encode()
        headers["Authorization"] = f"Basic {base64.b64encode(pair).decode()}"
    try:
        request = Request(bare, data=msgspec.json.encode(body(message)), headers=headers, method="POST")
        with build_opener(_Stay, HTTPSHandler(context=ssl.create_default_context())).open(
            request, timeout=TIMEOUT
        ) as answer:
            answer.read(1 << 16)
    except HTTPError as error:
        with error:
            said = error.read(300).decode("utf-8", "replace")
        hint = "it is tried again" if error.code >= 500 else "see the policy's URL and its secrets"
        raise NotificationError(f"{host} answered {error.code}: {said}", hint) from error
    except URLError as error:
        raise NotificationError(f"{host} cannot be reached: {error.reason}", "it is tried again") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise NotificationError(f"{host}: {error}", "it is tried again") from error


class _Stay(HTTPRedirectHandler):
    """A redirected POST would lose its body, or go to somebody else with our authentication."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None
