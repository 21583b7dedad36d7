"""CAT: the channel-aware transformer (our own definition of it; the published text gives no construction).

One feature vector becomes a few tokens *per sample*; attention runs over those tokens only, never over the
batch. The SNR and the wanted length condition every block (adaptive layer norm with gates: Peebles and Xie,
arXiv 2212.09748, section 3.2). The code is an *ordered prefix*: sending only the first k' symbols is valid for
every k' in 1 ... k.

Where little energy arrives, all that can be told is the class. Both halves may therefore know a *word* for every class:
the transmitter superposes the word of the class that it believes in on the code of the features, and the receiver
correlates with the words. Words begin as a simplex code, no two nearer than any others, in prefixes of whole blocks;
they are trained with the rest. How the power is shared depends on SNR times length, the energy of the prefix
over the noise: at little of it nearly all goes to the word, at much nearly all to the features.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from kdnas.channel import combined_snr_db, power_normalise, prefix_mask, wiener_gain
from kdnas.codec.constellation import check_constellation, to_constellation
from kdnas.errors import InputError

# An SNR beyond these is treated as the end: nothing is gained above, nothing arrives below.
SNR_LIMITS_DB = (-30.0, 40.0)
ORDERS = ("blocks", "interleaved")
TOLD = ("average", "effective")
EVEN_ENERGY = 4.0  # energy of a prefix over the noise's N_0 at which features and class begin with the same power
SHARPNESS = 2.0  # of the transmitter's decision for a class: a word between two is worth less than either


class Condition(nn.Module):
    """An embedding of what is known of the link: SNRs in dB, and the length as a share of the maximum."""

    def __init__(self, snrs: int, symbols: int, width: int) -> None:
        super().__init__()
        self.symbols = symbols
        self.layers = nn.Sequential(nn.Linear(2 * snrs + 2, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())

    def forward(self, length: Tensor, *snrs_db: Tensor) -> Tensor:
        """Lengths (B,) and SNRs in dB (B,) to the embedding (B, C)."""
        parts = [length / self.symbols, length.log2() / math.log2(self.symbols + 1)]
        for snr_db in snrs_db:
            clipped = snr_db.clamp(*SNR_LIMITS_DB)
            # In dB, and as the Wiener gain SNR/(1+SNR), which saturates where more SNR changes nothing.
            parts += [(clipped - 5.0) / 10.0, 2.0 * torch.sigmoid(clipped * (math.log(10) / 10)) - 1.0]
        return self.layers(torch.stack(parts, 1))  # (B, C)


class Block(nn.Module):
    """A transformer block over the tokens of one sample, its norms and gates set by the condition."""

    def __init__(self, width: int, heads: int, condition: int, expansion: int) -> None:
        super().__init__()
        self.heads = heads
        self.modulation = nn.Linear(condition, 6 * width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.up = nn.Linear(width, expansion * width)
        self.down = nn.Linear(expansion * width, width)
        # Starts as a plain pre-norm block, gates open: zero gates were no better in short trainings.
        nn.init.zeros_(self.modulation.weight)
        with torch.no_grad():
            self.modulation.bias.copy_(torch.tensor([0.0, 0.0, 1.0]).repeat(2).repeat_interleave(width))

    def forward(self, tokens: Tensor, condition: Tensor) -> Tensor:
        """Tokens (B, T, W) and condition (B, C) to tokens (B, T, W)."""
        width = tokens.shape[-1]
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.modulation(condition)[:, None].chunk(6, -1)
        normed = F.layer_norm(tokens, (width,)) * (1 + scale_a) + shift_a
        query, key, value = rearrange(self.qkv(normed), "b t (three h d) -> three b h t d", three=3, h=self.heads)
        mixed = F.scaled_dot_product_attention(query, key, value)
        tokens = tokens + gate_a * self.out(rearrange(mixed, "b h t d -> b t (h d)"))
        normed = F.layer_norm(tokens, (width,)) * (1 + scale_m) + shift_m
        return tokens + gate_m * self.down(F.gelu(self.up(normed)))


def class_words(classes: int, symbols: int) -> Tensor:
    """First words of the classes: a simplex code in every block of C // 2 symbols, so in prefixes of whole blocks too.

    A simplex code of C words needs C - 1 real dimensions (Proakis, Digital Communications, 4.4). The one that tells two
    halves of the classes apart comes last in a block, and of 8 classes or more those that tell the halves of a half
    apart come before it: without them what is left is orthogonal codes of the parts, so that of ten classes no two
    words are nearer than a right angle in a prefix one or two symbols short either. The others are drawn anew for each
    block, from one seed: both ends of a link begin with the same.

    Args:
        classes: C, at least 2.
        symbols: k.

    Returns:
        (C, 2k), I and Q in turn; mean |x|^2 = 1 over the k symbols of each word.

    Raises:
        InputError: There are fewer than 2 classes.
    """
    if classes < 2:
        raise InputError(f"words tell at least 2 classes apart, not {classes}: leave them out")
    half, index = classes // 2, torch.arange(classes)
    coarse = [torch.ones(classes), torch.where(index < half, 1.0, -1.0)]
    if classes >= 8:
        for first, last in ((0, half), (half, classes)):
            inside = (first <= index) & (index < last)
            coarse.append(torch.where(index < (first + last) // 2, 1.0, -1.0) * inside)
    draw, blocks = torch.Generator().manual_seed(0), []
    for _ in range(-(-symbols // half)):
        others = torch.randn(classes, classes - len(coarse), generator=draw)
        directions = torch.linalg.qr(torch.cat([torch.stack(coarse, 1), others], 1)).Q[:, 1:]  # (C, C - 1)
        blocks.append(F.pad(directions.flip(1), (0, 1 - classes % 2)))  # (C, 2 (C // 2))
    words = torch.cat(blocks, 1)[:, : 2 * symbols]
    return words / (words.square().sum(1, keepdim=True) / symbols).sqrt()


class Share(nn.Module):
    """The class's share of the power of a prefix: it begins as half at ``EVEN_ENERGY``, less with more energy.

    Attributes:
        raised: By how much the log of its odds stands above what is learned (``kdnas.distill.calibrate``), a scalar.
    """

    def __init__(self, condition: int) -> None:
        super().__init__()
        self.layer = nn.Linear(condition, 1)
        self.raised: Tensor
        self.register_buffer("raised", torch.zeros(()))
        nn.init.zeros_(self.layer.weight)
        nn.init.constant_(self.layer.bias, 2 * math.log(EVEN_ENERGY))

    def forward(self, condition: Tensor, snr_db: Tensor, length: Tensor) -> Tensor:
        """Condition (B, C), SNR in dB (B,) and length (B,) to (B, 1) in 0 ... 1."""
        energy = snr_db.clamp(*SNR_LIMITS_DB) * (math.log(10) / 10) + length.log()  # in nepers: E / N_0 is its exp
        return torch.sigmoid(self.layer(condition) + self.raised - 2 * energy[:, None])


class ChannelEncoder(nn.Module):
    """Features to complex symbols: the transmitter's half of CAT, and the only one that a device carries.

    Args:
        feature_dim: D, the width of the features.
        symbols: k, the most complex symbols that it can send.
        tokens: T, tokens per sample.
        width: W, the width of a token.
        depth: Blocks.
        heads: Attention heads; must divide ``width``.
        condition: Width of the embedding of SNR and length.
        expansion: Of the blocks' two-layer part.
        order: ``blocks``: token t makes the symbols t k/T ... (t + 1) k/T - 1. ``interleaved``: symbol i comes from
            token i mod T, so that a short prefix has a part of every token.
        constellation: ``none``, or of which points the symbols are (``codec.constellation``); a sample's power is then
            at most 1.
        classes: C, of a classifier in the transmitter: the word of its class is superposed on the features' code. None:
            features alone.
        told: Which SNR the link tells this half: the ``average`` one, or the ``effective`` one after fading, which a
            transmitter with CSI knows.

    Raises:
        InputError: A size is below 1, ``heads`` does not divide ``width``, or an order, constellation or SNR is
            unknown.
    """

    def __init__(
        self,
        feature_dim: int,
        symbols: int,
        tokens: int = 8,
        width: int = 16,
        depth: int = 1,
        heads: int = 2,
        condition: int = 16,
        expansion: int = 2,
        order: str = "blocks",
        constellation: str = "none",
        classes: int | None = None,
        told: str = "average",
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = _config(locals())
        if order not in ORDERS:
            raise InputError(f"no order {order!r} of symbols: choose one of {', '.join(ORDERS)}")
        if told not in TOLD:
            raise InputError(f"no SNR {told!r} that a channel encoder is told: choose one of {', '.join(TOLD)}")
        self.told = told
        self.symbols, self.tokens, self.per_token = symbols, tokens, -(-symbols // tokens)
        self.order, self.constellation = order, check_constellation(constellation)
        self.embed = nn.Linear(feature_dim, tokens * width)
        self.condition = Condition(1, symbols, condition)
        self.blocks = nn.ModuleList(Block(width, heads, condition, expansion) for _ in range(depth))
        self.head = nn.Linear(width, 2 * self.per_token)
        self.gain = nn.Linear(condition, symbols)
        self.classifier = None
        if classes:
            self.classifier = nn.Linear(feature_dim, classes)
            self.words = nn.Linear(classes, 2 * symbols, bias=False)
            self.words.weight.data.copy_(class_words(classes, symbols).T)
            self.share = Share(condition)

    def start_from(self, classifier: nn.Module) -> None:
        """Begin with the decisions of a linear ``classifier`` (B, D) to (B, classes), where this half has one."""
        if self.classifier is not None:
            weights = {name: SHARPNESS * value for name, value in classifier.state_dict().items()}
            self.classifier.load_state_dict(weights)

    def forward(self, z: Tensor, snr_db: Tensor, length: Tensor) -> Tensor:
        """Encode.

        Args:
            z: (B, D) features.
            snr_db: (B,) SNR in dB that the transmitter believes in: the average one, unless ``told`` says otherwise.
            length: (B,) int64, symbols to send, 1 ... k.

        Returns:
            (B, k) complex64: mean |x|^2 = 1 over the first ``length`` symbols of each sample, 0 after them; with a
            constellation its points, and mean |x|^2 at most 1.
        """
        condition = self.condition(length, snr_db)
        if self.classifier is not None:
            # Its errors at low SNR do not train the encoder: they cost half a point at high SNR.
            believed = self.classifier(z.detach()).softmax(1)  # (B, C)
            share = self.share(condition, snr_db, length)  # (B, 1)
        tokens = self.embed(z).unflatten(1, (self.tokens, -1))  # (B, T, W)
        for block in self.blocks:
            tokens = block(tokens, condition)
        pairs = self.head(tokens).unflatten(2, (-1, 2))  # (B, T, ceil(k/T), 2)
        if self.order == "interleaved":
            pairs = pairs.transpose(1, 2)
        pairs = pairs.flatten(1, 2)[:, : self.symbols]  # (B, k, 2)
        pairs = pairs * (1 + self.gain(condition))[..., None]
        sent = prefix_mask(length, self.symbols)
        code = power_normalise(torch.view_as_complex(pairs.float()), sent)
        if self.classifier is not None:
            word = torch.view_as_complex(self.words(believed).float().unflatten(1, (-1, 2)))  # (B, k)
            code = power_normalise(share.sqrt() * word + (1 - share).sqrt() * code, sent)
        return code if self.constellation == "none" else to_constellation(code, sent, self.constellation)


class ChannelDecoder(nn.Module):
    """Received symbols to features: the receiver's half of CAT.

    Args:
        feature_dim, symbols, tokens, width, depth, heads, condition, expansion: As in ``ChannelEncoder``;
            the first two must be equal in both halves, the others are free.
        classes: C, where the transmitter superposes the word of a class; None: it does not.

    Raises:
        InputError: As in ``ChannelEncoder``.
    """

    def __init__(
        self,
        feature_dim: int,
        symbols: int,
        tokens: int = 8,
        width: int = 32,
        depth: int = 2,
        heads: int = 2,
        condition: int = 32,
        expansion: int = 4,
        classes: int | None = None,
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = _config(locals())
        self.symbols, self.tokens, self.classes = symbols, tokens, classes
        self.gain = nn.Linear(condition, symbols)
        self.embed = nn.Linear(2 * symbols + (classes or 0), tokens * width)
        self.condition = Condition(2, symbols, condition)
        self.blocks = nn.ModuleList(Block(width, heads, condition, expansion) for _ in range(depth))
        self.head = nn.Linear(tokens * width, feature_dim)
        if classes:
            self.words = nn.Linear(2 * symbols, classes, bias=False)
            self.words.weight.data.copy_(class_words(classes, symbols))
            self.share = Share(condition)
            self.centres = nn.Linear(classes, feature_dim)

    def forward(self, y: Tensor, snr_db: Tensor, length: Tensor, effective_snr_db: Tensor | None = None) -> Tensor:
        """Decode.

        Args:
            y: (B, k) complex64, received and equalised: the symbols sent plus noise. What stands past
                ``length`` is ignored.
            snr_db: (B,) the SNR in dB that the transmitter encoded for.
            length: (B,) int64, symbols sent.
            effective_snr_db: SNR of ``y`` in dB, (B,), or (B, k) where each symbol has its own; under fading it
                differs from ``snr_db``. None: ``snr_db``.

        Returns:
            (B, D) features.
        """
        effective_snr_db = snr_db if effective_snr_db is None else effective_snr_db
        sent = prefix_mask(length, self.symbols)
        condition = self.condition(length, snr_db, combined_snr_db(effective_snr_db, sent))
        gain = (1 + self.gain(condition)) * wiener_gain(effective_snr_db, sent)  # (B, k)
        pairs = torch.view_as_real(y)  # (B, k, 2)
        told = (pairs * (gain * sent)[..., None]).flatten(1)
        if self.classes:
            # The words' log-likelihood ratios, the features' part of the power being noise to them.
            share = self.share(condition, snr_db, length)
            snr = torch.pow(10.0, effective_snr_db.clamp(max=SNR_LIMITS_DB[1]) / 10)
            snr = snr if snr.dim() == 2 else snr[:, None]  # (B, k) or (B, 1)
            trust = 2 * share.sqrt() * snr / (1 + snr * (1 - share)) * sent  # (B, k)
            believed = self.words((pairs * trust[..., None]).flatten(1)).softmax(1)  # (B, C)
            told = torch.cat([told, believed], 1)
        tokens = self.embed(told).unflatten(1, (self.tokens, -1))  # (B, T, W)
        for block in self.blocks:
            tokens = block(tokens, condition)
        features = self.head(tokens.flatten(1))
        return features + self.centres(believed) if self.classes else features


def _config(arguments: dict[str, Any]) -> dict[str, Any]:
    """The constructor's arguments as a plain dict (JSON), checked; what is None is left out."""
    config = {name: v for name, v in arguments.items() if name not in ("self", "__class__") and v is not None}
    for name, value in config.items():
        if isinstance(value, int) and value < 1:
            raise InputError(f"the codec's {name} is {value}: give at least 1")
    if config["width"] % config["heads"]:
        raise InputError(f"the codec's heads ({config['heads']}) must divide its width ({config['width']})")
    return config


class CAT(nn.Module):
    """Both halves of the codec, made to fit each other.

    Args:
        feature_dim: D.
        symbols: k, the most complex symbols for a sample.
        encoder: Settings of the ``ChannelEncoder`` beyond these two.
        decoder: Settings of the ``ChannelDecoder`` beyond these two.

    Attributes:
        encoder: The transmitter's half.
        decoder: The receiver's half.
        config: The arguments as a plain dict, every setting of both halves written out.
    """

    def __init__(
        self,
        feature_dim: int,
        symbols: int,
        encoder: dict[str, Any] | None = None,
        decoder: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.encoder = ChannelEncoder(feature_dim, symbols, **encoder or {})
        self.decoder = ChannelDecoder(feature_dim, symbols, **decoder or {})
        # Written out in full: a saved codec is rebuilt the same when defaults change.
        sizes = {"feature_dim": feature_dim, "symbols": symbols}
        settings = [
            {key: value for key, value in config.items() if key not in sizes}
            for config in (self.encoder.config, self.decoder.config)
        ]
        self.config: dict[str, Any] = {**sizes, "encoder": settings[0], "decoder": settings[1]}
