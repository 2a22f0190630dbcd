"""Sends a Message to one target: mail and webhooks by our own hands, all else through Apprise.

Apprise is imported here and by nobody else, in the process that sends (`deliver.py`) and in the command that
sets a policy: it takes more than a second, and some of its plugins log what they send. Left out: who sends,
and when.
"""

from __future__ import annotations

import logging
import threading
from typing import Any

from mldeploy.errors import NotificationError
from mldeploy.reporting import smtp, webhook
from mldeploy.reporting.message import Message
from mldeploy.reporting.smtp import Said
from mldeploy.reporting.targets import Secrets

_WEBHOOKS = ("http://", "https://")
_MALFORMED = "https://appriseit.com/services/ has the form of every kind of URL"


def send(url: str, message: Message, secrets: Secrets) -> Said:
    """Send `message` to the target of a policy; what there is to say of it, mostly nothing.

    Raises NotificationError, in which no secret stands.
    """
    try:
        said = _send(secrets.fill(url), message)
        return said._replace(note=secrets.hide(said.note), later=secrets.hide(said.later))
    except NotificationError as error:
        # from None: the cause's text may hold what this one hides
        raise NotificationError(secrets.hide(error.message), secrets.hide(error.hint)) from None
    except Exception as error:  # noqa: BLE001 the edge to other hands' plugins: the process is theirs alone
        kind = url.partition("://")[0][:20]
        raise NotificationError(
            secrets.hide(f"the {kind} target failed: {type(error).__name__}: {error}"), "it is tried again"
        ) from None


def holds_secret(url: str) -> bool:
    """Whether `url` is of a service of which no URL does without a secret (a token in its path, mostly).

    Without placeholders in it, then, that secret stands there.
    """
    with _Listener():
        target = _open(url)
    tokens = type(target).template_tokens.values() if target is not None else ()
    return any(token.get("private") and token.get("required") for token in tokens)


def prepare() -> None:
    """Load what `send` needs, before it is called from several threads."""
    _open("json://localhost")


def _send(url: str, message: Message) -> Said:
    said = _Listener()
    with said:
        target = _open(url)
        if target is None and url.startswith(_WEBHOOKS):
            webhook.send(url, message)
            return Said()
        if target is None:
            raise NotificationError(f"the URL makes no sense to Apprise{said.words()}", _MALFORMED)
        kind = type(target).__name__
        if kind == "NotifyEmail":
            return smtp.send(target, message)
        if kind == "NotifyJSON":
            target.headers[webhook.KEY] = message.identity
            fields = {"schema": "", "id": "", "report": None}
            target.payload_extras |= {name: webhook.body(message)[name] for name in fields}
        if not _notify(target, message):
            raise NotificationError(
                f"{target.service_name} did not take it{said.words()}", "it is tried again"
            )
    return Said()


def _open(url: str) -> Any:
    import apprise

    asset = apprise.AppriseAsset(storage_mode=apprise.PersistentStoreMode.MEMORY, async_mode=False)
    asset.app_id, asset.app_desc, asset.app_url = "mldeploy", "mldeploy", ""
    return apprise.Apprise.instantiate(url, asset=asset)


def _notify(target: Any, message: Message) -> bool:
    import apprise

    return bool(
        target.notify(
            title=message.title,
            body=message.brief,
            notify_type=apprise.NotifyType(message.kind),
            body_format=apprise.NotifyFormat.TEXT,
        )
    )


class _Listener(logging.Handler):
    """Hears what this thread would log through Apprise: what was worth a warning is what went wrong."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.heard: list[str] = []
        self.thread = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self.thread and len(self.heard) < 5:
            self.heard.append(record.getMessage())

    def words(self) -> str:
        return f": {'; '.join(self.heard)}" if self.heard else ""

    def __enter__(self) -> _Listener:
        logger = logging.getLogger("apprise")
        # whoever configures logging in this process may have turned it off or down
        logger.disabled = False
        if not logger.isEnabledFor(logging.WARNING):
            logger.setLevel(logging.WARNING)
        logger.addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("apprise").removeHandler(self)
