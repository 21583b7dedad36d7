"""The entangled vision transformer: what its relaxed parts mix, what they slice, and its costs by hand."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from supernets import Supernet
from torch import Tensor, nn

from kdnas.cost import CostTables, layer_table
from kdnas.ops.attention import attend, transformer_steps
from kdnas.space import make_space
from search_spaces.vit import RelaxedBlock, RelaxedEmbedding, RelaxedHead, RelaxedPart, mixed_layer_norm

FULL = {
    "width": 48,
    **{f"block{i}/{name}": value for i in range(4) for name, value in (("heads", 3), ("ratio", 2))},
    **{f"block{i}/keep": True for i in range(1, 4)},
}


def block_of(net: Supernet, index: int) -> RelaxedBlock:
    return next(m for m in net.space.modules() if isinstance(m, RelaxedBlock) and f"block{index}/heads" in m.alpha)


def frozen_mixture(block: RelaxedBlock, net: Supernet, label: str, x: Tensor) -> Tensor:
    """What the frozen blocks of each value of ``label`` give, mixed by its probabilities."""
    p = net.probabilities()[label]
    parts = [block.freeze(FULL | {label: value})(x) * p[i] for i, value in enumerate(net.domains[label])]
    return torch.stack(parts).sum(0)


@pytest.mark.parametrize("width", [0.05, 0.25, 0.5, 1.0, 1.25, 2.0])
def test_every_width_gives_a_space(width: float) -> None:
    space = make_space("vit", width=width)
    values = space.domains()["width"]
    assert values == sorted(set(values)) and all(value % 4 == 0 and value > 0 for value in values)
    choices = space.random(torch.Generator().manual_seed(0))
    assert space.network(choices)(torch.rand(1, 1, 28, 28)).shape == (1, 64)


@pytest.mark.parametrize("depth", [1, 3])
def test_all_but_the_first_block_can_be_skipped(depth: int) -> None:
    space = make_space("vit", depth=depth)
    keeps = [label for label in space.domains() if label.endswith("/keep")]
    assert keeps == [f"block{i}/keep" for i in range(1, depth)]
    choices = space.random(torch.Generator().manual_seed(0)) | dict.fromkeys(keeps, False)
    assert sum(block is not None for block in space.network(choices).config["blocks"]) == 1


def test_there_are_about_seven_by_seven_tokens_at_every_size() -> None:
    for size in range(28, 225, 3):
        space = make_space("vit", image_size=size, depth=1)
        choices = space.random(torch.Generator().manual_seed(0))
        with torch.device("meta"):
            network: Any = space.network(choices)
            tokens = network.embedding(network.stem(torch.rand(1, 1, size, size)))
        assert tokens.shape[1] in (36, 49, 64, 81)


def test_attention_is_that_of_torch_and_its_heads_are_prefixes(float64: None) -> None:
    x = torch.randn(2, 5, 3 * 3 * 16)
    query, key, value = x.view(2, 5, 3, 3, 16).permute(3, 0, 2, 1, 4)
    expected = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(2, 5, 48)
    torch.testing.assert_close(attend(x), expected)
    torch.testing.assert_close(attend(x[..., : 2 * 48]), expected[..., :32])


def test_a_relaxed_norm_is_that_of_the_width_and_in_between_their_mixture(float64: None) -> None:
    norm = nn.LayerNorm(64)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x, p = torch.randn(3, 7, 64), torch.tensor([0.2, 0.3, 0.5])
    mixed = torch.zeros_like(x)
    for width, share in zip((32, 48, 64), p, strict=True):
        plain = nn.LayerNorm(width)
        plain.load_state_dict({"weight": norm.weight[:width], "bias": norm.bias[:width]})
        one = x[..., :width].contiguous()
        assert torch.equal(mixed_layer_norm(one, norm, [(width, torch.tensor(1.0))]), plain(one))
        mixed[..., :width] += share * plain(one)
    got = mixed_layer_norm(x, norm, list(zip((32, 48, 64), p, strict=True)))
    torch.testing.assert_close(got, mixed, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("label", ["block2/heads", "block2/ratio", "block2/keep"])
def test_a_relaxed_block_is_the_mixture_of_the_frozen_ones(label: str, float64: None) -> None:
    """Exactly so for the MLP and for a half-kept block; for heads, where the MLP after them (not linear) is silent."""
    net = Supernet("vit")
    net.choose(FULL)
    block = block_of(net, 2)
    with torch.no_grad():
        net.alphas[label].normal_()
        if label.endswith("heads"):
            block.full.down.weight.zero_()
        x = torch.randn(2, 49, 48)
        got = block(x)
        torch.testing.assert_close(got, frozen_mixture(block, net, label, x), rtol=1e-12, atol=1e-12)
        for value in net.domains[label]:
            assert not torch.allclose(got, block.freeze(FULL | {label: value})(x))


def test_smaller_parts_are_the_first_rows_and_columns() -> None:
    net = Supernet("vit")
    parts = [m for m in net.space.modules() if isinstance(m, RelaxedPart)]
    kinds = (RelaxedEmbedding, *[RelaxedBlock] * 4, RelaxedHead)
    assert tuple(map(type, parts)) == kinds
    choices = FULL | {"width": 32, "block0/heads": 2, "block0/ratio": 4}
    full, small = parts[1].full.state_dict(), parts[1].freeze(choices).part.state_dict()
    shapes = {
        "qkv": (2 * 3 * 16, 32), "out": (32, 2 * 16), "up": (128, 32), "down": (32, 128), "norm1": (32,), "norm2": (32,)
    }  # fmt: skip
    for name, shape in shapes.items():
        weight = full[f"{name}.weight"]
        cut = weight[: shape[0], : shape[1]] if len(shape) == 2 else weight[: shape[0]]
        assert cut.shape == shape and torch.equal(small[f"{name}.weight"], cut)
        assert torch.equal(small[f"{name}.bias"], full[f"{name}.bias"][: shape[0]])


def test_what_is_not_chosen_is_not_run() -> None:
    """Not even times zero: nothing past the chosen sizes, and nothing of a skipped block, is read."""
    net = Supernet("vit")
    choices = FULL | {"block1/keep": False}
    net.choose(choices)
    network = net.space.inherit(choices, net.space).train()
    sizes = {name: value.shape for name, value in network.state_dict().items()}
    with torch.no_grad():
        for name, value in net.space.state_dict().items():
            if ".full." in name and value.is_floating_point():
                kept = torch.zeros_like(value, dtype=torch.bool)
                if name.replace(".full.", ".") in sizes:
                    kept[tuple(map(slice, sizes[name.replace(".full.", ".")]))] = True
                value[~kept] = torch.nan
        images = torch.rand(3, 1, 28, 28)
        assert torch.equal(net.space.train()(images), network(images))
    statistics = net.space.embedding.full.patches.bn.running_mean  # type: ignore[union-attr]
    assert torch.equal(statistics[:48], network.embedding.patches.bn.running_mean)  # type: ignore[union-attr, index]


def test_every_alpha_and_every_weight_has_a_live_gradient(float64: None) -> None:
    net = Supernet("vit")
    features = net.space.train()(torch.rand(4, 1, 28, 28))
    (features * torch.randn(4, 64)).sum().backward()
    for label, alpha in net.alphas.items():
        assert alpha.grad is not None and alpha.grad.abs().min() > 1e-9, label
    assert all(weight.grad is not None and weight.grad.abs().max() > 0 for weight in net.weights())


def test_costs_by_hand() -> None:
    space = make_space("vit", depth=2)
    choices = {
        "width": 32, "block0/heads": 2, "block0/ratio": 1, "block1/heads": 3, "block1/ratio": 4, "block1/keep": False
    }  # fmt: skip
    steps = CostTables(space.units(), space.domains()).steps(choices)
    rows = {row["name"]: row for row in layer_table(steps)}
    assert list(rows) == [
        "stem", "embedding", *(f"block0.{part}" for part in ("qkv", "attention", "out", "up", "down")), "head.pool",
        "head.linear",
    ]  # fmt: skip
    tokens, width, inner, hidden = 49, 32, 2 * 16, 32
    assert {name: row["params"] for name, row in rows.items()} == {
        "stem": 9 * 16 + 2 * 16,
        "embedding": 9 * 16 * width + 2 * width + tokens * width,
        "block0.qkv": 2 * width + (width + 1) * 3 * inner,
        "block0.attention": 0,
        "block0.out": (inner + 1) * width,
        "block0.up": 2 * width + (width + 1) * hidden,
        "block0.down": (hidden + 1) * width,
        "head.pool": 0,
        "head.linear": 2 * width + (width + 1) * 64,
    }
    assert rows["embedding"]["flash_bytes"] == 9 * 16 * width + tokens * width + 8 * width
    assert rows["block0.qkv"]["flash_bytes"] == width * 3 * inner + 8 * 3 * inner
    assert rows["block0.attention"]["macs"] == 2 * tokens**2 * inner
    # The block's input; queries, keys, values and result; the scores of two heads.
    assert rows["block0.attention"]["sram_bytes"] == tokens * width + 4 * tokens * inner + 2 * tokens**2
    # The input is held while what is computed from it is read and written.
    held = {"qkv": 3 * inner + width, "out": inner + width, "up": width + hidden, "down": hidden + width}
    for part, size in held.items():
        assert rows[f"block0.{part}"]["sram_bytes"] == tokens * (width + size)
    assert sum(row["params"] for row in rows.values()) == sum(p.numel() for p in space.network(choices).parameters())
    assert [step.ops for step in transformer_steps("b", 49, 32, 2, 32)] == [1, 2, 1, 1, 1]
