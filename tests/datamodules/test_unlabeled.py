"""Pictures to train on: every kind of source, order, crops, captions, and the zero-label firewall."""

import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
import webdataset
from PIL import Image

import cli
from common.errors import UserError
from datamodules import DATAMODULES
from datamodules.reading.shards import ShardedImages, count_pictures
from datamodules.reading.sources import ListedImages, stem
from datamodules.unlabeled import cut, expand_braces, image_source
from tests import data as tiny
from tests.contract.learner import Learner

COUNT = 11


def jpeg(i: int) -> bytes:
    rng = np.random.default_rng(i)
    file = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (20 + i, 30, 3), dtype=np.uint8)).save(file, "JPEG")
    return file.getvalue()


def make_folder(root: Path) -> str:
    for i in range(COUNT):
        place = root / "pictures" / f"part{i % 2}" / f"{i:04d}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(jpeg(i))
        if i % 3:
            place.with_suffix(".txt").write_text(f"picture {i}\n")
    return str(root / "pictures")


def make_list(root: Path) -> str:
    folder = make_folder(root)
    names = [os.path.relpath(path, root) for path in sorted(Path(folder).rglob("*.jpg"))]
    lines = [f"{name}\tpicture {int(Path(name).stem)}" if int(Path(name).stem) % 3 else name for name in names]
    (root / "list.tsv").write_text("\r\n".join([*lines[:4], "", *lines[4:]]))
    return str(root / "list.tsv")


def make_shards(root: Path) -> str:
    """Written by webdataset's own writer, in img2dataset's layout, the second shard without a _stats.json."""
    for shard, numbers in enumerate((range(6), range(6, COUNT))):
        with webdataset.TarWriter(str(root / f"{shard:05d}.tar")) as file:
            for i in numbers:
                caption = {"txt": f"picture {i}"} if i % 3 else {}
                file.write({"__key__": f"{shard:05d}{i:04d}", "jpg": jpeg(i), "json": b"{}"} | caption)
    (root / "00000_stats.json").write_text(json.dumps({"successes": 6, "count": 9}))
    return f"{root}/{{00000..00001}}.tar"


def make_tar_folder(root: Path) -> str:
    make_shards(root)
    return str(root)


def make_zip(root: Path) -> str:
    tiny.pack(Path(make_folder(root)), root / "pictures.zip", "pictures")
    return str(root / "pictures.zip")


SOURCES = [make_folder, make_list, make_shards, make_tar_folder, make_zip]


def unlabeled(images: str, **options: Any) -> Any:
    return DATAMODULES["UnlabeledImages"](images, **{"size": 16, "train_batch_size": 3, "num_workers": 0} | options)


@pytest.mark.parametrize("make", SOURCES)
def test_every_source_gives_the_same_pictures_and_captions(make: Callable[[Path], str], tmp_path: Path) -> None:
    source = image_source(make(tmp_path))
    assert len(source) == COUNT
    found = {int(Path(source.name(i).rpartition(":")[2]).stem[-4:]): i for i in range(COUNT)}
    assert set(found) == set(range(COUNT))
    for number, index in found.items():
        assert source.read(index) == jpeg(number)
        assert source.caption(index) == (f"picture {number}" if number % 3 else "")


