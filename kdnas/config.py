"""Every setting of kdnas: typed, with its default, its meaning, and its presets. An unknown key is an error."""

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_serializer, field_validator, model_validator

from kdnas.errors import InputError

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
BASELINES = (
    "deep-jscc", "adjscc", "rkd-sc", "codebook", "digital-class", "digital-features", "digital-image", "capacity"
)  # fmt: skip
COSTS = ("params", "macs", "flash_bytes", "latency_s", "energy_j", "sram_bytes")
"""Every cost of a network by name, in the order in which they are told."""


class Section(BaseModel):
    """A group of settings."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Data(Section):
    """What is learned from."""

    labels: Count | Literal["all"] = Field(
        1000, description="labelled training images (80 % weights, 20 % architecture), or all"
    )
    root: Path | None = Field(None, description="directory that holds the data set, instead of a download")
    image_size: int | None = Field(None, ge=28, le=224, description="resize images to this side, in pixels")
    channels: Literal[1, 3] | None = Field(None, description="convert images to grey (1) or RGB (3)")
    limit: int | None = Field(None, ge=50, description="use only this many training images, for tiny runs")
    flip: bool = Field(True, description="views may mirror the image")
    shift: int = Field(2, ge=0, description="views shift the image by at most this many pixels")


class Space(Section):
    """The search space's own options."""

    feature_dim: int = Field(64, ge=1, description="length of the semantic feature vector")
    options: dict[str, Any] = Field(default_factory=dict, description="further options of the space, by name")


class Teacher(Section):
    """How the teacher is adapted to the data set."""

    method: Literal["probe", "finetune"] = Field("finetune", description="linear probe, or fine-tuning after it")
    image_size: int | None = Field(
        None, ge=28, le=384, description="side of the teacher's input, in pixels; its own, or 64, unless set"
    )
    steps: int | None = Field(
        None, ge=1, description="steps of fine-tuning; unless set 200 for 800 labels, growing as the root of it"
    )
    learning_rate: float = Field(1e-3, gt=0, description="of fine-tuning, at its peak (AdamW, cosine)")
    rate_decay: float = Field(
        1.0, gt=0, le=1, description="learning rate of each layer over that of the next, from the classifier down"
    )
    unfreeze: int = Field(0, ge=0, description="layers that are fine-tuned beyond the last few")
    mixup: float = Field(0.0, ge=0, le=1, description="largest share of another image mixed into an image")
    patience: int = Field(
        0, ge=0, description="tenths of fine-tuning without a better architecture split before it stops; 0 never does"
    )
    self_training: int = Field(
        0, ge=0, description="rounds of fine-tuning with the teacher's own posteriors of unlabelled images"
    )
    options: dict[str, Any] = Field(default_factory=dict, description="further arguments of the adaptation, by name")

    @field_validator("options")
    @classmethod
    def _further(cls, options: dict[str, Any]) -> dict[str, Any]:
        for name in options:
            if name in cls.model_fields:
                raise ValueError(f"{name} is a setting of its own: adapt.{name}")
        return options


class Knowledge(Section):
    """What is stored of the teacher."""

    views: int = Field(4, ge=1, description="views of each image that the teacher sees, once")
    form: Literal["fp16", "int8", "pca", "pq"] = Field(
        "int8", description="how features are stored: whole, or principal components as bytes or product-quantised"
    )
    dims: int | None = Field(None, ge=1, description="principal components (forms pca, pq); 64 unless set")
    codes: int | None = Field(None, ge=1, description="bytes of product-quantised components (pq); 16 unless set")
    top_k: int = Field(10, ge=1, description="logits stored per image and view")
    shard_images: int = Field(4096, ge=1, description="images in one file of the store")
    workers: int = Field(1, ge=1, description="threads that fill the store; more processes may join them")
    posterior: Literal["mean", "view"] = Field(
        "mean", description="target posterior: mean over views, or the view's own"
    )

    @model_validator(mode="after")
    def _sizes_of_the_form(self) -> "Knowledge":
        if self.dims is not None and self.form not in ("pca", "pq"):
            raise ValueError(f"knowledge.dims goes with the forms pca and pq, not with {self.form!r}: leave it out")
        if self.codes is not None and self.form != "pq":
            raise ValueError(f"knowledge.codes goes with the form pq, not with {self.form!r}: leave it out")
        return self


