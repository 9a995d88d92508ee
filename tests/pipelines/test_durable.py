"""Small files: whole or not at all, and nothing left behind."""

import os
from pathlib import Path

import pytest

from pipelines.durable import write_whole


def test_a_file_is_put_in_place_whole_with_its_folders(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "seal.json"
    write_whole(path, "one")
    write_whole(path, "zwei ü")
    assert path.read_text(encoding="utf-8") == "zwei ü"
    assert [entry.name for entry in path.parent.iterdir()] == ["seal.json"]


@pytest.mark.parametrize("call", ["os.fsync", "pathlib.Path.replace"])
def test_what_cannot_be_written_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def full(*_: object) -> None:
        raise OSError("no space left on device")

    path = tmp_path / "seal.json"
    write_whole(path, "before")
    monkeypatch.setattr(call, full)
    with pytest.raises(OSError, match="no space"):
        write_whole(path, "after")
    assert path.read_text(encoding="utf-8") == "before"
    assert [entry.name for entry in tmp_path.iterdir()] == ["seal.json"]


def test_it_is_written_beside_and_synced_before_it_is_moved_and_its_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    sync, move = os.fsync, Path.replace

    def synced(number: int) -> None:
        done.append("sync " + Path(f"/proc/self/fd/{number}").readlink().name)
        sync(number)

    def moved(self: Path, target: Path) -> Path:
        done.append(f"move {self.name} {target.name}")
        return move(self, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", moved)
    write_whole(tmp_path / "seal.json", "x")
    beside = f".seal.json.{os.getpid()}.tmp"
    assert done == [f"sync {beside}", f"move {beside} seal.json", f"sync {tmp_path.name}"]
