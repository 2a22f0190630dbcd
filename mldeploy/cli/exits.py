"""What an error means to a shell: the table of exit codes.

0 done or already so · 1 failed · 2 usage · 3 validation findings · 4 not allowed · 5 lost the race and could
not re-apply · 6 rollout halted · 7 timed out, outcome unknown · 10 changes pending · 70 our bug · 130
interrupted. The first row that fits an error holds.
"""

from __future__ import annotations

from mldeploy import errors as e

OK, FAILED, USAGE, FINDINGS, NOT_ALLOWED, RACE_LOST, HALTED, TIMED_OUT = 0, 1, 2, 3, 4, 5, 6, 7
PENDING, BUG, INTERRUPTED = 10, 70, 130

CODES: tuple[tuple[type[e.MldeployError], int], ...] = (
    (e.ValidationError, FINDINGS),
    (e.UsageError, USAGE),
    (e.NotAllowedError, NOT_ALLOWED),
    (e.RaceLostError, RACE_LOST),
    (e.RolloutHaltedError, HALTED),
    (e.WaitTimeoutError, TIMED_OUT),
    (e.OutcomeUnknownError, TIMED_OUT),
    (e.MldeployError, FAILED),
)


def exit_code(error: e.MldeployError) -> int:
    """The code of an expected error."""
    return next(code for kind, code in CODES if isinstance(error, kind))