class Loss(Section):
    """ce * CE + kd * (distillation terms) + bottleneck * rate + consistency * KL; a part of weight 0 is left out."""

    ce: float = Field(1.0, ge=0, description="weight of the cross-entropy on labels")
    kd: float = Field(1.0, ge=0, description="lambda_kd: weight of all distillation terms")
    feature: float = Field(30.0, ge=0, description="of distillation: squared error of standardised features, projected")
    cosine: float = Field(0.0, ge=0, description="of distillation: 1 - cosine of standardised features, projected")
    logit: float = Field(1.0, ge=0, description="of distillation: T^2 KL of softened posteriors")
    decoupled: float = Field(0.0, ge=0, description="of distillation: T^2 decoupled KL (target class, and the others)")
    decoupled_beta: float = Field(2.0, ge=0, description="weight of the other classes in the decoupled KL")
    superclass: float = Field(0.0, ge=0, description="of distillation: T^2 KL of superclass posteriors; tailor only")
    distance: float = Field(0.0, ge=0, description="of distillation: relations, by distances within a batch")
    angle: float = Field(0.0, ge=0, description="of distillation: relations, by angles within a batch")
    temperature: float = Field(2.0, gt=0, description="T of the softened posteriors")
    bottleneck: float = Field(
        0.0, ge=0, description="beta: weight of the information bottleneck's rate (nats per feature); distillation only"
    )
    prior: Literal["learned", "log-uniform"] = Field("learned", description="prior of the information bottleneck")
    consistency: float = Field(0.0, ge=0, description="stage 2: T^2 KL between posteriors with and without the channel")


class Search(Section):
    """KDL-DARTS."""

    warmup_epochs: int = Field(5, ge=0, description="epochs of weights alone, before the architecture moves")
    epochs: int = Field(6, ge=1, description="epochs of both levels")
    steps: int = Field(20, ge=1, description="bilevel steps in an epoch")
    batch_size: int = Field(64, ge=2, description="images per step and level")
    labelled_fraction: float = Field(0.25, ge=0, le=1, description="labelled share of each batch")
    feature: float = Field(
        0.1, ge=0, description="most that loss.feature counts in the search, where more would drown the penalties"
    )
    learning_rate: float = Field(0.004, gt=0, description="of the weights (AdamW, cosine)")
    weight_decay: float = Field(1e-3, ge=0, description="of the weights")
    alpha_learning_rate: float = Field(0.1, gt=0, description="of the architecture parameters (Adam)")
    order: Literal[1, 2] = Field(
        1, description="2 differentiates through one unrolled step of the weights (DARTS eq. 7), at twice the time"
    )
    relaxation: Literal["softmax", "gumbel", "partial"] = Field(
        "softmax", description="exact mixture, one sampled value (GDAS), or mixture on part of the channels (PC-DARTS)"
    )
    temperature: tuple[Positive, Positive] = Field(
        (1.0, 0.02), description="temperature of the relaxation at the start and the end"
    )
    penalty: dict[str, NotNegative] = Field(
        default_factory=lambda: {"params": 0.3, "macs": 0.3, "sram_bytes": 0.3},
        description="lambda_c: first weight of the complexity penalty, by cost",
    )
    dual_rate: float = Field(
        0.1, ge=0, description="how fast the weights of the penalty follow the violated budgets; 0 keeps them"
    )
    budget_use: float = Field(
        0.9, ge=0, lt=1, description="share of its budget that the binding cost must use, where the space allows it"
    )
    use_penalty: float = Field(0.3, ge=0, description="first weight of the penalty on budgets left unused")
    shrink: bool = Field(
        True, description="drop the least likely values after every epoch, until one architecture is left"
    )
    beta_decay: float = Field(
        0.0, ge=0, description="weight of beta-decay of the architecture parameters at the end, rising from 0"
    )
    skip_decay: float = Field(
        0.0, ge=0, description="weight of the penalty on the probability of skips at the start, falling to 0"
    )
    eigenvalue_every: int = Field(
        2, ge=0, description="epochs between measurements of the dominant eigenvalue of the Hessian; 0 for none"
    )
    eigenvalue_stop: float = Field(
        0.0, ge=0, description="freeze the architecture when the eigenvalue has grown by this factor; 0 never does"
    )

    @field_validator("penalty")
    @classmethod
    def _names_costs(cls, penalty: dict[str, float]) -> dict[str, float]:
        for name in penalty:
            if name not in COSTS:
                raise ValueError(f"no cost is named {name!r}; there are {', '.join(COSTS)}")
        return penalty

    @model_validator(mode="after")
    def _eigenvalue_is_measured(self) -> "Search":
        if self.eigenvalue_stop and not self.eigenvalue_every:
            raise ValueError("eigenvalue_stop needs eigenvalue_every: an eigenvalue that is not measured stops nothing")
        return self


