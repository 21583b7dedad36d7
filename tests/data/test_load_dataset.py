"""Loading by name: resizing, recolouring, limits, and settings that are refused."""

import numpy as np
import pytest
import torch
from PIL import Image

from kdnas.data import list_datasets, load_dataset
from kdnas.data.images import convert, to_array
from kdnas.errors import InputError


def test_the_names_are_listed():
    assert list_datasets() == ["cifar10", "cifar100", "fashion-mini", "fashion-mnist", "folder:PATH"]


def test_a_limit_is_stratified_and_seeded():
    full = load_dataset("fashion-mini")
    small = load_dataset("fashion-mini", limit=200)
    assert small.train_labels.bincount().tolist() == [20] * 10
    assert small.test_labels.bincount().tolist() == [4] * 10
    assert small.hash == load_dataset("fashion-mini", limit=200).hash != full.hash
    assert small.hash != load_dataset("fashion-mini", limit=200, seed=1).hash
    assert load_dataset("fashion-mini", limit=10**6).train_images.shape == full.train_images.shape


def test_size_and_channels_are_converted():
    plain = load_dataset("fashion-mini", limit=100)
    data = load_dataset("fashion-mini", limit=100, image_size=40, channels=3)
    assert data.image_shape == (3, 40, 40) and data.test_images.shape[1:] == (3, 40, 40)
    assert data.train_images.dtype == torch.uint8 and data.hash != plain.hash
    assert torch.equal(data.train_images[:, 0], data.train_images[:, 2])
    expected = Image.fromarray(plain.train_images[7, 0].numpy()).resize((40, 40), Image.Resampling.BILINEAR)
    assert np.array_equal(data.train_images[7, 1].numpy(), np.asarray(expected))


def test_grey_is_the_luma_of_colour():
    images = torch.randint(0, 256, (20, 3, 9, 9), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    luma = (images.double() * torch.tensor([0.299, 0.587, 0.114]).double()[:, None, None]).sum(1)
    assert (convert(images, None, 1)[:, 0].double() - luma).abs().max() <= 0.51
    assert convert(images, 9, 3) is images


def test_a_constant_image_stays_constant_at_any_size():
    image = torch.full((1, 3, 32, 32), 137, dtype=torch.uint8)
    for size in (8, 28, 224):
        assert (convert(image, size, 1) == 137).all()


@pytest.mark.parametrize(
    ("mode", "channels"), [("1", 1), ("L", 1), ("LA", 1), ("P", 3), ("RGB", 3), ("RGBA", 3), ("CMYK", 3)]
)
def test_every_mode_becomes_grey_or_rgb(mode, channels):
    image = Image.new("RGB", (6, 4), (255, 255, 255)).convert(mode)
    assert to_array(image, None, None).shape == (channels, 4, 6)
    assert (to_array(image, 5, 3) == 255).all()


def test_16_bit_grey_is_scaled_not_clipped():
    values = np.array([[0, 257, 32896, 65535]], np.uint16)
    assert to_array(Image.fromarray(values), None, None).tolist() == [[[0, 1, 128, 255]]]
    with pytest.raises(ValueError, match="floating"):
        to_array(Image.fromarray(np.zeros((2, 2), np.float32)), None, None)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("fashion", {}, "unknown data set 'fashion': choose among cifar10"),
        ("folder:", {}, "unknown data set"),
        ("folder:/no/such/place", {}, "no folder or archive /no/such/place"),
        ("fashion-mini", {"image_size": 0}, "image_size = 0 is too small"),
        ("fashion-mini", {"channels": 2}, "channels = 2 is neither 1"),
        ("fashion-mini", {"limit": 49}, "limit = 49 is too small for 10 classes"),
    ],
)
def test_bad_settings_are_refused(name, settings, message):
    with pytest.raises(InputError, match=message):
        load_dataset(name, **settings)
