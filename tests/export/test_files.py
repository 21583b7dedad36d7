import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from link_samples import META, make_link
from safetensors.torch import load_file, save_file

from kdnas.codec import ChannelEncoder, list_codecs
from kdnas.errors import InputError
from kdnas.export import load_architecture, load_encoder, load_link, load_weights, read_info, save_link
from kdnas.link import Link
from kdnas.space import Architecture, list_spaces

Saved = tuple[Path, Link, Architecture]
Copied = Callable[[], Path]

# What a machine with torch alone lacks; -I keeps the current directory and PYTHONPATH out.
ISOLATED = textwrap.dedent("""
    import sys
    LACKS = {"kdnas", "search_spaces", "teachers", "nni", "safetensors", "numpy", "einops", "pydantic",
             "optuna", "pytorch_lightning"}
    class Refuse:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] in LACKS:
                raise ModuleNotFoundError(name, name=name)
    sys.meta_path.insert(0, Refuse())
    import importlib.util, torch
    for directory in sys.argv[1:]:
        spec = importlib.util.spec_from_file_location("encoder", directory + "/encoder.py")
        encoder = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(encoder)
        with torch.no_grad():
            torch.save(encoder.load()(torch.load(directory + "/images.pt")), directory + "/features.pt")
""")


def test_encoder_py_needs_torch_alone_and_equals_load_encoder_bit_by_bit(tmp_path: Path) -> None:
    cases = []
    for space in list_spaces():
        for seed, options in enumerate([{}, {"in_channels": 3, "image_size": 33}, {"image_size": 96}]):
            directory = tmp_path / f"{space} {seed}"
            architecture, link = make_link(space, seed, **options)
            save_link(directory, architecture, link, META)
            size = architecture.options["image_size"]
            images = torch.rand(5, architecture.options["in_channels"], size, size)
            torch.save(images, directory / "images.pt")
            cases.append((directory, link, images))
    done = subprocess.run(
        [sys.executable, "-I", "-c", ISOLATED, *(str(directory) for directory, _, _ in cases)],
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for directory, link, images in cases:
        encoder = load_encoder(directory)
        assert not encoder.training
        with torch.no_grad():
            features = encoder(images)
            assert features.shape == (5, 16) and features.dtype == torch.float32
            assert torch.equal(features, torch.load(directory / "features.pt"))
            assert torch.equal(features, link.encoder(images))
            sent = load_link(directory).encode(images, 3.0, 7)
            assert torch.equal(sent, link.encode(images, 3.0, 7))


def test_the_halves_after_reload_are_bit_equal(saved: Saved) -> None:
    directory, link, architecture = saved
    again = load_link(directory)
    assert not any(module.training for module in again.modules())
    images = torch.rand(4, 1, 28, 28)
    with torch.no_grad():
        for symbols in (1, 5, None):
            sent = link.encode(images, 2.0, symbols)
            assert torch.equal(again.encode(images, 2.0, symbols), sent)
            assert torch.equal(again.decode(sent, 2.0), link.decode(sent, 2.0))
    assert again.state_dict().keys() == link.state_dict().keys()
    assert again.info.classes == META["classes"] and again.info.symbols == 12
    assert again.info.snr_db == (-5.0, 20.0)
    assert load_architecture(directory) == architecture


def test_a_transmitter_with_csi_comes_back_as_one(tmp_path: Path) -> None:
    architecture, link = make_link("mobile", 1)
    assert not link.transmitter_csi
    link.channel_encoder = ChannelEncoder(16, 12, tokens=4, told="effective").eval()
    save_link(tmp_path, architecture, link, META)
    assert load_link(tmp_path).transmitter_csi


@pytest.mark.parametrize("codec", list_codecs())
def test_a_link_of_every_codec_comes_back(codec: str, tmp_path: Path) -> None:
    architecture, link = make_link("mobile", 1, codec)
    save_link(tmp_path, architecture, link, META)
    again, images = load_link(tmp_path), torch.rand(4, 1, 28, 28)
    assert again.info.codec.name == codec
    with torch.no_grad():
        sent = link.encode(images, 2.0)
        assert torch.equal(again.encode(images, 2.0), sent)
        assert torch.equal(again.decode(sent, 2.0), link.decode(sent, 2.0))


def test_loading_leaves_the_global_random_numbers_alone(saved: Saved) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load_link(saved[0])
    assert torch.equal(torch.rand(3), expected)


def test_saving_is_deterministic_and_does_not_touch_the_link(saved: Saved, tmp_path: Path) -> None:
    directory, _, architecture = saved
    _, link = make_link("mobile", 0)
    link.train().double()
    save_link(tmp_path, architecture, link, META)
    assert link.training and link.encoder.stem.conv.weight.dtype == torch.float64
    names = sorted(path.name for path in directory.iterdir())
    assert names == [
        "architecture.json",
        "encoder.py",
        "encoder.safetensors",
        "link.json",
        "link.safetensors",
    ]
    assert names == sorted(path.name for path in tmp_path.iterdir())
    for name in names:
        assert (tmp_path / name).read_bytes() == (directory / name).read_bytes()


def test_channels_last_weights_are_saved_in_the_usual_order(saved: Saved, tmp_path: Path) -> None:
    _, link = make_link("mobile", 0)
    link.encoder.to(memory_format=torch.channels_last)
    save_link(tmp_path, saved[2], link, META)
    assert (tmp_path / "encoder.safetensors").read_bytes() == (saved[0] / "encoder.safetensors").read_bytes()


@pytest.mark.parametrize("name", ["encoder.safetensors", "link.safetensors"])
@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b[:9], lambda b: b"", lambda b: b[:-1] + b"?"])
def test_damaged_weights_are_refused(copied: Copied, name: str, damage: Callable[[bytes], bytes]) -> None:
    directory = copied()
    (directory / name).write_bytes(damage((directory / name).read_bytes()))
    with pytest.raises(InputError, match=f"{name} does not fit link.json"):
        load_link(directory)
    if name == "encoder.safetensors":
        with pytest.raises(InputError, match=name):
            load_encoder(directory)
    else:
        load_encoder(directory)


