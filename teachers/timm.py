"""Any model of timm as a teacher: ``timm:NAME``, or ``timm:NAME@FILE.safetensors`` with weights of one's own.

A model of timm is one link of the chain: fine-tuning trains the classifier, and with ``adapt.unfreeze = 1`` all.
Its pixel statistics and size are those of its ``pretrained_cfg``.
"""

import importlib.util
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdnas.errors import InputError


class Link(nn.Module):
    """A headless model of timm, which may take images of one size only.

    Args:
        model: As ``timm.create_model(…, num_classes=0)`` returns it.
        native: Side of the images that it was trained on, in pixels.
        name: Of the teacher, for messages.
    """

    def __init__(self, model: nn.Module, native: int, name: str) -> None:
        super().__init__()
        self.model, self.native, self.name = model, native, name

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images (B, C, H, H) to features (B, F)."""
        try:
            return self.model(images)
        except (AssertionError, ValueError, RuntimeError):
            if images.shape[-1] == self.native:
                raise
            raise InputError(
                f"the teacher {self.name} does not take images of {images.shape[-1]} pixels: "
                f"set adapt.image_size = {self.native}"
            ) from None


class TimmModel:
    """A ``kdnas.knowledge.Backbone`` from a model of timm.

    Args:
        name: Of the teacher.
        model: As ``timm.create_model(…, num_classes=0)`` returns it, with trained weights.
    """

    pretrained = True
    frozen = 1

    def __init__(self, name: str, model: Any) -> None:
        told = getattr(model, "pretrained_cfg", None) or model.default_cfg
        self.name = name
        self.channels, self.default_size = told["input_size"][0], told["input_size"][-1]
        self.mean, self.std = tuple(told["mean"]), tuple(told["std"])
        # An Identity follows, so that something stays for fine-tuning to call its own.
        self.layers = nn.Sequential(Link(model, self.default_size, name), nn.Identity()).eval()
        with torch.no_grad():
            # Some models have a last layer of another width than num_features says.
            self.feature_dim = self.layers(torch.zeros(1, self.channels, self.default_size, self.default_size)).shape[1]


def load(model: str) -> TimmModel:
    """The model of timm that ``model`` names, as ``NAME`` (with its own weights) or ``NAME@FILE.safetensors``.

    Raises:
        InputError: timm or torchvision is not installed; an unknown model; its weights cannot be had.
    """
    name = f"timm:{model}"
    try:
        import timm
    except ImportError as error:
        if importlib.util.find_spec("timm") is None:
            raise InputError(f"the teacher {name} needs timm: pip install 'kdnas[timm]'") from None
        raise InputError(
            f"the teacher {name}: timm needs {error.name}; install the torchvision that belongs to torch "
            f"{torch.__version__.partition('+')[0]}, from where that torch came"
        ) from None
    architecture, at, file = model.partition("@")
    own: dict[str, Any] = {}
    if at:
        if not file.endswith(".safetensors") or not Path(file).expanduser().is_file():
            raise InputError(f"the teacher {name}: {file or 'nothing'} after the '@' is no .safetensors file")
        own = {"pretrained_cfg_overlay": {"file": str(Path(file).expanduser())}}
    try:
        net = timm.create_model(architecture, pretrained=True, num_classes=0, **own)
    except Exception as error:  # timm and the Hub's client raise many kinds, none of them their own
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".:")
        raise InputError(
            f"the teacher {name} cannot be had ({reason}): take a name of timm.list_pretrained(), or give its weights "
            f"with timm:{architecture}@FILE.safetensors"
        ) from None
    return TimmModel(name, net)
