"""Vision transformers through Hugging Face transformers, on tiny ones that are made and saved here."""

import sys

import pytest
import torch

from kdnas.errors import InputError
from kdnas.knowledge import AdaptedTeacher, load_backbone
from kdnas.run.files import write_json
from teachers.clip import Block, load

transformers = pytest.importorskip("transformers")

SMALL = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 32,
    "patch_size": 8,
}  # fmt: skip
TEXT = {**SMALL, "vocab_size": 50, "bos_token_id": 0, "eos_token_id": 1}
PIXELS = {"do_normalize": True, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.25], "size": {"height": 32}}


def make(kind):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if kind == "clip":
            return transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(**SMALL, projection_dim=16))
        if kind == "clip-plain":
            return transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**SMALL))
        if kind == "vit":
            return transformers.ViTModel(transformers.ViTConfig(**SMALL, hidden_dropout_prob=0.5))
        if kind == "classifier":  # has no pooler
            return transformers.ViTForImageClassification(transformers.ViTConfig(**SMALL))
        if kind == "dinov2":
            sizes = {key: value for key, value in SMALL.items() if key != "intermediate_size"}
            return transformers.Dinov2Model(transformers.Dinov2Config(**sizes))
        if kind == "siglip":
            return transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**SMALL))
        return transformers.ConvNextModel(transformers.ConvNextConfig(hidden_sizes=[8, 8, 16, 16], depths=[1] * 4))


def expected_of(kind, model, pixels):
    if kind == "clip":
        return model(pixels).image_embeds
    if kind == "classifier":
        return model.vit(pixels).last_hidden_state[:, 0]
    return model(pixels).pooler_output


def saved(model, directory, **changes):
    model.save_pretrained(directory)
    write_json(directory / "preprocessor_config.json", {**PIXELS, **changes})
    return f"hf:{directory}"


@pytest.mark.parametrize("kind", ["clip", "clip-plain", "vit", "classifier", "dinov2", "siglip", "convnext"])
def test_features_are_those_of_the_model_itself(tmp_path, kind):
    model = make(kind).eval()
    backbone = load_backbone(saved(model, tmp_path))
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    mean, std = torch.tensor(PIXELS["image_mean"])[:, None, None], torch.tensor(PIXELS["image_std"])[:, None, None]
    teacher = AdaptedTeacher(backbone, torch.nn.Linear(backbone.feature_dim, 4), 32)
    with torch.no_grad():
        expected = expected_of(kind, model, (images - mean) / std)
    assert torch.allclose(teacher.features(images), expected, atol=1e-5)
    assert backbone.name == f"hf:{tmp_path}" and backbone.default_size == 32 and backbone.pretrained
    blocks = sum(isinstance(link, Block) for link in backbone.layers)
    assert (blocks, backbone.frozen) == ((0, 1) if kind == "convnext" else (3, 2))
    assert not any(isinstance(m, torch.nn.Dropout) and m.p for m in backbone.layers.modules())


def test_clip_with_its_text_half_gives_the_image_embedding(tmp_path):
    sizes = {"text_config": {**TEXT, "projection_dim": 16}, "vision_config": {**SMALL, "projection_dim": 16}}
    model = transformers.CLIPModel(transformers.CLIPConfig(**sizes, projection_dim=16)).eval()
    backbone = load(saved(model, tmp_path).removeprefix("hf:"))
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model.visual_projection(model.vision_model(pixels).pooler_output)
        assert torch.allclose(backbone.layers(pixels), expected, atol=1e-5)
    kept = sum(p.numel() for p in backbone.layers.parameters())
    assert kept == sum(p.numel() for p in model.vision_model.parameters()) + model.visual_projection.weight.numel()


@pytest.mark.parametrize("kind", ["clip", "vit", "dinov2"])
def test_position_embeddings_are_interpolated_for_another_size(tmp_path, kind):
    model = make(kind).eval()
    backbone = load_backbone(saved(model, tmp_path))
    pixels = torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = backbone.layers(pixels)
        more = {} if kind == "dinov2" else {"interpolate_pos_encoding": True}
        output = model(pixels, **more)
    assert torch.allclose(found, output.image_embeds if kind == "clip" else output.pooler_output, atol=1e-5)


def test_a_model_of_one_size_names_it(tmp_path):
    backbone = load_backbone(saved(make("vit"), tmp_path))
    backbone.layers[0].asks = False  # as a model that cannot interpolate
    with pytest.raises(InputError, match=r"does not take images of 48 pixels: set adapt.image_size = 32"):
        backbone.layers(torch.zeros(1, 3, 48, 48))


@pytest.mark.parametrize(
    ("told", "size"),
    [({"size": 40}, 40), ({"size": {"shortest_edge": 48}, "crop_size": {"height": 40, "width": 40}}, 40)],
)
def test_pixel_statistics_and_size_come_from_the_preprocessor(tmp_path, told, size):
    backbone = load_backbone(saved(make("vit"), tmp_path, **told))
    assert backbone.default_size == size
    assert backbone.mean == (0.5, 0.4, 0.3) and backbone.std == (0.2, 0.3, 0.25)
    write_json(tmp_path / "preprocessor_config.json", {**PIXELS, "do_normalize": False})
    plain = load_backbone(f"hf:{tmp_path}")
    assert plain.mean == (0, 0, 0) and plain.std == (1, 1, 1)


def test_faulty_directories_are_refused_in_one_line(tmp_path):
    name = saved(make("vit"), tmp_path)
    (tmp_path / "preprocessor_config.json").rename(tmp_path / "away.json")
    with pytest.raises(InputError, match=r"has no preprocessor_config.json"):
        load_backbone(name)
    write_json(tmp_path / "preprocessor_config.json", {"do_normalize": True})
    with pytest.raises(InputError, match="lacks image_mean"):
        load_backbone(name)
    write_json(tmp_path / "preprocessor_config.json", PIXELS)
    weights = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").unlink()
    torch.save({}, tmp_path / "pytorch_model.bin")  # never opened
    with pytest.raises(InputError, match="give safetensors") as caught:
        load_backbone(name)
    assert "\n" not in str(caught.value)
    (tmp_path / "model.safetensors").write_bytes(weights[:1000])
    with pytest.raises(InputError, match="cannot be read"):
        load_backbone(name)


def test_incomplete_weights_and_models_of_text_are_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    name = saved(make("vit"), tmp_path / "vit")
    state = load_file(tmp_path / "vit" / "model.safetensors")
    del state["layernorm.weight"]
    save_file(state, tmp_path / "vit" / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"incomplete \(layernorm.weight is missing\)"):
        load_backbone(name)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = saved(transformers.BertModel(transformers.BertConfig(**sizes, vocab_size=50)), tmp_path / "bert")
    with pytest.raises(InputError, match="gives no feature vector for an RGB image"):
        load_backbone(text)


def test_what_cannot_be_fetched_or_found_is_said_in_one_line(tmp_path):
    for name in ("hf:nobody/nothing", "clip"):
        with pytest.raises(
            InputError, match=r"cannot be fetched from the Hugging Face Hub .*--teacher hf:DIR"
        ) as error:
            load_backbone(name)
        assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="there is no directory"):
        load_backbone(f"hf:{tmp_path / 'missing'}")
    with pytest.raises(InputError, match="names no member"):
        load_backbone("hf:")


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match=r"needs transformers: pip install 'kdnas\[transformers\]'"):
        load_backbone("hf:owner/model")
