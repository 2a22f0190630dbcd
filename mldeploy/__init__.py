"""mldeploy: continuous deployment of machine-learning models through an object-store bucket.

`pack`, `deploy` and `Client` are loaded when first used, so that importing this package costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mldeploy.bundle.pack import pack
    from mldeploy.client import Client
    from mldeploy.client.deploy import deploy

    __version__: str

__all__ = ["Client", "__version__", "deploy", "pack"]

_HOMES = {"pack": "mldeploy.bundle.pack", "Client": "mldeploy.client", "deploy": "mldeploy.client.deploy"}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("mldeploy")
    if name in _HOMES:
        from importlib import import_module

        value = getattr(import_module(_HOMES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'mldeploy' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
