"""Folders that appear as a whole, and what the operating system refuses."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from mldeploy.bundle.files import MANIFEST, disk_errors, new_folder
from mldeploy.errors import DiskError, UsageError


def make(out: Path, text: str) -> None:
    with new_folder(out) as staging:
        (staging / MANIFEST).write_text(text)


def test_a_link_stays_and_the_folder_it_leads_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "far" / "bundle")
    for text in ("first", "second"):
        make(link, text)
        assert link.readlink() == tmp_path / "far" / "bundle"
        assert (tmp_path / "far" / "bundle" / MANIFEST).read_text() == text
        assert [path.name for path in (tmp_path / "far").iterdir()] == ["bundle"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["far", "link"]


def test_what_cannot_be_a_place_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(UsageError, match="the folder you are in"):
        make(Path(), "x")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UsageError, match=r"loop (leads nowhere|is there already)"):
        make(tmp_path / "loop", "x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "loop"]


def test_an_error_names_the_file_that_was_written_and_the_cure_of_the_file_that_was_read(
    tmp_path: Path,
) -> None:
    with pytest.raises(DiskError, match=r"no space left on the disk of /b/copy"), disk_errors(tmp_path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/a/source", None, "/b/copy")
    with pytest.raises(DiskError) as error, disk_errors(tmp_path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/a/source")
    assert "/a/source" in error.value.hint
    assert str(tmp_path) not in error.value.hint
    with pytest.raises(DiskError) as error, disk_errors(tmp_path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(tmp_path / "x"))
    assert "write" in error.value.hint
