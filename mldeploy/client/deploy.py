"""`mldeploy.deploy`: from a trained model in a notebook to a URL that answers, in one call.

Packs, pushes and promotes in one record, starts a local daemon if no live one here serves the store, waits
until it serves, and prints the URL and a curl line. Left out: everything that each of these does by itself.
"""

from __future__ import annotations

import socket
import sys
from typing import TYPE_CHECKING, Any

import msgspec

from mldeploy.bundle.scratch import scratch_folder
from mldeploy.client.client import Client
from mldeploy.client.daemon import LocalDaemon, folder_for, running
from mldeploy.client.predicting import reachable
from mldeploy.errors import MldeployError
from mldeploy.progress import Reporter, Silent

if TYPE_CHECKING:
    from mldeploy.bundle.pack import Packed


class Deployed(msgspec.Struct, frozen=True, kw_only=True):
    """Where the model answers now."""

    model: str
    version: int
    digest: str
    store: str
    environment: str
    url: str  # of the daemon
    curl: str  # a line that asks for the packed sample's prediction
    started: bool  # a daemon was started; it goes on after this process
    state: str = ""  # its state folder


def deploy(
    model: Any,
    name: str,
    sample_input: Any,
    *,
    expires: str,
    owner: str | None = None,
    store: str | None = None,
    environment: str | None = None,
    listen: str = "127.0.0.1:0",
    timeout: float = 300.0,
    reporter: Reporter | None = None,
    **options: Any,
) -> Deployed:
    """Serve a model object: `mldeploy.deploy(model, "churn", X[:5], expires="90d")`.

    `expires` is a date or a duration; `owner` is by default git's user.email; `timeout` is in seconds;
    further `options` are those of `mldeploy.pack` (`requirements`, by default the interpreter's own
    packages, `metrics` …). Raises ManifestError, BuildError, ValidationError, NotAllowedError,
    RolloutHaltedError, WaitTimeoutError and DaemonError. Doing it again with the same model changes nothing
    and returns the same version.
    """
    from mldeploy.bundle.pack import pack

    said = reporter or Silent()
    client = Client(store, environment=environment)
    with scratch_folder() as scratch:
        said.step(f"packing {name}")
        packed: Packed = pack(
            model, name=name, expires=expires, owner=owner, sample_input=sample_input,
            out=scratch / "bundle", **options,
        )  # fmt: skip
        pushed = client.push(packed.folder, promote=True, now=True, reporter=said)
    url, daemon = _daemon(client, listen, said)
    try:
        client.wait(name, seq=pushed.seq, timeout=timeout, reporter=said)
    except MldeployError:
        if daemon is not None:
            daemon.check()  # that it ended says more than that nobody arrived
        raise
    assert pushed.version is not None
    deployed = Deployed(
        model=name, version=pushed.version, digest=pushed.digest, store=client.store,
        environment=client.environment, url=url, curl=client.curl(name, url=url),
        started=daemon is not None, state=str(daemon.state) if daemon else "",
    )  # fmt: skip
    print(f"{name}@{pushed.version} answers at {url}/v2/models/{name}/infer\n{deployed.curl}")
    if daemon is not None:
        print(f"a local daemon was started: process {daemon.pid}, state in {daemon.state}", file=sys.stderr)
    return deployed


def _daemon(client: Client, listen: str, reporter: Reporter) -> tuple[str, LocalDaemon | None]:
    """The URL of a local daemon that serves the store, and the daemon if it was started for it."""
    here = socket.gethostname()
    for host in client.hosts(client.environment).hosts:
        if host.live and host.hostname == here and host.address:
            return f"http://{reachable(host.address, here)}", None
    state = folder_for(client.store, client.environment)
    url = running(state)
    if url:
        return url, None
    reporter.step("starting a local daemon")
    daemon = LocalDaemon(store=client.store, state=state, listen=listen, environment=client.environment)
    daemon.start()
    return daemon.address, daemon
