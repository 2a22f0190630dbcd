"""Targets: the policy's URLs, their placeholders, and the secrets that fill them.

`{NAME}` in a URL is filled from the environment variable MLDEPLOY_NOTIFY_NAME of whoever sends, and percent-
encoded, so that any password can stand there. The prefix is the point: a policy is written by whoever may
write to the log, and must not be able to send itself the other variables of a host.

Rules: secrets live in the process that sends and nowhere else; what is said of an error is stripped of them
(`Secrets.hide`). Pure but for what is passed in.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from urllib.parse import quote, unquote

from mldeploy.errors import NotificationError
from mldeploy.reporting.words import clean

PREFIX = "MLDEPLOY_NOTIFY_"
_PLACE = re.compile(r"\{([A-Za-z][A-Za-z0-9_]*)\}")
#: A shorter value is not looked for in texts: it would be found everywhere.
_SHORTEST = 4


class Secrets:
    """The variables a URL may name, and what hides them in texts."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._values = {
            name.removeprefix(PREFIX): value for name, value in environ.items() if name.startswith(PREFIX)
        }
        self._used: dict[str, str] = {}

    def fill(self, url: str) -> str:
        """`url` with its placeholders filled. Raises NotificationError for a variable that is not set."""

        def value(match: re.Match[str]) -> str:
            name = match[1]
            if name not in self._values:
                raise NotificationError(
                    f"{PREFIX}{name} is not set for mldeployd on this host",
                    f"set it there (docs/operations.md), or take {{{name}}} out of the policy's URL",
                )
            self._used[name] = self._values[name]
            return quote(self._values[name], safe="")

        self._remember(url)
        return _PLACE.sub(value, url)

    def hide(self, text: str) -> str:
        """One line of `text` without any secret, in whatever form a library may have put it."""
        forms = {
            form: f"{{{name}}}"
            for name, value in {**self._values, **self._used}.items()
            for form in _forms(value)
            if len(form) >= _SHORTEST
        }
        for form in sorted(forms, key=len, reverse=True):
            text = text.replace(form, forms[form])
        return clean(text, 300)

    def _remember(self, url: str) -> None:
        """A password that stands in the URL itself is none that we may show either."""
        user, at, _ = url.partition("://")[2].partition("/")[0].rpartition("@")
        password = user.partition(":")[2]
        if at and password and not _PLACE.fullmatch(password):
            self._used.setdefault("password", unquote(password))


def _forms(value: str) -> set[str]:
    coded = base64.b64encode(value.encode()).decode()
    return {value, quote(value, safe=""), quote(value), coded, coded.rstrip("=")}
