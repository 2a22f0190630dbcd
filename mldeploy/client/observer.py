"""The half of a Client that looks: nothing of it changes the state.

Rules and what is left out are the Client's (`client.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mldeploy.client.connection import Connection, utc_now
from mldeploy.client.types import (
    Expiring,
    History,
    Hosts,
    Inspected,
    ModelDetail,
    Plan,
    PolicyShown,
    Prediction,
    Status,
    Waited,
    Which,
    Why,
)
from mldeploy.core.records import format_time
from mldeploy.core.types import ModelRef, check_name, parse_duration, parse_moment
from mldeploy.errors import UsageError
from mldeploy.progress import Reporter, Silent

if TYPE_CHECKING:
    from mldeploy.core.state import State
    from mldeploy.reporting.values import LaunchReport

Moment = str | datetime
#: By so much this machine's clock may be behind the store's.
CLOCKS = timedelta(minutes=5)


class Observer:
    """See Client."""

    def __init__(
        self,
        store: str | None = None,
        *,
        environment: str | None = None,
        actor: str | None = None,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._at = Connection(store, environment, actor, now)

    @property
    def store(self) -> str:
        """The URL of the store."""
        return self._at.settings.store

    @property
    def environment(self) -> str:
        """The environment that is meant."""
        return self._at.environment

    @property
    def state(self) -> State:
        """The state at the head of the log, read now."""
        return self._at.refresh()

    def inspect(self, source: str | Path) -> Inspected:
        """What a bundle's folder, or a published `churn@7`, holds."""
        from mldeploy.client import bundles

        return bundles.inspect(self._at, str(source))

    def policy(self) -> PolicyShown:
        """The settings that count in this environment, and where each is from."""
        from mldeploy.client import policies

        return policies.show(self._at)

    def plan(self, file: str | Path, *, prune: bool = False) -> Plan:
        """What `apply` would change. Raises what it raises, and writes nothing."""
        from mldeploy.client import planning

        return planning.plan(self._at, Path(file), prune)

    def status(self, *, at: Moment | None = None, environment: str | None = None) -> Status:
        """Every model in every environment (or in one), and the hosts.

        `at`: as it was then, by the store's clock, from the log alone: what hosts said then is not kept. A
        text is RFC 3339, a date, or a duration ago (`2h`).
        """
        from mldeploy.client import looking

        return looking.status(self._at, self._moment(at), environment)

    def expiring(self, within: str | timedelta = "30d") -> Expiring:
        """The versions, not retired, that expire within a duration (begun days count), or have expired."""
        from mldeploy.client import looking

        span = parse_duration(within) if isinstance(within, str) else within
        return looking.expiring(self._at, -(-span // timedelta(days=1)))

    def model_status(
        self, model: str, *, at: Moment | None = None, environment: str | None = None
    ) -> ModelDetail:
        """One model: where it serves (or how in one environment), and its versions; `at` as in `status`."""
        from mldeploy.client import looking

        return looking.model_status(self._at, check_name(model), self._moment(at), environment)

    def history(
        self,
        model: str | None = None,
        *,
        actor: str | None = None,
        since: Moment | None = None,
        until: Moment | None = None,
        limit: int = 30,
        environment: str | None = None,
    ) -> History:
        """The last records (that concern the model; by this actor, a name or a glob), newest first.

        With `environment` those that are about others alone are left out.
        `since` and `until` are as `at` in `status`, and compared with when the store took a record.
        """
        from mldeploy.client import past

        begin, end = self._moment(since), self._moment(until, ahead=True)
        if begin is not None and end is not None and end < begin:
            raise UsageError(
                f"it ends ({format_time(end)}) before it begins ({format_time(begin)})",
                "a duration such as 2h is a time ago: --since 2h --until 1h",
            )
        name = check_name(model) if model is not None else None
        asked = past.Asked(name, actor, begin, end, limit, environment)
        return past.history(self._at, asked)

    def _moment(self, said: Moment | None, *, ahead: bool = False) -> datetime | None:
        """The time that is meant. Raises UsageError where it makes no sense, or lies ahead unless it may."""
        if said is None:
            return None
        now = self._at.now()
        found = parse_moment(said, now) if isinstance(said, str) else said
        found = found.replace(tzinfo=UTC) if found.tzinfo is None else found
        if not ahead and found > now + CLOCKS:
            raise UsageError(
                f"{format_time(found)} lies ahead", "what is yet to come is not in the log; times are UTC"
            )
        return found

    def report(self, ref: str) -> LaunchReport:
        """How a version (`churn@8`) did beside stable: its rollout or shadow under way, or its last one.

        Of one under way it says what the hosts have measured up to now. Raises NotFoundError where there was
        none in this environment, or others since so that the log alone remembers it.
        """
        from mldeploy.client import reporting

        return reporting.report(self._at, ModelRef.parse(ref))

    def which(self, model: str, key: str, *, at: Moment | None = None) -> Which:
        """The version that a routing key gets, by the log (`at`, as in `status`) and the fronts' hash."""
        from mldeploy.client import which

        return which.which(self._at, check_name(model), key, self._moment(at))

    def hosts(self, environment: str | None = None) -> Hosts:
        """The members of an environment (None: of all) and what each last said of itself."""
        from mldeploy.client import hosting

        name = check_name(environment, "environment name") if environment is not None else None
        return hosting.list_hosts(self._at, name)

    def why(self, host: str, model: str | None = None, *, environment: str | None = None) -> Why:
        """Why a host (a hostname, or the start of an id; of `environment`, if given) serves what it serves,
        by its last report.
        """
        from mldeploy.client import looking

        name = check_name(model) if model is not None else None
        return looking.why(self._at, host, name, environment)

    def wait(
        self,
        model: str,
        *,
        seq: int | None = None,
        timeout: float | None = None,
        reporter: Reporter | None = None,
    ) -> Waited:
        """Wait until every live host serves what the log says of the model at record `seq` (default: the
        head).

        A rollout that the record began, or that is under way, is followed to its end (or to a last step below
        100 %). `timeout` in seconds; None: ten minutes, and the rollout's deadline. Raises NotFoundError and
        UsageError for a record that is not there or says nothing of the model here, RolloutHaltedError where
        a host says that the version failed or the rollout was halted, and WaitTimeoutError naming what has
        not arrived.
        """
        from mldeploy.client import waiting

        return waiting.wait(self._at, check_name(model), seq, timeout, reporter or Silent())

    # --- predictions

    def predict(
        self,
        model: str,
        data: Any = None,
        *,
        url: str | None = None,
        version: str | int | None = None,
        timeout: float | None = None,
    ) -> Prediction:
        """Ask a daemon. `data`: a request (dict), rows (list or array), a file's path or "-"; None: the
        sample.

        `url` is by default a live host's; `timeout` in seconds, None: 30. Raises PredictionError.
        """
        from mldeploy.client import predicting

        call = predicting.prepare(self._at, check_name(model), data, url, version)
        return predicting.send(call, predicting.TIMEOUT if timeout is None else timeout)

    def curl(
        self,
        model: str,
        data: Any = None,
        *,
        url: str | None = None,
        version: str | int | None = None,
        timeout: float | None = None,
    ) -> str:
        """The curl line of that prediction; None: it waits as long as it takes."""
        from mldeploy.client import predicting

        return predicting.curl(predicting.prepare(self._at, check_name(model), data, url, version), timeout)
