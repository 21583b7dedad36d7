import torch
from torch import nn

from kdnas.codec import CAT, Codec
from kdnas.link import Link
from kdnas.space import Architecture, make_space

META = {
    "device": "mcu",
    "dataset": "toy",
    "classes": ["one", "two", "three"],
    "channels": ["awgn", "rayleigh"],
    "snr_db": [-5, 20.0],
}


def make_link(space: str, seed: int, codec: str = "cat", **options: int) -> tuple[Architecture, Link]:
    """A link whose encoder is a random architecture with batch-norm statistics of its own."""
    generator = torch.Generator().manual_seed(seed)
    found = make_space(space, feature_dim=16, **options)
    choices = found.random(generator)
    torch.manual_seed(seed)
    encoder = found.network(choices)
    size = found.options["image_size"]
    encoder(torch.rand(8, found.options["in_channels"], size, size, generator=generator))
    cat = {"encoder": {"tokens": 4, "classes": 3}, "decoder": {"width": 8, "classes": 3}}
    own = CAT(16, 12, **cat) if codec == "cat" else Codec(codec, 16, 12)
    link = Link(encoder, own.encoder, own.decoder, nn.Linear(16, 3)).eval()
    return Architecture(space, found.options, choices, {"params": 1}), link
