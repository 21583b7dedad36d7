"""The noisy radio channel: SNR, power, noise, fading and equalising, all per sample, in one place.

Convention (everywhere in kdnas): SNR is E_s/N_0 per *complex* symbol in dB; E|x|^2 = 1 per sample over the
symbols sent; the noise power N_0 = 10^(-SNR/10) is split N_0/2 to I and Q; E|h|^2 = 1. The three steps are
apart: a channel *generates* a state (``sample``), *applies* it, and *equalises* the result.
"""

from kdnas.channel.channels import CHANNELS, Awgn, Channel, Rayleigh, State, get_channel, list_channels
from kdnas.channel.noise import ImageNoise, Randomness, complex_gaussian, noise_for
from kdnas.channel.power import noise_power, power_normalise, prefix_mask

__all__ = [
    "CHANNELS",
    "Awgn",
    "Channel",
    "ImageNoise",
    "Randomness",
    "Rayleigh",
    "State",
    "complex_gaussian",
    "get_channel",
    "list_channels",
    "noise_for",
    "noise_power",
    "power_normalise",
    "prefix_mask",
]
