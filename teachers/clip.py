"""CLIP's image tower, and other vision transformers, read by Hugging Face transformers.

From a local directory, or from the Hub (``hf:facebook/dinov2-small``). Only safetensors are read and no code that
comes with a model is run. The features are CLIP's image embedding (Radford et al., arXiv 2103.00020), or else
what the model itself calls its pooled output, or its class token.

CLIP, SigLIP, ViT, DeiT and DINOv2 become a chain of their blocks, of which fine-tuning trains the last two. The
chain is held against the model itself when it is read. Any other image model is one link, which stays as it is.
"""

import inspect
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from kdnas.errors import InputError
from kdnas.run.files import read_json

DEFAULT = "openai/clip-vit-base-patch32"
TRAINED = 2  # blocks that fine-tuning trains, with what follows them
TOWERS = {  # models of images and text: the half that sees
    "clip": "CLIPVisionModelWithProjection",
    "siglip": "SiglipVisionModel",
    "siglip2": "Siglip2VisionModel",
}


class Embed(nn.Module):
    """From images to tokens; position embeddings are interpolated for another size than the native one.

    Args:
        embeddings: The model's own.
        after: A norm that the model applies to the tokens, or nothing.
        native: Side of the images that it was trained on, in pixels.
        name: Of the teacher, for messages.
    """

    def __init__(self, embeddings: nn.Module, after: nn.Module, native: int, name: str) -> None:
        super().__init__()
        self.embeddings, self.after, self.native, self.name = embeddings, after, native, name
        self.asks = "interpolate_pos_encoding" in inspect.signature(embeddings.forward).parameters

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images (B, 3, H, H) to tokens (B, T, D)."""
        foreign = images.shape[-1] != self.native
        more = {"interpolate_pos_encoding": True} if foreign and self.asks else {}
        with _of_size(foreign, self.native, images.shape[-1], self.name):
            return self.after(self.embeddings(images, **more))


class Block(nn.Module):
    """One block of the transformer, called with tokens alone."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block
        # Some blocks have a mask without a default beside the tokens.
        needed = [p for p in inspect.signature(block.forward).parameters.values() if p.default is p.empty]
        self.masks = sum(p.kind is p.POSITIONAL_OR_KEYWORD for p in needed) - 1

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (B, T, D) to tokens (B, T, D)."""
        out = self.block(tokens, *[None] * self.masks)
        return out[0] if isinstance(out, tuple) else out


class Pool(nn.Module):
    """From the last tokens to features: norm, then the model's pooling or its class token, then its projection."""

    def __init__(self, norm: nn.Module, pooler: nn.Module | None, projection: nn.Module) -> None:
        super().__init__()
        self.norm, self.pooler, self.projection = norm, pooler, projection

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (B, T, D) to features (B, F)."""
        tokens = self.norm(tokens)
        return self.projection(tokens[:, 0] if self.pooler is None else self.pooler(tokens))


class Whole(nn.Module):
    """A model whose parts are not known, as one link."""

    def __init__(self, model: nn.Module, pooled: bool, native: int, name: str) -> None:
        super().__init__()
        self.model, self.pooled, self.native, self.name = model, pooled, native, name
        self.asks = "interpolate_pos_encoding" in inspect.signature(model.forward).parameters

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images (B, 3, H, H) to features (B, F)."""
        foreign = images.shape[-1] != self.native
        more = {"interpolate_pos_encoding": True} if foreign and self.asks else {}
        with _of_size(foreign, self.native, images.shape[-1], self.name):
            return _features(self.model(pixel_values=images, **more), self.pooled)


@contextmanager
def _of_size(foreign: bool, native: int, size: int, name: str) -> Iterator[None]:
    """Around what may not take images of another size: the error then names the size that it takes."""
    try:
        yield
    except (ValueError, RuntimeError):
        if not foreign:
            raise
        raise InputError(
            f"the teacher {name} does not take images of {size} pixels: set adapt.image_size = {native}"
        ) from None


