"""The systems that a link is compared with, trained and measured by the same hand as the link itself.

Same images, labels, steps, number of symbols, conditions, first weights of the encoder, and noise. No transmitter is
larger than ours: each half of a codec is as wide as the parameters of our half allow. They send the full length only,
and are trained for that alone, where ours learns every length at once.

``deep-jscc``         encoder and dense codec end to end through the channel in one stage, cross-entropy alone
``adjscc``            our stage 1; dense layers with SNR attention in our stage 2
``codebook``          our stage 1; codeword indices sent by QPSK in our stage 2
``rkd-sc``            encoder distilled by features alone, then frozen; dense attention that never sees the SNR, squared
                      error to the teacher's features and cross-entropy 1:1, one SNR an epoch, rising
``digital-class``     class by encoder and classifier of our stage 1, at the device; its index alone by a simplex code
``digital-features``  features of our stage 1, quantised, 5G LDPC and QAM, the classifier of stage 1
``digital-image``     the image by JPEG or WebP, 5G LDPC and QAM, the teacher at the receiver
``capacity``          the same without a code, at as many bits as capacity allows: a bound

``digital-class`` gives up what a link of features has: its transmitter must hold the classifier, its receiver can do no
other task and is not told how sure the answer is, and it cannot use what the link carries beyond a class.
``digital-features`` cannot send fewer than 12 bits, the least of 5G LDPC: at very low SNR it falls to chance by
construction.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdnas.codec import fit_codec
from kdnas.codec.ldpc import sionna
from kdnas.codec.quantise import Quantiser
from kdnas.codec.registry import count
from kdnas.codec.simplex import SimplexCode
from kdnas.config import BASELINES
from kdnas.errors import InputError
from kdnas.evaluate import Point, evaluate_answers
from kdnas.evaluate.digital import (
    BlockErrors,
    Choice,
    Coded,
    Draws,
    answers_at_capacity,
    answers_of_classes,
    answers_of_features,
    answers_of_images,
    code_images,
    schemes,
)
from kdnas.export import load_link, load_weights
from kdnas.link import Link
from kdnas.pipeline.context import Context
from kdnas.pipeline.stages import clean_stage, save
from kdnas.run.files import read_json, write_json
from kdnas.run.paths import cache_dir
from kdnas.run.seeds import seeded
from kdnas.run.tensors import read_tensors, torch_device, write_tensors
from kdnas.space.architecture import Architecture

CODECS = {"deep-jscc": "dense", "adjscc": "snr-attention", "rkd-sc": "dense-attention", "codebook": "codebook"}
NEED_SIONNA = ("digital-features", "digital-image")
MOST_SYMBOLS = 8192  # up to here it is shown how many symbols a digital image needs
TUNING_IMAGES = 400  # on which modulation and rate are chosen

# Parts of the loss that the conference scheme has not.
_NO_OTHER = dict.fromkeys(
    ("cosine", "logit", "decoupled", "superclass", "distance", "angle", "bottleneck", "consistency"), 0.0
)

Correct = dict[Point, Tensor]


class Baselines:
    """The baselines of one run, each kept in ``directory/NAME`` when finished.

    Args:
        context: Of the run; its teacher, store and data are used.
        architecture: Of the encoder.
        directory: Where the baselines are kept.
    """

    def __init__(self, context: Context, architecture: Architecture, directory: Path) -> None:
        self.context, self.architecture, self.directory = context, architecture, directory
        self.symbols = context.device.link.symbols
        self.channels = list(context.settings.evaluate.channels or context.device.link.channels)

    def network(self, teacher: bool = True) -> nn.Module:
        """A fresh encoder with our first weights; without a teacher drawn ones, though ours be inherited."""
        space = self.architecture.make_space()
        with seeded(self.context.settings.seed, "encoder"):
            network = space.network(self.architecture.choices)
        if teacher and self.context.settings.distill.init == "inherited":
            load_weights(network, self.context.path / "inherited.safetensors")
        return network

    def check(self, names: Sequence[str]) -> None:
        """Refuse what cannot be done before anything is trained.

        Raises:
            InputError: There is no baseline of a name, it needs what is not installed, or more symbols than there are.
        """
        for name in names:
            if name not in BASELINES:
                raise InputError(f"unknown baseline {name!r}: choose among {', '.join(BASELINES)}")
        if any(name in NEED_SIONNA and not self.is_kept(name) for name in names):
            sionna()
        if "digital-class" in names:
            self._class_code()
        if "digital-features" in names:
            schemes(self.symbols)

    def is_kept(self, name: str) -> bool:
        """Whether a system is finished, and was measured as the settings say."""
        path = self.directory / name / "report.json"
        return path.exists() and read_json(path).get("measured") == self._measured

    @property
    def _measured(self) -> dict[str, Any]:
        """What the numbers of a trained system depend on."""
        s = self.context.settings
        return {"channels": self.channels, "snrs_db": s.evaluate.snrs_db, "draws": s.evaluate.draws, "seed": s.seed}

    def correct(self, name: str) -> Correct:
        """Which test images a system gets right, (N, draws) bool by point; made where it is not kept."""
        if not self.is_kept(name):
            self._make(name)
        kept = read_tensors(self.directory / name / "correct.safetensors")
        by_point = {_point(key): value for key, value in kept.items()}
        return {point: by_point[point] for point in sorted(by_point, key=lambda p: (p.channel, p.symbols, p.snr_db))}

    def report(self, name: str) -> dict[str, Any]:
        """Of a finished system: ``transmitter_params``, and what else there is to say."""
        return dict(read_json(self.directory / name / "report.json"))

    def info(self, name: str) -> dict[str, int]:
        """Of a finished system, for ``results.json``."""
        return {"transmitter_params": self.report(name)["transmitter_params"]}

    def keep(self, name: str, correct: Correct, report: dict[str, Any]) -> None:
        """Keep what ``correct`` and ``report`` return."""
        write_tensors(self.directory / name / "correct.safetensors", {_key(p): right for p, right in correct.items()})
        write_json(self.directory / name / "report.json", {**report, "measured": self._measured})

    def measure(self, link: Link) -> Correct:
        """A link at full length: every channel of the device class and every SNR."""
        context, s = self.context, self.context.settings
        answers = evaluate_answers(
            link.to(torch_device(s.accelerator)), context.dataset.test_images, context.dataset.test_labels,
            channels=self.channels, snrs_db=s.evaluate.snrs_db, lengths=[self.symbols],
            draws=s.evaluate.draws, batch_size=s.evaluate.batch_size, seed=s.seed,
        )  # fmt: skip
        return {point: right for point, right in answers.items() if point is not None}

    def train(self, name: str) -> Link:
        """Train a learned baseline."""
        context, s = self.context, self.context.settings
        d, loss = s.distill, s.loss
        with seeded(s.seed, "codec"):
            codec = fit_codec(CODECS[name], context.codec(), s.spaces.feature_dim, self.symbols)
        network = self.network(teacher=name != "deep-jscc")
        if name == "deep-jscc":
            # All steps in one stage, as many images, and the encoder learns at the rate of stage 1.
            epochs = d.epochs + d.link_epochs
            images = d.epochs * d.batch_size + d.link_epochs * d.link_batch_size
            d = d.model_copy(
                update={"epochs": 0, "link_epochs": epochs, "link_batch_size": round(images / epochs),
                        "encoder_rate": d.learning_rate / d.link_learning_rate}
            )  # fmt: skip
            loss = loss.model_copy(update={"ce": 1.0, "kd": 0.0, "bottleneck": 0.0, "consistency": 0.0})
            classifier, knowledge = context.distiller(False, d).clean(network, loss, name)
        elif name == "rkd-sc":
            loss = loss.model_copy(update={"ce": 1.0, "kd": 1.0, "feature": 1.0, **_NO_OTHER})
            alone = loss.model_copy(update={"ce": 0.0})
            # No classifier has been trained yet that could tell when to stop.
            first = d.model_copy(update={"patience": 0})
            classifier, features = clean_stage(context, network, alone, name, first)
            d = d.model_copy(update={"encoder_rate": 0.0, "snr": "rising", "link_feature": 1.0})  # 1:1 in both stages
            knowledge = context.distiller(True, d).knowledge_loss(loss)
            knowledge.load_state_dict(features.state_dict())
        else:
            classifier, knowledge = clean_stage(context, network, loss, "kdnas")
        return context.distiller(loss.kd > 0, d).through_link(
            network, classifier, knowledge, codec, snr_db=context.training_snr_db,
            channels=context.device.link.channels, name=f"{name}/stage2", full_share=1.0,
        )  # fmt: skip

    def _make(self, name: str) -> None:
        if name in CODECS:
            self.keep_link(name, self.link(name, lambda: self.train(name)))
            return
        report: dict[str, Any] = {}
        if name == "digital-class":
            answers, classifier_params = self._classes()
            correct, params = self._right(answers, -1), count(self.network()) + classifier_params
        elif name == "digital-features":
            quantiser, answers, choices = self._features()
            correct, params = self._right(answers, -1), count(self.network()) + quantiser.params
            report = {"chosen": [choice.row() for choice in choices]}
        else:
            guess = int(torch.bincount(self._labels).argmax())
            answers, choices = self._images(name, guess)
            correct, params = self._right(answers, guess), 0
            report = {"guess": guess, "chosen": [choice.row() for choice in choices]}
        self.keep(name, correct, {"transmitter_params": params, **report})

    def link(self, name: str, train: Callable[[], Link]) -> Link:
        """A trained link, kept as what ``train`` returned the first time."""
        place = self.directory / name
        if not (place / "link.json").exists():
            save(self.context, place, self.architecture, train())
        return load_link(place)

    def keep_link(self, name: str, link: Link) -> None:
        """Measure a trained link, and keep what was measured."""
        self.keep(
            name, self.measure(link), {"transmitter_params": count(link.encoder) + count(link.channel_encoder)}
        )  # fmt: skip

    @property
    def _labels(self) -> Tensor:
        """The labels that training sees."""
        splits, labels = self.context.splits, self.context.dataset.train_labels
        return labels[torch.cat([splits.weights_labelled, splits.architecture_labelled])]

    def _right(self, answers: dict[Point, Tensor], guess: int) -> Correct:
        """Where nothing was received, ``guess`` is told."""
        truth, draws = self.context.dataset.test_labels[:, None], self.context.settings.evaluate.draws
        told = {point: torch.where(answer < 0, guess, answer) for point, answer in answers.items()}
        return {point: (answer == truth).expand(-1, draws).clone() for point, answer in told.items()}

    def _points(self, channels: Sequence[str], lengths: Sequence[int]) -> list[Point]:
        snrs_db = self.context.settings.evaluate.snrs_db
        return [Point(name, float(snr), k) for name in channels for snr in snrs_db for k in lengths]

    @cached_property
    def tuning_ids(self) -> Tensor:
        """Images of the architecture split on which modulation and rate are chosen, the unlabelled first."""
        splits = self.context.splits
        return torch.cat([splits.architecture_unlabelled, splits.architecture_labelled])[:TUNING_IMAGES]

    def prepare(self) -> None:
        """Make what the digital systems need of teacher and encoder, which then is kept."""
        self._inputs("features", self._make_features)
        self._inputs("images", self._make_images)

    def _inputs(self, name: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        path = self.directory / "inputs" / f"{name}.safetensors"
        if not path.exists():
            write_tensors(path, make())
        return read_tensors(path)

    def _make_features(self) -> dict[str, Tensor]:
        """Features of stage 1, and its classifier."""
        network, context = self.network(), self.context
        classifier, _ = clean_stage(context, network, context.settings.loss, "kdnas")
        device = torch_device(context.settings.accelerator)
        network.eval().to(device)

        @torch.inference_mode()
        def features(images: Tensor) -> Tensor:
            return torch.cat([network(part.to(device).float() / 255).cpu() for part in images.split(500)])

        train = context.dataset.train_images
        ids = torch.cat([context.splits.weights_labelled, context.splits.weights_unlabelled])
        return {
            "weights": features(train[ids]), "tuning": features(train[self.tuning_ids]),
            "test": features(context.dataset.test_images),
            **{f"classifier.{name}": value.detach() for name, value in classifier.named_parameters()},
        }  # fmt: skip

    @torch.inference_mode()
    def _make_images(self) -> dict[str, Tensor]:
        """Coded images, and what the teacher says of them."""
        teacher, dataset = self.context.teacher, self.context.dataset
        device = torch_device(self.context.settings.accelerator)

        def classify(images: Tensor) -> Tensor:
            parts = [teacher.logits(teacher.features(part.to(device))).argmax(1).cpu() for part in images.split(250)]
            return torch.cat(parts)

        tuning = dataset.train_images[self.tuning_ids]
        found = {"tuning": code_images(tuning, classify), "test": code_images(dataset.test_images, classify)}
        tensors = {f"{name}.{key}": value for name, coded in found.items() for key, value in coded._asdict().items()}
        return {**tensors, "truth": classify(tuning.float() / 255)}

    def _class_code(self) -> SimplexCode:
        return SimplexCode(len(self.context.dataset.classes), self.symbols)

    def _classes(self) -> tuple[dict[Point, Tensor], int]:
        """Answers, and the parameters of the classifier that the device holds."""
        kept, s = self._inputs("features", self._make_features), self.context.settings
        weight, bias = kept["classifier.weight"], kept["classifier.bias"]
        draws = Draws(torch.arange(len(kept["test"])), s.evaluate.draws, s.seed)
        answers = answers_of_classes(
            self._class_code(), (kept["test"] @ weight.T + bias).argmax(1),
            self._points(self.channels, [self.symbols]), draws,
        )  # fmt: skip
        return answers, weight.numel() + bias.numel()

    def _features(self) -> tuple[Quantiser, dict[Point, Tensor], list[Choice]]:
        kept, s = self._inputs("features", self._make_features), self.context.settings
        weight, bias = kept["classifier.weight"], kept["classifier.bias"]
        quantiser = Quantiser.fit(kept["weights"])
        answers, choices = answers_of_features(
            quantiser, lambda z: (z @ weight.T + bias).argmax(1), (kept["tuning"], self.tuning_ids),
            (kept["test"], torch.arange(len(kept["test"]))),
            self._points(self.channels, [self.symbols]), s.evaluate.draws, s.seed,
        )  # fmt: skip
        return quantiser, answers, choices

    def _images(self, name: str, guess: int) -> tuple[dict[Point, Tensor], list[Choice]]:
        kept, s = self._inputs("images", self._make_images), self.context.settings
        tuning, test = (Coded(kept[f"{part}.bits"], kept[f"{part}.answers"]) for part in ("tuning", "test"))
        channels, ids = self.channels, torch.arange(len(test.bits))
        more = [2**power for power in range(MOST_SYMBOLS.bit_length()) if 2**power > self.symbols]
        if name == "capacity":
            return answers_at_capacity(
                test, self._points(channels, [self.symbols, *more]), Draws(ids, s.evaluate.draws, s.seed)
            ), []
        given = (tuning, self.tuning_ids, kept["truth"]), (test, ids)
        own = answers_of_images(
            *given, self._points(channels, [self.symbols]), s.evaluate.draws, s.seed, guess=guess
        )  # fmt: skip
        longer = answers_of_images(
            *given, self._points(["awgn"], more), s.evaluate.draws, s.seed, guess=guess,
            errors=BlockErrors(cache_dir() / "codes" / "ldpc.json"),
        )  # fmt: skip
        return {**own[0], **longer[0]}, own[1] + longer[1]


def _key(point: Point) -> str:
    return f"{point.channel}/{point.snr_db:g}/{point.symbols}"


def _point(key: str) -> Point:
    channel, snr_db, symbols = key.rsplit("/", 2)
    return Point(channel, float(snr_db), int(symbols))
