"""A real daemon tells people: a mail and a webhook for a launch, once, and no secret anywhere."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

from mldeploy.core.records import Notified, Policy
from mldeploy.store.history import records_at
from tests.daemon.conftest import Place
from tests.daemon.test_serving import state_of
from tests.reporting.receivers import Hook, Mailbox, http_server, mail_server
from tests.support.daemons import until

PASSWORD = "correct horse/battery@staple"


def closed(place: Place) -> list[Notified]:
    found = records_at(place.store, range(1, state_of(place).head + 1))
    return [action for record, _ in found for action in record.actions if isinstance(action, Notified)]


def with_secret(root: Path, secret: str) -> list[Path]:
    found = []
    for path in root.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # the daemon runs: what it was writing is renamed
            if path.is_file() and not path.is_symlink() and secret.encode() in path.read_bytes():
                found.append(path)
    return found


def test_a_launch_is_told_once_by_mail_and_webhook(place: Place) -> None:
    with mail_server(Mailbox(user="bot", password=PASSWORD)) as box, http_server(Hook()) as hook:
        mail = (
            f"mailto://bot:{{SMTP_PASSWORD}}@127.0.0.1:{box.port}/ops@example.com?from=mldeploy@example.com"
        )
        place.append(
            Policy(settings={"notify": {"mail": mail, "hook": f"http://127.0.0.1:{hook.port}/{{TOKEN}}"}})
        )
        ref = place.push(1.0)
        env = {
            **os.environ,
            "MLDEPLOY_NOTIFY_SMTP_PASSWORD": PASSWORD,
            "MLDEPLOY_NOTIFY_TOKEN": "t0k3n-of-hook",
            "FSSPEC_S3_SECRET": "for the store",
        }
        daemon = place.daemon(env=env, log_level="debug").start()
        daemon.wait_ready()
        (done,) = until(lambda: closed(place), "the notice is closed")
        seq = state_of(place).environments["production"][ref.name].seq
        assert done.notice == f"launched.{ref.name}.{ref.version}.{seq}"
        (sent,), (posted,) = box.mails, hook.bodies
        assert sent["Subject"] == f"{ref} is stable in production"
        identity = str(sent["Message-ID"]).strip("<>")
        assert identity.startswith(f"{done.notice}@") and hook.headers[0]["Idempotency-Key"] == identity
        assert posted["id"] == identity and posted["report"]["version"] == ref.version
        assert hook.paths == ["/t0k3n-of-hook"]

        # the agent dies and another takes over: what was closed is not told again
        first = daemon.agent()
        os.kill(first, signal.SIGKILL)
        until(lambda: daemon.agent() != first, "another agent")
        second = place.push(2.0)
        daemon.wait_answer(2.0)
        until(lambda: len(closed(place)) == 2, "the second notice is closed")
        assert [str(mail["Subject"]) for mail in box.mails] == [
            f"{ref} is stable in production",
            f"{second} is stable in production, in place of {ref}",
        ]
        plain = box.mails[1].get_body(("plain",))
        assert plain is not None and f"What differs between {ref} and {second}" in plain.get_content()
        assert len(hook.bodies) == 2

        # the secrets are in mldeployd's environment and nowhere else: no model code has them, and no file
        until(lambda: len(daemon.workers()) == 1, "the first version's worker is gone")
        for worker in daemon.workers():
            environ = Path(f"/proc/{worker['pid']}/environ").read_bytes()
            assert b"MLDEPLOY" not in environ and b"FSSPEC" not in environ and b"PATH=" in environ
    for secret in (PASSWORD, PASSWORD.replace("/", "%2F"), "t0k3n-of-hook"):
        assert secret not in daemon.text()
        assert with_secret(place.root, secret) == []


def test_what_cannot_be_told_is_in_the_hosts_report(place: Place) -> None:
    mail = "mailto://bot:{NO_SUCH}@127.0.0.1:9/o@example.com"
    place.append(Policy(settings={"notify": {"mail": mail}}))
    place.push(1.0)
    daemon = place.daemon().start()
    daemon.wait_ready()

    def said() -> str:
        report = daemon.report()
        return "\n".join(report.errors) if report else ""

    until(lambda: "did not reach mail" in said(), "the report says so")
    assert "MLDEPLOY_NOTIFY_NO_SUCH is not set" in said()
    assert closed(place) == [] and daemon.ask() == (200, (1.0, 1))
