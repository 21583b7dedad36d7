"""The CIFAR binary distribution, in miniature: read whole from each form, refused where damaged."""

import io
import tarfile

import numpy as np
import pytest

from kdnas.data import load_dataset
from kdnas.data.cifar import LAYOUTS
from kdnas.errors import InputError


def make_files(name, per_file=20):
    """The files of the distribution with few records, and the pixels and labels in them."""
    layout, draw = LAYOUTS[name], np.random.default_rng(0)
    classes = 10 if name == "cifar10" else 100
    files, pixels, labels = {}, {}, {}
    for file in (*layout.train, layout.test):
        labels[file] = draw.integers(0, classes, per_file)
        pixels[file] = draw.integers(0, 256, (per_file, 3, 32, 32), dtype=np.uint8)
        coarse = [np.full((per_file, 1), 255)] * (layout.label_bytes - 1)  # must not be taken for the label
        rows = np.hstack([*coarse, labels[file][:, None], pixels[file].reshape(per_file, -1)])
        files[file] = rows.astype(np.uint8).tobytes()
    files[layout.names] = ("\n".join(f"class_{i}" for i in range(classes)) + "\n\n").encode()
    train = (
        np.concatenate([pixels[f] for f in layout.train]),
        np.concatenate([labels[f] for f in layout.train]),
    )
    return files, train, (pixels[layout.test], labels[layout.test])


def write_archive(path, files):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"cifar-batches-bin/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.parametrize("form", ["extracted", "archive", "folder of the archive"])
def test_reads_each_form(name, form, tmp_path):
    files, train, test = make_files(name)
    root = tmp_path
    if form == "extracted":
        for file, content in files.items():
            (tmp_path / file).write_bytes(content)
    else:
        write_archive(tmp_path / LAYOUTS[name].archive, files)
        root = tmp_path / LAYOUTS[name].archive if form == "archive" else tmp_path
    data = load_dataset(name, root=root)
    assert np.array_equal(data.train_images.numpy(), train[0])
    assert np.array_equal(data.train_labels.numpy(), train[1])
    assert np.array_equal(data.test_images.numpy(), test[0])
    assert np.array_equal(data.test_labels.numpy(), test[1])
    assert data.classes[1] == "class_1" and len(data.classes) == (10 if name == "cifar10" else 100)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("data_batch_3.bin", None),
        ("test_batch.bin", b""),
        ("data_batch_5.bin", bytes(3072)),
        ("test_batch.bin", bytes([10]) + bytes(3072)),
        ("batches.meta.txt", b"one two"),
    ],
    ids=["missing", "empty", "cut", "label 10", "names"],
)
def test_damaged_files_are_refused(file, content, tmp_path):
    files, _, _ = make_files("cifar10")
    files.pop(file) if content is None else files.update({file: content})
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=r"cifar-10-binary\.tar\.gz"):
        load_dataset("cifar10", root=tmp_path)


def test_a_cut_archive_and_a_wrong_path_are_refused(tmp_path):
    files, _, _ = make_files("cifar10")
    path = tmp_path / "cifar-10-binary.tar.gz"
    write_archive(path, files)
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(InputError, match="cannot read"):
        load_dataset("cifar10", root=path)
    with pytest.raises(InputError, match="No such file"):
        load_dataset("cifar10", root=tmp_path / "nowhere")