def _features(output: Any, pooled: bool) -> Tensor:
    """CLIP's embedding, or the pooled output where there is a trained one, or the class token: (B, F)."""
    if getattr(output, "image_embeds", None) is not None:
        return output.image_embeds
    if pooled and getattr(output, "pooler_output", None) is not None:
        return output.pooler_output.flatten(1)
    return output.last_hidden_state[:, 0]


def _chain(model: nn.Module, pooled: bool, native: int, name: str) -> nn.Sequential | None:
    """The parts of ``model`` as a chain, or None where it is built in another way than those we know."""
    tower: Any = getattr(model, "vision_model", model)
    encoder: Any = getattr(tower, "encoder", tower)
    blocks = getattr(encoder, "layers", None) or getattr(encoder, "layer", None)
    norm = getattr(tower, "post_layernorm", None) or getattr(tower, "layernorm", None)
    if not isinstance(blocks, nn.ModuleList) or norm is None or not hasattr(tower, "embeddings"):
        return None
    pooler = (getattr(tower, "pooler", None) or getattr(tower, "head", None)) if pooled else None
    return nn.Sequential(
        Embed(tower.embeddings, getattr(tower, "pre_layrnorm", nn.Identity()), native, name),
        *(Block(block) for block in blocks),
        Pool(norm, pooler, getattr(model, "visual_projection", nn.Identity())),
    )


class VisionTransformer:
    """A ``kdnas.knowledge.Backbone`` from a model of transformers.

    Args:
        name: Of the teacher.
        model: In evaluation mode, with trained weights.
        pooled: Whether its pooling is trained as well.
        mean, std: Of the three channels.
        size: Of the images that it is given where the settings name none, in pixels.
        native: Of those that its position embeddings are made for.

    Raises:
        InputError: It is no model of RGB images that gives one vector an image.
    """

    channels = 3
    pretrained = True

    def __init__(
        self,
        name: str,
        model: nn.Module,
        pooled: bool,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        size: int,
        native: int,
    ) -> None:
        self.name, self.mean, self.std, self.default_size = name, mean, std, size
        _still(model)
        images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
        whole = Whole(model, pooled, native, name)
        try:
            with torch.no_grad():
                expected = whole(images)
        except (AttributeError, TypeError, ValueError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0]
            raise InputError(f"the teacher {name} gives no feature vector for an RGB image ({reason})") from None
        if expected.ndim != 2:
            raise InputError(f"the teacher {name} gives features of shape {tuple(expected.shape)}, not one vector each")
        self.feature_dim = expected.shape[1]
        # An Identity follows, so that something stays for fine-tuning to call its own.
        self.layers, self.frozen = nn.Sequential(whole, nn.Identity()), 1
        chain = _chain(model, pooled, native, name)
        if chain is not None and _agrees(chain, images, expected):
            self.layers, self.frozen = chain, max(1, len(chain) - 1 - TRAINED)


def _agrees(chain: nn.Sequential, images: Tensor, expected: Tensor) -> bool:
    """Whether ``chain`` gives ``expected`` for ``images``."""
    try:
        with torch.no_grad():
            found = chain(images)
    except (AttributeError, TypeError, ValueError, RuntimeError):
        return False
    return found.shape == expected.shape and torch.allclose(found, expected, atol=1e-4, rtol=1e-4)


