"""Where a bucket is and who asks, as users of AWS know it: environment, profiles, roles of the machine.

Rules, first found wins:
  - endpoint: FSSPEC_S3_ENDPOINT_URL, AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, the profile; else AWS itself;
  - region: AWS_REGION, AWS_DEFAULT_REGION, the profile; else us-east-1;
  - keys: FSSPEC_S3_KEY and _SECRET, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; else botocore's chain
    (profile, source profile and role, SSO, process, web identity, container, instance), which renews them;
  - the bucket goes into the path at an endpoint of one's own and into the host name at AWS.
botocore takes a quarter of a second to load, so it is imported only where the environment does not say all.
Left out: what obstore itself reads from the environment (AWS_SERVER_SIDE_ENCRYPTION and the like).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mldeploy.errors import StoreError, UsageError

DEFAULT_REGION = "us-east-1"
#: Seconds for which obstore keeps a credential that may be renewed; it asks again 300 s before the end.
RENEW = 600.0


@dataclass(frozen=True, slots=True)
class Place:
    """A bucket and a prefix without slashes around it, "" for the whole bucket."""

    bucket: str
    prefix: str

    @property
    def url(self) -> str:
        """s3://bucket/prefix"""
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")


@dataclass(frozen=True, slots=True)
class Keys:
    """Static credentials."""

    access: str
    secret: str = field(repr=False)
    token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Settings:
    """How to reach S3. `endpoint` "": AWS. `keys` None: whatever botocore finds. `anonymous`: unsigned."""

    endpoint: str = ""
    region: str = ""
    keys: Keys | None = None
    profile: str = ""
    anonymous: bool = False
    addressing: str = ""  # "path" or "virtual" as the profile's `s3 = addressing_style` says
    ca_bundle: str = ""  # a file of PEM certificates

    def address(self, bucket: str) -> tuple[str, bool]:
        """The endpoint for a bucket ("" for AWS's own), and whether the bucket is in its host name."""
        region = self.region or DEFAULT_REGION
        endpoint = self.endpoint.rstrip("/")
        if not endpoint and region.startswith("cn-"):
            endpoint = f"https://s3.{region}.amazonaws.com.cn"
        if not endpoint:
            # a dot in the bucket's name would not match the server's certificate
            return "", "." not in bucket and self.addressing != "path"
        if self.addressing == "virtual":
            scheme, _, host = endpoint.partition("://")
            return f"{scheme}://{bucket}.{host}", True
        return endpoint, False

    def shown(self) -> str:
        """The endpoint for people, without a password."""
        scheme, colon, rest = self.endpoint.partition("://")
        place, slash, path = rest.partition("/")
        shown = f"{scheme}{colon}{place.rpartition('@')[2]}{slash}{path}"
        return shown or f"S3 in {self.region or DEFAULT_REGION}"


def place_of(url: str) -> Place:
    """The bucket and prefix of s3://bucket/prefix. Raises UsageError for anything else."""
    parts = urlsplit(url)
    if "@" in parts.netloc:
        raise UsageError(
            "the URL of a store holds no credentials",
            "put them into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a profile in AWS_PROFILE",
        )
    if parts.query or parts.fragment or not parts.netloc:
        raise UsageError(f"{url!r} does not name a bucket", "write s3://bucket/prefix")
    prefix = parts.path.strip("/")
    if any(part in ("", ".", "..") for part in prefix.split("/")) and prefix:
        raise UsageError(
            f"{url!r} has a prefix with an empty part, or with dots alone", "write s3://bucket/prefix"
        )
    return Place(parts.netloc, prefix)


def from_environment(environ: Mapping[str, str]) -> Settings:
    """What the environment alone says."""
    ignored = environ.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "").lower() == "true"
    endpoint = environ.get("FSSPEC_S3_ENDPOINT_URL", "")
    if not endpoint and not ignored:
        endpoint = environ.get("AWS_ENDPOINT_URL_S3", "") or environ.get("AWS_ENDPOINT_URL", "")
    profile = environ.get("FSSPEC_S3_PROFILE", "")
    return Settings(
        endpoint=endpoint,
        region=environ.get("AWS_REGION", "") or environ.get("AWS_DEFAULT_REGION", ""),
        keys=_keys(environ, profile),
        profile=profile or environ.get("AWS_PROFILE", ""),
        anonymous=environ.get("FSSPEC_S3_ANON", "").lower() in ("1", "true"),
        ca_bundle=environ.get("AWS_CA_BUNDLE", ""),
    )


