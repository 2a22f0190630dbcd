"""The clients for one bucket, made from the settings: obstore's for small requests, our own for transfers
(`store/s3_requests.py`). None of them tries again by itself.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mldeploy.errors import StoreError
from mldeploy.store.retry import Patience
from mldeploy.store.s3_config import DEFAULT_REGION, Place, Settings, settings_of
from mldeploy.store.s3_parts import Multipart
from mldeploy.store.s3_requests import Requests
from mldeploy.store.s3_transfer import PATIENCE, Wire

if TYPE_CHECKING:
    import obstore.store

#: Seconds for the whole of a small request, and for making a connection.
REQUEST, CONNECT = 10, 5


class Clients:
    """`hot` for small requests, `wire` for transfers. Reads what `environ` says, and reaches nothing.

    Raises StoreError where that makes no sense.
    """

    def __init__(self, place: Place, environ: Mapping[str, str], patience: Patience | None) -> None:
        self._place = place
        self.settings, self._provider = settings_of(environ)
        if self.settings.ca_bundle:
            _pem(self.settings.ca_bundle)
        self._environ, self._patience = environ, patience or PATIENCE
        self._wire: Wire | None = None
        self._lock = threading.Lock()

    @property
    def wire(self) -> Wire:
        """One for all threads: they share its gate. Raises Failed for an endpoint that is none."""
        with self._lock:
            if self._wire is None:
                requests = Requests(self._place, self.settings, self._provider, self._environ)
                self._wire = Wire(requests, Multipart(requests), url=self._place.url, patience=self._patience)
            return self._wire

    @functools.cached_property
    def hot(self) -> obstore.store.S3Store:
        """obstore's client, which is loaded here: a transfer alone needs none."""
        return _hot(self._place, self.settings, self._provider)


def _hot(place: Place, settings: Settings, provider: Callable[[], Any] | None) -> obstore.store.S3Store:
    from obstore.store import S3Store as Client

    endpoint, virtual = settings.address(place.bucket)
    # what stands here outranks the environment, which obstore reads too
    config: dict[str, Any] = {
        "region": settings.region or DEFAULT_REGION,
        "virtual_hosted_style_request": virtual,
        "conditional_put": "etag",
        "disable_bulk_delete": True,
    }
    if endpoint:
        config["aws_endpoint_url_s3"] = endpoint
    if settings.anonymous:
        config["skip_signature"] = True
    options: dict[str, Any] = {
        "allow_http": endpoint.startswith("http://"),
        "connect_timeout": f"{CONNECT} s",
        "timeout": f"{REQUEST} s",
        "user_agent": "mldeploy",
    }
    if settings.ca_bundle:
        options["root_certificate"] = _pem(settings.ca_bundle)
    return Client(
        place.bucket,
        prefix=place.prefix or None,
        config=config,  # type: ignore[arg-type]
        client_options=options,  # type: ignore[arg-type]
        retry_config={"max_retries": 0},
        credential_provider=provider,
    )


def _pem(path: str) -> bytes:
    try:
        return Path(path).expanduser().read_bytes()
    except (OSError, RuntimeError) as error:  # the second: a user without a home
        why = error.strerror if isinstance(error, OSError) else error
        raise StoreError(f"cannot read {path}: {why}", "correct AWS_CA_BUNDLE") from error
