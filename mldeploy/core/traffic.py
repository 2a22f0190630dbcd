"""What the actions on traffic do to a Draft: promote, the steps of a rollout, rollback, freeze.

Each function changes the draft, or raises NotAllowedError or NotFoundError and the whole record is void.
What is asked for and already so is refused too: a record that changes nothing is never written.
Left out: when a rollout ought to go on (decided elsewhere; here is only what that does).
"""

from __future__ import annotations

import msgspec

from mldeploy.core import records
from mldeploy.core.draft import Draft
from mldeploy.core.guards import guards_problem
from mldeploy.core.lifecycle import Context, find_live, find_version, refuse, valid_name
from mldeploy.core.manifest_check import steps_problem
from mldeploy.core.notices import launched, open_notice
from mldeploy.core.past import longer, one_record, remembered, without_rollout, without_shadow
from mldeploy.core.state import Ramp, Serving
from mldeploy.core.types import FULL_SHARE, PRODUCTION
from mldeploy.core.wish import labels_problem
from mldeploy.errors import NotFoundError

_MAX_HOLD = 366 * 86_400  # seconds
_MAX_REQUESTS = 10**9


def promote(draft: Draft, action: records.Promote, told: Context) -> None:
    """A version becomes stable, or the candidate of a rollout. See `records.Promote`."""
    model, environment = action.model, action.environment
    find_live(draft, model, action.version)
    valid_name(environment, "environment")
    serving = draft.serving(environment, model)
    _check_promote(draft, action, serving)
    was, before = serving, serving.ramp
    again = before is not None and before.version == action.version
    at_once = not action.on and (action.steps == (FULL_SHARE,) or serving.stable is None)
    if again and at_once:
        serving = without_rollout(serving, "completed", "", told.seq)
    elif before is not None:
        serving = without_rollout(serving, "superseded", f"by {model}@{action.version}", told.seq)
    if at_once:
        serving = _stable(serving, action.version, told)
        if not again:
            done = one_record(action.version, "completed", "", told.seq, action.rollout)
            serving = remembered(serving, done)
    else:
        # on some hosts alone, with nothing stable: there is nobody else to answer the rest there either
        steps = action.steps if serving.stable is not None else (FULL_SHARE,)
        ramp = Ramp(
            rollout=action.rollout,
            # whoever was with this version at 10 % must be with it at 25 %, also when that is a new promote
            salt=before.salt if before is not None and again else action.rollout,
            version=action.version,
            steps=steps,
            step=0,
            seq=told.seq,
            hold=action.hold,
            guards=action.guards,
            on=action.on,
            actor=told.actor,
            started=told.time,
            begun=told.seq,
            min_requests=action.min_requests,
            deadline=action.deadline,
            fraction=action.fraction,
            trail=(told.seq,),
        )
        serving = msgspec.structs.replace(_no_shadow(serving, action.version, told), ramp=ramp)
    draft.put_serving(environment, model, msgspec.structs.replace(serving, seq=told.seq))
    launched(draft, environment, model, was, told)


def _check_promote(draft: Draft, action: records.Promote, serving: Serving) -> None:
    model, environment = action.model, action.environment
    frozen = draft.frozen.get(environment)
    if frozen is not None:
        cure = f"mldeploy unfreeze --all{_there(environment)}"
        refuse(f"{environment} is frozen{_because(frozen)}", f"run `{cure}` first")
    if serving.frozen is not None:
        why, cure = _because(serving.frozen), f"mldeploy unfreeze {model}{_there(environment)}"
        refuse(f"{model} is frozen in {environment}{why}", f"run `{cure}` first")
    problem = steps_problem(action.steps) or guards_problem(action.guards, action.steps)
    problem = problem or labels_problem(action.on)
    if problem:
        refuse(*problem)
    if not 0 <= action.hold <= _MAX_HOLD:
        refuse(f"a hold of {action.hold} seconds", "write at most 366 days")
    for what, value, most in (
        ("min_requests", action.min_requests, _MAX_REQUESTS),
        ("deadline", action.deadline, _MAX_HOLD),
        ("fraction", action.fraction, FULL_SHARE),
    ):
        if not 0 <= value <= most:
            refuse(f"{what}: {value}", f"write 0 to {most:,}")
    used = serving.ended is not None and serving.ended.rollout == action.rollout
    if not action.rollout or used or draft.under_way(action.rollout) is not None:
        refuse("the rollout's id is missing or was used before", "give a new id")
    # asking for stable alone while a rollout of another version runs is a way to end that rollout
    ends_ramp = serving.ramp is not None and action.steps == (FULL_SHARE,) and not action.on
    if serving.stable == action.version and not ends_ramp:
        refuse(f"{model}@{action.version} is already stable in {environment}", "there is nothing to do")


