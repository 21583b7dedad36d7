"""The adapter for timm, against a stand-in that has timm's interface: timm needs torchvision, which may be missing."""

import sys
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from kdnas.errors import InputError
from kdnas.knowledge import AdaptedTeacher, load_backbone


class Net(nn.Module):
    """A headless model as timm makes it, for images of 32 pixels alone where ``fixed`` is set."""

    def __init__(self, fixed):
        super().__init__()
        self.num_features, self.fixed = 6, fixed
        self.pretrained_cfg = {
            "input_size": (3, 32, 32), "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "classifier": "fc",
            "crop_pct": 0.9, "interpolation": "bicubic", "fixed_input_size": fixed,
        }  # fmt: skip
        self.default_cfg = self.pretrained_cfg
        self.conv, self.norm, self.fc = nn.Conv2d(3, 6, 3, 2), nn.BatchNorm2d(6), nn.Identity()

    def forward(self, x):
        assert not self.fixed or x.shape[-1] == 32, "Input height doesn't match model"
        return self.fc(self.norm(self.conv(x)).mean((2, 3)))


@pytest.fixture
def calls(monkeypatch):
    """Puts the stand-in in place; the calls of ``create_model``."""
    made = []

    def create_model(model_name, pretrained=False, pretrained_cfg_overlay=None, num_classes=1000, **kwargs):
        made.append((model_name, pretrained, pretrained_cfg_overlay, num_classes, kwargs))
        if model_name not in ("net", "fixed"):
            raise RuntimeError(f"Unknown model ({model_name})")
        with torch.random.fork_rng():
            torch.manual_seed(0)
            net = Net(model_name == "fixed")
        if pretrained_cfg_overlay:
            net.load_state_dict(load_file(pretrained_cfg_overlay["file"]))
        return net

    stand_in = ModuleType("timm")
    stand_in.create_model = create_model
    monkeypatch.setitem(sys.modules, "timm", stand_in)
    return made


def test_a_model_becomes_a_backbone(calls):
    backbone = load_backbone("timm:net")
    assert calls == [("net", True, None, 0, {})]
    assert backbone.name == "timm:net" and backbone.feature_dim == 6 and backbone.default_size == 32
    assert backbone.mean == (0.485, 0.456, 0.406) and backbone.std == (0.229, 0.224, 0.225)
    assert 0 < backbone.frozen < len(backbone.layers) and not backbone.layers.training
    teacher = AdaptedTeacher(backbone, nn.Linear(6, 4), 40)
    images = torch.rand(2, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    mean, std = torch.tensor(backbone.mean)[:, None, None], torch.tensor(backbone.std)[:, None, None]
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        expected = Net(False).eval()((images - mean) / std)
    assert torch.allclose(teacher.features(images), expected, atol=1e-6)


def test_weights_of_ones_own(calls, tmp_path):
    state = Net(False).state_dict()
    state["conv.bias"] = torch.arange(6.0)
    save_file(state, tmp_path / "own.safetensors")
    backbone = load_backbone(f"timm:net@{tmp_path}/own.safetensors")
    assert calls[0][:3] == ("net", True, {"file": f"{tmp_path}/own.safetensors"})
    assert torch.equal(backbone.layers[0].model.conv.bias, torch.arange(6.0))


def test_faulty_names_and_files_are_refused_in_one_line(calls, tmp_path):
    (tmp_path / "own.pth").write_bytes(b"no pickle is opened")
    for file in ("own.pth", "missing.safetensors"):
        with pytest.raises(InputError, match=r"is no .safetensors file"):
            load_backbone(f"timm:net@{tmp_path}/{file}")
    assert calls == []
    with pytest.raises(InputError, match=r"Unknown model \(nought\)\): take a name of timm.list_pretrained"):
        load_backbone("timm:nought")
    with pytest.raises(InputError, match="names no member"):
        load_backbone("timm:")


def test_a_model_of_one_size_names_it(calls):
    backbone = load_backbone("timm:fixed")
    with pytest.raises(InputError, match=r"does not take images of 64 pixels: set adapt.image_size = 32"):
        backbone.layers(torch.zeros(1, 3, 64, 64))


def test_missing_packages_are_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs timm: pip install 'kdnas\[timm\]'"):
        load_backbone("timm:net")
    monkeypatch.undo()
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    (tmp_path / "timm.py").write_text("import torchvision\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=r"timm needs torchvision; install the torchvision that belongs to torch \d"):
        load_backbone("timm:net")
