"""Own images: folders and archives of them give the same data; what is wrong is named."""

import io
import os
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kdnas.data import list_cache, load_dataset
from kdnas.errors import InputError


def write_image(path: Path, seed: int, size=(10, 10), mode="RGB", **options) -> np.ndarray:
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return pixels


@pytest.fixture
def divided(tmp_path):
    root = tmp_path / "pets"
    for part, count in (("train", 4), ("test", 2)):
        for c, name in enumerate(("cat", "dog")):
            for i in range(count):
                write_image(root / part / name / f"{i}.png", 100 * c + 10 * i + (part == "test"))
    return root


@pytest.fixture
def plain(tmp_path):
    root = tmp_path / "things"
    for c, (name, count) in enumerate((("b", 12), ("a", 5), ("c", 3))):
        for i in range(count):
            write_image(root / name / f"{i}.png", 100 * c + i)
    return root


def load(path, **settings):
    return load_dataset(f"folder:{path}", **settings)


def pack(root: Path, form: str, wrap: bool) -> Path:
    archive = root.with_name(f"{root.name}.{form}")
    inside = root.name if wrap else "."
    if form == "zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
            for path in root.rglob("*"):
                file.write(path, Path(inside, path.relative_to(root)))
    else:
        with tarfile.open(archive, "w:" + form.partition(".")[2]) as file:
            file.add(root, inside)
    return archive


def test_train_and_test_folders(divided):
    data = load(divided)
    assert data.classes == ("cat", "dog") and data.name == f"folder:{divided}"
    assert data.train_images.shape == (8, 3, 10, 10) and data.test_images.shape == (4, 3, 10, 10)
    assert data.train_labels.tolist() == [0] * 4 + [1] * 4 and data.test_labels.tolist() == [0, 0, 1, 1]
    pixels = np.random.default_rng(100 + 10).integers(0, 256, (10, 10, 3), dtype=np.uint8)
    assert np.array_equal(data.train_images[5].permute(1, 2, 0).numpy(), pixels)


@pytest.mark.parametrize("form", ["zip", "tar", "tar.gz", "tar.xz"])
@pytest.mark.parametrize("wrap", [True, False])
def test_an_archive_gives_what_its_folder_gives(divided, plain, form, wrap):
    for root in (divided, plain):
        assert load(pack(root, form, wrap)).hash == load(root).hash


def test_a_split_of_one_in_five_of_each_class_that_stays(plain):
    data = load(plain)
    assert data.classes == ("a", "b", "c")
    assert data.train_labels.bincount().tolist() == [4, 10, 2] and data.test_labels.bincount().tolist() == [
        1,
        2,
        1,
    ]
    moved = plain.with_name("elsewhere")
    shutil.copytree(plain, moved)
    assert load(moved).hash == data.hash
    everything = torch.cat([data.train_images, data.test_images]).flatten(1)
    assert len(everything.unique(dim=0)) == 20
    # A new image of one class leaves the other classes' test images where they were.
    write_image(plain / "c" / "new.png", 999)
    assert torch.equal(load(plain).test_images[:3], data.test_images[:3])


def test_decoded_images_are_kept_until_a_file_changes(plain, own_cache):
    first = load(plain)
    assert [entry["kind"] for entry in list_cache()] == ["data"]
    kept = Path(list_cache()[0]["path"])
    stamp = kept.stat().st_mtime_ns
    assert load(plain).hash == first.hash and kept.stat().st_mtime_ns == stamp
    assert load(plain).classes == first.classes

    kept.write_bytes(kept.read_bytes()[:100])  # damaged: made again
    assert load(plain).hash == first.hash and kept.stat().st_size > 100

    write_image(plain / "a" / "0.png", 12345)
    os.utime(plain / "a" / "0.png", ns=(1, 1))
    assert load(plain).hash != first.hash and len(list_cache()) == 2
    assert load(plain, image_size=16).image_shape == (3, 16, 16)


def test_an_unwritable_cache_is_no_error(plain, own_cache):
    (own_cache / "data").write_text("a file where a folder should be")
    assert load(plain).image_shape == (3, 10, 10)


def test_grey_and_colour_and_all_kinds_of_files(tmp_path):
    for i, suffix in enumerate(("png", "jpg", "bmp", "webp", "tif", "gif", "pgm")):
        write_image(tmp_path / "a" / f"{i}.{suffix}", i, mode="L")
        write_image(tmp_path / "b" / f"{i}.{suffix.upper()}", i, mode="L")
    grey = load(tmp_path)
    # WebP and GIF have no grey of their own, so the whole set is in colour unless asked otherwise.
    assert grey.image_shape[0] == 3 and load(tmp_path, channels=1).image_shape == (1, 10, 10)
    for file in [*tmp_path.rglob("*.webp"), *tmp_path.rglob("*.WEBP"), *tmp_path.rglob("*.[gG][iI][fF]")]:
        file.unlink()
    assert load(tmp_path).image_shape == (1, 10, 10)
    colour = write_image(tmp_path / "b" / "z.png", 50)
    mixed = load(tmp_path)
    assert mixed.image_shape == (3, 10, 10)
    assert any(np.array_equal(x.permute(1, 2, 0), colour) for x in [*mixed.train_images, *mixed.test_images])


