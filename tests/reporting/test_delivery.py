"""Sending, to a real mail server and a real receiver: content, identity, refusals, no word of a secret."""

from __future__ import annotations

import json
import socket

import msgspec
import pytest

from mldeploy.errors import NotificationError
from mldeploy.reporting.deliver import Sent, deliver, first_mail
from mldeploy.reporting.message import Message, mark, message
from mldeploy.reporting.send import send
from mldeploy.reporting.targets import PREFIX, Secrets
from tests.reporting.receivers import TLS, Hook, Mailbox, http_server, mail_server
from tests.reporting.test_rendering import launch

# a plugin that nobody here uses is imported with all the others
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")

STORE = "01jd0000000000000000000000"
IDENTITY = f"launched.churn.8.16@{STORE}"
PASSWORD = "p@ss/w:rd %41 ü?#&"
ENVIRON = {
    f"{PREFIX}SMTP_PASSWORD": PASSWORD, f"{PREFIX}TOKEN": "tok-en/5678",
    "AWS_SECRET_ACCESS_KEY": "aws-secret", "PATH": "/usr/bin:/bin",
}  # fmt: skip


@pytest.fixture(scope="module")
def news() -> Message:
    return message(launch(), STORE)


def here(
    news: Message, targets: dict[str, str], *, environ: dict[str, str] = ENVIRON, owner_at: str | None = None
) -> Sent:
    """What `deliver` does in its process, in this one: it starts a second sooner."""
    owner_at = first_mail(targets) if owner_at is None else owner_at
    failed, notes, took = {}, {}, set[str]()
    for name, url in targets.items():
        made = news if name == owner_at else msgspec.structs.replace(news, owner="")
        try:
            told = send(url, made, Secrets(environ))
            notes[name], took = told.note, took | {*told.took}
            if told.later:
                failed[name] = NotificationError(told.later)
        except NotificationError as error:
            failed[name] = error
    reached = tuple(sorted(name for name in targets if name not in failed))
    notes = {name: note for name, note in notes.items() if note}
    return Sent(reached=reached, failed=failed, notes=notes, took=tuple(sorted(took)))


def said(sent: Sent) -> str:
    """Everything that comes back of a delivery, as it could get into a log."""
    errors = [f"{error.message} {error.hint} {error!r} {error.__cause__!r}" for error in sent.failed.values()]
    return " ".join([*sent.reached, *sent.failed, *errors, *sent.notes.values()])


def mailto(box: Mailbox, rest: str = "ops@example.com?from=mldeploy@example.com", user: str = "") -> str:
    return f"mailto://{user}127.0.0.1:{box.port}/{rest}"


def closed_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def test_a_mail_has_the_numbers_the_page_and_our_identity(news: Message) -> None:
    with mail_server(Mailbox()) as box:
        sent = deliver(news, {"ops": mailto(box)}, environ=ENVIRON)
    assert sent.reached == ("ops",) and not sent.failed, said(sent)
    (mail,) = box.mails
    assert mail["Message-ID"] == f"<{IDENTITY}>"
    assert mail["Subject"] == "churn@8 is stable in production, in place of churn@7"
    assert (mail["From"], mail["Auto-Submitted"]) == ("mldeploy <mldeploy@example.com>", "auto-generated")
    # the owner gets a copy of the same mail
    assert mail["To"] == "ops@example.com, team@example.com"
    assert box.recipients == [["ops@example.com", "team@example.com"]]
    plain, rich = mail.get_body(("plain",)), mail.get_body(("html",))
    assert plain is not None and rich is not None
    for body in (plain.get_content(), rich.get_content()):
        assert "99.25%" in body and "error_rate &lt; 1.5x" in body.replace(
            "error_rate < 1.5x", "error_rate &lt; 1.5x"
        )
    (page,) = mail.iter_attachments()
    assert page.get_filename() == "launched.churn.8.16.html" and page.get_content_type() == "text/html"
    assert "<svg" in page.get_content()


