"""The Client: every command as a method, with typed results. Those that change nothing are in `observer.py`.

Rules: a Client opens nothing before its first call; doing again what is done succeeds and says so
(`already`); a dry run writes nothing and says what it would write. One Client is for one thread. Left out:
printing (`mldeploy.cli`); how each thing is done (the modules beside this one).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from mldeploy.client import keeping
from mldeploy.client.environments import Warned
from mldeploy.client.intents import Intent
from mldeploy.client.observer import Moment as Moment
from mldeploy.client.observer import Observer
from mldeploy.client.types import (
    Applied,
    Change,
    Collected,
    Extended,
    HostChange,
    HostWaited,
    Packed,
    Promoted,
    Pushed,
    Shadowed,
    Validated,
)
from mldeploy.core.collection import GRACE
from mldeploy.core.types import ModelRef, check_name, parse_expiry
from mldeploy.progress import Reporter, Silent

if TYPE_CHECKING:
    from mldeploy.client.terms import RolloutTerms

Percent = int | float | str


class Client(Observer):
    """Works on one store and one environment.

    `store` is a URL or a folder; without it MLDEPLOY_STORE, the nearest mldeploy.toml or a local folder is
    taken, and `environment` likewise (default: production). `actor` is who is said to have done it
    (default: user@host). Every method raises StoreError where the store cannot be reached.
    """

    def create_store(self, *, dry_run: bool = False, reporter: Reporter | None = None) -> Change:
        """Make the store if there is none yet; `push` does it by itself, where it may.

        Raises StoreError, for one that fails its probe as well, and DiskError.
        """
        made = self._at.create_store(reporter, dry_run=dry_run)
        actions = (f"make the store {self.store}",) if made else ()
        return Change(store=self.store, already=not made, dry_run=dry_run, actions=actions)

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

    def push(
        self,
        source: str | Path,
        *,
        name: str | None = None,
        owner: str | None = None,
        expires: str | None = None,
        promote: bool = False,
        dry_run: bool = False,
        reporter: Reporter | None = None,
        **rollout: Unpack[RolloutTerms],
    ) -> Pushed:
        """Publish a bundle (or a model folder, packed first) as the next version of its model.

        With `promote` the promote stands in the same record, on the terms of `rollout` as in `promote`. The
        store is made if there is none. Raises ValidationError, NotAllowedError, IntegrityError, RaceLostError
        and OutcomeUnknownError.
        """
        from mldeploy.client import publishing, terms

        how = publishing.How(promote, terms.Wish(**rollout), dry_run, reporter or Silent())
        return publishing.push(self._at, Path(source), name, owner, expires, how)

    # --- traffic

    def promote(
        self,
        target: str,
        *,
        source: str | None = None,
        dry_run: bool = False,
        **rollout: Unpack[RolloutTerms],
    ) -> Promoted:
        """Give `churn@7` traffic: `to` a percentage, by `steps`, or all `now`, on hosts with the labels `on`;
        else as the bundle's own rollout says, and where that says nothing, the policy.

        `rollout` is any of the fields of `mldeploy.client.terms.RolloutTerms`. With `source` the target is a
        model, and the version is the one stable in that environment. Raises NotAllowedError where it is
        frozen, retired or expired, and UsageError.
        """
        from mldeploy.client import terms, traffic

        return traffic.promote(self._at, target, terms.Wish(**rollout), source, dry_run)

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
        """Refuse promotes of the model (None: of all). `until`, a day ahead, is shown; `unfreeze` ends it."""
        name = _model_or_all(model)
        now = self._at.now()
        day = parse_expiry(until, now) if until else None
        intent = keeping.FreezeModel(name, self.environment, reason, day, now.date())
        return self._change(intent, dry_run, model=name, environment=self.environment)

    def unfreeze(self, model: str | None = None, *, dry_run: bool = False) -> Change:
        """Allow promotes of the model (None: of all) again."""
        name = _model_or_all(model)
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

    def apply(self, file: str | Path, *, prune: bool = False, dry_run: bool = False) -> Applied:
        """Make versions, rollouts, shadows and freezes as a YAML file says (docs/rollouts.md), in one record.

        With `prune`, what the file does not name in its environments serves there no more: its shadows and
        rollouts end and its stable version is retired. Raises ManifestError, NotAllowedError, NotFoundError.
        """
        from mldeploy.client import planning

        return planning.apply(self._at, Path(file), prune, dry_run)

    # --- policy

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
        """Make a retired version available again, while its files are in the store.

        `warnings` says so where its expiry has passed: then it will not stay for long unless it is extended.
        """
        from mldeploy.client import retiring

        return retiring.restore(self._at, ModelRef.parse(ref), dry_run)

    def extend(self, ref: str, expires: str, *, dry_run: bool = False) -> Extended:
        """Move a version's expiry: a date, or a duration from now. Raises UsageError for one in the past.

        `warnings` says so where it is sooner than before.
        """
        from mldeploy.client import retiring

        return retiring.extend(self._at, ModelRef.parse(ref), expires, dry_run)

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
        model: str = "",
        environment: str | None = None,
    ) -> Change:
        asked = Warned(intent, environment or "")
        written = self._at.change(asked, dry_run=dry_run)
        return self._at.told(
            written, dry_run, model=model, version=None, environment=environment, warnings=asked.warnings
        )

    # --- hosts

    def forget_host(self, host: str, *, environment: str | None = None, dry_run: bool = False) -> HostChange:
        """Take a host (a hostname, or the start of an id; of `environment`, if given) out of the members.

        Raises NotAllowedError for a live one, which would join again, and NotFoundError.
        """
        from mldeploy.client import hosting

        return hosting.forget(self._at, host, dry_run, environment)

    def drain_host(
        self, host: str, *, environment: str | None = None, reason: str = "", dry_run: bool = False
    ) -> HostChange:
        """Have a host (as in `forget_host`) take no traffic, until `undrain_host`.

        It says so to load balancers, and answers what still comes. Rollouts and `wait` do not wait for it. It
        stays so over restarts. Raises NotFoundError, and NotAllowedError for one that is no member.
        """
        from mldeploy.client import hosting

        return hosting.drain(self._at, host, reason, dry_run, environment)

    def undrain_host(self, host: str, *, environment: str | None = None, dry_run: bool = False) -> HostChange:
        """Have a host (as in `forget_host`) take traffic again. Raises NotFoundError."""
        from mldeploy.client import hosting

        return hosting.undrain(self._at, host, dry_run, environment)

    def wait_host(
        self,
        host: str,
        *,
        drained: bool,
        timeout: float | None = None,
        reporter: Reporter | None = None,
    ) -> HostWaited:
        """Block until a host (its id) has read the log as it stands, and says that it is drained, or ready.

        Raises WaitTimeoutError after `timeout` seconds (None: 600), NotAllowedError where the log says
        otherwise meanwhile, and NotFoundError for one that has left and can never be ready.
        """
        from mldeploy.client.host_waiting import wait_for_host

        return wait_for_host(self._at, host, drained, timeout, reporter or Silent())


def _model_or_all(model: str | None) -> str:
    """What the log calls it: "" is every model, which a name that was left empty must never come to mean."""
    return "" if model is None else check_name(model)
