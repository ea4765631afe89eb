"""The folder of Unix sockets is this user's alone, or it is refused."""

import os
from pathlib import Path

import pytest

from router.runtime_folder import RuntimeFolderError, runtime_folder


def test_the_folder_is_made_for_this_user_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = runtime_folder(str(tmp_path / "a" / "b"))
    assert (made, made.stat().st_mode & 0o777) == (tmp_path / "a" / "b", 0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "xdg"))
    assert runtime_folder(None) == tmp_path / "xdg" / "fairlead"
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert runtime_folder(None) == tmp_path / f"fairlead-{os.getuid()}"


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777])
def test_a_folder_that_others_can_write_is_refused(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(RuntimeFolderError, match="only this user can write"):
        runtime_folder(str(folder))


def test_a_link_to_a_folder_and_a_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to("real")
    with pytest.raises(RuntimeFolderError, match="only this user can write"):
        runtime_folder(str(tmp_path / "link"))
    (tmp_path / "file").touch()
    with pytest.raises(RuntimeFolderError, match="cannot use the runtime folder"):
        runtime_folder(str(tmp_path / "file"))


def test_a_folder_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: os.stat(tmp_path).st_uid + 1)
    with pytest.raises(RuntimeFolderError, match="correct its owner"):
        runtime_folder(str(tmp_path))