def test_any_size_is_resized(plain):
    write_image(plain / "a" / "0.png", 1, size=(31, 17))
    with pytest.raises(InputError, match=r"a/0\.png is 31 x 17\): set data\.image_size"):
        load(plain)
    assert load(plain, image_size=8).image_shape == (3, 8, 8)


def test_a_large_photograph_is_decoded_small_and_upright(tmp_path):
    ramp = np.linspace(0, 255, 1600).astype(np.uint8)
    picture = np.broadcast_to(ramp[:, None], (1600, 800)).copy()  # dark above, light below
    exif = Image.Exif()
    exif[0x0112] = 3  # taken upside down
    for name in "ab":
        (tmp_path / name).mkdir()
        for i in range(2):
            Image.fromarray(picture).save(tmp_path / name / f"{i}.jpg", exif=exif, quality=95)
    data = load(tmp_path, image_size=16)
    column = data.train_images[0, 0, :, 8].float()
    assert (column.diff() < 0).all()
    assert (column - torch.linspace(255 * (1 - 1 / 32), 255 / 32, 16)).abs().max() < 3


def test_hidden_and_foreign_files_are_ignored(divided):
    before = load(divided).hash
    (divided / "README.txt").write_text("hello")
    (divided / "train" / "cat" / "notes.csv").write_text("1,2")
    (divided / "train" / "cat" / ".hidden.png").write_text("no image")
    (divided / "__MACOSX" / "train").mkdir(parents=True)
    (divided / "__MACOSX" / "train" / "._0.png").write_text("no image")
    assert load(divided).hash == before


def test_a_loop_of_links_ends_and_linked_classes_are_read(plain, tmp_path):
    os.symlink(plain, plain / "a" / "loop")
    shutil.move(plain / "b", tmp_path / "b elsewhere")
    os.symlink(tmp_path / "b elsewhere", plain / "b")
    assert load(plain).classes == ("a", "b", "c")


def test_unreadable_images_are_named(divided):
    (divided / "train" / "cat" / "1.png").write_text("no image")
    whole = (divided / "test" / "dog" / "0.png").read_bytes()
    (divided / "test" / "dog" / "0.png").write_bytes(whole[: len(whole) // 2])
    for path in (divided, pack(divided, "tar.xz", True), pack(divided, "zip", False)):
        with pytest.raises(InputError) as error:
            load(path)
        line = str(error.value)
        assert "train/cat/1.png (not an image)" in line and "test/dog/0.png" in line and "\n" not in line


def test_many_unreadable_images_make_a_short_line(plain):
    for file in (plain / "b").iterdir():
        file.write_bytes(b"")
    with pytest.raises(InputError, match=r"b/0\.png .* and 7 more; remove or replace them"):
        load(plain)


@pytest.mark.parametrize(
    ("add", "message"),
    [
        ("val/cat/1.png", r"val/cat/1\.png in .* is out of place"),
        ("train/1.png", r"train/1\.png in .* is out of place"),
        ("train/cat/deep/1.png", "out of place"),
        (
            "train/bird/1.png",
            "class bird .* lacks a training or a test image: add one to train/ and test/ each",
        ),
        ("train/bird/1.heic", "no image of a known kind in bird/"),
    ],
)
def test_other_layouts_are_refused(divided, add, message):
    if add.endswith("png"):
        write_image(divided / add, 0)
    else:
        (divided / add).parent.mkdir()
        (divided / add).write_bytes(b"some other format")
    with pytest.raises(InputError, match=message):
        load(divided)


def test_too_little_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no images"):
        load(tmp_path)
    write_image(tmp_path / "a" / "0.png", 0)
    with pytest.raises(InputError, match=r"one class only \(a\)"):
        load(tmp_path)
    write_image(tmp_path / "b" / "0.png", 0)
    with pytest.raises(InputError, match=r"class a .*at least 2 images"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["../../evil.png", "/evil.png", "a/../../evil.png"])
@pytest.mark.parametrize("form", ["zip", "tar"])
def test_unsafe_names_are_refused(tmp_path, name, form):
    archive = tmp_path / f"x.{form}"
    if form == "zip":
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr(name, b"data")
    else:
        with tarfile.open(archive, "w") as file:
            member = tarfile.TarInfo(name)
            member.size = 4
            file.addfile(member, io.BytesIO(b"data"))
    with pytest.raises(InputError, match="unsafe path"):
        load(archive)


def test_links_in_an_archive_are_refused(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as file:
        member = tarfile.TarInfo("a/0.png")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        file.addfile(member)
    with pytest.raises(InputError, match="is a link"):
        load(tmp_path / "x.tar")


@pytest.mark.parametrize("form", ["zip", "tar", "tar.gz", "tar.xz"])
@pytest.mark.parametrize("kept", [0.97, 0.5, 0.0])
def test_a_cut_archive_is_refused_and_named(plain, form, kept):
    archive = pack(plain, form, True)
    content = archive.read_bytes()
    archive.write_bytes(content[: int(kept * len(content.rstrip(b"\0")))])
    with pytest.raises(InputError) as error:
        load(archive)
    assert archive.name in str(error.value) and "\n" not in str(error.value)


def test_flipped_bits_in_a_zip_are_noticed(plain):
    archive = pack(plain, "zip", True)
    content = bytearray(archive.read_bytes())
    content[len(content) // 3] ^= 0xFF
    archive.write_bytes(content)
    with pytest.raises(InputError, match=r"damaged|unreadable"):
        load(archive)
