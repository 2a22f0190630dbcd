"""The one tree of errors.

Every error carries a message that names the place and a hint that says how to mend it. What an error
means to a shell (exit code) or to an HTTP client (status) is decided where it is shown, not here.
"""

from __future__ import annotations

from dataclasses import dataclass


class MldeployError(Exception):
    """An expected failure: `message` says what is wrong and where, `hint` how to mend it."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message


class UsageError(MldeployError):
    """The call itself is wrong: a bad name, a missing option, an unreadable argument."""


class ManifestError(UsageError):
    """A manifest or a `model.yaml` that cannot be read as one."""


class NotFoundError(MldeployError):
    """A model, version, host or file that does not exist."""


class NotAllowedError(MldeployError):
    """The state forbids it: a frozen model, a retired version, a role that does not reach."""


class StoreError(MldeployError):
    """The store cannot be reached, refuses us, or is not fit to be a store."""


class StoreFormatError(StoreError):
    """The store or a record was written by a newer mldeploy; nothing is guessed."""


class LogHoleError(StoreError):
    """A record is missing that must have been there, for a later one was; nothing is written over it."""


class IntegrityError(MldeployError):
    """Bytes that are not what their digest or chain says."""


class RaceLostError(MldeployError):
    """Another writer changed what this intent rested on, and it could not be applied again."""


class OutcomeUnknownError(MldeployError):
    """The deadline passed before it was known whether the write took effect."""


class WaitTimeoutError(MldeployError):
    """What was waited for had not happened when the deadline passed; it still may."""


class RolloutHaltedError(MldeployError):
    """A version did not come up, or its rollout was halted; traffic is with the old one."""


class BuildError(MldeployError):
    """Requirements that do not resolve, wheels that are missing, an environment that does not build."""


class DiskError(MldeployError):
    """A folder that cannot be written, or a disk that is full."""


class DaemonError(MldeployError):
    """The daemon cannot start or go on: port taken, state folder in use, bad configuration."""


class NotificationError(MldeployError):
    """A notice that did not reach a target: it refused, could not be reached, or its URL makes no sense."""


class PredictionError(MldeployError):
    """A daemon answered a prediction with an error, or did not answer."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing `validate` found: the file, the key inside it, what is wrong, how to mend it."""

    gate: str  # "artifact", "compilation" or "serving"
    file: str
    key: str
    message: str
    hint: str


class ValidationError(MldeployError):
    """A bundle with findings; nothing was published."""

    def __init__(self, findings: tuple[Finding, ...]) -> None:
        first = findings[0]
        where = f"{first.file}: {first.key}" if first.key else first.file
        more = f" (and {len(findings) - 1} more)" if len(findings) > 1 else ""
        super().__init__(f"{where}: {first.message}{more}", first.hint)
        self.findings = findings