class Tune(Section):
    """The Optuna study that sets lambda_kd and the lambda_c of a device class."""

    enabled: bool = Field(True, description="run the study in `kdnas run`")
    parameters: list[Literal["kd", "penalty", "temperature", "learning_rate", "alpha_learning_rate"]] = Field(
        ["kd", "penalty"], min_length=1, description="what the study sets, within kdnas.tune.space.RANGES"
    )
    objective: Literal["noise", "clean"] = Field(
        "noise", description="value of a trial: accuracy of its features through the noisy channel, or without one"
    )
    judged: Literal["all", "labels"] = Field(
        "all", description="by which images of the architecture split: the unlabelled too, by the teacher, or not"
    )
    warm_start: str | None = Field(
        None, description="begin with the best trials of another study: its run directory, or its name in the storage"
    )
    trials: int = Field(12, ge=1, description="trials in the study")
    startup_trials: int = Field(4, ge=1, description="random trials before the sampler and the pruner act")
    epochs: int = Field(3, ge=1, description="epochs of each trial's short search")
    steps: int = Field(10, ge=1, description="bilevel steps in an epoch of a trial")
    finalists: int = Field(
        2, ge=1, description="best trials whose weights get a full search, as the settings' own weights do"
    )
    final_epochs: int = Field(
        10, ge=1, description="epochs of stage 1 after which the architectures of these searches are compared"
    )
    check: int = Field(0, ge=0, description="architectures trained in full for the rank correlation")
    workers: int = Field(1, ge=1, description="processes on this machine that share the study")
    storage: str | None = Field(
        None,
        repr=False,
        description="where the study is kept: postgresql://user@host/db, or an SQLite file; study.db of the run unless "
        "set. Workers anywhere that are given the same share it",
    )
    heartbeat: float = Field(
        10.0, gt=0, description="seconds between signs of life of a trial; six without one, and another worker takes it"
    )

    @field_serializer("storage")
    def _keeps_no_password(self, storage: str | None) -> str | None:
        return None if storage is None else without_password(storage)


def without_password(url: str) -> str:
    """A URL as it may be written down; what is no URL stays as it is.

    A password may hold any character, also those that end a host's part elsewhere (``/ ? # [``): SQLAlchemy takes them.
    """
    bare = re.sub(r"(://[^:/]*):.*@", r"\1@", url)
    if "://" not in bare:
        return bare
    head, question, query = bare.partition("?")
    kept = [word for word in query.split("&") if not re.match(r"\w*password=", word)]
    return head + question * bool(kept) + "&".join(kept)


