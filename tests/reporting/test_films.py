"""``predict`` on a film: label maps as of its frames as pictures, overlays of the same times and size, nothing by halves."""

import json
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import cli
from datamodules import Shapes
from datamodules.reading import films
from datamodules.reading.films import Film, Frames
from reporting import film as film_saving
from tests.commands.test_cli import fails
from tests.conftest import ROOT

av = pytest.importorskip("av")
TICK = Fraction(1, 1000)
TIMES = (0, 40, 80, 200, 240, 310)  # uneven, as of a telephone
ASKED = ["--config", str(ROOT / "configs/training_free/sclip.yaml"), "--trainer.accelerator=cpu"]
CLASSES = ["--classes", "red plain disc; blue striped square; grass"]


def scene(size: tuple[int, int]) -> np.ndarray:
    drawn = Shapes(pictures=1).benchmark("test")[0]["image"].permute(1, 2, 0).numpy()
    return np.asarray(Image.fromarray(drawn).resize(size[::-1]))


def write_film(path: Path, frames: list[np.ndarray], codec: str = "ffv1", pix_fmt: str = "bgr0") -> Path:
    """Without losses, unless another codec is named."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt, stream.codec_context.time_base = pix_fmt, TICK
        for pixels, time in zip(frames, TIMES, strict=False):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts, frame.time_base = time, TICK
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_sound(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux([*stream.encode(frame), *stream.encode()])
    return path


def label_maps(folder: Path, name: str = "{:06d}.png") -> list[np.ndarray]:
    return [np.asarray(Image.open(folder / name.format(i + 1))) for i in range(len(TIMES))]


@pytest.fixture(scope="module")
def frames() -> list[np.ndarray]:
    """Five of a standing scene, and one mirrored among them; with odd sides."""
    still = scene((127, 161))
    return [still, still, still, still[:, ::-1], still, still]


@pytest.fixture(scope="module")
def film(frames: list[np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_film(tmp_path_factory.mktemp("film") / "holiday.mkv", frames)


@pytest.mark.parametrize("smooth", [[], ["--smooth", "0.8"]])
def test_a_film_is_labelled_as_its_numbered_frames_are(
    film: Path, frames: list[np.ndarray], smooth: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "frames").mkdir()
    for number, pixels in enumerate(frames, 1):
        Image.fromarray(pixels).save(tmp_path / "frames" / f"{number:06d}.png")
    for images, out in ((film, "film"), (tmp_path / "frames", "pictures")):
        options = ["--images", str(images), *CLASSES, "--output", str(tmp_path / out), *smooth]
        assert cli.main(["predict", *ASKED, *options]) == 0
    printed = capsys.readouterr().out
    assert "6 frames segmented" in printed
    assert "2/2" in printed  # a bar whose end is known: batches of 4
    of_film = label_maps(tmp_path / "film" / "labels" / "holiday")
    of_pictures = label_maps(tmp_path / "pictures" / "labels", "{:06d}.png.png")
    assert all(map(np.array_equal, of_film, of_pictures))
    assert np.array_equal(of_film[1], of_film[0])
    assert len(np.unique(of_film[0])) > 1
    if smooth:
        assert (of_film[3] != of_film[0]).mean() < (frames[3] != frames[0]).any(-1).mean()
    content = json.loads((tmp_path / "film" / "predictions.json").read_text())
    (row,) = content["pictures"]
    assert {key: row[key] for key in ("picture", "size", "frames")} == {
        "picture": "holiday.mkv",
        "size": [127, 161],
        "frames": 6,
    }
    shares = np.bincount(np.concatenate(of_film).ravel(), minlength=3) / (6 * 127 * 161)
    found = {content["vocabulary"][k]: share for k, share in enumerate(shares) if share}
    assert {name: of["area"] for name, of in row["classes"].items()} == pytest.approx(found, abs=1e-4)
    page = (tmp_path / "film" / "predictions.html").read_text()
    assert 'src="overlays/holiday.mp4" data-unplayed="This browser cannot play overlays/holiday.mp4;' in page
    assert page.count("onerror=") == page.count("<video ") == 2


def test_the_overlays_keep_size_times_and_colours(film: Path, frames: list[np.ndarray], tmp_path: Path) -> None:
    options = ["--images", str(film), "--classes", "background, grass; red plain disc", "--output", str(tmp_path)]
    assert cli.main(["predict", *ASKED, *options]) == 0
    with av.open(str(tmp_path / "overlays" / "holiday.mp4")) as container:
        stream = container.streams.video[0]
        decoded = list(container.decode(stream))
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
    assert [round(frame.pts * frame.time_base / TICK) for frame in decoded] == list(TIMES)
    pixels = decoded[0].to_ndarray(format="rgb24")
    assert pixels.shape == (128, 162, 3)  # even, a repeated row and column
    labels = label_maps(tmp_path / "labels" / "holiday")[0]
    untouched = labels == 0  # the background is not tinted
    assert 0.2 < untouched.mean() < 1
    assert np.abs(pixels[:127, :161][untouched].astype(int).mean(0) - frames[0][untouched].mean(0)).max() < 3


def test_frames_are_decoded_as_they_are_asked_for(film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = 0

    def counted(self: Film) -> Iterator[tuple[int, object]]:
        nonlocal asked
        for frame in original(self):
            asked += 1
            yield frame

    original = Film.frames
    monkeypatch.setattr(Film, "frames", counted)
    stream = iter(Frames(Film.opened(film)))
    assert [next(stream)["name"], next(stream)["name"]] == ["holiday/000001", "holiday/000002"]
    assert asked == 2


def test_a_film_that_a_camera_has_turned_is_upright(tmp_path: Path) -> None:
    """A telephone's portrait: stored lying, with a matrix in the header that turns it clockwise."""
    lying = scene((96, 128))
    path = write_film(tmp_path / "portrait.mp4", [lying, lying], "libx264rgb", "rgb24")
    one, zero, minus = (value.to_bytes(4, "big", signed=True) for value in (1 << 16, 0, -(1 << 16)))
    content = path.read_bytes()
    at = content.index(b"tkhd") + 4 + 40
    assert content[at : at + 4] == one
    path.write_bytes(content[:at] + b"".join([zero, one, zero, minus, zero, zero]) + content[at + 24 :])
    film = Film.opened(path)
    assert film.size == (128, 96)
    (_, first), _ = film.frames()
    away = [np.abs(first.permute(1, 2, 0).numpy().astype(int) - np.rot90(lying, turns)).mean() for turns in (-1, 1)]
    assert away[0] < 6 < 20 < away[1]


