"""Self-training: what a fine-tuned teacher makes of images without a label, for its next fine-tuning."""

import torch
from torch import Tensor, nn

from kdnas.knowledge.finetune import Activations, SoftLabels

POOL = 8192  # unlabelled images that take part, at most
VIEWS = 4  # of each of them, at most


def pool(unlabelled: Tensor) -> Tensor:
    """At most ``POOL`` of the ids ``unlabelled`` (U,), sorted, evenly picked from among them."""
    if len(unlabelled) <= POOL:
        return unlabelled
    return unlabelled[torch.arange(POOL) * len(unlabelled) // POOL]


def soft_labels(tail: nn.Sequential, head: nn.Linear, activations: Activations) -> SoftLabels:
    """The mean posterior over all views of ``activations``, in evaluation mode, without any gradient.

    All images count, the unsure ones softly: a posterior that is spread says little and pulls little.

    Args:
        tail: Links after those that made the activations.
        head: The classifier.
        activations: Of images without a label.
    """
    modes = {module: module.training for module in tail.modules()}
    tail.eval()
    parts = []
    with torch.no_grad():
        for ids in activations.ids.split(200):
            logits = torch.stack([head(tail(activations(ids, view))) for view in range(activations.n_views)])
            parts.append(logits.softmax(2).mean(0).cpu())  # logits: (views, B, classes)
    for module, mode in modes.items():
        module.training = mode
    return SoftLabels(activations, torch.cat(parts))