class Distill(Section):
    """The two stages of robust knowledge distillation."""

    init: Literal["scratch", "inherited"] = Field(
        "scratch", description="where the encoder's weights start (without distillation always from scratch)"
    )
    steps: int = Field(100, ge=1, description="steps in an epoch, both stages")
    labelled_fraction: float = Field(0.25, ge=0, le=1, description="labelled share of each batch")
    unlabelled: bool = Field(True, description="distil on images without a label too")
    weight_decay: float = Field(0.01, ge=0, description="of both stages")
    schedule: Literal["cosine", "constant"] = Field("cosine", description="of the learning rates, after a warm-up")
    patience: int = Field(
        0,
        ge=0,
        description="epochs without a better architecture split after which a stage ends, its best kept; 0: off",
    )
    epochs: int = Field(10, ge=0, description="epochs of stage 1, clean; 0 leaves it out")
    batch_size: int = Field(64, ge=2, description="images per step of stage 1")
    learning_rate: float = Field(0.004, gt=0, description="of stage 1 (AdamW)")
    link_epochs: int = Field(10, ge=1, description="epochs of stage 2, through the channel")
    link_batch_size: int = Field(128, ge=2, description="images per step of stage 2")
    link_learning_rate: float = Field(0.002, gt=0, description="of codec and semantic decoder in stage 2")
    encoder_rate: float = Field(0.3, ge=0, description="encoder's share of the stage-2 rate; 0 freezes it")
    link_feature: float = Field(30.0, ge=0, description="stage 2: most that loss.feature counts")
    snr: Literal["low", "uniform", "rising"] = Field(
        "low", description="SNR in stage 2: per sample, half in the lowest quarter or uniform; or rising by epoch"
    )
    link_draws: int = Field(
        4, ge=1, description="stage 2: how often each image is sent in a step, each time under other conditions"
    )
    snr_margin_db: float = Field(
        5.0, ge=0, description="stage 2: by how much the SNRs of training reach beyond the device's, on both sides"
    )
    snr_error_db: float = Field(
        0.0, ge=0, description="stage 2: the SNR is told wrong by up to this much, to both ends"
    )
    feature_noise: float = Field(
        0.0, ge=0, description="stage 2: noise on the features before the codec, in their standard deviations"
    )


MOST_WORDS = 20  # classes up to which their words are on by default


class Codec(Section):
    """CAT; None takes the device class's default."""

    tokens: int | None = Field(None, ge=1, description="tokens of the channel encoder")
    width: int | None = Field(None, ge=4, description="width of a token")
    depth: int | None = Field(None, ge=1, description="transformer blocks of the channel encoder")
    order: Literal["interleaved", "blocks"] = Field(
        "interleaved", description="which token makes a symbol: all in turn, or one after another"
    )
    constellation: Literal["none", "qpsk", "16qam", "64qam", "256qam"] = Field(
        "none", description="send only points of this constellation"
    )
    told: Literal["average", "effective"] = Field(
        "average",
        description="SNR that the channel encoder is told: the average one, or that after fading, which needs CSI at "
        "the transmitter",
    )
    class_words: bool | None = Field(
        None,
        description="superpose a word for the class on the code of the features: all that arrives at low SNR (None: "
        f"where there are at most {MOST_WORDS} classes, as every word has weights for each symbol)",
    )

    def words(self, classes: int) -> int | None:
        """For how many classes of ``classes`` a word is superposed; None: for none."""
        wanted = classes <= MOST_WORDS if self.class_words is None else self.class_words
        return classes if wanted else None


