"""The channel codec: features to complex symbols and back, for every SNR and every length with one model.

Beside CAT stand the codecs that it is compared with (``list_codecs``), each in its own module.
"""

from kdnas.codec.cat import CAT, ChannelDecoder, ChannelEncoder
from kdnas.codec.registry import Codec, codec_name, fit_codec, list_codecs
from kdnas.codec.steps import channel_encoder_steps

__all__ = [
    "CAT",
    "ChannelDecoder",
    "ChannelEncoder",
    "Codec",
    "channel_encoder_steps",
    "codec_name",
    "fit_codec",
    "list_codecs",
]
