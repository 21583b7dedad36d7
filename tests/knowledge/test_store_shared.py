"""A store that grows, that several processes fill at once, and that several processes read."""

import multiprocessing
import os
import signal
import time
from concurrent.futures import ProcessPoolExecutor
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from processes import CONTEXT
from store_samples import CLASSES, DATA, IMAGES, VIEWS, FakeTeacher, build, truth

from kdnas.errors import InputError
from kdnas.knowledge.store.shards import share, spans

LAST = "000000020-000000023.npy"


def contents(directory: Path) -> dict[str, bytes]:
    files = (path for path in sorted(directory.rglob("*")) if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def test_shards_are_of_the_size_wanted_and_read_as_one(tmp_path):
    store = build(tmp_path, shard_images=5)
    assert len(list(tmp_path.glob("view-1/*.npy"))) == 5 and (tmp_path / "view-1" / LAST).exists()
    whole = build(tmp_path.with_name("whole"))
    ids = torch.tensor([22, 4, 5, 5, 0, 19, 20])
    for view in range(3):
        assert torch.equal(store.read(ids, view).features, whole.read(ids, view).features)
        assert torch.equal(store.read(ids, view).probs, whole.read(ids, view).probs)
    assert torch.equal(store.mean_probs(ids), whole.mean_probs(ids))
    assert torch.equal(store.mean, whole.mean) and len(store.read(ids[:0], 0).features) == 0


@pytest.mark.parametrize("form", ["int8", "pca"])
def test_more_images_are_appended_and_only_the_last_shard_is_computed_again(tmp_path, form):
    first, all_ids = torch.arange(12), torch.arange(IMAGES)
    own = {"shard_images": 5, "form": form, "weights_ids": torch.arange(0, 12, 2), "top_k": 3}
    own |= {"dims": 4} if form == "pca" else {}
    old = build(tmp_path / "a", ids=first, n_views=2, **own)
    before = {k: v for k, v in contents(tmp_path / "a").items() if "000000010-" not in k and k != "store.json"}
    said = old.read(torch.arange(12), 1)
    teacher = FakeTeacher()
    grown = build(tmp_path / "a", teacher, ids=all_ids, n_views=2, **own)
    assert teacher.seen == 2 * 13 and grown.report["shards_computed"] == 6
    assert torch.equal(grown.read(first, 1).features, said.features)
    after = contents(tmp_path / "a")
    assert before.items() <= after.items() and not [name for name in after if name.endswith("-000000012.npy")]
    fresh = contents(build(tmp_path / "b", ids=all_ids, n_views=2, **own).directory)
    same = {name for name, content in after.items() if fresh.get(name) == content}
    assert same >= set(after) - {"store.json"} and set(fresh) == set(after)
    # What was open before goes on reading; a store of more images serves fewer.
    assert torch.equal(old.read(first, 0).features, grown.read(first, 0).features)
    again = build(tmp_path / "a", FakeTeacher(), ids=first, n_views=1, **own)
    assert again.report["reused"] and torch.equal(again.read(first, 1 - 1).probs, old.read(first, 0).probs)


def test_images_that_do_not_extend_the_stored_ones_are_refused(tmp_path):
    build(tmp_path, ids=torch.tensor([3, 1, 2]), weights_ids=torch.tensor([1]))
    for ids in ([3, 2, 1, 0], [1, 2], [0, 3, 1, 2]):
        with pytest.raises(InputError, match="stale: its ids is"):
            build(tmp_path, ids=torch.tensor(ids), weights_ids=torch.tensor([1]))
    grown = build(tmp_path, ids=torch.tensor([3, 1, 2, 9, 10]), weights_ids=torch.tensor([1]))
    features, _ = truth(2, torch.tensor([10, 3]))
    assert torch.allclose(grown.read(torch.tensor([10, 3]), 2).features, features, atol=1e-2)


class Slow(FakeTeacher):
    """Takes its time, so that several workers meet."""

    def features(self, images):
        time.sleep(0.05)
        return super().features(images)


def ready(seconds: float) -> None:
    time.sleep(seconds)


def fill(directory: Path, form: str, start: float) -> tuple[int, int]:
    torch.set_num_threads(1)
    while time.time() < start:
        time.sleep(0.001)
    teacher = Slow()
    store = build(directory, teacher, shard_images=2, form=form, top_k=3, **({"dims": 4} if form == "pq" else {}))
    return store.report["shards_computed"], int(store.read(torch.arange(IMAGES), 0).probs.shape[1])


def test_processes_that_fill_one_store_at_once_share_the_work_and_make_what_one_would(tmp_path):
    fill(tmp_path / "alone", "pq", 0)
    with ProcessPoolExecutor(3, CONTEXT) as pool:
        list(pool.map(ready, [0.1] * 3))  # all have started
        start = time.time() + 0.3
        counts = list(pool.map(fill, [tmp_path / "shared"] * 3, ["pq"] * 3, [start] * 3))
    shards = 3 * len(spans(0, IMAGES, 2))
    assert all(0 < count < shards for count, _ in counts)
    assert shards <= sum(count for count, _ in counts) < 2 * shards
    assert contents(tmp_path / "shared") == contents(tmp_path / "alone")


def test_threads_share_the_work_too(tmp_path):
    alone = build(tmp_path / "alone", shard_images=2)
    teacher = Slow()
    began = time.perf_counter()
    many = build(tmp_path / "many", teacher, shard_images=2, workers=12)
    assert time.perf_counter() - began < 36 * 0.05
    assert teacher.seen == 3 * IMAGES and many.report["shards_computed"] == 36
    assert contents(many.directory) == contents(alone.directory)


def test_a_worker_that_fails_stops_the_others_and_says_why():
    seen = []

    def work(task: int) -> None:
        seen.append(task)
        if task == 3:
            raise InputError("no")
        time.sleep(0.02)

    with pytest.raises(InputError, match="no"):
        share([3], lambda task: False, work, 2)
    with pytest.raises(InputError, match="no"):
        share(range(200), lambda task: task not in (3, 4, 5, 6), work, 2)
    assert set(seen) <= {3, 4, 5, 6}


def test_what_others_have_done_meanwhile_is_left_to_them():
    done: set[int] = set()

    def work(task: int) -> None:
        done.update({task, (task + 1) % 10})  # another process is as fast

    assert share(range(10), lambda task: task in done, work) < 10
    assert done == set(range(10))


def read_all(directory: Path, results: "multiprocessing.Queue[str]") -> None:
    torch.set_num_threads(1)
    store = build(directory, Forbidden(), shard_images=4, n_views=2)
    results.put(summary(store))


def unpickled(store, results: "multiprocessing.Queue[str]") -> None:
    results.put(summary(store))


def summary(store) -> str:
    digest = sha256()
    for view in range(store.n_views):
        for part in store.read(torch.arange(IMAGES), view):
            digest.update(part.numpy().tobytes())
    digest.update(store.mean_probs(torch.arange(IMAGES)).numpy().tobytes())
    return digest.hexdigest()


class Forbidden(FakeTeacher):
    def features(self, images):
        raise AssertionError("a reader ran the teacher")


def test_many_processes_read_one_store_and_a_store_can_be_sent_to_them(tmp_path):
    store = build(tmp_path, shard_images=4, n_views=2)
    spawn = multiprocessing.get_context("spawn")
    results = spawn.Queue()
    readers = [CONTEXT.Process(target=read_all, args=(tmp_path, results)) for _ in range(2)]
    readers.append(spawn.Process(target=unpickled, args=(store, results)))
    for reader in readers:
        reader.start()
    said = [results.get(timeout=60) for _ in readers]
    for reader in readers:
        reader.join()
    assert set(said) == {summary(store)}


def fill_until_killed(directory: Path) -> None:
    torch.set_num_threads(1)

    class Mortal(Slow):
        def features(self, images):
            if self.seen > IMAGES:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().features(images)

    build(directory, Mortal(), shard_images=2)


def test_a_build_that_was_killed_goes_on_with_the_missing_shards(tmp_path):
    process = CONTEXT.Process(target=fill_until_killed, args=(tmp_path / "a",))
    process.start()
    process.join()
    kept = {name for name in contents(tmp_path / "a") if name.endswith(".npy")}
    assert process.exitcode == -signal.SIGKILL and 0 < len(kept) < 36
    before = {name: content for name, content in contents(tmp_path / "a").items() if name in kept}
    teacher = FakeTeacher()
    store = build(tmp_path / "a", teacher, shard_images=2)
    assert store.report["shards_computed"] == 36 - len(kept) and teacher.seen < 3 * IMAGES
    whole = contents(build(tmp_path / "b", shard_images=2).directory)
    assert before.items() <= whole.items()
    assert {name: content for name, content in contents(tmp_path / "a").items() if "/." not in name} == whole


def test_a_build_that_is_interrupted_leaves_whole_shards(tmp_path):
    class Dies(FakeTeacher):
        def features(self, images):
            if self.seen >= IMAGES:
                raise KeyboardInterrupt
            return super().features(images)

    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, Dies())
    assert len(list(tmp_path.glob("view-?/*.npy"))) == 1 and not list(tmp_path.rglob(".*"))
    teacher = FakeTeacher()
    build(tmp_path, teacher)
    assert teacher.seen == 2 * IMAGES