@pytest.mark.parametrize("make", SOURCES)
def test_pictures_of_a_list_are_left_out(make: Callable[[Path], str], tmp_path: Path) -> None:
    """Pictures that are tested on, named as in VOC's lists, without folder and suffix; mined and trained on they were."""
    images = make(tmp_path)
    every = image_source(images)
    numbers = [int(stem(every.name(i))[-4:]) for i in range(COUNT)]
    (tmp_path / "val.txt").write_text("\n".join([stem(every.name(numbers.index(n))) for n in (2, 5, 9)] + ["absent 1", ""]))
    data = unlabeled(images, leave_out=str(tmp_path / "val.txt"))
    source = data.source()
    kept = [number for number in numbers if number not in (2, 5, 9)]
    assert [int(stem(source.name(i))[-4:]) for i in range(len(source))] == kept
    assert [source.read(i) for i in range(len(source))] == [jpeg(number) for number in kept]
    assert [source.caption(i) for i in range(len(source))] == [f"picture {n}" if n % 3 else "" for n in kept]
    assert source.shards is None or source.shards.tolist() in ([4, 4], [8])  # of six and five, or of all
    assert sum(len(batch["index"]) for batch in data.train_dataloader()) == 6  # two batches of three
    assert data.training_content() != unlabeled(images).training_content()
    for content, amount in (("other", "none"), ("\n".join(stem(every.name(i)) for i in range(COUNT)), "all")):
        (tmp_path / "val.txt").write_text(content)
        with pytest.raises(UserError, match=f"names {amount} of the pictures in"):
            data.source()


def test_shards_read_as_webdataset_reads_them(tmp_path: Path) -> None:
    source = image_source(make_shards(tmp_path))
    urls = [str(tmp_path / f"{shard:05d}.tar") for shard in range(2)]
    theirs = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert len(theirs) == len(source) == COUNT
    for index, sample in enumerate(theirs):
        assert source.name(index).endswith(f"{sample['__key__']}.jpg")
        assert source.read(index) == sample["jpg"]
        assert source.caption(index) == sample.get("txt", b"").decode()


def test_a_key_ends_at_the_first_dot(tmp_path: Path) -> None:
    with webdataset.TarWriter(str(tmp_path / "one.tar")) as file:
        file.write({"__key__": "a/x", "small.jpg": jpeg(1), "txt": "said"})
    assert image_source(str(tmp_path / "one.tar")).caption(0) == "said"


def test_counts_are_believed_or_listed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_shards(tmp_path)
    paths = [str(tmp_path / f"{shard:05d}.tar") for shard in range(2)]
    opened = []
    real = __import__("datamodules.reading.archives", fromlist=["open_archive"]).open_archive
    monkeypatch.setattr("datamodules.reading.shards.open_archive", lambda path: opened.append(path) or real(path))
    assert count_pictures(paths) == [6, 5]
    assert opened == paths[1:]  # the first shard's _stats.json is believed
    assert count_pictures(paths) == [6, 5]
    assert opened == paths[1:]
    (tmp_path / "00000_stats.json").write_text(json.dumps({"successes": 7}))
    with pytest.raises(UserError, match=r"00000\.tar' holds 6 pictures, its _stats\.json says 7"):
        ShardedImages(paths).read(6)


def test_braces() -> None:
    assert expand_braces("a{08..11}b.tar") == ["a08b.tar", "a09b.tar", "a10b.tar", "a11b.tar"]
    assert expand_braces("plain.tar") == ["plain.tar"]


@pytest.mark.parametrize("make", [make_folder, make_shards])
@pytest.mark.parametrize("crop", ["centre", "random"])
def test_order_and_crops_depend_on_seed_and_epoch_alone(make: Callable[[Path], str], crop: str, tmp_path: Path) -> None:
    images = make(tmp_path)

    def epoch(number: int, seed: int, workers: int) -> list[Any]:
        loader = unlabeled(images, crop=crop, seed=seed, num_workers=workers).train_dataloader()
        loader.sampler.set_epoch(number)
        return [(batch["index"].tolist(), batch["image"]) for batch in loader]

    def same(a: list[Any], b: list[Any]) -> bool:
        return all(x[0] == y[0] and torch.equal(x[1], y[1]) for x, y in zip(a, b, strict=True))

    first = epoch(0, 0, 0)
    assert len(first) == COUNT // 3
    assert all(image.shape == (3, 3, 16, 16) and image.dtype == torch.uint8 for _, image in first)
    assert same(first, epoch(0, 0, 0))
    assert same(first, epoch(0, 0, 2))
    assert not same(first, epoch(1, 0, 0))
    assert not same(first, epoch(0, 1, 0))
    images_of = {i: image for indices, batch in first for i, image in zip(indices, batch, strict=True)}
    later = {i: image for indices, batch in epoch(1, 0, 0) for i, image in zip(indices, batch, strict=True)}
    changed = [not torch.equal(images_of[i], later[i]) for i in set(images_of) & set(later)]
    assert all(changed) if crop == "random" else not any(changed)


