"""What the runtime is told: its options, and the part of a manifest it reads.

Rules: JSON only; unknown fields are tolerated, for the manifest was checked strictly before it came here, and
a newer agent may say more. Defaults of the manifest's fields are those of its canonical form, which leaves
defaults out. Left out: everything that is not needed to load and answer.
"""

from __future__ import annotations

import os

import msgspec

from .errors import BundleError

#: The version of the contract between a bundle and this runtime.
PROTOCOL = 1


class Tensor(msgspec.Struct, frozen=True):
    """A named tensor; -1 in `shape` is any size, a first dimension of -1 is the batch."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class Signature(msgspec.Struct, frozen=True):
    """Inputs and outputs in the order the model takes and gives them."""

    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()

    @property
    def batchable(self) -> bool:
        """Whether every tensor has a variable first dimension, so that requests can share a call."""
        return bool(self.inputs and self.outputs) and all(
            tensor.shape[:1] == (-1,) for tensor in self.inputs + self.outputs
        )


class Batching(msgspec.Struct, frozen=True):
    """`max_size`: rows that requests put together may have in one call."""

    max_size: int = 64


class Entry(msgspec.Struct, frozen=True):
    """What is loaded and called; the fields are those of the manifest."""

    kind: str
    method: str = "predict"
    module: str | None = None
    name: str | None = None
    pickle: str | None = None
    buffers: tuple[str, ...] = ()
    input: str = "positional"


class Sample(msgspec.Struct, frozen=True):
    """A request and the answers it had when packed; `response` is empty while they are being recorded."""

    request: str
    response: str = ""
    rtol: float = 1e-5
    atol: float = 1e-8


class Manifest(msgspec.Struct, frozen=True):
    """The part of a manifest that serving needs."""

    entry: Entry
    name: str = ""
    protocol: int = PROTOCOL
    signature: Signature = Signature()
    batching: Batching = Batching()
    samples: tuple[Sample, ...] = ()


class WorkerSpec(msgspec.Struct, frozen=True):
    """One worker, as the agent asks a zygote for it. Paths are relative to the state folder, or absolute."""

    id: str
    model: str
    version: int
    bundle: str  # the folder
    socket: str  # frames are answered here
    status: str  # replaced by rename at every change
    log: str  # stdout and stderr
    digest: str = ""
    replica: int = 0
    idle: bool = False  # once ready, give way to every process of normal priority
    threads: int = 1  # for BLAS and OpenMP
    max_batch: int | None = None  # rows; the smaller of this and the manifest's. None: the manifest's
    hold: bool = True  # keep the control connection open, so that its end tells the agent of ours
    read: tuple[str, ...] = ()  # folders it may read besides its bundle
    write: tuple[str, ...] = ()  # folders it may write besides that of its status file, socket and log
    scratch: str = ""  # made for temporary files and caches of libraries; "": where the zygote has its own
    drain: float = 5.0  # seconds for fronts to take the last answers once it was told to stop
    manifest: str = ""  # a JSON manifest elsewhere than in the bundle


class ZygoteOptions(msgspec.Struct, frozen=True):
    """MODE zygote. What boot.py acts on (confinement, environment variables) is read there, from the JSON."""

    environment: str
    socket: str
    status: str
    imports: tuple[str, ...] = ()
    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    scratch: str = ""


class CheckOptions(msgspec.Struct, frozen=True):
    """MODE check."""

    bundle: str
    environment: str
    manifest: str = ""  # "" is manifest.yaml in the bundle
    record: bool = False
    threads: int = 1


def read_manifest(bundle: str, path: str = "") -> Manifest:
    """The manifest of `bundle`, or the one at `path`. Raises BundleError."""
    path = path or os.path.join(bundle, "manifest.yaml")
    name = path.rpartition("/")[2]
    try:
        with open(path, "rb") as file:
            manifest = msgspec.json.decode(file.read(), type=Manifest)
    except OSError as error:
        raise BundleError("load", name, "", f"cannot be read: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BundleError(
            "load", name, "", f"is not a manifest in canonical JSON: {error}", "pack the bundle again"
        ) from error
    if manifest.protocol != PROTOCOL:
        raise BundleError(
            "load",
            name,
            "protocol",
            f"needs runtime protocol {manifest.protocol}, this is {PROTOCOL}",
            "upgrade mldeployd on this host, or pack with this mldeploy",
        )
    return manifest
