"""The noisy radio channel: SNR, power, noise, fading and equalising, all per sample, in one place.

Convention (everywhere in kdnas): SNR is E_s/N_0 per *complex* symbol in dB; E|x|^2 = 1 per sample over the
symbols sent; the noise power N_0 = 10^(-SNR/10) is split N_0/2 to I and Q; E|h|^2 = 1. The three steps are
apart: a channel *generates* a state (``sample``), *applies* it, and *equalises* the result.
"""

from kdnas.channel.base import Channel, State
from kdnas.channel.names import CHANNELS, describe_channel, get_channel, list_channels, parse_channel
from kdnas.channel.noise import ImageNoise, Randomness, complex_gaussian, noise_for, uniform
from kdnas.channel.power import noise_power, power_normalise, prefix_mask
from kdnas.channel.reliability import combined_snr_db, wiener_gain

__all__ = [
    "CHANNELS",
    "Channel",
    "ImageNoise",
    "Randomness",
    "State",
    "combined_snr_db",
    "complex_gaussian",
    "describe_channel",
    "get_channel",
    "list_channels",
    "noise_for",
    "noise_power",
    "parse_channel",
    "power_normalise",
    "prefix_mask",
    "uniform",
    "wiener_gain",
]
