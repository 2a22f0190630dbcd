"""`policy show`, `set` and `unset`: settings as people write them, and where each that counts is from.

Every setting has one text, which `set` reads and `show` prints. `notify.NAME` stands for one entry of
`notify`. Rules: what is secret never enters the log, so a URL with a password or a service's token in it is
refused; a placeholder stands there instead (`reporting/targets.py` fills it). Left out: names, types and what
counts (`core/policy.py`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

from mldeploy.client.connection import Connection
from mldeploy.client.environments import Warned, looked_at
from mldeploy.client.setting_texts import NOTIFY, parse_setting, reader, text_of
from mldeploy.client.types import Change, PolicySetting, PolicyShown
from mldeploy.core.policy import Settings, setting_problem, settings
from mldeploy.core.records import Action, Policy, Setting
from mldeploy.core.state import State
from mldeploy.core.types import check_name
from mldeploy.errors import UsageError

_TARGET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_PLACE = re.compile(r"\{[A-Za-z][A-Za-z0-9_]*\}")
#: Query parameters of Apprise and of webhooks whose values are secrets.
_SECRET_KEYS = frozenset(("pass", "password", "passwd", "pwd", "secret", "token", "apikey", "api_key", "key"))
#: URLs that do without any secret but a password, or a query parameter.
_PLAIN = ("mailto://", "mailtos://", "json://", "jsons://")


def show(at: Connection) -> PolicyShown:
    """See Client.policy."""
    state = looked_at(at)
    counts = settings(state, at.environment)
    shown = []
    for name in Settings.__struct_fields__:
        value = getattr(counts, name)
        shown.append(
            PolicySetting(name=name, value=value, text=text_of(name, value), source=_source(state, at, name))
        )
    return PolicyShown(
        store=at.settings.store, head=state.head, environment=at.environment, settings=tuple(shown)
    )


def _source(state: State, at: Connection, name: str) -> str:
    if name in state.policy.get(at.environment, {}):
        return "environment"
    return "store" if name in state.policy.get("", {}) else "default"


@dataclass(frozen=True, slots=True)
class SetPolicy:
    """Make these settings so in `environment` ("": all). None takes one back; `targets` are of `notify`."""

    environment: str
    settings: Mapping[str, Setting]
    targets: Mapping[str, str | None]

    def __call__(self, state: State) -> Sequence[Action]:
        there = state.policy.get(self.environment, {})
        wanted = dict(self.settings)
        if self.targets:
            wanted[NOTIFY] = self._notify(wanted.get(NOTIFY, there.get(NOTIFY)))
        changed = {name: value for name, value in wanted.items() if there.get(name) != value}
        return (Policy(environment=self.environment, settings=changed),) if changed else ()

    def _notify(self, before: Setting) -> Setting:
        urls = dict(before) if isinstance(before, dict) else {}
        for name, url in self.targets.items():
            if url is not None:
                urls[name] = url
            else:
                urls.pop(name, None)
        return urls or None


def set_policy(at: Connection, said: Mapping[str, str], environment: str, dry_run: bool) -> Change:
    """See Client.set_policy."""
    wanted: dict[str, Setting] = {}
    targets: dict[str, str | None] = {}
    for name, text in said.items():
        if name.startswith(f"{NOTIFY}."):
            targets[_target(name)] = _url(name, text)
        else:
            wanted[name] = parse_setting(name, text)
    return _write(at, SetPolicy(_environment(environment), wanted, targets), dry_run)


def unset_policy(at: Connection, names: Sequence[str], environment: str, dry_run: bool) -> Change:
    """See Client.unset_policy."""
    targets = {_target(name): None for name in names if name.startswith(f"{NOTIFY}.")}
    wanted: dict[str, Setting] = {name: None for name in names if not name.startswith(f"{NOTIFY}.")}
    for name in wanted:
        reader(name)
    return _write(at, SetPolicy(_environment(environment), wanted, targets), dry_run)


def _environment(name: str) -> str:
    return check_name(name, "environment name") if name else ""


def _write(at: Connection, intent: SetPolicy, dry_run: bool) -> Change:
    asked = Warned(intent, intent.environment)
    written = at.change(asked, dry_run=dry_run)
    named = [name for action in written.actions if isinstance(action, Policy) for name in action.settings]
    return at.told(
        written, dry_run, model="", version=None, environment=intent.environment or None,
        warnings=asked.warnings if intent.environment else _overridden(written.state, named),
    )  # fmt: skip


def _overridden(state: State, names: Sequence[str]) -> tuple[str, ...]:
    return tuple(
        f"{name} is set for {environment} by itself, and that counts there"
        for environment, there in sorted(state.policy.items())
        for name in names
        if environment and name in there
    )


def _target(name: str) -> str:
    target = name.removeprefix(f"{NOTIFY}.")
    if not _TARGET.fullmatch(target):
        raise UsageError(f"{name[:60]!r} names no target", "write for example notify.team=URL")
    return target


def _url(name: str, text: str) -> str:
    url = text.strip()
    problem = setting_problem(NOTIFY, {name.removeprefix(f"{NOTIFY}."): url})
    if problem:
        raise UsageError(f"{name}: this is no URL", problem[1])
    if _secret(url) or _of_a_service_with_secrets(url):
        # the URL itself is not repeated: it would be in the shell's log as well
        raise UsageError(
            f"{name}: the URL holds a secret, and everyone who reads the log could read it",
            "write a placeholder such as {SMTP_PASSWORD} in its place, and set MLDEPLOY_NOTIFY_SMTP_PASSWORD "
            "for mldeployd on the hosts",
        )
    return url


def _of_a_service_with_secrets(url: str) -> bool:
    """Whether a secret must stand there, as in most services' paths, and no placeholder does."""
    if _PLACE.search(url) or url.startswith(_PLAIN):
        return False
    from mldeploy.reporting.send import holds_secret  # it takes a second, for the few that come here

    return holds_secret(url)


def _secret(url: str) -> bool:
    """Whether a password, or a query parameter that is called one, stands there literally."""
    user = re.split("[/?#]", url.partition("://")[2], maxsplit=1)[0].rpartition("@")[0]
    password = user.partition(":")[2]
    if password and not _PLACE.fullmatch(password):
        return True
    named = [value for key, value in parse_qsl(urlsplit(url).query) if key.lower() in _SECRET_KEYS]
    return any(not _PLACE.fullmatch(value) for value in named)
