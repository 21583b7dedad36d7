"""Device classes: what a kind of device has, this task's share of it, and the link it sends over."""

from kdnas.device.files import class_of, device_toml, list_devices, load_device
from kdnas.device.model import DeviceClass

__all__ = ["DeviceClass", "class_of", "device_toml", "list_devices", "load_device"]
