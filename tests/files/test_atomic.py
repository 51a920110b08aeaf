"""A file is written whole or not at all, and whether it can be written is known before."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from spikeloom.errors import FileError
from spikeloom.files.atomic import check_target, replacing


def test_a_good_target_is_checked_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "there.txt").write_text("kept")
    for target in ("there.txt", "absent.txt", "deep/er/absent.txt"):
        check_target(tmp_path / target)
    assert [path.name for path in tmp_path.iterdir()] == ["there.txt"]
    assert (tmp_path / "there.txt").read_text() == "kept"


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("", "is a folder"),
        ("/", "is a folder"),
        ("..", "is a folder"),
        ("folder", "is a folder"),
        ("link", "is a folder"),
        ("pipe", "is no regular file"),
        ("file/x.npz", "cannot be written"),
        ("file/deep/x.npz", "cannot be written"),
        ("a" * 300, "cannot be written"),
        ("a" * 250, "cannot be written"),  # the temporary file beside it has a longer name
    ],
)
def test_a_bad_target_is_refused_before_the_work_as_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("file").touch()
    Path("link").symlink_to("folder")
    os.mkfifo("pipe")
    before = sorted(os.listdir())
    with pytest.raises(FileError, match=words) as early:
        check_target(target)
    with pytest.raises(FileError) as late, replacing(target):
        pytest.fail("there was work")
    assert str(late.value) == str(early.value)
    assert sorted(os.listdir()) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    for target in ("x.npz", "deep/x.npz"):
        with pytest.raises(FileError, match="Permission denied"):
            check_target(tmp_path / target)
