"""What is on this host now, as one value for the plan. Looks, and changes nothing but its own memory.

Folders are read again only after something was put there or removed; the blobs only for a collection, now
and then. Left out: deciding and doing.
"""

from __future__ import annotations

import asyncio
import logging
import platform
import sys
import time
from collections.abc import Callable

import msgspec

from mldeploy.bundle.environment import available_interpreters, environment_id, find_interpreter
from mldeploy.core.host import Action, Bundle, Desired, Observed
from mldeploy.core.manifest import Manifest
from mldeploy.core.plan import references
from mldeploy.errors import MldeployError
from mldeploy_daemon.book import Book
from mldeploy_daemon.disk import Disk
from mldeploy_daemon.fetch import lock_sha256
from mldeploy_daemon.fronts import Fronts
from mldeploy_daemon.ledger import Ledger
from mldeploy_daemon.publish import Publisher
from mldeploy_daemon.workers import Workers
from mldeploy_daemon.zygotes import Zygotes

logger = logging.getLogger(__name__)
#: Seconds between looks for interpreters that were installed or removed.
INTERPRETERS = 300.0
#: Seconds between collections of blobs, at most; and between looks for workers nobody told us of.
COLLECT = 60.0
ADOPT = 2.0


def this_platform() -> str:
    """For example linux-x86_64, as manifests say it."""
    return f"{sys.platform}-{platform.machine()}"


class Observer:
    """Puts one Observed together."""

    def __init__(
        self,
        disk: Disk,
        workers: Workers,
        zygotes: Zygotes,
        fronts: Fronts,
        publisher: Publisher,
        book: Book,
        ledger: Ledger,
        *,
        grace: float,
        now: Callable[[], float],
    ) -> None:
        self.disk, self.workers, self.zygotes, self.fronts = disk, workers, zygotes, fronts
        self.publisher, self.book, self.grace, self.now = publisher, book, grace, now
        self.ledger = ledger
        self.busy: set[Action] = set()
        self.pythons: frozenset[str] = frozenset()
        self.platform = this_platform()
        self.manifests: dict[str, Manifest] = {}
        self.bundles: dict[str, Bundle] = {}
        self.environments: frozenset[str] = frozenset()
        self.unused: dict[str, float] = {}
        self._stale = True
        self._collected = self._adopted = self._scanned = 0.0
        self._looked_for: set[str] = set()
        self._scan: asyncio.Task[None] | None = None

    def disk_changed(self) -> None:
        """Folders are read again at the next look."""
        self._stale = True

    async def look(self, desired: Desired) -> Observed:
        """Everything, as it is now. Raises DiskError."""
        await self._find_pythons(desired)
        if self._stale:
            self._stale = False
            self._read_folders()
        if time.monotonic() - self._adopted > ADOPT or self.workers.waiting():
            self._adopted = time.monotonic()
            self.adopt()
        fronts = await self.fronts.look()
        self.publisher.overtaken(fronts)
        oldest = self.fronts.oldest_ms()
        self.ledger.weigh(self.workers.live.values())
        seen = [self.ledger.weighed(worker) for worker in self.workers.seen()]
        observed = Observed(
            bundles=self.bundles,
            environments=self.environments,
            zygotes=self.zygotes.seen(),
            workers=tuple(self.publisher.placed(w, oldest.get(w.id, 0.0)) for w in seen),
            fronts=fronts,
            routes=self.publisher.routes,
            bad=self.book.bad,
            busy=frozenset(self.busy),
            pythons=self.pythons,
            platform=self.platform,
            blobs=self._blobs(),
            memory=self.ledger.view(self.fronts.totals(), self.publisher.routes, self.bundles.keys()),
        )
        return self._aged(desired, observed)

    async def _find_pythons(self, desired: Desired) -> None:
        """Those asked for before anything else; all others in the background, for the report."""
        needed = {v.python for asked in desired.models.values() for v in asked.versions if v.python}
        for minor in sorted(needed - self._looked_for):
            self._looked_for.add(minor)
            if await asyncio.to_thread(find_interpreter, minor):
                self.pythons |= {minor}
        if self._scan is None or (self._scan.done() and time.monotonic() - self._scanned > INTERPRETERS):
            self._scanned = time.monotonic()
            self._scan = asyncio.create_task(self._find_all())

    async def _find_all(self) -> None:
        found = frozenset(await asyncio.to_thread(available_interpreters))
        self._looked_for |= found
        self.pythons = found

    def adopt(self) -> None:
        """Take over workers that run and are not known."""
        environments = {digest: bundle.environment for digest, bundle in self.bundles.items()}
        self.workers.adopt(lambda digest: environments.get(digest, ""))
        self.publisher.adopted(w for w in self.workers.seen() if self.workers.live[w.id].adopted)

    def manifest(self, digest: str) -> Manifest | None:
        """The manifest of a bundle in place."""
        return self.manifests.get(digest)

    def _read_folders(self) -> None:
        there = self.disk.bundles()
        self.environments = self.disk.environments()
        for digest in there - self.manifests.keys():
            manifest = self.disk.manifest(digest)
            if manifest is not None:
                self.manifests[digest] = manifest
        self.manifests = {digest: self.manifests[digest] for digest in there if digest in self.manifests}
        self.bundles = {}
        for digest, manifest in self.manifests.items():
            try:
                self.bundles[digest] = _bundle(digest, manifest)
            except MldeployError as error:
                logger.error("bundle %s: %s", digest, error)

    def _blobs(self) -> frozenset[str]:
        """The blobs when it is time to collect, else none."""
        if time.monotonic() - self._collected < min(COLLECT, self.grace):
            return frozenset()
        self._collected = time.monotonic()
        return self.disk.blobs()

    def _aged(self, desired: Desired, observed: Observed) -> Observed:
        """With the times since when things have been needed by nothing."""
        needed = references(desired, observed, self.now())
        there = {*observed.bundles, *observed.environments}
        there |= {f"zygote {name}" for name in observed.zygotes}
        there |= {f"blob {sha256}" for sha256 in observed.blobs}
        if not observed.blobs:  # not looked at this time: their ages go on
            there |= {key for key in self.unused if key.startswith("blob ")}
        now = self.now()
        self.unused = ages = {key: self.unused.get(key, now) for key in there - needed}
        return msgspec.structs.replace(observed, unused=ages)


def _bundle(digest: str, manifest: Manifest) -> Bundle:
    blobs = {digest, *(file.sha256 for file in manifest.files), *(wheel.sha256 for wheel in manifest.wheels)}
    return Bundle(
        environment=environment_id(manifest, lock_sha256(manifest)),
        replicas=max(1, manifest.resources.replicas),
        python=manifest.python,
        memory=manifest.resources.memory or 0,
        blobs=frozenset(blobs),
    )