class Evaluate(Section):
    """Accuracy on test data."""

    channels: list[str] | None = Field(
        None, min_length=1, description="NAME or NAME(OPTION=VALUE, ...), trained for or not; the device's unless set"
    )
    snrs_db: list[float] = Field(
        default_factory=lambda: [-10.0, -5.0, 0.0, 5.0, 10.0, 15.0, 20.0],
        min_length=1,
        description="SNRs in dB",
    )
    lengths: list[Count] = Field(
        default_factory=lambda: [4, 8, 16, 32, 64],
        min_length=1,
        description="complex symbols sent; those above the device's are left out",
    )
    snr_offsets_db: list[float] = Field(
        default_factory=list, description="measured also with both ends told an SNR that is so much too high, in dB"
    )
    draws: int = Field(5, ge=1, description="channel draws per image and point; with ci95, in a round")
    ci95: float | None = Field(
        None, gt=0, lt=1, description="draw until the 95 % interval over draws, on these images, is +- this or narrower"
    )
    max_draws: int = Field(200, ge=1, description="with ci95, draws after which a point is left as it is")
    batch_size: int = Field(500, ge=1, description="images per batch")
    baselines: list[Literal[BASELINES]] = Field(  # type: ignore[valid-type]
        list(BASELINES), min_length=1, description="what `kdnas evaluate --baselines` trains and measures"
    )
    int8: bool = Field(
        False, description="also the transmitter in int8 (system kdnas-int8), which needs the extra `export`"
    )
    confidence: float = Field(
        0.8, ge=0.5, lt=1, description="of the bounds by which `link.send` chooses a length; 0.5 has no margin"
    )

    @model_validator(mode="after")
    def _rounds_of_draws(self) -> "Evaluate":
        if self.ci95 is not None and not 2 <= self.draws <= self.max_draws:
            raise ValueError("evaluate.ci95 needs evaluate.draws of 2 or more, and evaluate.max_draws above it")
        return self

    @field_validator("channels", "snrs_db", "lengths", "snr_offsets_db", "baselines")
    @classmethod
    def _each_once(cls, named: list[Any] | None) -> list[Any] | None:
        if named is not None and len(set(named)) < len(named):
            raise ValueError("name each once")
        return named

    @field_validator("snr_offsets_db")
    @classmethod
    def _wrong_ones(cls, offsets: list[float]) -> list[float]:
        if 0 in offsets:
            raise ValueError("leave out 0, which is always measured")
        return offsets


class Tailor(Section):
    """Dynamic distillation for every device of a fleet, in slices: both stages of ``distill`` in small."""

    enabled: bool = Field(False, description="end `kdnas run` with the fleet's devices of its class")
    fleet: str = Field("default", description="fleet in the package, or the path of a TOML file")
    systems: list[Literal["dynamic", "static", "none"]] = Field(
        ["dynamic"], min_length=1, description="dynamic distillation, and to compare: KD of full granularity, no KD"
    )
    steps: int = Field(300, ge=1, description="clean steps in a slice, after which accuracy is measured")
    link_steps: int = Field(100, ge=1, description="steps through the channel in a slice, after the clean ones")
    slices: int = Field(5, ge=1, description="most slices for a device; their steps bound every system")
    batch_size: int = Field(64, ge=2, description="images per step")
    learning_rate: float = Field(0.004, gt=0, description="of clean steps in the first slice (AdamW); less later")
    link_learning_rate: float = Field(0.004, gt=0, description="likewise, of codec and semantic decoder in the channel")
    encoder_rate: float = Field(0.1, ge=0, description="encoder's share of that rate; 0 freezes it there")
    confidence: float = Field(
        0.8, ge=0.5, lt=1, description="of the one-sided bound that must meet the accuracy floor; 0.5 has no margin"
    )
    decay: float = Field(0.5, gt=0, le=1, description="expected gain of a slice, as a share of the one before")
    patience: int = Field(3, ge=1, description="slices of the finest rung without gain before giving up")
    superclasses: int | None = Field(None, ge=2, description="how many; the square root of the classes unless set")
    snrs: int = Field(5, ge=1, description="quantiles that stand for a device's SNR distribution in measurements")
    weights: dict[str, NotNegative] = Field(
        default_factory=lambda: {"superclass": 1.0, "logit": 1.0, "distance": 0.1, "angle": 0.1, "feature": 0.1},
        description="weight of every term of the ladder, coarse to fine",
    )

    @field_validator("systems")
    @classmethod
    def _once_each(cls, systems: list[str]) -> list[str]:
        if len(set(systems)) < len(systems):
            raise ValueError("name each system once")
        return systems

    @field_validator("weights")
    @classmethod
    def _names_terms(cls, weights: dict[str, float]) -> dict[str, float]:
        terms = ("superclass", "logit", "distance", "angle", "feature")
        for name in (*weights, *terms):
            if name not in terms or name not in weights:
                raise ValueError(f"the terms of the ladder are {', '.join(terms)}: weight each of them, and no other")
        if not (weights["superclass"] and weights["logit"] and weights["distance"] + weights["angle"]
                and weights["feature"]):  # fmt: skip
            raise ValueError("every rung of the ladder needs a term with a weight above 0")
        return weights


