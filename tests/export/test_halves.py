import json
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from link_samples import META, make_link
from torch import Tensor

from kdnas import zoo
from kdnas.codec import CAT, list_codecs
from kdnas.errors import InputError
from kdnas.export import HALVES, export_onnx, halves, load_link
from kdnas.export.halves import half_onnx, onnx_session, run_onnx
from kdnas.link import Link
from kdnas.pipeline import api
from kdnas.space import Architecture, list_spaces

Saved = tuple[Path, Link, Architecture]
# Of the spaces whose default network is deep.
SMALL = {"cell": {"cells": 3}, "nas_bench_201": {"cells": 1}, "vit": {"depth": 2}}


def pixels(batch: int, shape: tuple[int, ...] = (1, 28, 28)) -> Tensor:
    return torch.randint(256, (batch, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(batch))


def check_halves(link: Link, out: Path, shape: tuple[int, int, int], batches: tuple[int, ...]) -> None:
    """Every length through both halves in ONNX Runtime against the link itself."""
    encoder, transmitter, receiver = (onnx_session(out / name) for name in HALVES)
    for batch in batches:
        images = pixels(batch, shape)
        floats = images.float() / 255
        snr_db = torch.linspace(-12, 25, batch)
        faded = torch.linspace(-30, 10, batch * link.symbols).view(batch, -1)  # a deep fade of some symbols
        with torch.no_grad():
            features = run_onnx(encoder, {"images": images})
            torch.testing.assert_close(features, link.encoder(floats), rtol=1e-4, atol=1e-4)
            for symbols in range(1, link.symbols + 1):
                length = torch.full((batch,), symbols)
                sent = run_onnx(transmitter, {"images": images, "snr_db": snr_db, "length": length})
                code = link.encode(floats, snr_db, symbols)
                assert sent.shape == (batch, link.symbols, 2) and (sent[:, symbols:] == 0).all()
                torch.testing.assert_close(sent[:, :symbols], torch.view_as_real(code), rtol=1e-4, atol=1e-4)
                noisy = code + 0.3 * torch.randn(code.shape, dtype=torch.complex64)
                received = torch.full((batch, link.symbols, 2), 9.0)  # what stands past the length is ignored
                received[:, :symbols] = torch.view_as_real(noisy)
                for effective in (snr_db[:, None].expand(-1, link.symbols), faded):
                    logits = run_onnx(
                        receiver,
                        {"received": received, "snr_db": snr_db, "effective_snr_db": effective, "length": length},
                    )
                    known = None if effective is not faded else effective[:, :symbols]
                    torch.testing.assert_close(logits, link.decode(noisy, snr_db, known), rtol=1e-4, atol=1e-4)


def test_the_halves_in_onnx_runtime_are_those_of_torch_at_every_length(saved: Saved, exported: Path) -> None:
    check_halves(saved[1], exported, (1, 28, 28), (1, 4))


def test_the_power_is_1_over_what_is_sent(saved: Saved, exported: Path) -> None:
    session, length = onnx_session(exported / "transmitter.onnx"), torch.arange(1, 13)
    sent = run_onnx(session, {"images": pixels(12), "snr_db": torch.linspace(-12, 25, 12), "length": length})
    torch.testing.assert_close(sent.square().sum((1, 2)) / length, torch.ones(12), rtol=1e-4, atol=1e-4)


def test_samples_of_a_batch_may_have_other_lengths(saved: Saved, exported: Path) -> None:
    images, length, snr_db = pixels(12), torch.arange(1, 13), torch.zeros(12)
    session = onnx_session(exported / "transmitter.onnx")
    together = run_onnx(session, {"images": images, "snr_db": snr_db, "length": length})
    for i in range(12):
        alone = run_onnx(session, {"images": images[i : i + 1], "snr_db": snr_db[:1], "length": length[i : i + 1]})
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("space", [space for space in list_spaces() if space != "mobile"])  # ``saved`` is of that one
def test_the_encoder_of_every_space_can_be_exported(space: str) -> None:
    _, link = make_link(space, 0, in_channels=3, **SMALL.get(space, {}))
    session = onnx_session(half_onnx(link, "encoder.onnx", (3, 28, 28)))
    for batch in (1, 5):
        images = pixels(batch, (3, 28, 28))
        with torch.no_grad():
            expected = link.encoder(images.float() / 255)
        torch.testing.assert_close(run_onnx(session, {"images": images}), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("codec", list_codecs())
def test_every_codec_can_be_exported(codec: str, tmp_path: Path) -> None:
    _, link = make_link("mobile", 0, codec)
    for name in HALVES:
        (tmp_path / name).write_bytes(half_onnx(link, name, (1, 28, 28)))
    check_halves(link, tmp_path, (1, 28, 28), (1, 3))


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings", [{"order": "interleaved", "tokens": 5}, {"constellation": "16qam"}, {"classes": 3}]
)
def test_every_setting_of_cat_can_be_exported(settings: dict, tmp_path: Path) -> None:
    _, link = make_link("mobile", 0)
    codec = CAT(16, 12, encoder=settings).eval()
    link.channel_encoder, link.channel_decoder = codec.encoder, codec.decoder
    for name in HALVES:
        (tmp_path / name).write_bytes(half_onnx(link, name, (1, 28, 28)))
    check_halves(link, tmp_path, (1, 28, 28), (1, 3))


@pytest.mark.slow
@pytest.mark.parametrize("name", zoo.list_architectures())
def test_the_published_links_can_be_exported(name: str, tmp_path: Path) -> None:
    api.export(name, out=tmp_path, format="onnx")
    link = load_link(zoo.resolve(name))
    options = Architecture.load(zoo.resolve(name) / "architecture.json").options
    check_halves(link, tmp_path, (options["in_channels"], options["image_size"], options["image_size"]), (1, 3))


def test_the_files_tell_what_they_are_of_and_not_where_they_were_made(saved: Saved, exported: Path) -> None:
    for name, (_, output) in HALVES.items():
        model = onnx.load(exported / name)
        about = {entry.key: entry.value for entry in model.metadata_props}
        assert json.loads(about["classes"]) == META["classes"] and about["device"] == "mcu"
        assert json.loads(about["symbols"]) == 12 and about["architecture"] == saved[2].hash
        assert [value.name for value in model.graph.output] == [output]
        for value in (*model.graph.input, *model.graph.output):
            assert value.type.tensor_type.shape.dim[0].dim_param == "batch"
        assert {entry.domain for entry in model.opset_import} == {""}
        content = (exported / name).read_bytes()
        assert b".py" not in content and str(Path(__file__).parents[2]).encode() not in content


def test_the_verb_writes_beside_the_run_unless_told_elsewhere(
    saved: Saved, copied: Callable[[], Path], monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.setattr(halves, "half_onnx", lambda link, name, shape: f"{name} {shape}".encode())
    directory, elsewhere = copied(), tmp_path_factory.mktemp("elsewhere")
    assert api.export(directory, format="onnx") == directory
    assert api.export(directory, format="onnx", out=elsewhere) == elsewhere
    for name in HALVES:
        assert (directory / name).read_text() == (elsewhere / name).read_text() == f"{name} (1, 28, 28)"
    assert load_link(directory).symbols == 12
    with pytest.raises(InputError, match="--out"):
        api.export(zoo.list_architectures()[0], format="onnx")
    with pytest.raises(InputError, match="torch, onnx"):
        api.export(directory, format="tflite")


def test_a_file_that_computes_something_else_is_not_written(
    exported: Path, copied: Callable[[], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    files = iter([exported / "encoder.onnx", exported / "transmitter.onnx", exported / "receiver.onnx"])
    monkeypatch.setattr(halves, "_traced", lambda *_: next(files).read_bytes())
    monkeypatch.setattr(halves, "load_link", lambda _: changed)
    changed = load_link(copied())
    with torch.no_grad():
        changed.semantic_decoder.bias[0] += 1e-3
    with pytest.raises(InputError, match=r"receiver\.onnx computes something else"):
        export_onnx(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_onnx_does_not_know_is_refused_in_one_line() -> None:
    class Odd(torch.nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.special.bessel_j0(images).flatten(1)

    _, link = make_link("mobile", 0)
    link.encoder = Odd()
    with pytest.raises(InputError, match="encoder cannot be written as ONNX") as caught:
        half_onnx(link.eval(), "encoder.onnx", (1, 28, 28))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "onnxscript"])
def test_a_missing_extra_is_named(saved: Saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=rf"{package}.*kdnas\[export\]"):
        export_onnx(saved[0], tmp_path)
