"""kdnas: searched, distilled, channel-robust semantic encoders for each class of devices."""

__version__ = "0.1.0"
