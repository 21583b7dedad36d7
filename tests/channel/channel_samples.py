"""Channels that the tests go over: every registered name, and the options that change what it does."""

from kdnas.channel import list_channels

OPTIONS = {
    "rayleigh": [
        "fading=fast",
        "fading=fast, equaliser=zf",
        "csi=noisy, csi_error=0.1",
        "fading=fast, csi=noisy, csi_error=0.1, equaliser=zf",
        "csi=none",
    ],
    "rician": ["k_db=-3, fading=fast", "k_db=3, csi=noisy, csi_error=0.2", "k_db=3, csi=none"],
    "multipath": ["taps=1, cp=0", "taps=6, spread=3, cp=5, carriers=8", "csi=noisy, csi_error=0.1", "csi=none"],
    "erasure": ["p=0.3, burst=4", "csi=none"],
}
TRACE_OPTIONS = ["", "fading=fast", "csi=none"]

# Those that need no file.
NAMES = [name for name in list_channels() if name != "trace"]
VARIANTS = [*NAMES, *(f"{name}({options})" for name, all_ in OPTIONS.items() for options in all_)]