@pytest.mark.parametrize("name", ["encoder.safetensors", "link.safetensors", "architecture.json", "link.json"])
def test_a_missing_file_is_named(copied: Copied, name: str) -> None:
    directory = copied()
    (directory / name).unlink()
    with pytest.raises(InputError, match=name):
        load_link(directory)


KEEP = "stage0block1/keep"


def change(path: Path, edit: Callable[[dict], object]) -> None:
    document = json.loads(path.read_text())
    edit(document)
    path.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("edit", "word"),
    [
        (lambda d: d["choices"].update({"stage0/width": 12}), "hash does not fit"),
        (lambda d: (d.pop("hash"), d["choices"].update({KEEP: not d["choices"][KEEP]})),
         "not the architecture of link.json"),
        (lambda d: (d.pop("hash"), d["choices"].update({"stage0/width": 13})), "13"),
        (lambda d: (d.pop("hash"), d.update(space="cell", options={})), "is it of another space"),
        (lambda d: (d.pop("hash"), d.update(space="else")), "unknown search space"),
        (lambda d: (d.pop("hash"), d["options"].update(image_size="x")), "space 'mobile' refuses its options"),
        (lambda d: d.update(schema=2), "schema"),
    ],
)  # fmt: skip
def test_a_changed_architecture_is_refused(copied: Copied, edit: Callable[[dict], object], word: str) -> None:
    directory = copied()
    change(directory / "architecture.json", edit)
    with pytest.raises(InputError, match=word) as caught:
        load_encoder(directory)
    assert "architecture.json" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("edit", "word"),
    [
        (lambda d: d.update(schema=2), "schema"),
        (lambda d: d.pop("codec"), "codec"),
        (lambda d: d.update(more=1), "more"),
        (lambda d: d.update(symbols="12"), "symbols"),
        (lambda d: d["codec"]["encoder"].update(size=3), "settings are wrong"),
        (lambda d: d["codec"]["encoder"].update(heads=3), "settings are wrong"),
        (lambda d: d["codec"]["encoder"].update(tokens=10**9), "shape"),
        (lambda d: d["codec"]["encoder"].update(tokens=10**30), "settings are wrong"),
        (lambda d: d["codec"].update(symbols=13), "shape"),
        (lambda d: d["codec"]["decoder"].update(depth=1), "another architecture"),
        (lambda d: d["classes"].append("four"), "semantic_decoder"),
        (lambda d: d["files"].clear(), "safetensors"),
    ],
)
def test_a_foreign_link_json_is_refused(copied: Copied, edit: Callable[[dict], object], word: str) -> None:
    directory = copied()
    change(directory / "link.json", edit)
    with pytest.raises(InputError, match=word) as caught:
        load_link(directory)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe", b"null"])
def test_what_is_no_link_json_is_refused(copied: Copied, content: bytes) -> None:
    directory = copied()
    (directory / "link.json").write_bytes(content)
    with pytest.raises(InputError, match=r"link\.json"):
        read_info(directory)


def test_encoder_py_on_disk_is_never_run(copied: Copied) -> None:
    directory = copied()
    (directory / "encoder.py").write_text("raise SystemExit('run')")
    assert load_link(directory).symbols == 12 and load_encoder(directory) is not None


def test_own_weights_must_fit(saved: Saved, tmp_path: Path) -> None:
    network = saved[2].network()
    path = tmp_path / "own.safetensors"
    state = load_file(saved[0] / "encoder.safetensors")
    load_weights(network, saved[0] / "encoder.safetensors")
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    first = next(iter(state))
    for wrong, word in [
        ({**state, "more": torch.ones(1)}, "holds 'more'"),
        ({**state, first: torch.ones(1)}, "has the shape"),
        ({name: value for name, value in state.items() if name != first}, "lacks"),
    ]:
        save_file(wrong, path)
        with pytest.raises(InputError, match=word):
            load_weights(network, path)
    path.write_bytes(b"PK\x03\x04 a pickle, perhaps")
    with pytest.raises(InputError, match="no safetensors"):
        load_weights(network, path)
    with pytest.raises(InputError, match="does not exist"):
        load_weights(network, tmp_path / "none")


@pytest.mark.parametrize(
    ("meta", "word"),
    [
        ({key: value for key, value in META.items() if key != "classes"}, "lacks 'classes'"),
        ({**META, "classes": ["one"]}, "1 class names for 3"),
        ({**META, "device": ""}, "device"),
        ({**META, "snr_db": [1.0]}, "snr_db"),
    ],
)
def test_wrong_meta_is_refused(saved: Saved, tmp_path: Path, meta: dict, word: str) -> None:
    with pytest.raises(InputError, match=word):
        save_link(tmp_path, saved[2], saved[1], meta)
    assert not (tmp_path / "link.json").exists()


def test_an_encoder_of_another_architecture_is_not_saved(saved: Saved, tmp_path: Path) -> None:
    architecture, _ = make_link("mobile", 1)
    assert architecture.hash != saved[2].hash
    with pytest.raises(InputError, match="another architecture"):
        save_link(tmp_path, architecture, saved[1], META)
    assert list(tmp_path.iterdir()) == []