class Settings(Section):
    """All settings of a run."""

    device: str = Field("wearable", description="device class, or the path of a device TOML file")
    dataset: str = Field("fashion-mini", description="data set by name, or folder:PATH")
    space: str = Field("mobile", description="search space")
    teacher: str = Field("efficientnet-lite0", description="teacher")
    preset: Literal["smoke", "quick", "standard", "paper"] = Field("quick", description="how much is computed")
    seed: int = Field(0, ge=0, description="seed of everything random")
    accelerator: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="where to compute; auto takes a CUDA device where there is one"
    )
    threads: int | None = Field(None, ge=1, description="CPU threads; all cores unless set")
    data: Data = Data()
    spaces: Space = Space()
    adapt: Teacher = Teacher()
    knowledge: Knowledge = Knowledge()
    loss: Loss = Loss()
    search: Search = Search()
    tune: Tune = Tune()
    distill: Distill = Distill()
    codec: Codec = Codec()
    evaluate: Evaluate = Evaluate()
    tailor: Tailor = Tailor()

    @model_validator(mode="after")
    def _weights_to_inherit(self) -> "Settings":
        if self.distill.init == "inherited" and self.search.relaxation == "partial":
            raise ValueError("distill.init = 'inherited' needs weights; partial channels leave none: take 'scratch'")
        return self

    @model_validator(mode="after")
    def _a_classifier_is_trained(self) -> "Settings":
        if not (self.loss.ce or self.loss.kd * (self.loss.logit + self.loss.decoupled)):
            raise ValueError("no loss trains a classifier: set loss.ce, loss.logit or loss.decoupled above 0")
        return self


PRESETS: dict[str, dict[str, Any]] = {
    # Tiny, for tests: every part runs, no number means anything.
    "smoke": {
        "data.limit": 600, "data.labels": 200, "adapt.method": "probe", "adapt.image_size": 32, "knowledge.views": 2,
        "search.warmup_epochs": 1, "search.epochs": 2, "search.steps": 4, "search.batch_size": 32,
        "tune.trials": 4, "tune.startup_trials": 2, "tune.epochs": 2, "tune.steps": 2, "tune.check": 2,
        "tune.finalists": 1, "tune.final_epochs": 1,
        "distill.epochs": 2, "distill.link_epochs": 2, "distill.steps": 10, "distill.batch_size": 32,
        "distill.link_batch_size": 32,
        "evaluate.draws": 2, "evaluate.snrs_db": [0.0, 10.0], "evaluate.lengths": [16, 64],
        "tailor.steps": 5, "tailor.link_steps": 2, "tailor.slices": 3, "tailor.batch_size": 32, "tailor.snrs": 2,
    },
    # Minutes on two cores.
    "quick": {},
    # Tens of minutes on a few cores.
    "standard": {
        "knowledge.views": 8, "search.warmup_epochs": 10, "search.epochs": 20, "search.steps": 40, "tune.trials": 24,
        "tune.startup_trials": 8, "tune.epochs": 4, "tune.steps": 20, "tune.check": 6, "tune.final_epochs": 20,
        "distill.epochs": 40, "distill.link_epochs": 30, "evaluate.draws": 20, "tailor.slices": 12,
    },
    # Hours; a GPU helps.
    "paper": {
        "knowledge.views": 16, "adapt.image_size": 128, "search.warmup_epochs": 20, "search.epochs": 50,
        "search.steps": 200, "tune.trials": 60, "tune.startup_trials": 15, "tune.epochs": 6, "tune.steps": 50,
        "tune.check": 10, "tune.finalists": 4, "tune.final_epochs": 40,
        "distill.epochs": 200, "distill.link_epochs": 100, "distill.steps": 200,
        "evaluate.draws": 50, "tailor.steps": 1500, "tailor.link_steps": 500,
        "tailor.slices": 12,
    },
}  # fmt: skip


def known_keys() -> dict[str, Any]:
    """Every setting by its dotted key, with its field description object."""
    keys: dict[str, Any] = {}
    for name, info in Settings.model_fields.items():
        annotation = info.annotation
        if isinstance(annotation, type) and issubclass(annotation, Section):
            keys |= {f"{name}.{inner}": field for inner, field in annotation.model_fields.items()}
        else:
            keys[name] = info
    return keys


