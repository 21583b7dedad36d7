"""The cache is listed by kind and emptied without touching anything else."""

import pytest

from kdnas.data import empty_cache, list_cache
from kdnas.errors import InputError


def fill(cache):
    (cache / "data").mkdir()
    (cache / "data" / "a.bin").write_bytes(bytes(10))
    (cache / "knowledge" / "store" / "deep").mkdir(parents=True)
    (cache / "knowledge" / "store" / "deep" / "x").write_bytes(bytes(7))
    (cache / "knowledge" / "store" / "y").write_bytes(bytes(5))
    (cache / "kept.txt").write_text("not ours")


def test_no_cache_is_an_empty_list(monkeypatch, tmp_path):
    monkeypatch.setenv("KDNAS_CACHE", str(tmp_path / "nowhere"))
    assert list_cache() == [] and empty_cache() == 0 and not (tmp_path / "nowhere").exists()


def test_entries_carry_kind_size_and_path(own_cache):
    fill(own_cache)
    assert list_cache() == [
        {"name": "a.bin", "kind": "data", "bytes": 10, "path": str(own_cache / "data" / "a.bin")},
        {"name": "store", "kind": "knowledge", "bytes": 12, "path": str(own_cache / "knowledge" / "store")},
    ]


def test_emptying_one_kind_leaves_the_others(own_cache):
    fill(own_cache)
    assert empty_cache("knowledge") == 12
    assert [entry["name"] for entry in list_cache()] == ["a.bin"]
    assert empty_cache() == 10 and list_cache() == [] and (own_cache / "kept.txt").exists()


def test_a_link_is_removed_and_what_it_names_stays(own_cache, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "precious").write_bytes(bytes(100))
    (own_cache / "data").mkdir()
    (own_cache / "data" / "link").symlink_to(tmp_path / "mine")
    assert empty_cache("data") == 0 and list_cache() == []
    assert (tmp_path / "mine" / "precious").exists()


def test_an_unknown_kind_is_refused():
    with pytest.raises(InputError, match="data, teachers, knowledge"):
        empty_cache("datas")
