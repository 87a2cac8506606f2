"""The cache: made once, checked before use, made again where damaged, and never larger than its budget."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from migaki.core import cache as cache_module
from migaki.core import store
from migaki.core.cache import Cache, cache_folder, set_aside
from processes import finish, start


class Made:
    """Writes one file, and counts how often."""

    def __init__(self, n_bytes: int = 5) -> None:
        self.n_bytes, self.times = n_bytes, 0

    def __call__(self, folder: Path) -> None:
        self.times += 1
        (folder / "word.txt").write_bytes(b"x" * self.n_bytes)


def new_process() -> None:
    """An entry is checked before its first use in a process."""
    cache_module._checked.clear()


def test_no_test_meets_the_cache_of_whoever_runs_it():
    assert cache_folder() == Path(__file__).parents[2] / ".cache"


def test_an_entry_is_made_once_and_found_afterwards(tmp_path: Path) -> None:
    cache, made = Cache("words", folder=tmp_path), Made()
    assert cache.find("a") is None
    first = cache.get("a", made)
    assert (first / "word.txt").read_bytes() == b"xxxxx"
    new_process()
    assert cache.get("a", made) == cache.find("a") == first == tmp_path / "words" / "a"
    assert made.times == 1
    cache.get("b", made)
    assert made.times == 2


@pytest.mark.parametrize("damage", ["flipped", "missing", "manifest"])
def test_a_damaged_entry_is_set_aside_and_made_again(tmp_path: Path, damage: str) -> None:
    cache, made = Cache("words", folder=tmp_path), Made()
    entry = cache.get("a", made)
    path = entry / ("MANIFEST.json" if damage == "manifest" else "word.txt")
    path.unlink() if damage == "missing" else path.write_bytes(b"xxxxy")
    new_process()
    assert cache.get("a", made) == entry
    assert made.times == 2
    assert (entry / "word.txt").read_bytes() == b"xxxxx"
    assert [p.name for p in (tmp_path / "words").iterdir() if p.name.startswith(".")] == [".corrupt-a-0"]
    assert cache.bytes_used() == sum(p.stat().st_size for p in entry.rglob("*"))


def test_what_is_set_aside_twice_gets_two_names(tmp_path: Path) -> None:
    for wanted in (".corrupt-a-0", ".corrupt-a-1"):
        (tmp_path / "a").mkdir()
        assert set_aside(tmp_path / "a").name == wanted


def test_an_entry_whose_making_failed_leaves_nothing(tmp_path: Path) -> None:
    def broken(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise KeyboardInterrupt

    cache, made = Cache("words", folder=tmp_path), Made()
    with pytest.raises(KeyboardInterrupt):
        cache.get("a", broken)
    assert list((tmp_path / "words").iterdir()) == []
    cache.get("a", made)
    assert made.times == 1


def size(entry: Path) -> int:
    return sum(path.stat().st_size for path in entry.rglob("*"))


def test_the_entries_used_longest_ago_make_room(tmp_path: Path) -> None:
    """Room for three of four: b was used last of the old ones, a is the oldest but was used again, c goes."""
    made = Made(1000)
    each = size(Cache("words", folder=tmp_path / "one").get("a", made))
    cache = Cache("words", budget_bytes=3 * each + each // 2, folder=tmp_path)
    for at, key in enumerate("abc"):
        os.utime(cache.get(key, made) / ".used", (1000 + at, 1000 + at))
    assert sorted(p.name for p in (tmp_path / "words").iterdir()) == ["a", "b", "c"]
    # Whatever is found was used.
    cache.find("a")
    os.utime(tmp_path / "words" / "b" / ".used", (2000, 2000))
    cache.get("d", made)
    assert sorted(p.name for p in (tmp_path / "words").iterdir()) == ["a", "b", "d"]
    assert cache.bytes_used() <= 3 * each + each // 2
    cache.get("c", made)
    assert made.times == 6


def test_the_newest_entry_stays_however_large(tmp_path: Path) -> None:
    cache = Cache("words", budget_bytes=10, folder=tmp_path)
    cache.get("a", Made())
    entry = cache.get("b", Made(5000))
    assert [p.name for p in (tmp_path / "words").iterdir()] == ["b"]
    assert cache.find("b") == entry


def test_without_a_budget_nothing_ever_goes(tmp_path: Path) -> None:
    cache = Cache("words", folder=tmp_path)
    for key in "abcde":
        cache.get(key, Made(5000))
    assert len(list((tmp_path / "words").iterdir())) == 5


def test_kinds_do_not_make_room_for_each_other(tmp_path: Path) -> None:
    Cache("words", folder=tmp_path).get("a", Made(5000))
    Cache("numbers", budget_bytes=10, folder=tmp_path).get("a", Made())
    assert (tmp_path / "words" / "a").is_dir()


def test_dropping_an_entry_takes_its_name_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that looks at the moment of the removal must see all of it or nothing."""
    cache = Cache("words", folder=tmp_path)
    entry, seen = cache.get("a", Made()), []
    monkeypatch.setattr(store.shutil, "rmtree", lambda path, **how: seen.append((Path(path), entry.exists())))
    cache.drop("a")
    ((path, there),) = seen
    assert not there
    assert path.name.startswith(".")
    cache.drop("a")  # nothing there, nothing to do