def test_the_same_notice_from_two_hosts_is_one_to_who_gets_it(news: Message) -> None:
    with mail_server(Mailbox()) as box, http_server(Hook()) as hook:
        targets = {
            "ops": mailto(box),
            "hook": f"json://127.0.0.1:{hook.port}/in",
            "raw": f"http://127.0.0.1:{hook.port}/raw",
        }
        for _ in range(2):
            assert here(news, targets, environ=ENVIRON).reached == ("hook", "ops", "raw")
    assert [mail["Message-ID"] for mail in box.mails] == [f"<{IDENTITY}>"] * 2
    assert len(hook.bodies) == 4 and list(hook.seen) == [IDENTITY]


def test_a_webhook_gets_the_report_as_it_stands(news: Message) -> None:
    with http_server(Hook()) as hook:
        targets = {
            "apprise": f"json://bot:{{TOKEN}}@127.0.0.1:{hook.port}/in?+X-Team=ml",
            "plain": f"http://bot:{{TOKEN}}@127.0.0.1:{hook.port}/hook?channel=ml",
        }
        sent = here(news, targets, environ=ENVIRON)
        assert sent.reached == ("apprise", "plain"), said(sent)
    assert sorted(hook.paths) == ["/hook?channel=ml", "/in"]
    for headers, body in zip(hook.headers, hook.bodies, strict=True):
        assert headers["Idempotency-Key"] == IDENTITY
        assert headers["Authorization"] == "Basic Ym90OnRvay1lbi81Njc4"  # bot:tok-en/5678
        assert body["schema"] == "mldeploy.notice/1" and body["id"] == IDENTITY
        assert body["title"] == news.title and body["type"] == "success"
        assert body["report"] == json.loads(msgspec.json.encode(launch()))
    assert "ml" in {headers.get("X-Team") for headers in hook.headers}


