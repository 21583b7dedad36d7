"""Measure how fast the parts of a link are, and what the channel costs in training: runs/published/link_speed.json.

    python scripts/bench_link.py --devices mcu wearable phone gateway

One thread, published links, images of `fashion-mini`, medians of repetitions in which all ways take turns, after a
warm-up. Parts: the encoder; the channel encoder; both as one transmitter; the receiver (channel decoder and semantic
decoder). Ways: torch, ONNX Runtime in float32, and in int8 for the transmitter. Then a training step of stage 2
(encoder, codec and losses, forward and backward, and the optimiser) and the channel alone (sample, apply, equalise, and
the way back through them): its `share` of the step.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdnas import config
from kdnas.data import Batch, Dataset, load_dataset, make_splits
from kdnas.distill.stages import LinkStage
from kdnas.export import read_info
from kdnas.export.halves import Encoder, Receiver, Transmitter, half_onnx, onnx_session, run_onnx, to_onnx
from kdnas.export.int8 import quantised
from kdnas.knowledge.lessons import Lesson
from kdnas.link import Link, draw_conditions, transmit
from kdnas.loss import KnowledgeLoss
from kdnas.run.files import write_json
from kdnas.run.training import quiet
from kdnas.zoo import load, resolve

TEACHER_DIM = 1280
# Beside those that a link was trained for: all at once, as each of them runs on the whole batch.
MANY_CHANNELS = ("awgn", "rayleigh", "rician", "rayleigh(fading=fast)", "multipath", "erasure")
Work = Callable[[], Any]


class ChannelHalf(nn.Module):
    """The channel encoder as ONNX has it: features to I and Q."""

    def __init__(self, link: Link) -> None:
        super().__init__()
        self.channel_encoder = link.channel_encoder

    def forward(self, features: Tensor, snr_db: Tensor, length: Tensor) -> Tensor:
        """(B, D), (B,) and (B,) int64 to (B, k, 2)."""
        return torch.view_as_real(self.channel_encoder(features, snr_db, length))


class MadeUpLessons:
    """Stands for ``Lessons``: pixels, and teacher's answers that were drawn once."""

    def __init__(self, dataset: Dataset, count: int) -> None:
        draw = torch.Generator().manual_seed(0)
        self.images = dataset.train_images[:count].float().div(255).contiguous(memory_format=torch.channels_last)
        self.features = torch.randn(count, TEACHER_DIM, generator=draw)
        self.probabilities = torch.randn(count, len(dataset.classes), generator=draw).softmax(1)

    def __call__(self, batch: Batch, device: torch.device, teacher: bool = True, pixels: bool = True) -> Lesson:
        """What ``Lessons`` would give."""
        return Lesson(self.images[batch.ids], batch.labels, self.features[batch.ids], self.probabilities[batch.ids])


def medians(ways: list[Work], given: argparse.Namespace) -> list[float]:
    """Seconds of each way, the median over repetitions of its mean over as many calls as fill ``--seconds``."""
    counts = []
    for work in ways:
        for _ in range(given.warm_up):
            work()
        began = time.perf_counter()
        work()
        counts.append(max(1, round(given.seconds / (time.perf_counter() - began))))
    found: list[list[float]] = [[] for _ in ways]
    for _ in range(given.repeats):
        for own, work, count in zip(found, ways, counts, strict=True):
            began = time.perf_counter()
            for _ in range(count):
                work()
            own.append((time.perf_counter() - began) / count)
    return [statistics.median(own) for own in found]


def parts(device: str, dataset: Dataset, given: argparse.Namespace) -> list[dict[str, Any]]:
    """The throughput of every part of a device's link, by runtime and batch."""
    link = load(f"{device}-fashion-mini")
    info = read_info(resolve(f"{device}-fashion-mini"))
    images = dataset.train_images[: max(given.batches)]
    shape = dataset.image_shape
    transmitter = half_onnx(link, "transmitter.onnx", shape)
    int8 = quantised(transmitter, dataset.train_images, snr_db=info.snr_db, symbols=link.symbols)
    modules: dict[str, nn.Module] = {
        "encoder": Encoder(link), "channel encoder": ChannelHalf(link), "transmitter": Transmitter(link),
        "receiver": Receiver(link),
    }  # fmt: skip
    with torch.inference_mode():
        features = link.encoder(images.float() / 255)
        inputs: dict[str, Tensor] = {
            "images": images, "features": features, "snr_db": torch.full((len(images),), 10.0),
            "effective_snr_db": torch.full((len(images), link.symbols), 10.0),
            "length": torch.full((len(images),), link.symbols),
        }  # fmt: skip
        inputs["received"] = ChannelHalf(link)(features, inputs["snr_db"], inputs["length"])
    names = {
        "encoder": ["images"], "channel encoder": ["features", "snr_db", "length"],
        "transmitter": ["images", "snr_db", "length"],
        "receiver": ["received", "snr_db", "effective_snr_db", "length"],
    }  # fmt: skip
    files = {
        ("encoder", "fp32"): half_onnx(link, "encoder.onnx", shape),
        ("channel encoder", "fp32"): to_onnx(
            ChannelHalf(link).eval(), [{name: inputs[name][:n] for name in names["channel encoder"]} for n in (2, 1)],
            "symbols", "channel encoder",
        ),
        ("transmitter", "fp32"): transmitter,
        ("transmitter", "int8"): int8,
        ("receiver", "fp32"): half_onnx(link, "receiver.onnx", shape),
    }  # fmt: skip
    sessions = {key: onnx_session(data) for key, data in files.items()}
    rows = []
    for batch in given.batches:
        ways: dict[tuple[str, str, str], Work] = {}
        for part, module in modules.items():
            own = {name: inputs[name][:batch].clone() for name in names[part]}
            ways[part, "torch", "fp32"] = partial(module, *own.values())
            for (_, dtype), session in ((key, s) for key, s in sessions.items() if key[0] == part):
                ways[part, "onnxruntime", dtype] = partial(run_onnx, session, own)
        with torch.inference_mode():
            seconds = medians(list(ways.values()), given)
        for (part, runtime, dtype), spent in zip(ways, seconds, strict=True):
            rows.append(row(device, part, runtime, dtype, batch, spent, given))
    return rows