@pytest.mark.parametrize("top_k", [CLASSES, 2])
def test_a_live_teacher_says_what_the_store_says(tmp_path, top_k):
    from kdnas.data import Batch
    from kdnas.knowledge import Lessons, LiveTeacher

    teacher = FakeTeacher()
    store = build(tmp_path, teacher, top_k=top_k)
    ids = torch.tensor([7, 3, 3, 22])
    batch = Batch(ids, torch.tensor([1, -1, -1, 0]), 1, (0, 0, 0))
    for posterior in ("view", "mean"):
        stored = Lessons(DATA, VIEWS, store, 3, posterior)(batch, torch.device("cpu"))
        teacher.seen = 0
        live = Lessons(DATA, VIEWS, LiveTeacher(teacher, DATA, VIEWS, 3), 3, posterior)(batch, torch.device("cpu"))
        assert teacher.seen == len(ids) * (1 if posterior == "view" else 3)  # its own view is not asked twice
        assert torch.equal(live.images, stored.images) and torch.equal(live.labels, stored.labels)
        assert torch.allclose(live.features, stored.features, rtol=2**-10, atol=1e-3)
        if top_k == CLASSES:
            assert torch.allclose(live.probabilities, stored.probabilities, atol=1e-3)
    with pytest.raises(ValueError, match="no view 3"):
        LiveTeacher(teacher, DATA, VIEWS, 3).read(ids, 3)
