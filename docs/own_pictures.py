# %% [markdown]
# # Your own pictures, your own words
#
# From a folder of pictures and some class names to label maps, overlays and a choice between two methods: first in Python,
# then by the command line. `python docs/own_pictures.py` runs it all in under a minute on a CPU; VS Code and Jupytext open it
# as a notebook. Everything is written into the folder `own_pictures/`.
#
# So that it runs anywhere, it draws its own pictures and uses the tiny CLIP that is shipped, which knows coloured shapes and
# nothing else. For photographs change what is marked **photographs**.

# %%
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

import cli
from common.drawing import blend, label_image, with_legend
from common.images import read_image
from datamodules import Shapes
from datamodules.pictures import find_images
from evaluation import LabelMap, Protocol, Vocabulary
from evaluation.protocol_in_words import in_words
from methods import Segmenter, TrainingFree
from reporting.contrast import MeanScoreContrast
from reporting.predictions import summary

OUT = Path("own_pictures")
FOLDER = OUT / "pictures"  # photographs: the folder that yours are in; leave out the next cell

# %% [markdown]
# ## Some pictures
#
# The first test pictures of the embedded benchmark, enlarged. They come with masks, which stay unused: you have none either.

# %%
FOLDER.mkdir(parents=True, exist_ok=True)
scenes = Shapes().benchmark("test")
for i in range(4):
    pixels = scenes[i]["image"].permute(1, 2, 0).numpy()
    Image.fromarray(pixels).resize((4 * pixels.shape[1], 4 * pixels.shape[0])).save(FOLDER / f"scene_{i}.png")

# %%
files = find_images(FOLDER)
pictures = [read_image(file) for file in files]  # (3, H, W) uint8, of any sizes, turned as the camera says
print(f"{len(pictures)} pictures, the first of {tuple(pictures[0].shape)}")

# %% [markdown]
# ## The words
#
# A line (or `;`) ends a class, `,` separates the words of one class. A class is called by its first word, and the one called
# `background` is the background. Name what surrounds your objects too: a pixel can only get a class that was asked for.

# %%
CLASSES = """
blue plain triangle
red dotted triangle
green dotted star
red checkered star
yellow plain star
red striped square
yellow striped triangle
yellow checkered disc
blue checkered square
background, grass, sand, water, brick
"""
vocabulary = Vocabulary.parse(CLASSES)  # Vocabulary.load("voc21") is a shipped one; `zerolabel list` names them all
print(vocabulary.num_classes, "classes, background is number", vocabulary.background)

# %% [markdown]
# ## A method
#
# A training-free one answers at once. What the scores become is the *protocol*: size, windows, prompts, background rule.


# %%
def method(rule: str) -> TrainingFree:
    """Photographs: TrainingFree(rule, clip="ViT-B-16", pretrained="openai", protocol="sclip"); it downloads 600 MB once."""
    return TrainingFree(rule, protocol="shapes", protocol_values={"background": "words"})


sclip = method("sclip")
sclip.use_vocabulary(vocabulary)
print("\n".join(in_words(sclip.protocol)))

# %%
maps = sclip.segment(pictures, with_score=True)
for file, map_ in zip(files, maps, strict=True):
    found = summary(map_, vocabulary.names)
    print(file.name, ", ".join(f"{name} {100 * part['area']:.0f} % (p = {part['score']:.2f})" for name, part in found.items()))

# %% [markdown]
# A `LabelMap` holds `labels` (H, W), the number of each pixel's class, and `score`, its probability. `label_image` makes an
# indexed PNG of the first, whose pixel values are the class numbers, `blend` and `with_legend` something to look at. The
# colours tell the classes apart and mean nothing else.


# %%
def overlay(picture: Tensor, map_: LabelMap) -> Image.Image:
    labels = map_.labels.numpy()
    pixels = picture.permute(1, 2, 0).numpy()
    return with_legend(blend(pixels, labels, vocabulary.palette), labels, vocabulary)


(OUT / "labels").mkdir(exist_ok=True)
(OUT / "overlays").mkdir(exist_ok=True)
for file, picture, map_ in zip(files, pictures, maps, strict=True):
    label_image(map_.labels.numpy(), vocabulary.palette).save(OUT / "labels" / f"{file.name}.png")
    overlay(picture, map_).save(OUT / "overlays" / f"{file.name}.png")

# %% [markdown]
# ## Another background rule
#
# Here the background was asked by its words. Where nobody can list what is around the objects, ask the objects alone and call
# background whatever is not surely one of them. The threshold is a probability. There is no right value without labels: try
# some, look, and write down which one you took. The hash of the protocol goes with every result for that reason.