@pytest.mark.parametrize("tls", ["", "starttls", "ssl"])
def test_a_login_with_any_password_over_any_connection(
    news: Message, tls: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mail_server(Mailbox(user="bot", password=PASSWORD), tls=tls) as box:
        kind = {"": "mailto://", "starttls": "mailtos://", "ssl": "mailtos://"}[tls]
        mode = f"&mode={tls}" if tls else ""
        url = f"{kind}bot:{{SMTP_PASSWORD}}@localhost:{box.port}/ops@example.com?from=m@example.com{mode}"
        refused = here(news, {"ops": url}, environ=ENVIRON)
        monkeypatch.setenv("SSL_CERT_FILE", str(TLS / "ca.pem"))
        sent = here(news, {"ops": url})
    assert sent.reached == ("ops",), said(sent)
    assert set(box.logins) == {("bot", PASSWORD)}
    if tls:  # nobody vouches for the server: no password is sent to it
        assert "no safe connection" in refused.failed["ops"].message
        assert len(box.logins) == 1


def test_a_refused_login_and_a_missing_secret_say_what_to_mend_and_no_secret(news: Message) -> None:
    with mail_server(Mailbox(user="bot", password="another")) as box:
        url = mailto(box, user="bot:{SMTP_PASSWORD}@")
        refused = here(news, {"ops": url}, environ=ENVIRON).failed["ops"]
        literal = here(news, {"ops": mailto(box, user="bot:hunter2-literal@")}, environ=ENVIRON)
        missing = here(news, {"ops": mailto(box, user="bot:{NO_SUCH}@")}, environ=ENVIRON).failed["ops"]
    assert "refused the user name or password" in refused.message and refused.hint
    assert f"{PREFIX}NO_SUCH is not set" in missing.message and "operations.md" in missing.hint
    assert PASSWORD not in f"{refused} {refused.hint}" and "hunter2-literal" not in said(literal)
    assert box.mails == []


def test_a_policy_cannot_ask_for_the_hosts_other_variables(news: Message) -> None:
    with http_server(Hook()) as hook:
        url = f"http://127.0.0.1:{hook.port}/{{AWS_SECRET_ACCESS_KEY}}"
        sent = here(news, {"thief": url}, environ=ENVIRON)
    assert "is not set" in sent.failed["thief"].message and hook.paths == []


def test_secrets_are_hidden_in_whatever_form_they_are_told() -> None:
    secrets = Secrets({f"{PREFIX}PW": "s3cr3t/+ü", "OTHER": "visible"})
    filled = secrets.fill("mailto://u:{PW}@h/{PW}")
    assert filled == "mailto://u:s3cr3t%2F%2B%C3%BC@h/s3cr3t%2F%2B%C3%BC"
    for told in (filled, "s3cr3t/+ü", "auth czNjcjN0LyvDvA==", "s3cr3t/%2B%C3%BC"):
        hidden = secrets.hide(f"it said {told}")
        assert "s3cr3t" not in hidden and "czNjcjN0" not in hidden
    assert secrets.hide("visible\r\n line") == "visible line"
    secrets.fill("mailto://u:in%20the%20url@h/")
    assert "in the url" not in secrets.hide("bad login: in the url, in%20the%20url")


def test_one_of_two_targets_fails_and_the_other_is_reached(news: Message) -> None:
    with http_server(Hook()) as hook:
        down = f"mailto://127.0.0.1:{closed_port()}/ops@example.com?from=m@example.com"
        sent = deliver(news, {"ops": down, "hook": f"http://127.0.0.1:{hook.port}/"}, environ=ENVIRON)
    assert sent.reached == ("hook",) and set(sent.failed) == {"ops"}
    assert "cannot be reached" in sent.failed["ops"].message and sent.failed["ops"].hint


@pytest.mark.parametrize(("status", "hint"), [(500, "tried again"), (401, "the policy's URL"), (302, "")])
def test_what_a_receiver_answers_is_an_error_and_redirects_are_not_followed(
    news: Message, status: int, hint: str
) -> None:
    with http_server(Hook(statuses=[status])) as hook:
        url = f"http://127.0.0.1:{hook.port}/hook/{{TOKEN}}"
        failed = here(news, {"hook": url, "apprise": url.replace("http", "json")}, environ=ENVIRON).failed
    assert f"answered {status}" in failed["hook"].message and hint in failed["hook"].hint
    assert str(status) in failed["apprise"].message or status == 302
    assert all("tok-en" not in f"{error} {error.hint}" for error in failed.values())
    assert hook.paths.count("/elsewhere") == 0 or status == 302


def test_a_server_that_is_down_and_then_up_gets_the_same_mail(news: Message) -> None:
    port = closed_port()
    url = {"ops": f"mailto://127.0.0.1:{port}/ops@example.com?from=m@example.com"}
    assert set(here(news, url, environ=ENVIRON).failed) == {"ops"}
    with mail_server(Mailbox(), port=port) as box:
        assert here(news, url, environ=ENVIRON).reached == ("ops",)
    assert box.mails[0]["Message-ID"] == f"<{IDENTITY}>"


def test_a_target_that_never_answers_ends_with_the_time_and_the_others_count(news: Message) -> None:
    with socket.socket() as silent, http_server(Hook()) as hook:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1]
        targets = {
            "silent": f"mailto://127.0.0.1:{port}/ops@example.com?from=m@example.com",
            "hook": f"http://127.0.0.1:{hook.port}/",
        }
        sent = deliver(news, targets, environ=ENVIRON, time=12.0)
    assert sent.reached == ("hook",)
    assert "no answer within 12 s" in sent.failed["silent"].message


def test_a_recipient_that_is_refused_does_not_keep_the_mail_from_the_others(news: Message) -> None:
    with mail_server(Mailbox(refuse=("team@example.com",))) as box:
        sent = here(news, {"ops": mailto(box)}, environ=ENVIRON)
        assert sent.reached == ("ops",) and "team@example.com" in sent.notes["ops"]
        box.refuse = ("team@example.com", "ops@example.com")
        failed = here(news, {"ops": mailto(box)}, environ=ENVIRON).failed["ops"]
    assert "refused every recipient" in failed.message and len(box.mails) == 1


