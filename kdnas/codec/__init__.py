"""The channel codec: features to complex symbols and back, for every SNR and every length with one model."""

from kdnas.codec.cat import CAT, ChannelDecoder, ChannelEncoder
from kdnas.codec.steps import channel_encoder_steps

__all__ = ["CAT", "ChannelDecoder", "ChannelEncoder", "channel_encoder_steps"]
