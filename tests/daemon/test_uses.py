"""Use, as a host counts it, where what it counts from begins again."""

from __future__ import annotations

from pathlib import Path

from mldeploy_daemon.disk import Disk
from mldeploy_daemon.front.metrics import Metrics
from mldeploy_daemon.fronts import Total
from mldeploy_daemon.uses import Uses


def test_a_version_that_comes_back_is_in_use_though_the_fronts_count_it_from_zero(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    disk.prepare()
    now = 0.0
    uses, front = Uses(disk, lambda _: True, lambda: now), Metrics()

    def note() -> float:
        told = front.dump()["counters"]
        uses.note({(c["model"], c["version"]): Total(requests=sum(c["requests"].values())) for c in told})
        return uses.since()["churn@1"]

    def ask(requests: int) -> None:
        for _ in range(requests):
            front.series("churn", 1).observe(200, 0.01, 1, 1, now)

    ask(50)
    assert note() == 0.0
    front.routed({("churn", 2)}, set(), now)
    now = 3_700.0
    front.routed({("churn", 2)}, set(), now)  # nothing is known of it any more
    assert note() == 3_700.0, "to be forgotten is no use"
    now += 86_400.0
    front.routed({("churn", 1)}, set(), now)
    for _ in range(3):
        now += 60.0
        ask(5)
        assert note() == 0.0, "it answers, though less than before it left"
    now += 60.0
    assert note() == 60.0
    # out for an hour and back between two looks: fewer than were known
    front.routed(set(), set(), now)
    now += 3_700.0
    front.routed(set(), set(), now)
    ask(2)
    assert note() == 0.0