def test_crops() -> None:
    picture = torch.arange(3 * 20 * 40).reshape(3, 20, 40).remainder(256).to(torch.uint8)
    assert torch.equal(cut(picture, "none", 9, [0]), picture)
    assert torch.equal(cut(picture, "centre", 20, [0]), picture[:, :, 10:30])
    state = torch.random.get_rng_state()
    assert cut(picture, "random", 9, [0]).shape == (3, 9, 9)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_whole_pictures_of_any_size_come_in_lists(tmp_path: Path) -> None:
    batch = next(iter(unlabeled(make_folder(tmp_path), crop="none", captions=True).train_dataloader()))
    assert isinstance(batch["image"], list)
    assert [type(caption) for caption in batch["caption"]] == [str] * 3
    assert "mask" not in batch


def test_folders_of_labels_are_never_listed(tmp_path: Path) -> None:
    tiny.make_voc(tmp_path)
    source = image_source(str(tmp_path))
    assert len(source) == 3
    tiny.pack(tmp_path / "VOCdevkit", tmp_path / "VOCtrainval_11-May-2012.tar", "VOCdevkit")
    assert len(image_source(str(tmp_path / "VOCtrainval_11-May-2012.tar"))) == 3
    assert len(image_source(str(tmp_path))) == 3


def fit(data: Any, folder: Path, **options: Any) -> Learner:
    model = Learner("sclip")
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    lightning.Trainer(**{"default_root_dir": folder, "accelerator": "cpu", "max_epochs": 2} | quiet | options).fit(model, data)
    return model


def make_unreadable(folder: Path) -> int:
    """Every mask becomes a link to itself, which not even root can open."""
    masks = list(folder.glob("*.png"))
    for mask in masks:
        mask.unlink()
        mask.symlink_to(mask)
        with pytest.raises(OSError, match="symbolic links"):
            mask.read_bytes()
    return len(masks)


@pytest.mark.parametrize("place", ["JPEGImages", "."])
def test_fit_succeeds_with_every_mask_unreadable(place: str, tmp_path: Path) -> None:
    tiny.make_voc(tmp_path)
    folder = tmp_path / "VOCdevkit" / "VOC2012"
    assert make_unreadable(folder / "SegmentationClass") == 3
    model = fit(unlabeled(str(folder / place), train_batch_size=1, classes="cat; dog"), tmp_path)
    assert [sorted(name for batch in model.seen[e : e + 3] for name in batch["name"]) for e in (0, 3)] == [
        sorted(str(folder / place / ("" if place == "JPEGImages" else "JPEGImages") / f"{name}.jpg") for name in tiny.VOC_NAMES)
    ] * 2
    assert model.colour.abs().sum() > 0


def test_training_opens_no_mask_and_validation_only_its_own_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = tiny.make_voc(tmp_path)
    folder = tmp_path / "VOCdevkit" / "VOC2012"
    tiny.listing(folder / "ImageSets" / "Segmentation" / "val.txt", tiny.VOC_NAMES[2:])
    read: list[str] = []
    real = __import__("datamodules.reading.files", fromlist=["read_bytes"]).read_bytes
    for module in ("files", "sources"):
        monkeypatch.setattr(f"datamodules.reading.{module}.read_bytes", lambda path: read.append(str(path)) or real(path))
    scored = DATAMODULES["VOC"](**made, num_workers=0)
    fit(unlabeled(str(folder), scored_on=scored, train_batch_size=1), tmp_path, num_sanity_val_steps=0, max_epochs=1)
    assert sum("JPEGImages" in path for path in read) == 4
    assert [Path(path).stem for path in read if "SegmentationClass" in path] == tiny.VOC_NAMES[2:]