def _flatten(document: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys; tables below a known setting (such as ``spaces.options``) stay whole."""
    sections = {
        n
        for n, i in Settings.model_fields.items()
        if isinstance(i.annotation, type) and issubclass(i.annotation, Section)
    }
    flat: dict[str, Any] = {}
    for key, value in document.items():
        if key in sections and isinstance(value, Mapping):
            flat |= {f"{key}.{inner}": v for inner, v in value.items()}
        else:
            flat[key] = value
    return flat


def parse_value(text: str) -> Any:
    """A value as TOML writes it; what is no TOML is taken as a string (``--set space=cell``)."""
    try:
        return tomllib.loads(f"x = {text}")["x"]
    except tomllib.TOMLDecodeError:
        return text


def parse_assignments(pairs: Sequence[str]) -> dict[str, Any]:
    """``key=value`` words of ``--set`` as dotted keys.

    Raises:
        InputError: A word without an equals sign.
    """
    found = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise InputError(f"--set takes key=value, not {pair!r}")
        found[key.strip()] = parse_value(text.strip())
    return found


def load_config(path: str | Path) -> dict[str, Any]:
    """A TOML file of settings, as dotted keys.

    Raises:
        InputError: It is missing or not TOML (with the line).
    """
    try:
        return _flatten(tomllib.loads(Path(path).read_text()))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid TOML: {error}") from None


def check_keys(names: Iterable[str]) -> None:
    """Refuse a (dotted) key that is no setting, nor one entry of a table that is.

    Raises:
        InputError: With the nearest key that is known.
    """
    keys = known_keys()
    for key in names:
        if key not in keys and ".".join(key.split(".")[:2]) not in keys:
            near = get_close_matches(key, keys, 1, 0.5)
            raise InputError(
                f"unknown setting {key!r}" + (f"; did you mean {near[0]!r}?" if near else "; see `kdnas show settings`")
            )


def make_settings(*layers: Mapping[str, Any]) -> Settings:
    """Settings from layers of (dotted) keys, later ones winning; the preset they name lies under all of them.

    Args:
        layers: For example a config file, then the command line. None values are left out.

    Raises:
        InputError: An unknown key (with the nearest known one), or a value of a wrong type or range.
    """
    given: dict[str, Any] = {}
    for layer in layers:
        given |= {key: value for key, value in _flatten(layer).items() if value is not None}
    preset = given.get("preset", Settings.model_fields["preset"].default)
    if not isinstance(preset, str) or preset not in PRESETS:
        raise InputError(f"unknown preset {preset!r}; there are {', '.join(PRESETS)}")
    check_keys(given)
    keys = known_keys()
    nested: dict[str, Any] = {}
    for key, value in ({**PRESETS[preset], **given}).items():
        section, *rest = key.split(".", 2)
        if len(rest) == 2:  # one entry of a table: the others stay
            whole = f"{section}.{rest[0]}"
            table = nested.get(section, {}).get(rest[0], keys[whole].get_default(call_default_factory=True))
            if not isinstance(table, Mapping):
                raise InputError(f"unknown setting {key!r}: {whole!r} is one value")
            value = {**table, rest[1]: value}
        if rest:
            nested.setdefault(section, {})[rest[0]] = value
        else:
            nested[section] = value
    try:
        return Settings(**nested)
    except ValidationError as error:
        first, kinds = error.errors()[0], ("literal", "int", "function", "constrained")

        def place(one: Any) -> str:  # without the branches of a union, each of which has an error of its own
            return ".".join(str(part) for part in one["loc"] if not str(part).startswith(kinds))

        where = place(first)
        at = [one["msg"].removeprefix("Value error, ") for one in error.errors() if place(one) == where]
        said = " or ".join([at[0], *(message.removeprefix("Input should be ") for message in at[1:])])
        if first["type"] == "value_error" and isinstance(first["input"], dict) and where not in keys:
            raise InputError(said) from None  # of settings that clash
        raise InputError(f"setting {where!r}: {said.lower()}, got {first['input']!r}") from None