def _keys(environ: Mapping[str, str], profile: str) -> Keys | None:
    key, secret = environ.get("FSSPEC_S3_KEY"), environ.get("FSSPEC_S3_SECRET")
    if key and secret:
        return Keys(key, secret, environ.get("FSSPEC_S3_TOKEN", ""))
    key, secret = environ.get("AWS_ACCESS_KEY_ID"), environ.get("AWS_SECRET_ACCESS_KEY")
    if key and secret and not profile:
        return Keys(key, secret, environ.get("AWS_SESSION_TOKEN", ""))
    return None


def needs_profile(settings: Settings, config: str | None) -> bool:
    """Whether the profile may say what the environment does not. `config`: the text of ~/.aws/config."""
    if settings.keys is None and not settings.anonymous:
        return True
    if config is None:
        return False
    missing = not settings.region or (not settings.endpoint and "endpoint_url" in config)
    return missing or "addressing_style" in config


def settings_of(environ: Mapping[str, str]) -> tuple[Settings, Callable[[], Any] | None]:
    """The settings, and what gives obstore a credential each time it is called (None: unsigned).

    Reads the environment given, and where `needs_profile` what botocore reads: the profile's files, and the
    environment of the process. Raises StoreError where there
    are no credentials at all, or where the profile is not there.
    """
    settings = from_environment(environ)
    if not needs_profile(settings, _config_text(environ)):
        return settings, _static(settings)
    return _with_profile(settings)


def _config_text(environ: Mapping[str, str]) -> str | None:
    path = Path(environ.get("AWS_CONFIG_FILE", "~/.aws/config"))
    try:
        return path.expanduser().read_text(errors="replace")
    except (OSError, RuntimeError):  # the second: a user without a home, as in containers
        return None


def _with_profile(settings: Settings) -> tuple[Settings, Callable[[], Any] | None]:
    from botocore.configprovider import ConfiguredEndpointProvider
    from botocore.exceptions import BotoCoreError
    from botocore.session import Session

    session = Session(profile=settings.profile or None)
    try:
        profile = session.get_scoped_config()
        endpoint = ConfiguredEndpointProvider(session.full_config, profile, "s3").provide()
        credentials = None if settings.keys or settings.anonymous else session.get_credentials()
    except BotoCoreError as error:
        raise StoreError(str(error), "correct AWS_PROFILE, or the profile in ~/.aws/config") from error
    style = profile.get("s3", {})
    found = replace(
        settings,
        endpoint=settings.endpoint or endpoint or "",
        region=settings.region or profile.get("region", ""),
        addressing=style.get("addressing_style", "") if isinstance(style, dict) else "",
        ca_bundle=settings.ca_bundle or profile.get("ca_bundle", ""),
    )
    if found.keys or found.anonymous:
        return found, _static(found)
    if credentials is None:
        raise StoreError(
            "there are no credentials for S3",
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give the machine a role",
        )
    return found, _renewing(credentials)


def _static(settings: Settings) -> Callable[[], Any] | None:
    keys = settings.keys
    if keys is None or settings.anonymous:
        return None
    # given as a provider, so that no other part of a credential is taken from the environment
    given = {
        "access_key_id": keys.access,
        "secret_access_key": keys.secret,
        "token": keys.token or None,
        "expires_at": None,
    }
    return lambda: given


def _renewing(credentials: Any) -> Callable[[], Any]:
    from datetime import UTC, datetime, timedelta

    def give() -> dict[str, Any]:
        # botocore renews what is about to expire when it is asked, so it is asked again before long
        frozen = credentials.get_frozen_credentials()
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": datetime.now(UTC) + timedelta(seconds=RENEW),
        }

    return give
