"""Credentials, region and endpoint as AWS's users know them, and that both drivers find the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mldeploy.errors import StoreError
from mldeploy.store.fsspec_store import FsspecStore
from mldeploy.store.objects import ObjectStore
from mldeploy.store.s3 import S3Store
from mldeploy.store.s3_client import Clients
from mldeploy.store.s3_config import (
    Keys,
    Place,
    Settings,
    from_environment,
    needs_profile,
    place_of,
    settings_of,
)
from tests.support.s3 import Server, use
from tests.support.saying import Asked, Say, Saying, error

MISSING = error(404, "NoSuchKey")


@pytest.fixture
def saying(monkeypatch: pytest.MonkeyPatch) -> Iterator[Saying]:
    with Saying() as server:
        use(Server(server.endpoint), monkeypatch)
        server.says(MISSING)
        yield server


@pytest.fixture(params=["s3", "s3+fsspec"])
def driver(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def opened(driver: str) -> ObjectStore:
    url = f"{driver}://bucket/prefix"
    return S3Store.open(url) if driver == "s3" else FsspecStore.open(url)


def signed(asked: Asked) -> tuple[str, str]:
    """Key and region of the signature."""
    scope = asked.headers["authorization"].split("Credential=")[1].split(",")[0].split("/")
    return scope[0], scope[2]


def without(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    for name in names:
        monkeypatch.delenv(name)


def profile(folder: Path, monkeypatch: pytest.MonkeyPatch, config: str = "", credentials: str = "") -> None:
    (folder / "config").write_text(config)
    (folder / "credentials").write_text(credentials)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(folder / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(folder / "credentials"))


# --- the same for both drivers, seen at the server


def test_the_environment(driver: str, saying: Saying, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", "eu-west-3")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "a-token")
    assert opened(driver).get("log/1.json") is None
    assert [(one.method, one.path) for one in saying.asked] == [("GET", "/bucket/prefix/log/1.json")]
    assert signed(saying.asked[0]) == ("test", "eu-west-3")
    assert saying.asked[0].headers["x-amz-security-token"] == "a-token"


def test_a_profile_with_region_and_endpoint(
    driver: str, saying: Saying, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_ENDPOINT_URL_S3")
    profile(
        tmp_path, monkeypatch,
        f"[profile work]\nregion = ap-south-1\nendpoint_url = {saying.endpoint}\n",
        "[work]\naws_access_key_id = WORKKEY\naws_secret_access_key = s\n",
    )  # fmt: skip
    monkeypatch.setenv("AWS_PROFILE", "work")
    assert opened(driver).get("log/1.json") is None
    assert signed(saying.asked[0]) == ("WORKKEY", "ap-south-1")


def test_a_process_gives_credentials(
    driver: str, saying: Saying, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    expires = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    told = {"Version": 1, "AccessKeyId": "PROCKEY", "SecretAccessKey": "s", "Expiration": expires}
    (tmp_path / "told.json").write_text(json.dumps(told))
    profile(tmp_path, monkeypatch, f"[default]\ncredential_process = cat {tmp_path / 'told.json'}\n")
    assert opened(driver).get("log/1.json") is None
    assert signed(saying.asked[0])[0] == "PROCKEY"


def test_the_role_of_a_container(driver: str, saying: Saying, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{saying.endpoint}/role")
    _gives(saying, "/role", "ROLEKEY")
    assert opened(driver).get("log/1.json") is None
    assert signed(saying.asked[-1])[0] == "ROLEKEY"
    assert saying.asked[-1].headers["x-amz-security-token"] == "of the role"


def test_the_role_of_an_instance(driver: str, saying: Saying, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_EC2_METADATA_DISABLED")
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", saying.endpoint)
    _gives(saying, "/latest/meta-data/iam/security-credentials/the-role", "IMDSKEY")
    assert opened(driver).get("log/1.json") is None
    assert signed(saying.asked[-1])[0] == "IMDSKEY"


def _gives(saying: Saying, path: str, key: str) -> None:
    """The server also answers as those that hand out credentials."""
    expires = (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    given = {
        "Code": "Success", "AccessKeyId": key, "SecretAccessKey": "s", "Token": "of the role",
        "Expiration": expires, "LastUpdated": expires,
    }  # fmt: skip

    def answer(asked: Asked) -> Say:
        if asked.path == path:
            return Say(200, json.dumps(given).encode())
        if asked.path == "/latest/api/token":
            return Say(200, b"a-token")
        if asked.path == "/latest/meta-data/iam/security-credentials/":
            return Say(200, b"the-role")
        return MISSING

    saying.answer = answer


def test_credentials_are_renewed_before_they_end(saying: Saying, monkeypatch: pytest.MonkeyPatch) -> None:
    """botocore renews what has less than 15 minutes left when it is asked, and it is asked all the time."""
    without(monkeypatch, "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{saying.endpoint}/role")
    monkeypatch.setattr("mldeploy.store.s3_config.RENEW", 0.0)
    given: list[str] = []

    def answer(asked: Asked) -> Say:
        if asked.path != "/role":
            return MISSING
        given.append(f"KEY{len(given)}")
        ends = (datetime.now(UTC) + timedelta(minutes=5)).strftime("%Y-%m-%dT%H:%M:%SZ")
        told = {"AccessKeyId": given[-1], "SecretAccessKey": "s", "Token": "t", "Expiration": ends}
        return Say(200, json.dumps(told).encode())

    saying.answer = answer
    store = opened("s3")
    for _ in range(2):
        assert store.get("log/1.json") is None
    keys = [signed(one)[0] for one in saying.asked if one.path != "/role"]
    assert len(set(keys)) == 2


def test_fsspecs_own_names(driver: str, saying: Saying) -> None:
    """fsspec reads FSSPEC_… when it is imported: hence a process."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("AWS_ACCESS")}
    env |= {
        "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1", "AWS_REGION": "us-east-1",
        "FSSPEC_S3_KEY": "FSKEY", "FSSPEC_S3_SECRET": "s", "FSSPEC_S3_ENDPOINT_URL": saying.endpoint,
    }  # fmt: skip
    code = (
        "import sys; from mldeploy.store.objects import _driver;"
        "print(_driver(sys.argv[1], False).store.get('log/1.json'))"
    )
    command = [sys.executable, "-c", code, f"{driver}://bucket/prefix"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "None\n"
    assert signed(saying.asked[0])[0] == "FSKEY"


def test_static_keys_need_no_botocore(saying: Saying) -> None:
    code = (
        "import sys; from mldeploy.store.s3 import S3Store;"
        "S3Store.open('s3://bucket/p').get('log/1.json');"
        "print({'botocore', 's3fs', 'fsspec', 'numpy', 'aiohttp'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "set()\n"


def test_nobodys_other_keys_are_mixed_in(saying: Saying, monkeypatch: pytest.MonkeyPatch) -> None:
    """obstore reads the environment too; a token there does not belong to keys from elsewhere."""
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of other keys")
    monkeypatch.setenv("FSSPEC_S3_KEY", "FSKEY")
    monkeypatch.setenv("FSSPEC_S3_SECRET", "s")
    monkeypatch.setenv("AWS_CONDITIONAL_PUT", "disabled")
    saying.says(error(412, "PreconditionFailed"))
    assert opened("s3").create("log/1.json", b"x") is False
    assert signed(saying.asked[0])[0] == "FSKEY"
    assert "x-amz-security-token" not in saying.asked[0].headers
    assert saying.asked[0].headers["if-none-match"] == "*"


def test_unsigned(saying: Saying, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FSSPEC_S3_ANON", "true")
    assert opened("s3").get("log/1.json") is None
    assert "authorization" not in saying.asked[0].headers


# --- pure


def test_where_the_bucket_goes() -> None:
    def address(bucket: str = "b", **settings: str) -> tuple[str, bool]:
        return Settings(**settings).address(bucket)  # type: ignore[arg-type]

    assert address() == ("", True)
    assert address("with.dots") == ("", False)
    assert address(addressing="path") == ("", False)
    assert address(endpoint="http://h:9000/") == ("http://h:9000", False)
    assert address(endpoint="https://h", addressing="virtual") == ("https://b.h", True)
    assert address(region="cn-north-1") == ("https://s3.cn-north-1.amazonaws.com.cn", False)


def test_what_comes_first_in_the_environment() -> None:
    found = from_environment({"AWS_REGION": "a", "AWS_DEFAULT_REGION": "b", "AWS_ENDPOINT_URL": "http://x"})
    assert (found.region, found.endpoint, found.keys) == ("a", "http://x", None)
    both = {"AWS_ENDPOINT_URL": "http://x", "AWS_ENDPOINT_URL_S3": "http://y"}
    assert from_environment(both).endpoint == "http://y"
    assert from_environment(both | {"AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"}).endpoint == ""
    keys = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "hush", "AWS_SESSION_TOKEN": "t"}
    assert from_environment(keys).keys == Keys("k", "hush", "t")
    assert "hush" not in repr(from_environment(keys))
    assert from_environment(keys | {"FSSPEC_S3_PROFILE": "p"}).keys is None


@pytest.mark.parametrize(
    ("settings", "config", "needed"),
    [
        (Settings(), None, True),
        (Settings(keys=Keys("k", "s"), region="r"), None, False),
        (Settings(keys=Keys("k", "s")), None, False),
        (Settings(keys=Keys("k", "s")), "[default]", True),
        (Settings(keys=Keys("k", "s"), region="r"), "[default]\nregion = x", False),
        (Settings(keys=Keys("k", "s"), region="r"), "[default]\nendpoint_url = x", True),
        (Settings(keys=Keys("k", "s"), region="r", endpoint="e"), "endpoint_url = x", False),
        (Settings(anonymous=True, region="r"), None, False),
    ],
)
def test_when_the_profile_is_read(settings: Settings, config: str | None, needed: bool) -> None:
    assert needs_profile(settings, config) is needed


def test_settings_of_an_environment_are_only_that() -> None:
    given = {
        "AWS_ACCESS_KEY_ID": "k",
        "AWS_SECRET_ACCESS_KEY": "s",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_REGION": "r",
    }
    settings, provider = settings_of(given)
    assert settings.keys == Keys("k", "s")
    assert provider is not None
    assert provider()["access_key_id"] == "k"


def test_a_user_without_a_home_has_no_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", nobody)
    settings, _ = settings_of({"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"})
    assert (settings.keys, settings.region) == (Keys("k", "s"), "")
    place = Place("b", "")
    with pytest.raises(StoreError, match=r"cannot read ~/ca\.pem"):
        Clients(place, {"AWS_CA_BUNDLE": "~/ca.pem", "FSSPEC_S3_ANON": "1"}, None)


def test_places() -> None:
    assert place_of("s3://b/a/c/").url == "s3://b/a/c"
    assert place_of("s3://b").prefix == ""
