"""obstore's clients for one bucket, made from the settings. None of them tries again by itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mldeploy.errors import StoreError
from mldeploy.store.retry import Patience
from mldeploy.store.s3_config import DEFAULT_REGION, Place, Settings, settings_of
from mldeploy.store.s3_parts import Multipart
from mldeploy.store.s3_transfer import PATIENCE, Wire

if TYPE_CHECKING:
    import obstore.store

#: Seconds for the whole of a small request, and for making a connection.
REQUEST, CONNECT = 10, 5
#: Seconds without a byte after which a download is cut, and seconds for an upload in one request.
SILENCE, LONG = 30, 180


class Clients(NamedTuple):
    """`hot` for small requests, `wire` for transfers. Neither of obstore's clients tries again by itself."""

    hot: obstore.store.S3Store
    wire: Wire
    settings: Settings


def clients_of(place: Place, environ: Mapping[str, str], patience: Patience | None) -> Clients:
    """Reads the configuration, and reaches nothing. Raises StoreError where that makes no sense."""
    from obstore.store import S3Store as Client

    settings, provider = settings_of(environ)
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
        "user_agent": "mldeploy",
    }
    if settings.ca_bundle:
        options["root_certificate"] = _pem(settings.ca_bundle)

    def make(times: dict[str, str], more: Mapping[str, Any] | None = None) -> Client:
        return Client(
            place.bucket,
            prefix=place.prefix or None,
            config={**config, **(more or {})},  # type: ignore[arg-type]
            client_options=options | times,  # type: ignore[arg-type]
            retry_config={"max_retries": 0},
            credential_provider=provider,
        )

    wire = Wire(
        up=make({"timeout": f"{LONG} s"}, {"checksum_algorithm": "SHA256"}),
        down=make({"timeout": "24 h", "read_timeout": f"{SILENCE} s"}),
        multipart=Multipart(place, settings, provider, environ),
        url=place.url,
        patience=patience or PATIENCE,
    )
    return Clients(make({"timeout": f"{REQUEST} s"}), wire, settings)


def _pem(path: str) -> bytes:
    try:
        return Path(path).expanduser().read_bytes()
    except (OSError, RuntimeError) as error:  # the second: a user without a home
        why = error.strerror if isinstance(error, OSError) else error
        raise StoreError(f"cannot read {path}: {why}", "correct AWS_CA_BUNDLE") from error
