import ast
import importlib
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from torch import nn

from kdnas.errors import InputError
from kdnas.export import encoder_source
from kdnas.space import make_space


def network(space: str, seed: int) -> nn.Module:
    found = make_space(space)
    return found.network(found.random(torch.Generator().manual_seed(seed)))


def module_of(directory: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str):
    """A package ``name`` with the module ``net``, as a user might write it."""
    (directory / name).mkdir()
    (directory / name / "__init__.py").write_text("")
    (directory / name / "net.py").write_text(textwrap.dedent(text))
    monkeypatch.syspath_prepend(directory)
    return importlib.import_module(f"{name}.net")


def built(cls: type[nn.Module], **config: object) -> nn.Module:
    made = cls(**config)
    made.config = config
    return made


def run(source: str) -> dict:
    namespace: dict = {"__name__": "encoder"}
    exec(source, namespace)
    return namespace


@pytest.mark.parametrize("space", ["mobile", "cell"])
def test_same_network_same_text_and_each_class_once(space: str) -> None:
    source = encoder_source(network(space, 1))
    assert source == encoder_source(network(space, 1)) != encoder_source(network(space, 2))
    names = [node.name for node in ast.parse(source).body if isinstance(node, ast.ClassDef | ast.FunctionDef)]
    assert len(names) == len(set(names)) and names[-3:] == ["read_safetensors", "build", "load"]


def test_text_is_as_ruff_would_write_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    user = module_of(
        tmp_path, monkeypatch, "neat_user",
        '''
        import math

        import torch.nn.functional as F
        from torch import Tensor, nn

        SCALE = math.pi


        class Net(nn.Module):
            """A neat network."""

            def __init__(self, width: int, blocks: list, wide: list, empty: dict) -> None:
                super().__init__()
                self.head = nn.Linear(width, 1)

            def forward(self, x: Tensor) -> Tensor:
                """(B, width) to (B, 1)."""
                return F.relu(self.head(x * SCALE))
        ''',
    )  # fmt: skip
    blocks = [(1, 2.5, True), None, [1], (1,), (), {"a": [], "b": [[]]}]
    made = built(user.Net, width=2, blocks=blocks, wide=list(range(60)), empty={})
    path = tmp_path / "encoder.py"
    path.write_text(encoder_source(made, "An encoder.\n\n" + "It is long. " * 20))
    for command in (["check"], ["format", "--check", "--diff"]):
        settings = ["--config", str(Path(__file__).parents[2] / "pyproject.toml")]
        done = subprocess.run([sys.executable, "-m", "ruff", *command, *settings, path], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_helpers_constants_and_imports_come_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    user = module_of(
        tmp_path, monkeypatch, "complete_user",
        """
        import functools
        import math
        from collections import OrderedDict
        import torch.nn as nn
        import torch.nn.functional as F
        from kdnas.ops import ConvBN

        UNUSED = object()
        # A gain
        # of two lines.
        GAIN = math.sqrt(2)
        SIZES = {"small": 3}

        def logged(function):
            @functools.wraps(function)
            def inner(*arguments):
                return function(*arguments)
            return inner

        class Base(nn.Module):
            size = SIZES["small"]

        class Net(Base):
            def __init__(self, width, names, nothing, scale, plan):
                super().__init__()
                self.layers = nn.Sequential(OrderedDict(a=ConvBN(1, width, self.size)))
                self.scale = scale

            @logged
            def forward(self, x):
                return F.relu(self.layers(x)).mean((2, 3)) * GAIN * self.scale
        """,
    )  # fmt: skip
    plan = {"a": [1, (2,)], "b": [True, None, "quote\" and 'é'"]}
    made = built(user.Net, width=4, names=("x",), nothing=None, scale=0.1, plan=plan).eval()
    source = encoder_source(made)
    assert "# of two lines.\nGAIN" in source and "UNUSED" not in source
    assert "from kdnas" not in source and "complete_user" not in source
    assert source.index("class Base") < source.index("class Net")
    copy = run(source)["build"]()
    copy.load_state_dict(made.state_dict())
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(copy.eval()(x), made(x))
    call = ast.parse(source).body[-2].body[-1].value  # type: ignore[attr-defined]
    assert {k.arg: ast.literal_eval(k.value) for k in call.keywords} == made.config


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ("import numpy as np\nclass Part(nn.Module):\n    x = np.zeros(1)\nclass Net(Part): ...",
         "Part uses 'np'"),
        ("from einops import rearrange\nclass Net(nn.Module):\n    f = rearrange",
         "Net uses 'rearrange' from einops"),
        ("from nni.nas.nn.pytorch.layers import Linear\nclass Net(nn.Module):\n    f = Linear",
         "Net uses 'Linear' from nni"),
        ("import kdnas.ops\nclass Net(nn.Module):\n    f = kdnas.ops.ConvBN", "Net uses 'kdnas'"),
        ("from kdnas.ops import ConvBN as C\nclass Net(nn.Module):\n    f = C", "Net uses 'C'"),
        ("def build(): ...\nclass Net(nn.Module):\n    f = build", "'build'"),
        ("class ConvBN: ...\nfrom kdnas.ops import InvertedResidual\n"
         "class Net(nn.Module):\n    f, g = ConvBN, InvertedResidual", "two different things named 'ConvBN'"),
        ("if True:\n    x = 1\nclass Net(nn.Module):\n    f = x",
         "'x', whose source is not at the top level"),
    ],
)  # fmt: skip
def test_what_needs_more_than_torch_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, word: str
) -> None:
    name = f"refused_user_{abs(hash(word))}"
    user = module_of(tmp_path, monkeypatch, name, f"from torch import nn\n{body}\n")
    with pytest.raises(InputError, match=word):
        encoder_source(built(user.Net))


@pytest.mark.parametrize("value", [float("nan"), {1: 2}, object(), torch.ones(1)])
def test_config_that_cannot_be_written_is_refused(value: object) -> None:
    made = network("mobile", 0)
    made.config = {"in_channels": value}  # type: ignore[assignment]
    with pytest.raises(InputError, match="config holds"):
        encoder_source(made)
    del made.config
    with pytest.raises(InputError, match="has no 'config'"):
        encoder_source(made)


def test_about_cannot_break_the_file() -> None:
    source = encoder_source(network("mobile", 0), 'end""" import os \\N{x}\n"""')
    assert "end'''" in (ast.get_docstring(ast.parse(source)) or "")
    assert [n.names[0].name for n in ast.parse(source).body if isinstance(n, ast.Import)] == ["json", "torch"]