def training(device: str, dataset: Dataset, given: argparse.Namespace) -> list[dict[str, Any]]:
    """A training step of stage 2, and the channel's part of it, with the link's channels and with many."""
    rows = []
    link = load(f"{device}-fashion-mini")
    size, draw = given.training_batch, torch.Generator().manual_seed(0)
    info = read_info(resolve(f"{device}-fashion-mini"))
    loss = KnowledgeLoss(
        config.Loss(),
        info.feature_dim,
        torch.zeros(TEACHER_DIM),
        torch.ones(TEACHER_DIM),
    )
    rates = [(module, 1e-4) for module in (link, loss)]
    for channels in (tuple(info.channels), MANY_CHANNELS):
        stage = LinkStage(
            link, info.snr_db, channels, lessons=MadeUpLessons(dataset, 2 * size), loss=loss,  # type: ignore[arg-type]
            splits=make_splits(dataset.train_labels, "all", 0), rates=rates,
            settings=config.Distill(), total_steps=100,
        )  # fmt: skip
        stage.train()
        optimiser = stage.configure_optimizers()["optimizer"]
        batch = Batch(torch.arange(size), dataset.train_labels[:size], 0, (0, 0, 0))
        code = torch.randn(size, link.symbols, dtype=torch.complex64, generator=draw, requires_grad=True)
        met = draw_conditions(size, info.snr_db, channels, link.symbols, draw)

        def step(stage: LinkStage = stage, optimiser: Any = optimiser, batch: Batch = batch) -> None:
            optimiser.zero_grad()
            stage.training_step(batch, 0).backward()
            optimiser.step()

        def channel(code: Tensor = code, met: Any = met) -> None:
            code.grad = None
            torch.view_as_real(transmit(code, met, draw).symbols).sum().backward()

        whole, own = medians([step, channel], given)
        told = {"channels": "+".join(channels)}
        rows.append(row(device, "training step", "torch", "fp32", size, whole, given) | told)
        rows.append(row(device, "channel in training", "torch", "fp32", size, own, given, own / whole) | told)
    return rows


def row(
    device: str, part: str, runtime: str, dtype: str, batch: int, seconds: float, given: argparse.Namespace,
    share: float | None = None,
) -> dict[str, Any]:  # fmt: skip
    """One line of the table, printed too."""
    made = {
        "device": device, "part": part, "runtime": runtime, "dtype": dtype, "batch": batch,
        "images_per_s": round(batch / seconds, 1), "share": None if share is None else round(share, 4),
        "channels": None, "threads": torch.get_num_threads(), "torch": torch.__version__,
    }  # fmt: skip
    percent = "" if share is None else f"  {100 * share:.1f} % of the step"
    print(f"{device:9} {part:20} {runtime:12} {dtype} {batch:4} {batch / seconds:12,.0f} images/s{percent}", flush=True)
    return made


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", nargs="+", default=["mcu", "wearable", "phone", "gateway"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 256])
    parser.add_argument("--training-batch", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--warm-up", type=int, default=3, help="calls of each way before they are timed")
    parser.add_argument("--seconds", type=float, default=0.1, help="that each way takes in a repetition, at least")
    parser.add_argument("--json", type=Path, default=Path("runs/published/link_speed.json"))
    given = parser.parse_args()
    if min(given.repeats, *given.batches, given.training_batch - 1) < 1 or given.warm_up < 0 or given.seconds <= 0:
        parser.error("--repeats and --batches must be at least 1, --training-batch 2, --warm-up 0, --seconds above 0")
    quiet()
    torch.set_num_threads(1)
    dataset = load_dataset("fashion-mini")
    rows: list[dict[str, Any]] = []
    for device in given.devices:
        rows += parts(device, dataset, given) + training(device, dataset, given)
    words = ["python scripts/bench_link.py", "--devices", *given.devices, "--batches", *map(str, given.batches)]
    words += ["--training-batch", str(given.training_batch), "--repeats", str(given.repeats)]
    words += ["--warm-up", str(given.warm_up), "--seconds", f"{given.seconds:g}"]
    write_json(given.json, {"command": " ".join(words), "rows": rows})
    print(f"wrote {given.json}: {len(rows)} rows")


if __name__ == "__main__":
    main()
