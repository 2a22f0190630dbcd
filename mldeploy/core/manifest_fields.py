"""The fields of a manifest, and what each may hold at most. `core/manifest.py` re-exports them.

Left out: reading and judging them (`core/manifest.py`, `core/manifest_check.py`).
"""

from __future__ import annotations

import msgspec

FORMAT = 1
#: The version of the contract between a bundle and the runtime that serves it.
RUNTIME_PROTOCOL = 1
#: What of numpy and msgspec a lock may hold for that protocol: distribution -> PEP 440 range.
RUNTIME_REQUIRES = {"numpy": ">=1.26,<3", "msgspec": ">=0.18.6,<1"}
DATATYPES = (
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64",
    "FP16", "FP32", "FP64", "BYTES",
)  # fmt: skip


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    pass


class Tensor(_Strict, frozen=True, kw_only=True):
    """A named tensor of the signature; -1 in `shape` is any size, first dimension -1 is the batch."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class Signature(_Strict, frozen=True, kw_only=True):
    """Named inputs and outputs, in the order the model takes and gives them."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


class Batching(_Strict, frozen=True, kw_only=True):
    """How requests are put together. A model whose answers change with the batch says max_size 1."""

    max_size: int = 64  # rows in one call at the most


class Resources(_Strict, frozen=True, kw_only=True):
    """What the author states; what is measured travels with `publish`."""

    memory: int | None = None  # bytes of private memory per worker
    threads: int = 1  # for BLAS and OpenMP
    replicas: int = 1  # workers per host


class Rollout(_Strict, frozen=True, kw_only=True):
    """The bundle's own rollout. What it does not say is as the policy says (`core/policy.py`).

    Shares are in hundredths of a percent, times in seconds.
    """

    steps: tuple[int, ...] = ()  # a first 0 is a shadow step
    hold: int | None = None  # at each step
    guards: tuple[str, ...] = ()
    min_requests: int | None = None  # of the candidate, at each step
    deadline: int | None = None
    shadow_fraction: int | None = None  # of the traffic, copied at a shadow step


class Routing(_Strict, frozen=True, kw_only=True):
    """What keeps a client with one version during a rollout."""

    key: str = ""  # "header:NAME", "input:NAME" (its first element), or "" for the request id


class Entry(_Strict, frozen=True, kw_only=True):
    """What the runtime loads: for `python-object` the pickle, for `python-class` module and class."""

    kind: str  # "python-object" or "python-class"
    method: str = "predict"  # called for a prediction; "__call__" for plain functions
    module: str | None = None  # python-class: a module under code/
    name: str | None = None  # python-class: the class in it, with load(path) and `method`
    pickle: str | None = None  # python-object: "model/model.pkl"
    buffers: tuple[str, ...] = ()  # python-object: out-of-band buffers in the order of the pickle
    input: str = "positional"  # "positional" (arrays in order of the signature) or "named" (keywords)


class Sample(_Strict, frozen=True, kw_only=True):
    """A request replayed before a version serves, with the answers given when it was packed."""

    request: str  # "samples/0.request.json": Open Inference Protocol v2
    response: str  # "samples/0.response.json"
    rtol: float = 1e-5
    atol: float = 1e-8


class File(_Strict, frozen=True, kw_only=True):
    """One file of the bundle. `path` is relative, with forward slashes."""

    path: str
    sha256: str
    size: int  # bytes
    mode: int = 0o644  # 0o644 or 0o755


class Wheel(_Strict, frozen=True, kw_only=True):
    """One wheel of the lock, stored by digest; `name` is its file name."""

    name: str
    sha256: str
    size: int  # bytes


class Manifest(_Strict, frozen=True, kw_only=True):
    """All that a bundle is. Its canonical form's sha256 is the bundle's digest."""

    format: int = FORMAT
    name: str
    owner: str  # who gets the warnings: an address or a team
    expires: str  # a date (2027-06-30), or a duration counted from push (90d)
    entry: Entry
    signature: Signature
    python: str  # minor version of the interpreter: "3.11"
    platform: str  # "linux-x86_64", "linux-aarch64"
    description: str = ""
    protocol: int = RUNTIME_PROTOCOL
    batching: Batching = Batching()
    resources: Resources = Resources()
    rollout: Rollout = Rollout()
    routing: Routing = Routing()
    imports: tuple[str, ...] = ()  # modules the zygote imports ahead
    samples: tuple[Sample, ...] = ()
    lock: str = "requirements.lock"
    files: tuple[File, ...] = ()  # sorted by path; never manifest.yaml itself
    wheels: tuple[Wheel, ...] = ()  # sorted by name
