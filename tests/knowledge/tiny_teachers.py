"""Tiny teachers beside the real ones, and a tiny data set: seconds show what minutes would."""

from collections import OrderedDict
from importlib.metadata import EntryPoint

import torch
from torch import nn

from kdnas.data import Dataset, Views, make_splits
from kdnas.knowledge import adapt, teacher

CLASSES = 3


class TinyBackbone(nn.Module):
    """Two convolutions with batch norm, of which the first is frozen: seconds show what minutes would."""

    feature_dim = 12
    channels = 3
    mean = (0.5,) * 3
    std = (0.5,) * 3

    def __init__(self, pretrained=True):
        super().__init__()
        self.name = "tiny" if pretrained else "tiny_scratch"
        self.pretrained = pretrained
        self.frozen = int(pretrained)
        first = nn.Sequential(
            OrderedDict(conv=nn.Conv2d(3, 8, 3, 2, bias=False), norm=nn.BatchNorm2d(8), act=nn.ReLU())
        )
        second = nn.Sequential(
            OrderedDict(conv=nn.Conv2d(8, 12, 3, 2, bias=False), norm=nn.BatchNorm2d(12), act=nn.ReLU())
        )
        self.layers = nn.Sequential(first, second, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        draws = torch.Generator().manual_seed(0)
        for p in self.parameters():
            if p.ndim == 4:
                nn.init.kaiming_normal_(p, generator=draws)


def tiny():
    return TinyBackbone()


def tiny_scratch():
    return TinyBackbone(pretrained=False)


def install(monkeypatch, tmp_path):
    """Register the tiny teachers, and give the test a cache of its own."""
    real = teacher.entry_points
    fakes = [EntryPoint(name, f"{__name__}:{name}", teacher.GROUP) for name in ("tiny", "tiny_scratch")]
    monkeypatch.setattr(
        teacher, "entry_points", lambda group: [*real(group=group), *(fakes if group == teacher.GROUP else [])]
    )
    monkeypatch.setenv("KDNAS_CACHE", str(tmp_path / "cache"))


def make_dataset(n=240, seed=0):
    """Grey images with a bright bar, a bright column, or a bright corner, under noise."""
    draws = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % CLASSES
    images = torch.randint(0, 120, (n, 1, 28, 28), generator=draws)
    images[labels == 0, :, 10:14] += 100
    images[labels == 1, :, :, 10:14] += 100
    images[labels == 2, :, 10:21, 10:21] += 100
    images = images.to(torch.uint8)
    return Dataset("bars", ("bar", "column", "corner"), images, labels, images[:9], labels[:9], "made here")


DATA = make_dataset()
SPLITS = make_splits(DATA.train_labels, 150, 0)
QUICK = {
    "image_size": 28,
    "n_views": 2,
    "steps": 20,
    "batch_size": 32,
    "progress": False,
    "accelerator": "cpu",
}


def run(tmp_path, name="tiny", splits=SPLITS, dataset=DATA, **kwargs):
    return adapt(name, dataset, splits, views=Views(shift=1), directory=tmp_path / "run", **{**QUICK, **kwargs})