def test_a_mask_in_a_training_batch_is_an_error_that_says_so(tmp_path: Path) -> None:
    data = unlabeled(make_folder(tmp_path), classes="cat")
    loader = data.train_dataloader()
    collate = loader.collate_fn
    loader.collate_fn = lambda items: collate(items) | {"mask": torch.zeros(3, 16, 16)}
    data.train_dataloader = lambda: loader
    with pytest.raises(UserError, match="a training batch of Learner holds a mask; no label may reach training"):
        fit(data, tmp_path)


def test_without_a_benchmark_there_is_nothing_to_score_on(tmp_path: Path) -> None:
    trainer = lightning.Trainer(default_root_dir=tmp_path, accelerator="cpu", logger=False, enable_progress_bar=False)
    with pytest.raises(UserError, match=r"no labels to score on; give a benchmark with --data\.scored_on"):
        trainer.test(Learner("sclip"), unlabeled(make_folder(tmp_path), classes="cat"))


def test_unreadable_pictures_stop_or_are_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(make_folder(tmp_path))
    (folder / "part0" / "0004.jpg").write_bytes(jpeg(4)[:300])
    with pytest.raises(UserError, match=r"part0/0004\.jpg' cannot be read: .* with --data\.unreadable skip"):
        list(unlabeled(str(folder)).train_dataloader())
    batches = list(unlabeled(str(folder), unreadable="skip", train_batch_size=1).train_dataloader())
    assert len(batches) == COUNT
    assert capsys.readouterr().err.count("skipped: picture") == 1
    for path in folder.rglob("*.jpg"):
        path.write_text("")
    with pytest.raises(UserError, match="100 pictures in a row cannot be read"):
        list(unlabeled(str(folder), unreadable="skip").train_dataloader())


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ("nowhere", "'nowhere' does not exist. Give a folder, a list"),
        ("nowhere/{00..02}.tar", "'nowhere/00.tar' does not exist"),
        ("empty", "no pictures found in"),
        ("empty.txt", "list '.*empty.txt' is empty"),
        ("few.txt", "holds 2 pictures, fewer than a batch of 3. Set --data.train_batch_size to 2 or less."),
        ("text.tar", "text.tar' cannot be read"),
        ("hollow.tar", "no pictures in '.*hollow.tar'"),
    ],
)
def test_bad_sources_get_one_line(images: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("empty.txt").write_text("\n\n")
    Path("few.txt").write_text("a.jpg\nb.jpg\n")
    Path("text.tar").write_text("no tar")
    with tarfile.open("hollow.tar", "w"):
        pass
    with pytest.raises(UserError, match=message):
        unlabeled(images).train_dataloader()


def test_a_list_is_read_without_looking_at_its_files(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("".join(f"never/{i}.jpg\n" for i in range(1000)))
    source = ListedImages(str(tmp_path / "list.txt"))
    assert len(source) == 1000
    assert source.name(999) == str(tmp_path / "never" / "999.jpg")
    with pytest.raises(UserError, match=r"never/5\.jpg' does not exist"):
        source.read(5)


def test_the_command_line_scores_with_a_benchmark_inside(tmp_path: Path) -> None:
    made = tiny.make_voc(tmp_path)
    options = [
        "--data=UnlabeledImages",
        f"--data.images={tmp_path}",
        "--data.scored_on=VOC",
        f"--data.scored_on.root={made['root']}",
    ]
    run = [f"--trainer.default_root_dir={tmp_path}", "--trainer.enable_progress_bar=false", "--data.scored_on.num_workers=0"]
    assert cli.main(["test", "--config", "configs/training_free/sclip.yaml", *options, *run]) == 0
    assert json.loads(next(tmp_path.rglob("metrics.json")).read_text())["pictures"] == 3
