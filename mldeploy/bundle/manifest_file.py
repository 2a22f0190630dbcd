"""manifest.yaml on a disk: read strictly from YAML or JSON, written as YAML for people.

Rules: errors name the file and the key; the digest is that of the canonical form, so layout and comments do
not count. On a host the file is the canonical JSON itself. Left out: whether the values make sense
(`core/manifest.py`) and whether the files are there (`artifact.py`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mldeploy.bundle.files import MANIFEST, disk_errors
from mldeploy.core.manifest import Manifest, canonical, parse
from mldeploy.errors import ManifestError

MAX_BYTES = 64 << 20


def read_manifest(path: Path) -> Manifest:
    """The manifest in the file `path`, or in the folder `path`. Raises ManifestError naming file and key."""
    if path.is_dir():
        path = path / MANIFEST
    data = load_yaml(path)
    try:
        return parse(data)
    except ManifestError as error:
        raise ManifestError(f"{path}: {error.message}", error.hint) from error


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `folder`/manifest.yaml. Raises DiskError."""
    import yaml

    data = json.loads(canonical(manifest))
    ordered = {name: data[name] for name in manifest.__struct_fields__ if name in data}
    text = yaml.safe_dump(ordered, sort_keys=False, allow_unicode=True, width=4096, default_flow_style=None)
    with disk_errors(folder):
        (folder / MANIFEST).write_text(text, encoding="utf-8")


def load_yaml(path: Path) -> Any:
    """The plain data of a YAML (or JSON) file. Raises ManifestError naming the file and line."""
    of_bundle = path.name == MANIFEST
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        hint = "pack the model first: mldeploy pack SOURCE" if of_bundle else "name another file"
        raise ManifestError(f"{path}: {error.strerror}", hint) from error
    return read_yaml(
        data, str(path), "mend the line, or pack the model again" if of_bundle else "mend the line"
    )


def read_yaml(data: bytes, name: str, hint: str = "mend the line") -> Any:
    """The plain data of YAML (or JSON) text. Raises ManifestError that begins with `name`."""
    import yaml

    if len(data) > MAX_BYTES:
        raise ManifestError(f"{name}: larger than {MAX_BYTES >> 20} MiB", "name another file")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise ManifestError(
            f"{name}: not UTF-8 text (byte {error.start})", "save the file as UTF-8"
        ) from error
    try:
        if text.startswith("{"):
            return json.loads(text)
        return yaml.load(text, Loader=_loader())  # a SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ManifestError(f"{name}: not YAML: {_where(error)}", hint) from error


def _loader() -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        """Refuses what YAML lets pass: the same key twice, and aliases, which grow without bound.

        Dates stay text, so that one that is not of the calendar is judged by its key.
        """

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.events.AliasEvent):
                event: Any = self.peek_event()  # type: ignore[no-untyped-call]
                raise yaml.MarkedYAMLError(None, None, "an alias (*) is not taken", event.start_mark)
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            seen = set()
            for key, _ in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    raise yaml.MarkedYAMLError(None, None, "a key is not a text", key.start_mark)
                if key.value in seen:
                    raise yaml.MarkedYAMLError(
                        None, None, f"the key {key.value!r} stands twice", key.start_mark
                    )
                seen.add(key.value)
                key.tag = "tag:yaml.org,2002:str"  # YAML 1.1 takes the key `on` for a truth
            return super().construct_mapping(node, deep)

    Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    return Loader


def _where(error: Exception) -> str:
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    text = str(problem or error).splitlines()[0]
    return f"line {mark.line + 1}: {text}" if mark else text
