from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from kdnas.export.standalone import DTYPES, read_safetensors


@given(st.lists(st.tuples(st.sampled_from(sorted(DTYPES)), st.lists(st.integers(1, 4), max_size=4)), max_size=5))
def test_reads_what_safetensors_writes(tmp_path_factory: pytest.TempPathFactory, kinds: list) -> None:
    path = tmp_path_factory.mktemp("s") / "x.safetensors"
    generator = torch.Generator().manual_seed(0)
    tensors = {
        f"tensor {index}": (torch.rand(shape, generator=generator) * 200).to(DTYPES[kind])
        for index, (kind, shape) in enumerate(kinds)
    }
    save_file(tensors, path, metadata={"a": "b"})
    found = read_safetensors(path)
    assert found.keys() == tensors.keys()
    for name, value in tensors.items():
        assert found[name].dtype == value.dtype and torch.equal(found[name], value)


@pytest.mark.parametrize("kept", [0, 4, 8, 50, -1])
def test_a_truncated_file_is_an_error(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"x": torch.rand(40)}, path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError):
        read_safetensors(path)
