"""Several adapted teachers as one: their mean posterior, and their features side by side."""

import math
from collections.abc import Sequence
from functools import cached_property
from typing import cast

import torch
from torch import Tensor, nn

from kdnas.data import Dataset
from kdnas.knowledge.teacher import AdaptedTeacher, InputSpec
from kdnas.run.files import hash_of

SAMPLE = 2048  # images that the statistics of the features are taken on, at most
FLOOR = 0.1  # a feature that hardly moves is not blown up: its deviation counts as this share of the mean one


class Ensemble(nn.Module):
    """Adapted teachers of the same classes as one ``Teacher``.

    Features are the members' features, each standardised by fixed statistics, so that no member and no
    feature outweighs the others where they are matched or quantised. The posterior is the mean of the members'
    posteriors (after division by ``temperature``, its logarithm is what ``logits`` returns).

    Args:
        members: At least two; a name may occur several times.
        mean, std: (F,) of the concatenated features, F the sum over the members.
        temperature: Divides the logits.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, members: Sequence[AdaptedTeacher], mean: Tensor, std: Tensor, temperature: float = 1.0) -> None:
        super().__init__()
        self.name = "+".join(member.name for member in members)
        self.members = nn.ModuleList(members)
        self.widths = [member.feature_dim for member in members]
        self.feature_dim = sum(self.widths)
        self.classes = members[0].classes
        # Each member fits images to itself; outside, the largest input stands for all.
        self.input: InputSpec = max((member.input for member in members), key=lambda spec: spec.size)
        self.temperature = temperature
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.eval().requires_grad_(False)

    def _members(self) -> list[AdaptedTeacher]:
        return [cast(AdaptedTeacher, member) for member in self.members]

    @property
    def parameter_count(self) -> int:
        """Parameters of all members."""
        return sum(parameter.numel() for parameter in self.parameters())

    @cached_property
    def hash(self) -> str:
        """16 hex digits of the members, their order, the statistics and the temperature."""
        hashes = [member.hash for member in self._members()]
        return hash_of("ensemble", 1, hashes, self.mean, self.std, self.temperature)

    def features(self, images: Tensor) -> Tensor:
        """Map images (B, C, H, W), floats in [0, 1], any size, 1 or 3 channels, to features (B, F)."""
        found = [member.features(images) for member in self._members()]
        return (torch.cat(found, 1) - self.mean) / self.std

    def logits(self, features: Tensor) -> Tensor:
        """Map features (B, F) to the logarithm of the mean posterior (B, classes), over the temperature."""
        own = (features.to(self.mean.device) * self.std + self.mean).split(self.widths, 1)
        logs = torch.stack([m.logits(part).log_softmax(1) for m, part in zip(self._members(), own, strict=True)])
        return (logs.logsumexp(0) - math.log(len(logs))) / self.temperature  # logs: (members, B, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map images, as for ``features``, to logits (B, classes)."""
        return self.logits(self.features(images))


def join(members: Sequence[AdaptedTeacher], dataset: Dataset, ids: Tensor) -> Ensemble:
    """An ensemble of ``members`` with the feature statistics of the training images ``ids`` (N,) of ``dataset``."""
    ids = ids[torch.arange(min(SAMPLE, len(ids))) * len(ids) // min(SAMPLE, len(ids))]
    means, stds = [], []
    for member in members:
        features = torch.cat([member.features(dataset.train_images[part].float() / 255) for part in ids.split(200)])
        means.append(features.mean(0))
        stds.append(features.std(0, correction=0))
        stds[-1] = stds[-1].clamp_min(max(FLOOR * float(stds[-1].mean()), 1e-6))
    return Ensemble(members, torch.cat(means), torch.cat(stds))