def advance(draft: Draft, action: records.Advance, told: Context) -> None:
    """To the next step."""
    environment, model, serving, ramp = _running(draft, action.rollout)
    _check_step(ramp, action.step)
    if ramp.step + 1 >= len(ramp.steps):
        refuse("the rollout stands at its last step", "complete it")
    trail = longer(ramp.trail, told.seq)
    ramp = msgspec.structs.replace(ramp, step=ramp.step + 1, seq=told.seq, trail=trail)
    draft.put_serving(environment, model, msgspec.structs.replace(serving, ramp=ramp, seq=told.seq))


def complete(draft: Draft, action: records.Complete, told: Context) -> None:
    """From the last step, which must be 100 %, to stable."""
    environment, model, serving, ramp = _running(draft, action.rollout)
    _check_step(ramp, action.step)
    if ramp.step + 1 < len(ramp.steps):
        refuse("the rollout does not stand at its last step", "advance it")
    if ramp.stays:
        where = f" on {', '.join(ramp.on)}" if ramp.on else ""
        refuse(
            f"the rollout holds at {ramp.share / 100:g} %{where}", f"promote {model}@{ramp.version} to go on"
        )
    was = serving
    serving = _stable(without_rollout(serving, "completed", "", told.seq), ramp.version, told)
    draft.put_serving(environment, model, serving)
    launched(draft, environment, model, was, told)


def halt(draft: Draft, action: records.Halt, told: Context) -> None:
    """The rollout is over; stable has all the traffic."""
    environment, model, serving, ramp = _running(draft, action.rollout)
    draft.put_serving(environment, model, without_rollout(serving, "halted", action.reason, told.seq))
    open_notice(
        draft, "halted", model, ramp.version, told,
        environment=environment, previous=serving.stable, rollout=ramp.rollout, reason=action.reason,
    )  # fmt: skip


def pause(draft: Draft, action: records.Pause | records.Resume, told: Context) -> None:
    """`pause` and `resume`: a paused rollout keeps its share and its step."""
    environment, model, serving, ramp = _running(draft, action.rollout)
    paused = isinstance(action, records.Pause)
    if ramp.paused == paused:
        refuse(f"the rollout is {'already' if paused else 'not'} paused", "there is nothing to do")
    # a resumed step is held anew: what was measured while it was paused decides nothing
    begun = ramp.begun if paused else told.seq
    trail = longer(ramp.trail, told.seq)
    ramp = msgspec.structs.replace(ramp, paused=paused, seq=told.seq, begun=begun, trail=trail)
    draft.put_serving(environment, model, msgspec.structs.replace(serving, ramp=ramp, seq=told.seq))


