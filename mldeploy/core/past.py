"""What the state keeps of rollouts and shadows that are over: enough to find their records in the log.

Rules: one entry for each version's rollouts and one for its shadows, and the newest few only, so that the
state stays small however long the log is; a trail names the records of a rollout, and of a very long one
(paused and resumed for years) its beginning and its end. Left out: the records' contents (the log has them).
"""

from __future__ import annotations

import msgspec

from mldeploy.core.state import Ended, Past, Serving, Shadowing

#: Ends of a model, in one environment, that can be told.
KEPT = 16
#: Records of one rollout that are named.
LONGEST = 256


def longer(trail: tuple[int, ...], seq: int) -> tuple[int, ...]:
    """`trail` and one record more; of more than LONGEST the first and the newest."""
    if trail and trail[-1] == seq:
        return trail
    trail = (*trail, seq)
    return trail if len(trail) <= LONGEST else (trail[0], *trail[2:])


def remembered(serving: Serving, ended: Ended, kind: str = "rollout") -> Serving:
    """`serving` with that end remembered, in place of the one before of its version and kind."""
    others = tuple(past for past in serving.past if (past.kind, past.ended.version) != (kind, ended.version))
    past = (*others, Past(kind=kind, ended=ended))[-KEPT:]
    return msgspec.structs.replace(serving, past=past)


def without_rollout(serving: Serving, outcome: str, reason: str, seq: int) -> Serving:
    """`serving` without its rollout, which is remembered; as it is where none is under way."""
    ramp = serving.ramp
    if ramp is None:
        return serving
    ended = Ended(
        rollout=ramp.rollout, version=ramp.version, outcome=outcome, reason=reason, seq=seq,
        trail=longer(ramp.trail, seq),
    )  # fmt: skip
    return remembered(msgspec.structs.replace(serving, ramp=None, ended=ended, seq=seq), ended)


def without_shadow(serving: Serving, shadow: Shadowing, reason: str, seq: int) -> Serving:
    """`serving` without this shadow, which is remembered."""
    ended = Ended(
        rollout=shadow.shadow, version=shadow.version, outcome="ended", reason=reason, seq=seq,
        trail=(shadow.seq, seq),
    )  # fmt: skip
    left = tuple(each for each in serving.shadows if each.shadow != shadow.shadow)
    return remembered(msgspec.structs.replace(serving, shadows=left, seq=seq), ended, "shadow")


def one_record(version: int, outcome: str, reason: str, seq: int, rollout: str = "") -> Ended:
    """The end of what had no steps: one record did it all."""
    return Ended(rollout=rollout, version=version, outcome=outcome, reason=reason, seq=seq, trail=(seq,))
