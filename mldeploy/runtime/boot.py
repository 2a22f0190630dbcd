"""Entry of everything that runs in a model's environment: `python -I -S boot.py MODE '<json options>'`.

Rules: standard library alone until the process is confined; only then the environment's `site/` is put on the
path, so that no code of a wheel, a `.pth` file included, ever ran unconfined. This folder is loaded as the
package `mldeploy_runtime`, so that nothing of the daemon's own site-packages is visible. Threads of BLAS and
OpenMP are set to one before they are loaded: a zygote must not have any.
Exits 2 on a bad call and 78 where confinement was required and cannot be had.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any

PACKAGE = "mldeploy_runtime"
MODES = ("zygote", "check")
EXIT_USAGE = 2
EXIT_CONFINEMENT = 78
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def main(arguments: list[str]) -> int:
    """Run MODE; the exit code."""
    try:
        mode, text = arguments
        options: dict[str, Any] = json.loads(text)
        if mode not in MODES or not isinstance(options["environment"], str):
            raise ValueError(mode)
    except (ValueError, KeyError, TypeError):
        print(f"usage: boot.py {'|'.join(MODES)} JSON (with an environment)", file=sys.stderr)
        return EXIT_USAGE
    # a bundle stays as it was packed, also where nothing keeps this process from writing into it
    sys.dont_write_bytecode = True
    _load_package()
    return _start(mode, options)


def _start(mode: str, options: dict[str, Any]) -> int:
    confine = importlib.import_module(f"{PACKAGE}.confine")
    errors = importlib.import_module(f"{PACKAGE}.errors")
    environment = str(Path(options["environment"]).absolute())
    write = [*options.get("write", ()), *filter(None, [options.get("scratch")])]
    read = [*options.get("read", ()), *filter(None, [options.get("bundle"), options.get("manifest")])]
    for name in _THREADS:
        os.environ[name] = "1"
    if write:  # temporary files where they may be written: in the last of the folders given
        importlib.import_module(f"{PACKAGE}.scratch").use_scratch(write[-1])
    try:
        confinement = confine.confine(
            options.get("confine", "require"), base=[environment], read=read, write=write
        )
    except errors.ConfinementError as error:
        _report_unconfined(mode, options, str(error))
        return EXIT_CONFINEMENT
    sys.path.append(os.path.join(environment, "site"))
    module = importlib.import_module(f"{PACKAGE}.{mode}")
    return int(module.main(json.dumps(options).encode(), confinement))


def _load_package() -> None:
    folder = Path(__file__).absolute().parent
    spec = importlib.util.spec_from_file_location(
        PACKAGE, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"{folder} cannot be loaded as a package")
    package = importlib.util.module_from_spec(spec)
    sys.modules[PACKAGE] = package
    spec.loader.exec_module(package)


def _report_unconfined(mode: str, options: dict[str, Any], message: str) -> None:
    """Say it where the caller of this mode looks: the zygote's status file, the check's one line."""
    print(f"mldeploy: {message}", file=sys.stderr)
    if mode == "check":
        finding = {
            "file": "",
            "key": "confine",
            "message": message,
            "hint": "use a kernel with Landlock and seccomp, or --confine best-effort",
        }
        print(json.dumps({"ok": False, "findings": [finding], "measured": {}, "confinement": "none"}))
    elif isinstance(options.get("status"), str):
        staged = f"{options['status']}.{os.getpid()}.tmp"
        with open(staged, "w", encoding="utf-8") as file:
            json.dump({"pid": os.getpid(), "state": "failed", "reason": message}, file)
        os.replace(staged, options["status"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