def test_a_recipient_that_is_put_off_is_tried_again_and_the_others_get_no_second_mail(news: Message) -> None:
    with mail_server(Mailbox(put_off=("team@example.com",))) as box:
        sent = deliver(news, {"ops": mailto(box)}, environ=ENVIRON)
        assert sent.reached == () and "team@example.com (450" in sent.failed["ops"].message
        assert box.recipients == [["ops@example.com"]] and sent.took == (mark("Ops@example.com"),)
        again = msgspec.structs.replace(news, had=sent.took)
        still = here(again, {"ops": mailto(box)})
        assert "team@example.com (450" in still.failed["ops"].message and still.took == ()
        box.put_off = ()
        assert here(again, {"ops": mailto(box)}).reached == ("ops",)
    assert box.recipients[1:] == [["team@example.com"]]
    assert box.mails[0]["Message-ID"] == box.mails[1]["Message-ID"]


def test_a_recipient_that_is_put_off_and_then_refused_is_done_with(news: Message) -> None:
    with mail_server(Mailbox(refuse=("team@example.com",))) as box:
        sent = here(msgspec.structs.replace(news, had=(mark("ops@example.com"),)), {"ops": mailto(box)})
    assert sent.reached == ("ops",) and "team@example.com" in sent.notes["ops"] and box.mails == []


def test_a_mail_that_was_taken_has_arrived_whatever_the_server_says_to_the_goodbye(news: Message) -> None:
    with mail_server(Mailbox(goodbye="421 too busy")) as box:
        sent = here(news, {"ops": mailto(box)}, environ=ENVIRON)
        assert sent.reached == ("ops",), said(sent)
        assert len(box.mails) == 1


@pytest.mark.parametrize(
    "url",
    [
        "nonsense://x",
        "mailto://mail.example.com",
        "json://",
        "mailto://h/a@b.com?from=x@y.com%0d%0aBcc:z@z.com",
    ],
)
def test_a_url_that_makes_no_sense(news: Message, url: str) -> None:
    failed = here(news, {"bad": url}, environ=ENVIRON).failed["bad"]
    assert failed.message and failed.hint


@pytest.mark.parametrize(
    "owner",
    ["team@example.com\r\nBcc: all@example.com", "a@b.com, c@d.com", "<x@y.com>", "the churn team", ""],
)
def test_an_owner_that_is_no_address_gets_no_mail(owner: str) -> None:
    report = launch()
    assert report.candidate is not None
    candidate = msgspec.structs.replace(report.candidate, owner=owner)
    made = message(msgspec.structs.replace(report, candidate=candidate, title="one\r\nBcc: two"), STORE)
    assert made.owner == "" and made.title == "one Bcc: two"
    with mail_server(Mailbox()) as box:
        assert here(made, {"ops": mailto(box)}, environ=ENVIRON).reached == ("ops",)
    (mail,) = box.mails
    assert (
        box.recipients == [["ops@example.com"]] and mail["Bcc"] is None and mail["Subject"] == "one Bcc: two"
    )


def test_only_one_of_two_mail_targets_writes_to_the_owner(news: Message) -> None:
    with mail_server(Mailbox()) as box:
        targets = {"a": mailto(box), "b": mailto(box, "other@example.com?from=m@example.com")}
        here(news, targets, environ=ENVIRON)
        assert sorted(map(sorted, box.recipients)) == [
            ["ops@example.com", "team@example.com"], ["other@example.com"],
        ]  # fmt: skip
        # the owner was reached with `a`: trying `b` again is not for the owner
        here(news, {"b": targets["b"]}, owner_at="a", environ=ENVIRON)
        assert box.recipients[-1] == ["other@example.com"]


def test_a_service_of_apprise_gets_a_few_lines(news: Message) -> None:
    with http_server(Hook(statuses=[200, 500])) as hook:
        url = f"mmost://127.0.0.1:{hook.port}/0123456789abcdefghijklmnop"
        sent = here(news, {"chat": url}, environ=ENVIRON)
        failed = here(news, {"chat": url}, environ=ENVIRON).failed["chat"]
    assert sent.reached == ("chat",), said(sent)
    assert "Step 2: 1% of the traffic" in str(hook.bodies[0])
    assert "Mattermost did not take it" in failed.message


def test_the_sender_is_not_loaded_where_nothing_is_sent() -> None:
    import subprocess
    import sys

    code = (
        "import sys, mldeploy.reporting.deliver, mldeploy.reporting.message; print('apprise' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