def test_a_file_without_a_film_is_one_line(
    film: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "noise.mp4").write_bytes(bytes(range(256)) * 8)
    (tmp_path / "no_end.mp4").write_bytes(
        write_film(tmp_path / "a.mp4", [scene((64, 64))], "mpeg4", "yuv420p").read_bytes()[:-99]
    )
    write_sound(tmp_path / "sound.mp4")
    out = ["--output", str(tmp_path / "out")]
    for name, says in (
        ("empty.mp4", "film '{}' cannot be read: Invalid data found when processing input."),
        ("noise.mp4", "film '{}' cannot be read: Invalid data found when processing input."),
        ("no_end.mp4", "film '{}' has no frame that can be read."),
        ("sound.mp4", "'{}' holds no moving pictures, only audio."),
        ("gone.mp4", "'{}' does not exist. Give a picture, a folder of pictures or a film."),
    ):
        path = str(tmp_path / name)
        assert says.format(path) in fails(capsys, "predict", *ASKED, "--images", path, *CLASSES, *out)
    only_films = fails(capsys, "predict", *ASKED, "--images", str(film.parent), *CLASSES, *out)
    assert f"A film is given by itself: --images '{film}'." in only_films
    asked = ("--images", str(film), *CLASSES, *out)
    assert "--export describes whole pictures, not frames" in fails(capsys, "predict", *ASKED, *asked, "--export", "coco")
    monkeypatch.setattr(films, "find_spec", lambda name: None)
    assert "reading films needs PyAV: pip install 'zerolabel[video]'" in fails(capsys, "predict", *ASKED, *asked)
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file() and path.suffix in (".png", ".mp4")]


def test_a_film_that_was_cut_off_is_labelled_as_far_as_it_goes_and_said(
    film: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(film.read_bytes()[: film.stat().st_size // 2])
    assert cli.main(["predict", *ASKED, "--images", str(cut), *CLASSES, "--output", str(tmp_path / "out")]) == 0
    assert "frames, 2 could be read; the film may be cut off" in capsys.readouterr().out
    assert len(list((tmp_path / "out" / "labels" / "cut").iterdir())) == 2


def test_no_half_film_is_left(
    film: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full at the fifth frame: what an earlier run wrote stays."""
    asked = ["predict", *ASKED, "--images", str(film), *CLASSES, "--output", str(tmp_path)]
    assert cli.main(asked) == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.suffix in (".png", ".mp4", ".json")}
    add = film_saving.FilmWriter.add

    def full(self: film_saving.FilmWriter, pixels: np.ndarray, time: int) -> None:
        if time >= TIMES[4]:
            raise OSError(28, "No space left on device")
        add(self, pixels, time)

    monkeypatch.setattr(film_saving.FilmWriter, "add", full)
    assert "No space left on device. Nothing was replaced." in fails(capsys, *asked)
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.suffix in (".png", ".mp4")}
    assert after == {path: content for path, content in before.items() if path.suffix != ".json"}
