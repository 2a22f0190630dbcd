"""Who gets a copy of a request, decided by what a front sees without decoding: headers and the routing key.

Made once for every table. A criterion that names an input is decided by the mirror, as far as the headers
leave it open. Left out: sending the copy (`mirror.py`).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from mldeploy.core.criterion import Criterion, by_headers, headers_of, needs_inputs
from mldeploy.core.routing import choose
from mldeploy.core.where import parse
from mldeploy.errors import UsageError
from mldeploy_daemon.table import ShadowRoute, VersionRoutes

if TYPE_CHECKING:
    from mldeploy_daemon.front.exchange import Exchange
    from mldeploy_daemon.front.inputs import KeyOf
    from mldeploy_daemon.front.metrics import Count, Series

log = logging.getLogger(__name__)


class Shadow:
    """One shadow of a model, and how many requests were chosen for it."""

    def __init__(self, route: ShadowRoute, count: Count) -> None:
        self.id = route.id
        self.count = count
        self.fraction = route.fraction
        self._salt = route.salt or route.id
        self._criterion: Criterion | None = None
        try:
            self._criterion = parse(route.where) if route.where else None
        except (
            UsageError
        ) as error:  # of a newer agent: a shadow that sees nothing does not see the wrong thing
            log.error("shadow %s: %s", route.id, error)
            self.fraction = 0
        #: Headers the mirror needs to decide the rest.
        self.headers = (
            headers_of(self._criterion) if self._criterion and needs_inputs(self._criterion) else frozenset()
        )

    def wants(self, exchange: Exchange, key: str) -> bool | None:
        """Whether it gets a copy, by its fraction and the headers; None where the inputs decide."""
        if not choose(key, self._salt, self.fraction):
            return False
        return True if self._criterion is None else by_headers(self._criterion, exchange.header_text)


class Feed:
    """What of one version's requests is copied."""

    def __init__(
        self, model: str, version: int, key: KeyOf, series: Series, shadows: tuple[Shadow, ...], sampled: bool
    ) -> None:
        self.model, self.version, self.key = model, version, key
        self.series = series
        self.shadows = shadows
        self.sampled = sampled
        self.due = 0.0  # monotonic seconds: not sampled before

    def chosen(self, exchange: Exchange, most: int) -> tuple[list[Shadow], list[Shadow]]:
        """The shadows that get a copy of it, and those that may, by its inputs.

        `most`: see `KeyOf.of`.
        """
        sure: list[Shadow] = []
        open_: list[Shadow] = []
        if self.shadows:
            key = self.key.of(exchange, most)
            for shadow in self.shadows:
                wants = shadow.wants(exchange, key)
                if wants is not False:
                    (open_ if wants is None else sure).append(shadow)
        return sure, open_


def make_feed(
    model: str, version: int, key: KeyOf, routes: VersionRoutes, series: Series, shadows: tuple[Shadow, ...]
) -> Feed | None:
    """The feed of a version; None where nothing of it is copied."""
    if not shadows and not routes.baseline:
        return None
    return Feed(model, version, key, series, shadows, bool(routes.baseline))
