"""Fashion-MNIST and the subset in the package: the real pixels, balanced, small, without pickle."""

import gzip
import runpy
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from kdnas.data import fashion as room
from kdnas.data import load_dataset
from kdnas.errors import InputError

needs_debian = pytest.mark.skipif(not room.DEBIAN.is_dir(), reason="the whole Fashion-MNIST is not installed")


def write_idx(path: Path, tensor: torch.Tensor) -> None:
    header = bytes([0, 0, 8, tensor.ndim]) + b"".join(n.to_bytes(4, "big") for n in tensor.shape)
    path.write_bytes(gzip.compress(header + tensor.numpy().tobytes()))


@pytest.fixture
def small_root(tmp_path):
    draw = torch.Generator().manual_seed(0)
    for part, count in (("train", 100), ("t10k", 20)):
        write_idx(
            tmp_path / f"{part}-images-idx3-ubyte.gz",
            torch.randint(0, 256, (count, 28, 28), generator=draw).to(torch.uint8),
        )
        write_idx(tmp_path / f"{part}-labels-idx1-ubyte.gz", (torch.arange(count) % 10).to(torch.uint8))
    return tmp_path


def test_mini_is_balanced_grey_and_pinned():
    mini = load_dataset("fashion-mini")
    assert mini.train_images.shape == (10_000, 1, 28, 28) and mini.test_images.shape == (2_000, 1, 28, 28)
    assert mini.train_images.dtype == torch.uint8 and mini.train_labels.dtype == torch.int64
    assert mini.train_labels.bincount().tolist() == [1_000] * 10
    assert mini.test_labels.bincount().tolist() == [200] * 10
    assert len(mini.classes) == 10 and mini.image_shape == (1, 28, 28) and "MIT" in mini.source
    assert mini.hash == "8357c8204bb225b6"  # published numbers name this content


def test_mini_is_small_and_carries_its_licence():
    assert sum(file.stat().st_size for file in room.FILES.iterdir()) <= 6e6
    licence = (room.FILES / "LICENSE.fashion-mnist").read_text()
    assert "Zalando" in licence and "MIT" in licence and "WITHOUT WARRANTY" in licence


@needs_debian
def test_mini_holds_the_real_images_bit_by_bit():
    full, mini = load_dataset("fashion-mnist"), load_dataset("fashion-mini")
    assert full.train_images.shape == (60_000, 1, 28, 28) and full.test_images.shape == (10_000, 1, 28, 28)
    for c in range(10):
        real = full.train_images[full.train_labels == c][:1_000]
        assert torch.equal(mini.train_images[mini.train_labels == c], real)
        real = full.test_images[full.test_labels == c][:200]
        assert torch.equal(mini.test_images[mini.test_labels == c], real)


@pytest.mark.slow  # compressing takes seconds; the content is checked above
@needs_debian
def test_the_script_makes_the_same_data_again(tmp_path, monkeypatch):
    script = Path(__file__).parents[2] / "scripts" / "make_fashion_mini.py"
    monkeypatch.setattr(sys, "argv", [str(script), str(room.DEBIAN), "--out", str(tmp_path)])
    runpy.run_path(str(script), run_name="__main__")
    for name in ("fashion-mini-train.png", "fashion-mini-test.png"):
        with Image.open(tmp_path / name) as made, Image.open(room.FILES / name) as shipped:
            assert made.mode == shipped.mode == "L" and made.tobytes() == shipped.tobytes()


def test_mosaic_round_trip():
    images = torch.randint(0, 256, (300, 28, 28), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    assert torch.equal(room.from_mosaic(room.to_mosaic(images))[:, 0], images)


def test_a_given_root_is_read(small_root):
    data = load_dataset("fashion-mnist", root=small_root)
    assert data.train_images.shape == (100, 1, 28, 28)
    assert data.test_labels.tolist() == [i % 10 for i in range(20)]


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.unlink(),
        lambda file: file.write_bytes(file.read_bytes()[:-9]),
        lambda file: file.write_bytes(b"no gzip at all"),
        lambda file: file.write_bytes(gzip.compress(b"")),
        lambda file: file.write_bytes(gzip.compress(gzip.decompress(file.read_bytes())[:-1])),
        lambda file: write_idx(file, torch.zeros(7, 28, 28, dtype=torch.uint8)),
    ],
    ids=["missing", "cut", "no gzip", "empty", "short", "other count"],
)
def test_a_damaged_root_is_refused_in_one_line(small_root, damage):
    damage(small_root / "t10k-images-idx3-ubyte.gz")
    with pytest.raises(InputError) as error:
        load_dataset("fashion-mnist", root=small_root)
    assert str(small_root) in str(error.value) and "\n" not in str(error.value)