RACE = """
import sys, time
from pathlib import Path
from migaki.core.cache import Cache

folder, name = Path(sys.argv[1]), sys.argv[2]

def make(entry):
    (entry / "word.txt").write_text(name)
    (folder / f"{name}.ready").touch()
    while len(list(folder.glob("*.ready"))) < 2:
        time.sleep(0.01)

found = Cache("words", folder=folder).get("a", make)
print((found / "word.txt").read_text(), len(list(found.parent.iterdir())))
"""


def test_two_processes_that_make_the_same_entry_end_with_one(tmp_path: Path) -> None:
    """Both are inside `make` at one moment; the slower one takes what the quicker one made."""
    said = [out.split() for out in finish(*(start(RACE, tmp_path, name) for name in ("one", "two")))]
    assert said[0][0] == said[1][0]
    assert [p.name for p in (tmp_path / "words").iterdir()] == ["a"]


def test_an_entry_that_appears_at_the_very_last_moment_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look whether it is there and the rename, another process may have been quicker."""
    cache, made = Cache("words", folder=tmp_path), Made()
    rename = Path.rename

    def late(self: Path, target: Path) -> Path:
        if target == tmp_path / "words" / "a":
            monkeypatch.setattr(Path, "rename", rename)
            Cache("words", folder=tmp_path).get("a", Made())
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", late)
    entry = cache.get("a", made)
    assert (entry / "word.txt").read_bytes() == b"xxxxx"
    assert [p.name for p in (tmp_path / "words").iterdir()] == ["a"]


def test_an_entry_that_is_removed_while_it_is_checked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, made = Cache("words", folder=tmp_path), Made()
    cache.get("a", made)
    new_process()
    verify = cache_module.verify

    def late(entry: Path) -> object:
        monkeypatch.setattr(cache_module, "verify", verify)
        Cache("words", folder=tmp_path).drop("a")
        return verify(entry)

    monkeypatch.setattr(cache_module, "verify", late)
    assert (cache.get("a", made) / "word.txt").is_file()
    assert made.times == 2


def test_a_cache_that_can_only_be_read_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Cache("words", folder=tmp_path)
    entry = cache.get("a", Made())
    new_process()

    def refused(self: Path, *_: object, **__: object) -> None:
        raise PermissionError(13, "read only", str(self))

    monkeypatch.setattr(Path, "touch", refused)
    assert cache.find("a") == entry


def test_where_the_cache_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MIGAKI_CACHE", "/one")
    monkeypatch.setenv("XDG_CACHE_HOME", "/two")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == Path("/one")
    monkeypatch.delenv("MIGAKI_CACHE")
    assert cache_folder() == Path("/two/migaki")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == tmp_path / ".cache" / "migaki"
