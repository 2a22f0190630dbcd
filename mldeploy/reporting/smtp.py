"""Mail: `mailto://` and `mailtos://` URLs as Apprise reads them, sent with the standard library.

Apprise gives every mail a Message-ID of its own making, so that the same notice from two hosts would be two
mails to its readers; and it sends each recipient another one. So its reading of the URL is used, with its
conventions (`?from=`, `?smtp=`, `?mode=ssl`, `?cc=`, provider defaults), and the mail is ours: one
Message-ID, text and HTML, and the page with the plots as a file.
"""

from __future__ import annotations

import base64
import smtplib
import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from email.errors import MessageError
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import formatdate
from typing import TYPE_CHECKING, Any, NamedTuple

from mldeploy.errors import NotificationError
from mldeploy.reporting.message import Message, mark

if TYPE_CHECKING:
    from apprise.plugins.email import NotifyEmail

#: Seconds for each answer of the server.
TIMEOUT = 15.0
#: Headers that a URL (`?+Name=value`) may not set.
_OURS = ("message-id", "date", "from", "to", "cc", "bcc", "subject", "content-type", "mime-version")


class Said(NamedTuple):
    """What a target that took a message said besides, mostly nothing."""

    note: str = ""  # who will never get it
    later: str = ""  # why some have not got it yet, and are to be tried again
    took: tuple[str, ...] = ()  # then, those that have got it: their marks


def send(target: NotifyEmail, message: Message) -> Said:
    """Send `message` to whom has not had it. Raises NotificationError where nobody got it."""
    mail, everybody = compose(target, message)
    recipients = [address for address in everybody if mark(address) not in message.had]
    if not recipients:
        return Said()
    host, _, port = str(target.smtp_host).partition(":")
    number = int(port) if port.isdecimal() else int(target.port or 0)
    where = f"{host}:{number}"
    try:
        with _session(target, host, number) as server:
            refused = server.send_message(mail, from_addr=str(target.from_addr[1]), to_addrs=recipients)
    except smtplib.SMTPAuthenticationError as error:
        raise NotificationError(
            f"{where} refused the user name or password: {_words(error)}",
            "see the policy's URL and its secrets",
        ) from error
    except smtplib.SMTPRecipientsRefused as error:
        if len(recipients) < len(everybody):  # the others had it before
            return _said_of(where, recipients, dict.fromkeys(recipients, (450, b"")) | error.recipients)
        first = next(iter(error.recipients.values()), (0, b""))
        raise NotificationError(
            f"{where} refused every recipient: {first[0]} {_text(first[1])}", "see the addresses in the URL"
        ) from error
    except ssl.SSLError as error:
        raise NotificationError(
            f"no safe connection to {where}: {error.reason or error}",
            "?mode=ssl, starttls or insecure in the URL says which kind; SSL_CERT_FILE names authorities",
        ) from error
    except smtplib.SMTPException as error:
        raise NotificationError(f"{where}: {_words(error)}", "it is tried again") from error
    except OSError as error:
        raise NotificationError(f"{where} cannot be reached: {error}", "it is tried again") from error
    return _said_of(where, recipients, refused)


def _said_of(where: str, recipients: list[str], refused: Mapping[str, tuple[int, bytes]]) -> Said:
    """4xx is a server's "not now" (RFC 5321, 4.2.1), that of greylisting mostly; 5xx is for good."""
    for_good = [address for address, (code, _) in refused.items() if code >= 500]
    later = [f"{each} ({code} {_text(said)})" for each, (code, said) in refused.items() if code < 500]
    return Said(
        note=f"{where} refused {', '.join(for_good)}, and took it for the others" if for_good else "",
        later=f"{where} does not take it yet for {', '.join(later)}" if later else "",
        took=tuple(mark(address) for address in recipients if address not in refused) if later else (),
    )


def compose(target: NotifyEmail, message: Message) -> tuple[EmailMessage, list[str]]:
    """The mail, and the addresses it goes to. Raises NotificationError for headers that would be two."""
    mail = EmailMessage(policy=SMTP)
    to = [(str(name or ""), str(address)) for name, address in target.targets]
    copies = [("", str(address)) for address in sorted(target.cc)]
    known = {address.lower() for _, address in [*to, *copies]}
    if message.owner and message.owner.lower() not in known:
        to.append(("", message.owner))
    name, sender = target.from_addr
    try:
        mail["Subject"] = message.title
        mail["From"] = _address(
            "mldeploy" if name in (False, None, "", "Apprise") else str(name), str(sender)
        )
        mail["To"] = [_address(*each) for each in to]
        if copies:
            mail["Cc"] = [_address(*each) for each in copies]
        if target.reply_to:
            mail["Reply-To"] = [_address("", str(address)) for address in sorted(target.reply_to)]
        mail["Message-ID"] = f"<{message.identity}>"
        mail["Date"] = formatdate()
        mail["Auto-Submitted"] = "auto-generated"
        mail["X-Mldeploy-Notice"] = message.identity
        for header, value in target.headers.items():
            if header.lower() not in _OURS:
                mail[header] = value
    except (ValueError, MessageError, IndexError) as error:
        raise NotificationError(
            f"a header of the mail makes no sense: {error}", "see the policy's URL"
        ) from error
    mail.set_content(message.text)
    mail.add_alternative(message.html, subtype="html")
    file = f"{message.identity.partition('@')[0]}.html"
    mail.add_attachment(message.page.encode(), maintype="text", subtype="html", filename=file)
    return mail, [address for _, address in [*to, *copies, *(("", str(a)) for a in sorted(target.bcc))]]


@contextmanager
def _session(target: NotifyEmail, host: str, port: int) -> Iterator[smtplib.SMTP]:
    """Connected and logged in. What the server answers to the goodbye is of no account: the mail is with it,
    and smtplib's own context would raise that as an error, and the mail would be sent again.
    """
    server = _connect(target, host, port)
    try:
        if target.user:
            _login(server, str(target.user), str(target.password or ""))
        yield server
        with suppress(smtplib.SMTPException, OSError):
            server.quit()
    finally:
        server.close()


def _connect(target: NotifyEmail, host: str, port: int) -> smtplib.SMTP:
    context = ssl.create_default_context()
    if not target.verify_certificate:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    # the name of the machine, and not getfqdn: that asks the resolver, which may take minutes
    options: dict[str, Any] = {"timeout": TIMEOUT, "local_hostname": socket.gethostname()}
    if target.secure_mode == "ssl":
        return smtplib.SMTP_SSL(host, port, context=context, **options)
    server = smtplib.SMTP(host, port, **options)
    if target.secure_mode == "starttls":
        try:
            server.starttls(context=context)
        except BaseException:
            server.close()
            raise
    return server


def _login(server: smtplib.SMTP, user: str, password: str) -> None:
    if f"{user}{password}".isascii():
        server.login(user, password)
        return
    # smtplib knows ASCII alone; the mechanism itself is UTF-8 (RFC 4616)
    server.ehlo_or_helo_if_needed()
    coded = base64.b64encode(f"\0{user}\0{password}".encode()).decode()
    code, said = server.docmd("AUTH", f"PLAIN {coded}")
    if code not in (235, 503):
        raise smtplib.SMTPAuthenticationError(code, said)


def _address(name: str, address: str) -> Address:
    user, _, domain = address.rpartition("@")
    return Address(display_name=name, username=user, domain=domain)


def _words(error: smtplib.SMTPException) -> str:
    if isinstance(error, smtplib.SMTPResponseException):
        return f"{error.smtp_code} {_text(error.smtp_error)}"
    return str(error)


def _text(said: object) -> str:
    return said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)
