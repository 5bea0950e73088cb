"""Transformers' image-text models against transformers itself, with random weights, for a small one of each family."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import cli
from backbones.towers import known_towers, load_tower
from backbones.transformers_families import FAMILIES
from backbones.transformers_tower import TransformersTower
from common.errors import UserError
from methods import TrainingFree, ZeroSeg

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
TEXT = SMALL | {"intermediate_size": 48, "vocab_size": 40, "max_position_embeddings": 12, "bos_token_id": 1, "eos_token_id": 1}
VISION = {  # of 32 pixels and patches of 8
    "siglip": SMALL | {"intermediate_size": 48, "image_size": 32, "patch_size": 8},
    "siglip2": SMALL | {"intermediate_size": 48, "num_patches": 16, "patch_size": 8},
    "tipsv2": SMALL | {"image_size": 32, "patch_size": 8, "num_register_tokens": 1},
}
PROCESSORS = {"siglip": "Siglip", "siglip2": "Siglip2", "tipsv2": "Tipsv2"}
WORDS = ["cat", "dog", "a", "photo", "of", "."]


def save(family: str, folder: Path) -> Any:
    """A small random model with its tokenizer and processor, as ``save_pretrained`` writes them."""
    torch.manual_seed(0)
    library = getattr(transformers, FAMILIES[family].library)
    text = TEXT | ({} if family == "tipsv2" else {"projection_size": 32})
    model = library(library.config_class(text_config=text, vision_config=VISION[family])).eval()
    for parameter in model.parameters():  # attention and positions of fresh models are too weak to be seen
        parameter.data += 0.2 * torch.randn_like(parameter)
    if family == "tipsv2":
        model.temperature.data.fill_(0.05)
    model.save_pretrained(folder)
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(["<pad>", "<unk>", *WORDS])}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", unk_token="<unk>").save_pretrained(folder)
    getattr(transformers, f"{PROCESSORS[family]}ImageProcessor")().save_pretrained(folder)
    return model


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / family
    save(family, path)
    return path


@pytest.fixture(scope="module")
def tower(folder: Path) -> TransformersTower:
    found = load_tower(f"transformers:{folder}")
    assert isinstance(found, TransformersTower)
    return found


@pytest.fixture(scope="module")
def library(family: str, folder: Path) -> Any:
    return getattr(transformers, FAMILIES[family].library).from_pretrained(folder).eval()


def as_the_library_reads(family: str, folder: Path, images: torch.Tensor) -> dict[str, Any]:
    """By its own processor, which is told that it need not resize."""
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    own = {"patch_size": 8, "max_num_patches": 16} if family == "siglip2" else {"do_resize": False}
    return dict(processor(list(images), do_rescale=False, return_tensors="pt", **own))


def test_tokens_and_embedding_are_the_librarys_own(tower: TransformersTower, library: Any, family: str, folder: Path) -> None:
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        out = library.get_image_features(**as_the_library_reads(family, folder, images))
    pooled, dense = tower.tokens(images, pooled=True)
    torch.testing.assert_close(pooled, F.normalize(out.pooler_output, dim=-1), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(tower.embed_image(images, unit=False), out.pooler_output, atol=1e-5, rtol=1e-4)
    last = out.last_hidden_state[:, -16:]
    assert dense.shape == (2, tower.channels, 4, 4)
    torch.testing.assert_close(tower.features(images).flatten(2).transpose(1, 2), last, atol=1e-5, rtol=1e-4)
    with torch.no_grad():  # the head's word on a picture of the same token everywhere
        alone = last[:, 6:7].expand(-1, 5, -1)
        own = alone[:, 0] if family == "tipsv2" else library.vision_model.head(alone)
    torch.testing.assert_close(dense[:, :, 1, 2], F.normalize(own, dim=-1), atol=1e-5, rtol=1e-4)


def test_texts_are_the_librarys_own(tower: TransformersTower, library: Any, family: str, folder: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokens = tokenizer(["a photo of a cat.", "dog"], padding="max_length", max_length=12, return_tensors="pt")
    kept = tokens if family == "tipsv2" else {"input_ids": tokens["input_ids"]}
    with torch.no_grad():
        expected = F.normalize(library.get_text_features(**kept).pooler_output, dim=-1)
    found = torch.cat([tower.embed_text(["cat"], ["a photo of a {}."]), tower.embed_text(["dog"], ["{}"])])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert tower.embed_text(["cat " * 40], ["{}"]).shape == (1, 32)  # cut to what the model reads


def test_scale_and_bias_make_the_librarys_logits(tower: TransformersTower, library: Any, family: str, folder: Path) -> None:
    images = torch.rand(2, 3, 32, 32)
    tokens = tower.tokenize(["cat", "a dog"])
    with torch.no_grad():
        expected = library(**tokens, **as_the_library_reads(family, folder, images)).logits_per_image
    cosines = tower.embed_image(images) @ tower.embed_text(["cat", "a dog"], ["{}"]).T
    assert (tower.bias is None) == (family == "tipsv2")
    found = tower.scale * cosines + (0 if tower.bias is None else tower.bias)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("size", [(32, 48), (50, 23), (3, 40)])
def test_pictures_of_any_size(tower: TransformersTower, library: Any, family: str, size: tuple[int, int]) -> None:
    """Positions as the library interpolates them, on a picture of whole patches."""
    images = torch.rand(1, 3, *size)
    grid = tuple(-(-side // 8) for side in size)
    dense = tower.dense(images)
    assert dense.shape == (1, 32, *grid)
    torch.testing.assert_close(dense.norm(dim=1), torch.ones(1, *grid))
    if size == (32, 48) and family != "siglip2":
        normal = (images - tower.mean) / tower.std
        options = {"interpolate_pos_encoding": True} if family == "siglip" else {}
        last = library.vision_model(normal, **options).last_hidden_state[:, -24:]
        torch.testing.assert_close(tower.features(images).flatten(2).transpose(1, 2), last, atol=1e-5, rtol=1e-4)


def test_maskclip_is_the_value_path_of_the_last_block(tower: TransformersTower, library: Any, family: str) -> None:
    """Written out for the blocks of each family: no place sees another there."""
    images = torch.rand(1, 3, 32, 32)
    vision = library.vision_model
    with torch.no_grad():
        x = before_the_last_block(tower, images)
        if family == "tipsv2":
            block, norm = vision.encoder.layer[-1], vision.layernorm
            x = x + block.layer_scale1(block.attention.o_proj(block.attention.v_proj(block.norm1(x))))
            x = x + block.layer_scale2(block.mlp(block.norm2(x)))
        else:
            block, norm = vision.encoder.layers[-1], vision.post_layernorm
            x = x + block.self_attn.out_proj(block.self_attn.v_proj(block.layer_norm1(x)))
            x = x + block.mlp(block.layer_norm2(x))
        expected = F.normalize(tower.read_alone(norm(x)[0, -16:]), dim=-1)
    plain = tower.dense(images)
    torch.testing.assert_close(tower.dense(images, "maskclip").flatten(2)[0].T, expected, atol=1e-5, rtol=1e-4)
    assert (tower.dense(images, "maskclip") - plain).abs().max() > 1e-3
    assert torch.equal(tower.dense(images), plain)  # the hook is gone


def before_the_last_block(tower: TransformersTower, images: torch.Tensor) -> torch.Tensor:
    encoder = tower.model.vision_model.encoder
    caught = []
    block = (encoder.layer if hasattr(encoder, "layer") else encoder.layers)[-1]
    handle = block.register_forward_pre_hook(lambda _, args, options: caught.append(args[0]), with_kwargs=True)
    tower.dense(images)
    handle.remove()
    return caught[0]


def test_methods_take_it(tower: TransformersTower, folder: Path) -> None:
    model = TrainingFree(rule="maskclip", clip=f"transformers:{folder}")
    assert model.pretrained_parts == ("backbone",)
    model.use_vocabulary("cat; dog")
    assert model.segment(torch.rand(3, 40, 56)).labels.shape == (40, 56)
    with pytest.raises(UserError, match=r"cannot follow the attention rule 'sclip': .* It follows: clip, maskclip\."):
        TrainingFree(rule="sclip", clip=f"transformers:{folder}")
    with pytest.raises(UserError, match="does not follow the protocol's position_resize"):
        TrainingFree(rule="clip", clip=f"transformers:{folder}", protocol_values={"position_resize": "bicubic"})
    teacher = ZeroSeg(clip=f"transformers:{folder}", grids=[1, 2], segment_projection="shared_mlp").teacher
    assert teacher.embed([torch.rand(3, 64, 64)]).shape == (1, 5, 32)


def test_random_weights_are_asked_for(folder: Path, tower: TransformersTower) -> None:
    random = load_tower(f"transformers:{folder}", None)
    assert (random.pretrained, random.name) == (False, f"transformers:{folder}@random")
    assert (tower.pretrained, tower.name) == (True, f"transformers:{folder}@file")
    assert random.image_weights_hash() != tower.image_weights_hash()
    assert load_tower(f"transformers:{folder}").image_weights_hash() == tower.image_weights_hash()


def test_weights_that_are_not_the_models(folder: Path, tmp_path: Path, family: str) -> None:
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    (other / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"cannot load the weights of 'transformers:.*other': .*model.safetensors"):
        load_tower(f"transformers:{other}")
    transformers.BertModel(transformers.BertConfig(**SMALL, intermediate_size=48, vocab_size=9)).save_pretrained(
        tmp_path / "bert"
    )
    shutil.copy(tmp_path / "bert" / "model.safetensors", other)
    with pytest.raises(UserError, match=f"are not those of a {FAMILIES[family].library}: '.*' is missing"):
        load_tower(f"transformers:{other}")


def test_folders_that_lack_something(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    save("siglip", whole)
    for file, message in (
        ("config.json", "has no config.json of transformers"),
        ("tokenizer.json", "cannot read the tokenizer in "),
        ("preprocessor_config.json", "cannot read the normalisation of pictures in "),
    ):
        other = tmp_path / file.partition(".")[0]
        shutil.copytree(whole, other)
        (other / file).unlink()
        with pytest.raises(UserError, match=message):
            load_tower(f"transformers:{other}")
    config = json.loads((whole / "config.json").read_text()) | {"model_type": "clip"}
    (whole / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"unknown model_type of 'transformers:.*' 'clip'.* Known: siglip, siglip2, tipsv2"):
        load_tower(f"transformers:{whole}")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pretrained": "openai"}, "brings its weights; 'openai' would be ignored"),
        ({}, "'transformers:google/tipsv2-b14' needs a pinned revision: give --model.revision COMMIT"),
        ({"revision": "0" * 40}, "cannot get 'transformers:google/tipsv2-b14' at 0000"),
    ],
)
def test_a_repository_needs_a_commit_and_a_network(options: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_tower("transformers:google/tipsv2-b14", **options)


@pytest.mark.parametrize("source", ["/nowhere/model", "model", "./model", "a/b/c"])
def test_what_is_neither_a_folder_nor_a_repository(source: str) -> None:
    with pytest.raises(UserError, match="is neither a folder that is there nor a repository OWNER/NAME of the hub"):
        load_tower(f"transformers:{source}", revision="0" * 40)


def test_the_list_names_each_family_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list", "towers"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("transformers:") == len(FAMILIES)
    assert all(f"({family})" in printed or f"model_type {family})" in printed for family in FAMILIES)
    assert "any size; clip, maskclip" in known_towers()["transformers:google/tipsv2-b14"]
