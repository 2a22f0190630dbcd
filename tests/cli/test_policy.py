"""`mldeploy policy`: what counts and where it is from, set and unset, and no secret in the log."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mldeploy.client import Client
from mldeploy.client.setting_texts import parse_setting, text_of
from mldeploy.core.policy import Settings, settings
from mldeploy.store.tail import record_key

from .conftest import Ran, World

Cli = Callable[..., Ran]


def policy(world: World) -> dict[str, dict[str, object]]:
    world.log.refresh()
    return dict(world.log.state.policy)


def rows(ran: Ran) -> dict[str, tuple[str, str]]:
    cells = [line.split("\t") for line in ran.out.splitlines()]
    return {name: (value, source) for name, value, source in cells}


def test_every_default_has_a_text_that_is_read_back() -> None:
    for name in Settings.__struct_fields__:
        value = getattr(Settings(), name)
        if name == "notify":
            continue  # set target by target
        assert parse_setting(name, text_of(name, value)) == value, name


def test_a_setting_has_one_value(world: World, cli: Cli) -> None:
    ran = cli("policy", "set", "hold=1h", "steps=10,100", "hold=2h")
    assert (ran.code, "error: hold is set twice" in ran.err, policy(world)) == (2, True, {})


def test_what_counts_and_where_it_is_from(world: World, cli: Cli) -> None:
    assert rows(cli("policy", "show"))["hold"] == ("10m", "default")
    assert cli("policy", "set", "hold=30m", "min_requests=500").code == 0
    assert cli("policy", "set", "hold=5m", "steps=shadow,1,10,100", "-e", "staging").code == 0
    assert rows(cli("policy", "show"))["hold"] == ("30m", "policy of the store")
    there = rows(cli("policy", "show", "--environment", "staging"))
    assert there["hold"] == ("5m", "policy of staging")
    assert there["steps"] == ("shadow,1%,10%,100%", "policy of staging")
    assert there["min_requests"] == ("500", "policy of the store")
    document = cli("policy", "show", "-e", "staging", "--json").document
    assert document["schema"] == "mldeploy.policy/1"
    by_name = {each["name"]: each for each in document["settings"]}
    assert by_name["steps"]["value"] == [0, 100, 1000, 10000]
    assert by_name["steps"]["source"] == "environment"
    world.log.refresh()
    assert settings(world.log.state, "staging").hold == 300


def test_set_again_and_unset_again_write_nothing(world: World, cli: Cli) -> None:
    for call in (
        ("set", "hold=30m", "guards=p99 < 1.2x; error_rate < 1%"),
        ("set", "hold=1h", "-e", "staging"),
        ("unset", "hold", "guards"),
        ("unset", "hold", "-e", "staging"),
    ):
        before = world.head()
        assert "would " in cli("policy", *call, "--dry-run").err
        assert world.head() == before
        assert cli("policy", *call).code == 0
        again = cli("policy", *call, "--json").document
        assert (again["already"], again["seq"], world.head()) == (True, None, before + 1)
        assert again["schema"] == f"mldeploy.policy-{call[0]}/1"
    assert policy(world) == {}


def test_a_setting_that_an_environment_has_by_itself_is_warned_of(world: World, cli: Cli) -> None:
    cli("policy", "set", "hold=5m", "-e", "staging")
    ran = cli("policy", "set", "hold=30m")
    assert "hold is set for staging by itself" in ran.err


def test_targets_are_set_one_by_one(world: World, cli: Cli) -> None:
    cli("policy", "set", "notify.team=mailtos://bot:{SMTP_PASSWORD}@mail.example.com?to=a@example.com")
    cli("policy", "set", "notify.chat=json://chat.example.com/{TOKEN}")
    assert set(policy(world)[""]["notify"]) == {"team", "chat"}  # type: ignore[call-overload]
    assert cli("policy", "unset", "notify.team").code == 0
    assert set(policy(world)[""]["notify"]) == {"chat"}  # type: ignore[call-overload]
    assert "notify (chat)" in cli("history").out
    assert "{TOKEN}" not in cli("history").out
    cli("policy", "unset", "notify.chat")
    assert policy(world) == {}


@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")  # Apprise
@pytest.mark.parametrize(
    "url",
    [
        "mailtos://bot:hunter2@mail.example.com",
        "mailtos://bot:{A}x@mail.example.com",
        "json://example.com/?token=hunter2",
        "mailto://mail.example.com?to=a@example.com&pass=hunter2",
        "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7hunter2/#ops",
        "https://hooks.slack.com/services/T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ",
        "tgram://123456789:abcdefghijklmnopqrstuvwxyz_hunter2/12345",
    ],
)
def test_a_literal_secret_never_enters_the_log(world: World, cli: Cli, url: str) -> None:
    head = world.head()
    ran = cli("policy", "set", f"notify.team={url}")
    assert ran.code == 2
    assert "MLDEPLOY_NOTIFY_" in ran.err
    assert "hunter2" not in ran.err
    assert world.head() == head
    assert world.store.get(record_key(head + 1)) is None


def test_a_port_and_an_address_are_no_password(world: World, cli: Cli) -> None:
    assert cli("policy", "set", "notify.team=mailto://mail.example.com:25?to=a@example.com").code == 0


@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")  # Apprise
@pytest.mark.parametrize(
    "url",
    [
        "slack://{TOKEN_A}/{TOKEN_B}/{TOKEN_C}/#ops",
        "https://hooks.slack.com/services/{SLACK}",
        "https://hooks.example.com/path",
        "syslog://",
        "nobody-knows-this://host/path",
    ],
)
def test_what_holds_no_secret_is_taken(world: World, cli: Cli, url: str) -> None:
    ran = cli("policy", "set", f"notify.team={url}")
    assert ran.code == 0 and "apprise" not in ran.err.lower(), ran.err
    assert policy(world)[""]["notify"] == {"team": url}


@pytest.mark.parametrize(
    ("call", "error", "hint"),
    [
        (("set", "hodl=5m"), "no setting 'hodl'", "did you mean hold?"),
        (("set", "hold"), "'hold' is not KEY=VALUE", "hold=30m"),
        (("set", "hold=soon"), "hold: 'soon' is not a duration", "90d"),
        (("set", "steps=50,10"), "steps", "larger"),
        (("set", "steps=a"), "steps: 'a' is not a percentage", "0 to 100"),
        (("set", "min_requests=many"), "min_requests: 'many' is not a count", "200"),
        (("set", "host_ttl=5s"), "host_ttl", "1m"),
        (("set", "notify=x"), "notify: is set one by one", "notify.team="),
        (("set", "notify.team=nowhere"), "notify.team: this is no URL", "Apprise"),
        (("set", "hold=5m", "-e", "Not One"), "not a valid environment name", "a-z"),
        (("unset", "hodl"), "no setting 'hodl'", "did you mean hold?"),
        (("shwo",), "no such command: 'shwo'", "did you mean `mldeploy policy show`?"),
    ],
)
def test_what_makes_no_sense_is_refused(
    world: World, cli: Cli, call: tuple[str, ...], error: str, hint: str
) -> None:
    head = world.head()
    ran = cli("policy", *call)
    lines = ran.err.splitlines()
    assert (ran.code, len(lines)) == (2, 2), ran
    assert error in lines[0]
    assert hint in lines[1]
    assert world.head() == head


def test_a_bad_guard_is_pointed_to(world: World, cli: Cli) -> None:
    ran = cli("policy", "set", "guards=speed < 1x")
    assert ran.code == 2
    assert "not something that is measured" in ran.err


def test_help_lists_the_commands_and_options_stand_anywhere(world: World, cli: Cli) -> None:
    shown = cli("policy", "--help").out
    assert [word in shown for word in ("show", "set", "unset", "Global options")] == [True] * 4
    assert cli("policy", "--json", "show").document["schema"] == "mldeploy.policy/1"
    assert cli("--json", "policy", "show").document["schema"] == "mldeploy.policy/1"
    assert cli("policy").code == 2


def test_from_python(world: World) -> None:
    client = Client(world.url, environment="staging")
    assert client.set_policy({"hold": "1m"}, environment="staging").environment == "staging"
    by_name = {setting.name: setting for setting in client.policy().settings}
    assert (by_name["hold"].value, by_name["hold"].source) == (60, "environment")


@pytest.mark.parametrize(
    ("setting", "message", "hint"),
    [
        ("steps=10,1", "steps: the steps do not grow", "larger than the one before"),
        ("steps=shadow", "steps: a shadow step alone gives no traffic", "shadow,100"),
        ("steps=1,shadow", "steps: a shadow step can only be the first", "shadow,1,10"),
        ("guards=p99 <", "guards: not a number, at character 6\n  p99 <\n       ^", "p99 < 80ms"),
        ("guards=none;p99 < 1s", "guards: 'none' stands for no guard at all", "leave it out, or all others"),
        ("host_ttl=1s", "host_ttl: '1s' does not fit", "write 1m to 366d"),
        ("deadline=0", "deadline: '0' does not fit", "write 1s to 366d"),
        ("shadow_fraction=0", "shadow_fraction: '0' does not fit", "write 0.01% to 100%"),
        ("warn=0d", "warn: '0d' does not fit", "days before the expiry"),
    ],
)
def test_what_does_not_fit_is_said_in_the_words_it_was_written_in(
    world: World, cli: Cli, setting: str, message: str, hint: str
) -> None:
    ran = cli("policy", "set", setting)
    assert (ran.code, message in ran.err, hint in ran.err) == (2, True, True), ran.err
    assert policy(world) == {}
