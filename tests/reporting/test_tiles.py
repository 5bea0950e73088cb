"""``predict --tile``: no seams, the place on the earth kept, a row of tiles in memory, nothing by halves."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import cli
from common.images import read_image
from datamodules.reading import tiles
from datamodules.reading.tiles import Tiles, Tiling
from methods import Segmenter
from reporting import tiles as tile_saving
from tests.commands.test_cli import fails
from tests.reporting.test_films import write_film

rasterio = pytest.importorskip("rasterio")
REACH = 6  # pixels around each that the network sees
WHOLE = {"short_side": 0, "max_long_side": 100_000, "crop": None, "stride": None}


class NearColours(Segmenter):
    """Compares the mean colour of a pixel's neighbourhood with a colour of each word."""

    scores = "logit"

    def embed_vocabulary(self, words: list[str]) -> None:
        self.colours = torch.rand(len(words), 3, generator=torch.Generator().manual_seed(0))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        near = F.avg_pool2d(images, 2 * REACH + 1, 1, REACH, count_include_pad=False)
        return -(near[:, None] - self.colours[:, :, None, None]).square().sum(2)


ASKED = ["--model", f"{__name__}.NearColours", "--model.protocol_values", json.dumps(WHOLE), "--trainer.accelerator=cpu"]


def pixels(height: int, width: int) -> np.ndarray:
    coarse = np.random.default_rng(0).integers(0, 256, (height // 9, width // 9, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def options(images: Path, out: Path, *more: str) -> list[str]:
    return [*ASKED, "--images", str(images), "--classes", "a; b; c; d; e", "--output", str(out), *more]


def row(out: Path) -> dict[str, Any]:
    (found,) = json.loads((out / "predictions.json").read_text())["pictures"]
    return found


def write_geotiff(path: Path, values: np.ndarray, **profile: Any) -> None:
    layout = {"tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "deflate"}
    size = {"height": values.shape[0], "width": values.shape[1], "count": values.shape[2], "dtype": values.dtype}
    with rasterio.open(path, "w", driver="GTiff", **size, **layout, **profile) as file:
        file.write(values.transpose(2, 0, 1))


@pytest.mark.parametrize(("tile", "overlap", "count"), [(96, 16, 4 * 6), (97, 13, 4 * 5), (400, 100, 2), (1000, 0, 1)])
def test_tiles_leave_no_seam(tile: int, overlap: int, count: int, tmp_path: Path) -> None:
    """Of a network that sees no further than half the overlap, the map is that of the whole picture, in every pixel."""
    Image.fromarray(pixels(300, 421)).save(tmp_path / "a.png")
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    assert cli.main(["predict", *options(tmp_path / "a.png", whole)]) == 0
    assert cli.main(["predict", *options(tmp_path / "a.png", cut, f"--tile={tile}", f"--overlap={overlap}")]) == 0
    expected = np.asarray(Image.open(whole / "labels" / "a.png.png"))
    assert len(np.unique(expected)) == 5
    assert np.array_equal(np.asarray(Image.open(cut / "labels" / "a.png.tif")), expected)
    assert row(cut) == {**row(whole), "tiles": count}
    with Image.open(cut / "overlays" / "a.png.png") as overlay:
        assert overlay.width == 421
    assert 'class="alone"' in (cut / "predictions.html").read_text()


def test_too_little_overlap_leaves_seams(tmp_path: Path) -> None:
    """Which is how the test above would see one."""
    Image.fromarray(pixels(300, 421)).save(tmp_path / "a.png")
    maps = []
    for overlap in (0, 12):
        out = tmp_path / str(overlap)
        assert cli.main(["predict", *options(tmp_path / "a.png", out, "--tile", "96", "--overlap", str(overlap))]) == 0
        maps.append(np.asarray(Image.open(out / "labels" / "a.png.tif")))
    assert 0 < (maps[0] != maps[1]).mean() < 0.2


def test_the_label_map_lies_where_the_picture_lies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = pixels(200, 260).copy()
    values[:50, :70] = 0
    transform = rasterio.transform.from_origin(500_000, 5_400_000, 0.5, 0.5)
    (tmp_path / "in").mkdir()
    write_geotiff(tmp_path / "in" / "map.tif", values, crs="EPSG:32633", transform=transform, nodata=0)
    corners = [rasterio.control.GroundControlPoint(r, c, 10 + c, 50 - r) for r, c in ((0, 0), (0, 260), (200, 0))]
    write_geotiff(tmp_path / "in" / "points.tif", values, crs="EPSG:4326", gcps=corners)
    assert cli.main(["predict", *options(tmp_path / "in", tmp_path, "--tile", "128")]) == 0
    with rasterio.open(tmp_path / "labels" / "map.tif.tif") as file:
        assert (file.crs, file.transform, file.nodata) == (rasterio.crs.CRS.from_epsg(32633), transform, 255)
        labels = file.read(1)
        palette = file.colormap(1)
    missing = (values == 0).all(-1)
    assert (labels[missing] == 255).all()
    assert set(np.unique(labels[~missing])) == set(range(5))
    assert len({palette[k] for k in range(5)}) == 5
    with rasterio.open(tmp_path / "labels" / "points.tif.tif") as file:
        points, crs = file.gcps
        assert crs == rasterio.crs.CRS.from_epsg(4326)
        assert [(p.row, p.col, p.x, p.y) for p in points] == [(p.row, p.col, p.x, p.y) for p in corners]
    assert "2 pictures in 12 tiles segmented" in capsys.readouterr().out


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "I;16", "1"])
def test_a_tile_shows_what_the_picture_shows(mode: str, tmp_path: Path) -> None:
    picture = Image.fromarray(pixels(90, 120))
    path = tmp_path / "a.png"
    if mode == "I;16":
        Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257).save(path)
    else:
        picture.convert(mode).save(path)
    whole = read_image(path)
    for item in Tiles([path], tmp_path, Tiling(64, 16)):
        (top, left), image = item["origin"], item["image"]
        assert item["error"] == ""
        assert torch.equal(image, whole[:, top : top + 64, left : left + 64])
        assert item["valid"].all()


