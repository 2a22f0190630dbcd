"""What a lane makes of a shadow's answers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mldeploy.core.evidence import Comparison
from mldeploy.core.manifest import Tensor
from mldeploy.runtime.frames import RESPONSE, Frame
from mldeploy_daemon.mirror.lane import Job, Lane
from mldeploy_daemon.mirror.mirror import Mirror
from mldeploy_daemon.table import ModelRoutes, ShadowRoute, VersionRoutes

LABEL = Tensor(name="label", datatype="BYTES", shape=(-1,))
SCORE = Tensor(name="score", datatype="FP64", shape=(-1,))
SHADOW = ShadowRoute(id="s", version=2, scope=7)


def answer(version: int, **values: Any) -> bytes:
    kinds = {"label": "BYTES", "score": "FP64"}
    outputs = [
        {"name": name, "datatype": kinds[name], "shape": [1], "data": [value]}
        for name, value in values.items()
    ]
    return json.dumps({"model_version": str(version), "id": f"x-{version}", "outputs": outputs}).encode()


def counted(*, primary: bytes, shadow: bytes, status: int = 200, version: int = 1) -> Comparison:
    lane = Lane("m", SHADOW)
    outputs = {"1": VersionRoutes(outputs=(LABEL,)), "2": VersionRoutes(outputs=(LABEL, SCORE))}
    lane.route(SHADOW, ModelRoutes(stable=1, versions=outputs, shadows=(SHADOW,)), Mirror().pool)
    job = Job(lane, b"{}", 0, primary, True, 10.0)
    job.primary = version
    lane.flying.add(job)
    lane.answered(job, Frame(RESPONSE, 0, memoryview(shadow), status), 10.5)
    assert not lane.flying
    return lane.counts.value()


@pytest.mark.parametrize(("label", "alike"), [("a", 1), ("b", 0)])
def test_a_version_with_one_more_output_is_compared_by_what_both_have(label, alike):
    found = counted(primary=answer(1, label="a"), shadow=answer(2, label=label, score=0.5))
    assert (found.pairs, found.within, found.latency.total) == (1, 0, 1)
    assert found.agreement == (alike, 1)


def test_where_the_primarys_answer_cannot_be_read_there_is_nothing_to_compare():
    found = counted(primary=answer(9, label="a"), shadow=answer(2, label="a", score=0.5), version=9)
    assert found == Comparison(dropped=1)


def test_an_error_is_a_failure_whatever_the_primarys_answer_says():
    found = counted(primary=answer(9, label="a"), shadow=b"{}", status=500, version=9)
    assert (found.pairs, found.failed, found.dropped) == (1, 1, 0)


def test_a_shadows_answer_that_cannot_be_read_disagrees():
    found = counted(primary=answer(1, label="a"), shadow=answer(2, label=1))
    assert found.agreement == (0, 1)
