from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common.errors import UserError
from common.images import decode_ids, decode_mask, read_image
from datamodules.pictures import find_images

PIXELS = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3) * 3


def test_rgb_bytes(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    picture = read_image(tmp_path / "a.png")
    assert picture.dtype == torch.uint8
    assert np.array_equal(picture.permute(1, 2, 0).numpy(), PIXELS)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "LA"])
def test_other_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    name = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    Image.fromarray(PIXELS).convert(mode).save(name)
    assert read_image(name).shape == (3, 4, 6)


def test_16_bit_is_scaled_not_clipped(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 32768], [65535, 257]], np.uint16)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png")[0].tolist() == [[0, 128], [255, 1]]


def test_exif_orientation_is_followed_except_in_benchmarks(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PIXELS).save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg").shape == (3, 6, 4)
    assert read_image(tmp_path / "a.jpg", upright=False).shape == (3, 4, 6)


def test_masks_are_indices_never_colours(tmp_path: Path) -> None:
    mask = Image.fromarray(np.array([[0, 3], [255, 1]], np.uint8))
    mask.putpalette(list(range(255, -1, -1)) * 3)
    mask.save(tmp_path / "m.png")
    assert decode_mask((tmp_path / "m.png").read_bytes(), "m.png").tolist() == [[0, 3], [255, 1]]
    Image.fromarray(PIXELS).save(tmp_path / "rgb.png")
    with pytest.raises(UserError, match=r"rgb\.png' is a RGB picture; it must hold class indices"):
        decode_mask((tmp_path / "rgb.png").read_bytes(), "rgb.png")


def test_panoptic_ids_are_rgb_numbers(tmp_path: Path) -> None:
    Image.fromarray(np.array([[[1, 2, 3], [255, 0, 0]]], np.uint8)).save(tmp_path / "p.png")
    assert decode_ids((tmp_path / "p.png").read_bytes(), "p.png").tolist() == [[1 + 2 * 256 + 3 * 65536, 255]]
    Image.new("L", (2, 2)).save(tmp_path / "grey.png")
    with pytest.raises(UserError, match=r"grey\.png' is a L picture; ids are stored as RGB"):
        decode_ids((tmp_path / "grey.png").read_bytes(), "grey.png")


def test_broken_files_are_named(tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "t.jpg")
    (tmp_path / "t.jpg").write_bytes((tmp_path / "t.jpg").read_bytes()[:900])
    (tmp_path / "text.png").write_text("no picture")
    for name in ("t.jpg", "text.png"):
        with pytest.raises(UserError, match=f"{name}' cannot be read"):
            read_image(tmp_path / name)
    with pytest.raises(UserError, match=r"none\.png' does not exist"):
        read_image(tmp_path / "none.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no pictures found in"):
        find_images(tmp_path / "empty")
