"""Files that are whole or absent, hashes, seeds and the cache's place."""

import json
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdnas.errors import InputError
from kdnas.run.files import atomic_write, hash_of, read_json, sha256_file, write_json
from kdnas.run.paths import cache_dir
from kdnas.run.seeds import generator, seed_of


def test_files_are_written_with_their_folders_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "c.txt"
    atomic_write(path, "grün")
    assert path.read_bytes() == "grün".encode()
    atomic_write(str(path), b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    assert [p.name for p in path.parent.iterdir()] == ["c.txt"]


def test_others_may_read_what_an_ordinary_file_would_let_them(tmp_path: Path) -> None:
    atomic_write(tmp_path / "a", b"1")
    (tmp_path / "b").write_bytes(b"1")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


@pytest.mark.parametrize("fault", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_a_fault_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: BaseException, where: str
) -> None:
    path = tmp_path / "a.txt"
    atomic_write(path, "old")

    def fail(*args: Any) -> None:
        raise fault

    monkeypatch.setattr(os, where, fail)
    with pytest.raises(InputError if isinstance(fault, OSError) else KeyboardInterrupt) as caught:
        atomic_write(path, "new")
    if isinstance(fault, OSError):
        assert str(path) in str(caught.value) and "No space left" in str(caught.value)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write .*file/inside"):
        atomic_write(tmp_path / "file" / "inside", "x")


def test_a_reader_never_sees_a_part(tmp_path: Path) -> None:
    path, size = tmp_path / "a", 200_000
    atomic_write(path, b"0" * size)
    stop, seen = threading.Event(), set()

    def read() -> None:
        while not stop.is_set():
            data = path.read_bytes()
            seen.add((len(data), len(set(data))))

    reader = threading.Thread(target=read)
    reader.start()
    for turn in range(20):
        atomic_write(path, str(turn % 10).encode() * size)
    stop.set()
    reader.join()
    assert seen == {(size, 1)}


def test_json_goes_round_and_nan_is_refused(tmp_path: Path) -> None:
    value = {"a": [1, 2.5, None, "grün"], "b": {"c": True}}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(tmp_path / "b.json", float("nan"))
    assert not (tmp_path / "b.json").exists()


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"\xff\xfe"])
def test_damaged_json_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.json is not valid JSON"):
        read_json(tmp_path / "a.json")
    with pytest.raises(InputError, match="cannot read"):
        read_json(tmp_path / "b.json")


def test_sha256_of_known_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_file(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


# Hashes.

DIFFERENT = [
    (), ("",), ("", ""), ("ab",), ("a", "b"), ("a", "b", ""), (["a", "b"],), ([["a"], "b"],), ([["a", "b"]],),
    ({"a": "b"},), ({"a": {"b": 1}},), ({"a": 1, "b": 1},), ({},), ([],), ([[]],), ([], []), (None,), ("None",),
    (0,), (1,), (1.0,), ("1",), (True,), (False,), (b"1",), (b"",), (b"ab",), (b"a", b"b"), (-0.0,), (0.0,),
    (torch.zeros(2),), (torch.zeros(1, 2),), (torch.zeros(2, dtype=torch.int64),), (torch.tensor([0.0, 1.0]),),
    (torch.zeros(2), torch.zeros(2)), (torch.zeros(4),), (torch.zeros(2).double(),), (torch.zeros(0),),
    (b"v\x01\x00\x00\x00\x00\x00\x00\x001",), ("]", "["), (["]"],), ("{", "}"),
]  # fmt: skip


def test_different_things_have_different_hashes() -> None:
    hashes = [hash_of(*parts) for parts in DIFFERENT]
    assert len(set(hashes)) == len(DIFFERENT)
    assert all(len(h) == 16 and set(h) <= set("0123456789abcdef") for h in hashes)


def test_equal_things_have_equal_hashes() -> None:
    assert hash_of({"a": 1, "b": [2, {"c": 3, "d": 4}]}) == hash_of({"b": [2, {"d": 4, "c": 3}], "a": 1})
    assert hash_of((1, 2)) == hash_of([1, 2])
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert hash_of(values) == hash_of(torch.from_numpy(values)) == hash_of(np.asfortranarray(values))
    assert hash_of(torch.from_numpy(values).T) == hash_of(values.T) != hash_of(values)
    assert hash_of(torch.from_numpy(values).requires_grad_()) == hash_of(values)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(value=JSON)
def test_what_json_brings_back_has_the_same_hash(value: Any) -> None:
    assert hash_of(json.loads(json.dumps(value))) == hash_of(value)


@given(one=JSON, other=JSON)
def test_hashes_are_equal_only_where_values_are(one: Any, other: Any) -> None:
    assert (hash_of(one) == hash_of(other)) == (repr_sorted(one) == repr_sorted(other))


def repr_sorted(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ",".join(f"{key!r}:{repr_sorted(value[key])}" for key in sorted(value)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(repr_sorted(item) for item in value) + "]"
    return repr(value)


# Seeds.


def test_generators_depend_on_the_whole_key_alone() -> None:
    def draw(*key: int | str) -> list[int]:
        return torch.randint(1 << 40, (4,), generator=generator(*key)).tolist()

    torch.manual_seed(0)
    first = draw(3, "search", 1, 2)
    torch.rand(5)
    assert draw(3, "search", 1, 2) == first
    others = [draw(3, "search", 2, 1), draw(3, "search", 12), draw(3, "search", 1, 2, 0), draw("3", "search", 1, 2)]
    assert first not in others and len({tuple(row) for row in others}) == 4
    assert all(0 <= seed_of(i) < 2**63 for i in range(200))
    assert len({seed_of(i) for i in range(200)}) == 200


def test_the_cache_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDNAS_CACHE", str(tmp_path / "here"))
    assert cache_dir() == tmp_path / "here"
    monkeypatch.delenv("KDNAS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "kdnas"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir() == tmp_path / ".cache" / "kdnas"
    assert not cache_dir().exists()