def _still(model: nn.Module) -> None:
    """Take the dropout out of ``model``: it would draw from the global state, and a resumed run would differ."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in ("dropout", "attention_dropout", "dropout_prob", "drop_prob"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)


def _pixels(told: dict[str, Any], name: str, native: int) -> tuple[tuple[float, ...], tuple[float, ...], int]:
    """(mean, std, size in pixels) from a ``preprocessor_config.json``."""
    size = told.get("crop_size") or told.get("size") or native
    if isinstance(size, dict):
        size = size.get("height") or size.get("shortest_edge") or native
    if not told.get("do_normalize", True):
        return (0.0,) * 3, (1.0,) * 3, int(size)
    mean, std = told.get("image_mean"), told.get("image_std")
    if not (isinstance(mean, list) and isinstance(std, list) and len(mean) == len(std) == 3 and min(std) > 0):
        raise InputError(f"the preprocessor_config.json of {name} lacks image_mean and image_std of three channels")
    return tuple(mean), tuple(std), int(size)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without progress bars, warnings and retries on the screen: what goes wrong is raised."""
    from transformers.utils import logging as theirs

    loggers = [logging.getLogger(name) for name in ("transformers", "huggingface_hub")]
    levels = [logger.level for logger in loggers]
    bars = theirs.is_progress_bar_enabled()
    theirs.disable_progress_bar()
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if bars:
            theirs.enable_progress_bar()


def load(path: str, name: str | None = None) -> VisionTransformer:
    """The vision transformer at ``path``: a directory, or the name of a model on the Hub.

    Args:
        path: A directory with ``config.json``, ``preprocessor_config.json`` and ``model.safetensors``; or as
            ``owner/model``.
        name: Of the teacher; ``hf:path`` unless given.

    Raises:
        InputError: transformers is not installed; a file is missing, damaged, or cannot be fetched; it is no
            model of images.
    """
    try:
        import transformers
        from transformers.utils import cached_file
    except ImportError:
        raise InputError(
            f"the teacher {name or 'hf:' + path} needs transformers: pip install 'kdnas[transformers]'"
        ) from None
    name = name or f"hf:{path}"
    local = Path(path).expanduser()
    if local.is_dir():
        path = str(local)
        for file in ("config.json", "preprocessor_config.json"):
            if not (local / file).is_file():
                raise InputError(f"{local} has no {file}: give a directory that transformers has written")
    elif path.startswith((".", "/", "~")) or path.count("/") > 1:
        raise InputError(f"the teacher {name}: there is no directory {local}")
    with _quiet():
        config = _fetched(lambda: transformers.AutoConfig.from_pretrained(path, trust_remote_code=False), name, local)
        found = _fetched(lambda: cached_file(path, "preprocessor_config.json"), name, local)
        kind: Any = transformers.AutoModel
        if config.model_type in TOWERS or config.model_type == "clip_vision_model":
            plain = "CLIPVisionModel" in (config.architectures or ())
            kind = getattr(transformers, "CLIPVisionModel" if plain else TOWERS.get(config.model_type, TOWERS["clip"]))
        model, told = _fetched(
            lambda: kind.from_pretrained(
                path, trust_remote_code=False, use_safetensors=True, output_loading_info=True, dtype=torch.float32
            ),
            name,
            local,
        )
    missing = [key for key in told["missing_keys"] if "position_ids" not in key]
    if any("pooler." not in key for key in missing):
        raise InputError(f"the weights of {name} are incomplete ({missing[0]} is missing): get the whole model")
    preprocessing = read_json(found)
    native = getattr(model.config, "image_size", None)
    mean, std, size = _pixels(preprocessing, name, native if isinstance(native, int) else 224)
    native = native if isinstance(native, int) else size
    return VisionTransformer(name, model.eval(), not missing, mean, std, size, native)


def _fetched(get: Callable[[], Any], name: str, local: Path) -> Any:
    """What ``get`` returns; whatever transformers raises in one line with a remedy."""
    try:
        return get()
    except (SafetensorError, OSError, ValueError, RuntimeError, ImportError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".:")
        if local.is_dir():
            raise InputError(
                f"the teacher {name} cannot be read ({reason}): give safetensors of a vision model"
            ) from None
        raise InputError(
            f"the teacher {name} cannot be fetched from the Hugging Face Hub ({reason}): get it elsewhere and give its "
            "directory, --teacher hf:DIRECTORY"
        ) from None


def clip() -> VisionTransformer:
    """CLIP's ViT-B/32 image tower: 87.8 million parameters, 512 features, fetched from the Hub when first used."""
    return load(DEFAULT, "clip")
