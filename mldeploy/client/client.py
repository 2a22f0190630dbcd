"""The Client: every command as a method, with typed results.

Rules: a Client opens nothing before its first call; doing again what is done succeeds and says so
(`already`); a dry run writes nothing and says what it would write. One Client is for one thread. Left out:
printing (`mldeploy.cli`); how each thing is done (the modules beside this one).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mldeploy.client import keeping
from mldeploy.client.connection import Connection, utc_now
from mldeploy.client.intents import Intent
from mldeploy.client.types import (
    Applied,
    Change,
    Collected,
    Expiring,
    History,
    Hosts,
    Inspected,
    ModelDetail,
    Packed,
    Plan,
    PolicyShown,
    Prediction,
    Pushed,
    Shadowed,
    Status,
    Validated,
    Waited,
    Which,
    Why,
)
from mldeploy.core.collection import GRACE
from mldeploy.core.types import ModelRef, check_name, parse_duration, parse_expiry, parse_moment
from mldeploy.progress import Reporter, Silent

if TYPE_CHECKING:
    from mldeploy.core.state import State
    from mldeploy.reporting.values import LaunchReport

Percent = int | float | str
Moment = str | datetime


class Client:
    """Works on one store and one environment.

    `store` is a URL or a folder; without it MLDEPLOY_STORE, the nearest mldeploy.toml or a local folder is
    taken, and `environment` likewise (default: production). `actor` is who is said to have done it
    (default: user@host). Every method raises StoreError where the store cannot be reached.
    """

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

    def create_store(self) -> None:
        """Make the store if there is none yet; `push` does it by itself. Raises StoreError and DiskError."""
        self._at.create_store()

    # --- bundles

    def pack(
        self,
        source: str | Path,
        *,
        name: str | None = None,
        owner: str | None = None,
        expires: str | None = None,
        out: str | Path | None = None,
        reporter: Reporter | None = None,
    ) -> Packed:
        """Make a bundle of a model folder. Raises ManifestError, BuildError, ValidationError, DiskError."""
        from mldeploy.client import bundles

        return bundles.pack(Path(source), name, owner, expires, out, reporter or Silent())

    def validate(
        self, source: str | Path, *, gates: Sequence[str] | None = None, reporter: Reporter | None = None
    ) -> Validated:
        """Run the gates over a bundle or a model folder. Findings are a result, not an error."""
        from mldeploy.client import bundles

        return bundles.validate(Path(source), gates, self._at.now(), reporter or Silent())

    def inspect(self, source: str | Path) -> Inspected:
        """What a bundle's folder, or a published `churn@7`, holds."""
        from mldeploy.client import bundles

        return bundles.inspect(self._at, str(source))

    def push(
        self,
        source: str | Path,
        *,
        name: str | None = None,
        owner: str | None = None,
        expires: str | None = None,
        promote: bool = False,
        to: Percent | None = None,
        steps: Sequence[Percent] | None = None,
        now: bool = False,
        dry_run: bool = False,
        reporter: Reporter | None = None,
    ) -> Pushed:
        """Publish a bundle (or a model folder, packed first) as the next version of its model.

        With `promote` the promote stands in the same record; `to`, `steps` and `now` are as in `promote`. The
        store is made if there is none. Raises ValidationError, NotAllowedError, IntegrityError, RaceLostError
        and OutcomeUnknownError.
        """
        from mldeploy.client import publishing, terms

        how = publishing.How(promote, terms.Wish(to, steps, now), dry_run, reporter or Silent())
        return publishing.push(self._at, Path(source), name, owner, expires, how)

    # --- traffic

    def promote(
        self,
        target: str,
        *,
        to: Percent | None = None,
        steps: Sequence[Percent] | None = None,
        now: bool = False,
        hold: int | str | None = None,
        guards: Sequence[str] | None = None,
        min_requests: int | None = None,
        deadline: int | str | None = None,
        source: str | None = None,
        dry_run: bool = False,
    ) -> Change:
        """Give `churn@7` traffic: `to` a percentage, by `steps`, or all `now`; else as the bundle's own
        rollout says, and where that says nothing, the policy.

        `steps` are percentages, and the first may be "shadow"; `hold` (at each step) and `deadline` seconds
        or durations (10m); `guards` texts such as "error_rate < 1%" (docs/rollouts.md); `min_requests` those
        of the candidate at each step. With `source` the target is a model, and the version is the one stable
        in that environment. Raises NotAllowedError where it is frozen, retired or expired, and UsageError.
        """
        from mldeploy.client import terms, traffic

        wish = terms.Wish(to, steps, now, hold, guards, min_requests, deadline)
        return traffic.promote(self._at, target, wish, source, dry_run)

    def rollback(
        self,
        model: str,
        *,
        to: int | None = None,
        freeze: bool = False,
        reason: str = "",
        dry_run: bool = False,
    ) -> Change:
        """End a running rollout; with none, make `to` (else the version before) stable."""
        from mldeploy.client import traffic

        return traffic.rollback(self._at, model, to, freeze, reason, dry_run)

    def pause(self, model: str, *, reason: str = "", dry_run: bool = False) -> Change:
        """Keep the model's rollout at its present share."""
        intent = keeping.HoldRollout(check_name(model), self.environment, True, reason)
        return self._change(intent, dry_run, model=model, environment=self.environment)

    def resume(self, model: str, *, dry_run: bool = False) -> Change:
        """Let the model's paused rollout go on."""
        intent = keeping.HoldRollout(check_name(model), self.environment, False)
        return self._change(intent, dry_run, model=model, environment=self.environment)

    def freeze(
        self, model: str | None = None, *, reason: str = "", until: str = "", dry_run: bool = False
    ) -> Change:
        """Refuse promotes of the model (None: of all). `until` is shown; `unfreeze` ends it."""
        name = check_name(model) if model else ""
        shown = parse_expiry(until, self._at.now()).isoformat() if until else ""
        intent = keeping.FreezeModel(name, self.environment, reason, shown)
        return self._change(intent, dry_run, model=name, environment=self.environment)

    def unfreeze(self, model: str | None = None, *, dry_run: bool = False) -> Change:
        """Allow promotes of the model (None: of all) again."""
        name = check_name(model) if model else ""
        intent = keeping.UnfreezeModel(name, self.environment)
        return self._change(intent, dry_run, model=name, environment=self.environment)

    def shadow(
        self,
        ref: str,
        *,
        fraction: Percent | None = None,
        where: str = "",
        lasts: int | str | None = None,
        keep: int = 0,
        dry_run: bool = False,
    ) -> Shadowed:
        """Copy live traffic to `churn@8` and compare its answers, which nobody gets, with those given.

        `fraction` is a percentage (all if None) of the requests that `where` chooses (all if empty);
        `lasts` seconds or a duration (7d; None: until `unshadow`); each host keeps `keep` pairs of answers
        for study. Called again on other terms, the shadow begins anew. Raises UsageError, for a
        bad `where` with a caret under the place, and NotAllowedError where the version takes traffic.
        """
        from mldeploy.client import shadowing

        terms = shadowing.asked(fraction, where, lasts, keep)
        return shadowing.shadow(self._at, ModelRef.parse(ref), terms, dry_run)

    def unshadow(self, ref: str, *, reason: str = "", dry_run: bool = False) -> Shadowed:
        """End the shadow of `churn@8`."""
        from mldeploy.client import shadowing

        return shadowing.unshadow(self._at, ModelRef.parse(ref), reason, dry_run)

    def plan(self, file: str | Path, *, prune: bool = False) -> Plan:
        """What `apply` would change. Raises what it raises, and writes nothing."""
        from mldeploy.client import planning

        return planning.plan(self._at, Path(file), prune)

    def apply(self, file: str | Path, *, prune: bool = False, dry_run: bool = False) -> Applied:
        """Make versions, rollouts, shadows and freezes as a YAML file says (docs/rollouts.md), in one record.

        With `prune`, what the file does not name in its environments serves there no more: its shadows and
        rollouts end and its stable version is retired. Raises ManifestError, NotAllowedError, NotFoundError.
        """
        from mldeploy.client import planning

        return planning.apply(self._at, Path(file), prune, dry_run)

    # --- policy

    def policy(self) -> PolicyShown:
        """The settings that count in this environment, and where each is from."""
        from mldeploy.client import policies

        return policies.show(self._at)

    def set_policy(
        self, settings: Mapping[str, str], *, environment: str = "", dry_run: bool = False
    ) -> Change:
        """Set settings of an environment ("": of all). Texts are as `mldeploy policy set` takes them.

        `notify.NAME` is one target of `notify`. Raises UsageError for a name or value that does not fit, and
        for a URL with a password or a service's token in it.
        """
        from mldeploy.client import policies

        return policies.set_policy(self._at, settings, environment, dry_run)

    def unset_policy(self, names: Sequence[str], *, environment: str = "", dry_run: bool = False) -> Change:
        """Take settings of an environment ("": of all) back, so that the next one counts."""
        from mldeploy.client import policies

        return policies.unset_policy(self._at, names, environment, dry_run)

    # --- lifetime

    def retire(self, ref: str, *, force: bool = False, reason: str = "", dry_run: bool = False) -> Change:
        """Take a version out for good. `warnings` says what that ends, and who was still asking for it.

        Raises NotAllowedError, with what would break, while it takes traffic, unless `force`.
        """
        from mldeploy.client import retiring

        return retiring.retire(self._at, ModelRef.parse(ref), force, reason, dry_run)

    def restore(self, ref: str, *, dry_run: bool = False) -> Change:
        """Make a retired version available again, while its files are in the store."""
        what = ModelRef.parse(ref)
        return self._change(keeping.RestoreVersion(what), dry_run, ref=what)

    def extend(self, ref: str, expires: str, *, dry_run: bool = False) -> Change:
        """Move a version's expiry: a date, or a duration from now. Raises UsageError for one in the past."""
        what, now = ModelRef.parse(ref), self._at.now()
        return self._change(keeping.ExtendTo(what, parse_expiry(expires, now), now.date()), dry_run, ref=what)

    def collect(
        self, *, grace: str | timedelta = GRACE, dry_run: bool = False, reporter: Reporter | None = None
    ) -> Collected:
        """Delete the files that only versions retired longer than `grace` ago needed, and what pushes that
        began before it and were cut off have left.

        Those versions cannot be restored any more. Safe while others push, at any `grace` down to 0. Raises
        StoreError where a delete fails; run it again then.
        """
        from mldeploy.client import collecting

        return collecting.collect(self._at, grace, dry_run, reporter or Silent())

    def _change(
        self,
        intent: Intent,
        dry_run: bool,
        *,
        ref: ModelRef | None = None,
        model: str = "",
        environment: str | None = None,
    ) -> Change:
        written = self._at.change(intent, dry_run=dry_run)
        return self._at.told(
            written,
            dry_run,
            model=ref.name if ref else model,
            version=ref.version if ref else None,
            environment=environment,
        )

    # --- looking

    def status(self, *, at: Moment | None = None) -> Status:
        """Every model in every environment, and the hosts.

        `at`: as it was then, by the store's clock, from the log alone: what hosts said then is not kept. A
        text is RFC 3339, a date, or a duration ago (`2h`).
        """
        from mldeploy.client import looking

        return looking.status(self._at, self._moment(at))

    def expiring(self, within: str | timedelta = "30d") -> Expiring:
        """The versions, not retired, that expire within a duration (whole days), or have expired."""
        from mldeploy.client import looking

        span = parse_duration(within) if isinstance(within, str) else within
        return looking.expiring(self._at, span.days)

    def model_status(self, model: str, *, at: Moment | None = None) -> ModelDetail:
        """One model: where it serves, and its versions; `at` as in `status`."""
        from mldeploy.client import looking

        return looking.model_status(self._at, check_name(model), self._moment(at))

    def history(
        self,
        model: str | None = None,
        *,
        actor: str | None = None,
        since: Moment | None = None,
        until: Moment | None = None,
        limit: int = 30,
    ) -> History:
        """The last records (that concern the model; by this actor, a name or a glob), newest first.

        `since` and `until` are as `at` in `status`, and compared with when the store took a record.
        """
        from mldeploy.client import past

        asked = past.Asked(
            check_name(model) if model else None, actor, self._moment(since), self._moment(until), limit
        )
        return past.history(self._at, asked)

    def _moment(self, text: Moment | None) -> datetime | None:
        if text is None:
            return None
        if isinstance(text, str):
            return parse_moment(text, self._at.now())
        return text.replace(tzinfo=UTC) if text.tzinfo is None else text

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

        return hosting.list_hosts(self._at, check_name(environment) if environment else None)

    def forget_host(self, host: str, *, dry_run: bool = False) -> Change:
        """Take a host (a hostname, or the start of an id) out of the members.

        Raises NotAllowedError for a live one, which would join again, and NotFoundError.
        """
        from mldeploy.client import hosting

        return hosting.forget(self._at, host, dry_run)

    def drain_host(self, host: str, *, reason: str = "", dry_run: bool = False) -> Change:
        """Have a host (a hostname, or the start of an id) take no traffic, until `undrain_host`.

        It says so to load balancers, and answers what still comes. Rollouts and `wait` do not wait for it. It
        stays so over restarts. Raises NotFoundError, and NotAllowedError for one that is no member.
        """
        from mldeploy.client import hosting

        return hosting.drain(self._at, host, reason, dry_run)

    def undrain_host(self, host: str, *, dry_run: bool = False) -> Change:
        """Have a host (a hostname, or the start of an id) take traffic again. Raises NotFoundError."""
        from mldeploy.client import hosting

        return hosting.undrain(self._at, host, dry_run)

    def why(self, host: str, model: str | None = None) -> Why:
        """Why a host (a hostname, or the start of an id) serves what it serves, by its last report."""
        from mldeploy.client import looking

        return looking.why(self._at, host, check_name(model) if model else None)

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
        100 %). `timeout` in seconds; None: ten minutes, and the rollout's deadline. Raises RolloutHaltedError
        where a host says that the version failed or the rollout was halted, and WaitTimeoutError naming what
        has not arrived.
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
        timeout: float = 30.0,
    ) -> Prediction:
        """Ask a daemon. `data`: a request (dict), rows (list or array), a file's path or "-"; None: the
        sample.

        `url` is by default a live host's. Raises PredictionError.
        """
        from mldeploy.client import predicting

        call = predicting.prepare(self._at, check_name(model), data, url, version)
        return predicting.send(call, timeout)

    def curl(
        self, model: str, data: Any = None, *, url: str | None = None, version: str | int | None = None
    ) -> str:
        """The curl line of that prediction."""
        from mldeploy.client import predicting

        return predicting.curl(predicting.prepare(self._at, check_name(model), data, url, version))
