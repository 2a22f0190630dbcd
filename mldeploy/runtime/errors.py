"""What can go wrong inside a model's environment. The runtime cannot import mldeploy's own error tree.

Rules: a message says what is wrong and where; who is to blame is the class. Left out: anything unexpected,
which is caught at the edge (a request, a stage of loading, the process) and logged there.
"""

from __future__ import annotations


class BadRequestError(Exception):
    """The client's fault: status 400 with this message."""


class OutputError(Exception):
    """The model answered, but not what its signature promises, or not what JSON can say: status 500."""


class ConfinementError(Exception):
    """Confinement was required and the kernel does not give it; nothing of the bundle was touched."""


class BundleError(Exception):
    """A bundle that cannot be served: `stage` of the worker's life, `file` and `key` at fault, the cure."""

    def __init__(self, stage: str, file: str, key: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.stage = stage  # "load", "samples" or "warmup"
        self.file = file
        self.key = key
        self.message = message
        self.hint = hint

    def reason(self) -> str:
        """One line for a status file: where, what, cure."""
        where = ": ".join(part for part in (self.file, self.key, self.message) if part)
        return f"{where} ({self.hint})" if self.hint else where