def test_a_row_of_tiles_is_in_memory_and_every_row_of_pixels_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(pixels(300, 120)).save(tmp_path / "a.png")
    read: list[tuple[int, int]] = []
    original = tiles._read_rows

    def noted(picture: Any, first: int, end: int) -> np.ndarray:
        read.append((first, end))
        return original(picture, first, end)

    monkeypatch.setattr(tiles, "_read_rows", noted)
    stream = Tiles([tmp_path / "a.png"], tmp_path, Tiling(64, 16))
    assert len(list(stream)) == stream.expected == 6 * 3
    assert read == [(0, 64), (64, 112), (112, 160), (160, 208), (208, 256), (256, 300)]


def test_a_broken_picture_is_named_and_the_others_are_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    write_geotiff(folder / "a.tif", pixels(200, 260))
    content = bytearray((folder / "a.tif").read_bytes())
    content[len(content) // 2 : -400] = bytes(len(content[len(content) // 2 : -400]))  # breaks in the middle
    (folder / "b.tif").write_bytes(content)
    write_geotiff(folder / "c.tif", pixels(40, 50))
    write_geotiff(folder / "float.tif", np.zeros((40, 50, 1), np.float32))
    Image.fromarray(pixels(40, 50)).save(folder / "turned.jpg", exif=exif(6))
    assert cli.main(["predict", *options(folder, tmp_path / "out", "--tile", "64")]) == 2
    errors = capsys.readouterr().err
    assert f"picture '{folder / 'b.tif'}' cannot be read" in errors
    assert "float.tif' holds float32, whose black and white nobody knows." in errors
    assert "turned.jpg' is stored turned (orientation 6)" in errors
    assert sorted(path.name for path in (tmp_path / "out" / "labels").iterdir()) == ["a.tif.tif", "c.tif.tif"]
    content = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [of["picture"] for of in content["failed"]] == ["b.tif", "float.tif", "turned.jpg"]


def exif(orientation: int) -> Image.Exif:
    made = Image.Exif()
    made[0x0112] = orientation
    return made


def test_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(pixels(40, 50)).save(tmp_path / "a.png")
    film = write_film(tmp_path / "film.mkv", [pixels(40, 50)])
    for images, more, says in (
        (
            tmp_path / "a.png",
            ["--tile", "64", "--overlap", "64"],
            "the overlap is 64; tiles of 64 can share at most 63 pixels.",
        ),
        (tmp_path / "a.png", ["--tile", "much"], "--tile is 'much'; it must be a whole number from 0 to 10000."),
        (tmp_path / "a.png", ["--overlap", "8"], "the overlap of 8 is of tiles: set --tile, too."),
        (tmp_path / "a.png", ["--tile", "64", "--smooth", ".5"], "and tiles are none. Leave --smooth or --tile away."),
        (tmp_path / "a.png", ["--tile", "64", "--export", "coco"], "--export describes whole pictures, not tiles"),
        (film, ["--tile", "64"], f"pictures are cut into tiles, and '{film}' is a film."),
    ):
        assert says in fails(capsys, "predict", *options(images, tmp_path / "out", *more))
    monkeypatch.setattr(tiles, "find_spec", lambda name: None)
    line = fails(capsys, "predict", *options(tmp_path / "a.png", tmp_path / "out", "--tile", "64"))
    assert "cutting pictures into tiles needs rasterio: pip install 'zerolabel[tiles]'" in line


def test_no_half_label_map_is_left(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(pixels(300, 120)).save(tmp_path / "a.png")
    asked = ["predict", *options(tmp_path / "a.png", tmp_path / "out", "--tile", "64")]
    assert cli.main(asked) == 0
    before = (tmp_path / "out" / "labels" / "a.png.tif").read_bytes()
    add = tile_saving.TiledLabels.add

    def full(self: tile_saving.TiledLabels, *found: Any) -> None:
        if self.tiles == 3:
            raise OSError(28, "No space left on device")
        add(self, *found)

    monkeypatch.setattr(tile_saving.TiledLabels, "add", full)
    assert "No space left on device. Nothing was replaced." in fails(capsys, *asked)
    assert [(path.name, path.read_bytes()) for path in (tmp_path / "out" / "labels").iterdir()] == [("a.png.tif", before)]