# %%
asked_by_words = [map_.labels for map_ in maps]
for threshold in (0.3, 0.6, 0.9):
    sclip.use_vocabulary(vocabulary, Protocol.preset("shapes", background="threshold", background_value=threshold))
    thresholded = [map_.labels for map_ in sclip.segment(pictures)]
    background = np.mean([(labels == vocabulary.background).float().mean() for labels in thresholded])
    same = np.mean([(a == b).float().mean() for a, b in zip(thresholded, asked_by_words, strict=True)])
    print(f"threshold {threshold}: {background:.0%} background, {same:.0%} as by words, protocol {sclip.protocol.hash}")
sclip.use_vocabulary(vocabulary)  # back to the words

# %% [markdown]
# ## Which method, without labels?
#
# Nothing replaces labels: for a number to publish run `zerolabel compare` on a benchmark like your pictures. Two things can be
# had without:
#
# - *agreement*: the share of pixels that two methods label alike. Where they differ at least one is wrong, so look there first.
# - *contrast*: how much brighter a class's map is where the method itself chose the class than elsewhere (the mean score
#   contrast of `evaluation/contrast.py`, with the method's own label map in the place of a mask). A method that hardly tells
#   its classes apart has a low one. Over the eight training-free rules on 30 pictures of the embedded benchmark it gave nearly
#   the order of the true mIoU (rank correlation 0.9). That is a hint, no proof for your pictures: a method can be clear and
#   wrong.


# %%
def own_contrast(model: Segmenter, pictures: list[Tensor], maps: list[LabelMap]) -> float:
    """Mean score contrast of a method's maps on its own labels; from -1 (inverted) over 0 (no difference) to 1."""
    contrast = MeanScoreContrast()
    for windows, map_ in zip(model.score_images(pictures), maps, strict=True):
        size = (map_.labels.shape[0], map_.labels.shape[1])
        words = windows.merge(slice(None), size)
        classes = [words[model.class_of_word == k].amax(0) for k in range(model.vocabulary.num_classes)]  # its best word
        contrast.update(torch.stack(classes), map_.labels)
    return float(contrast.compute())


surgery = method("surgery")
surgery.use_vocabulary(vocabulary)
other_maps = surgery.segment(pictures, with_score=True)
print(f"contrast: SCLIP {own_contrast(sclip, pictures, maps):.2f}, Surgery {own_contrast(surgery, pictures, other_maps):.2f}")
for file, a, b in zip(files, maps, other_maps, strict=True):
    print(f"{file.name}: the two agree on {(a.labels == b.labels).float().mean():.0%} of the pixels")

# %% [markdown]
# The picture that they agree on least, both answers, and in white where they differ: `comparison.png`.


# %%
def side_by_side(parts: dict[str, Image.Image], gap: int = 8, top: int = 24) -> Image.Image:
    """The parts under their names."""
    size = (sum(part.width + gap for part in parts.values()) - gap, max(part.height for part in parts.values()) + top)
    sheet, x = Image.new("RGB", size, "white"), 0
    for name, part in parts.items():
        ImageDraw.Draw(sheet).text((x, 3), name, fill="black", font=ImageFont.load_default(15))
        sheet.paste(part, (x, top))
        x += part.width + gap
    return sheet


i = min(range(len(maps)), key=lambda i: (maps[i].labels == other_maps[i].labels).float().mean())
differs = (maps[i].labels != other_maps[i].labels).numpy()
parts = {
    files[i].name: Image.fromarray(pictures[i].permute(1, 2, 0).numpy()),
    "SCLIP": overlay(pictures[i], maps[i]),
    "CLIP Surgery": overlay(pictures[i], other_maps[i]),
    "they differ": Image.fromarray(differs.astype(np.uint8) * 255),
}
side_by_side(parts).save(OUT / "comparison.png")

# %% [markdown]
# ## The same by the command line
#
# ```
# zerolabel predict --config configs/training_free/sclip.yaml --images own_pictures/pictures \
#     --classes own_pictures/classes.txt --output own_pictures/by_command
# ```
#
# For photographs add `--config configs/backbones/clip_vit_b16.yaml`. Other rules: `--model.rule surgery`,
# `--model.protocol_values '{background: threshold, background_value: 0.6}'`. It writes `labels/`, `overlays/` and
# `predictions.json`. For the numbered frames of a film, `--smooth 0.8` lets the frames before vote on each pixel, against
# flicker.

# %%
(OUT / "classes.txt").write_text(CLASSES)
arguments = ["--images", str(FOLDER), "--classes", str(OUT / "classes.txt"), "--output", str(OUT / "by_command")]
cli.main(["predict", "--config", "configs/training_free/sclip.yaml", *arguments])
for file in files:
    with (
        Image.open(OUT / "by_command" / "labels" / f"{file.name}.png") as a,
        Image.open(OUT / "labels" / f"{file.name}.png") as b,
    ):
        print(f"{file.name}: {np.mean(np.asarray(a) == np.asarray(b)):.2%} of the pixels as in Python")