def rollback(draft: Draft, action: records.Rollback, told: Context) -> None:
    """End the rollout under way; without one, or with `to`, make an older version stable."""
    valid_name(action.environment, "environment")
    model, environment, to = action.model, action.environment, action.to
    _known(draft, model)
    serving = draft.serving(environment, model)
    ramp = serving.ramp
    if ramp is None and to is None:
        to = serving.previous
        if to is None:
            hint = "name a version with --to, or promote one"
            refuse(f"{model} has no previous version in {environment}", hint)
    if to is not None:
        find_live(draft, model, to)
        if ramp is None and to == serving.stable:
            refuse(f"{model}@{to} is already stable in {environment}", "there is nothing to do")
        if ramp is not None and to == ramp.version:
            refuse(f"{model}@{to} is what is being rolled back", "name another version, or promote it")
    was = serving
    gone = ramp.version if ramp is not None else serving.stable
    if ramp is not None:
        serving = without_rollout(serving, "rolled back", action.reason, told.seq)
    elif gone is not None:
        serving = remembered(serving, one_record(gone, "rolled back", action.reason, told.seq))
    if to is not None:
        serving = _stable(serving, to, told)
    draft.put_serving(environment, model, msgspec.structs.replace(serving, seq=told.seq))
    if gone is not None:
        open_notice(
            draft, "rolled back", model, gone, told,
            environment=environment, previous=serving.stable, reason=action.reason,
            rollout=ramp.rollout if ramp is not None else "",
        )  # fmt: skip
    else:  # nothing was stable: a version comes to serve, and none is taken back
        launched(draft, environment, model, was, told)


def freeze(draft: Draft, action: records.Freeze, told: Context) -> None:
    """Promotes of a model, or of all in the environment, are refused."""
    model, environment = action.model, action.environment
    valid_name(environment, "environment")
    if model:
        _known(draft, model)
        serving = draft.serving(environment, model)
        if serving.frozen == action.reason:
            refuse(f"{model} is already frozen in {environment}", "there is nothing to do")
        draft.put_serving(environment, model, msgspec.structs.replace(serving, frozen=action.reason))
    elif draft.frozen.get(environment) == action.reason:
        refuse(f"{environment} is already frozen", "there is nothing to do")
    else:
        draft.frozen.put(environment, action.reason)


def unfreeze(draft: Draft, action: records.Unfreeze, told: Context) -> None:
    """Promotes are allowed again."""
    model, environment = action.model, action.environment
    if not model:
        if environment not in draft.frozen:
            refuse(f"{environment} is not frozen", "there is nothing to do")
        draft.frozen.drop(environment)
        return
    serving = draft.serving(environment, model)
    if serving.frozen is None:
        hint = (
            "all of it is: leave the model out" if environment in draft.frozen else "there is nothing to do"
        )
        refuse(f"{model} is not frozen in {environment}", hint)
    draft.put_serving(environment, model, msgspec.structs.replace(serving, frozen=None))


def _known(draft: Draft, model: str) -> None:
    if draft.next_version(model) == 1:
        find_version(draft, model, 1)


def _running(draft: Draft, rollout: str) -> tuple[str, str, Serving, Ramp]:
    where = draft.under_way(rollout)
    serving = draft.serving(*where) if where else None
    if where is None or serving is None or serving.ramp is None or serving.ramp.rollout != rollout:
        raise NotFoundError(
            f"no rollout {rollout!r} is under way", "it may have ended: see `mldeploy status`"
        )
    return *where, serving, serving.ramp


def _check_step(ramp: Ramp, step: int) -> None:
    if ramp.paused:
        refuse("the rollout is paused", "resume it first")
    if ramp.step != step:
        refuse(f"the rollout stands at step {ramp.step}, not {step}", "read the log again and decide anew")


def _stable(serving: Serving, version: int, told: Context) -> Serving:
    if serving.stable == version:
        return serving
    serving = _no_shadow(serving, version, told)
    return msgspec.structs.replace(serving, stable=version, previous=serving.stable)


def _no_shadow(serving: Serving, version: int, told: Context) -> Serving:
    """What takes traffic is no shadow any more."""
    for shadow in serving.shadows:
        if shadow.version == version:
            serving = without_shadow(serving, shadow, "it takes traffic now", told.seq)
    return serving


def _because(reason: str) -> str:
    return f": {reason}" if reason else ""


def _there(environment: str) -> str:
    """What a command in a hint says so that it acts in this environment."""
    return "" if environment == PRODUCTION else f" --environment {environment}"
