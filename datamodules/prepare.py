"""``zerolabel prepare``: is a download complete and whole? All faults at once, and what needs converting is converted."""

from __future__ import annotations

import hashlib
from pathlib import Path

from common.errors import UserError
from common.files import atomic_path
from datamodules.labelled import FilePattern, LabelledPictures, OriginalFiles
from datamodules.reading.convert import run_all


def prepare(data: OriginalFiles) -> list[str]:
    """Looks at every file of a split, and converts labels where the original form is slow to read.

    Checked are the archives' published MD5 sums, the number of pictures, absent files, pictures and masks that cannot be
    decoded or differ in size, values outside the label space, and the SHA-256 sums of an earlier, faultless check, which
    are kept in ``zerolabel-SPLIT.sha256`` beside the data (in the form of ``sha256sum``) where the folder can be written.

    Returns:
        The faults, a line each; empty if all is well.
    """
    faults = wrong_archives(data)
    try:
        pictures = data.pictures
    except UserError as error:
        return [*faults, *unfound(data, str(error))]
    expected = data.published.counts.get(data.split)
    if expected is not None and len(pictures) != expected and not getattr(data, "listing", None):
        faults.append(f"{pictures.source} names {len(pictures)} pictures, published are {expected}.")
    missing = pictures.missing()
    faults += [f"'{path}' does not exist." for path in missing]
    listing = checksum_list(data)
    before = read_checksums(listing)
    checked = run_all(list(range(len(pictures))), lambda index: check(pictures, index, set(missing)), "checking")
    sums: dict[str, str] = {}
    for found, digests in checked:
        faults += found
        sums |= digests
    faults += [
        f"'{path}' has changed since the last check ({listing})."
        for path in before
        if sums.get(path, before[path]) != before[path]
    ]
    if not faults:
        keep_checksums(listing, sums)
    return faults


def unfound(data: OriginalFiles, first: str) -> list[str]:
    """The ``first`` fault, and what else is not there: pictures and labels may both be absent."""
    faults = [first]
    for find in (data.picture_files, data.label_files):
        try:
            find()
        except UserError as error:
            faults += [str(error)] if str(error) not in faults else []
    return faults


def wrong_archives(data: OriginalFiles) -> list[str]:
    """Archives in the data's folder whose MD5 is not the published one."""
    faults = []
    for name, (address, published) in data.published.archives.items():
        path = Path(data.root, name) if Path(data.root).is_dir() else Path(data.root)
        if published and path.name == name and path.is_file():
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "md5").hexdigest()
            if found != published:
                faults.append(f"'{path}' has MD5 {found}, published is {published}. Download it again from {address}")
    return faults


def check(pictures: LabelledPictures, index: int, missing: set[str]) -> tuple[list[str], dict[str, str]]:
    """(faults, SHA-256 by file) of one picture and its mask."""
    name = pictures.names[index]
    faults, sums, sizes = [], {}, []
    for part, read in ((pictures.pictures, pictures.image), (pictures.labels, pictures.mask)):
        path = part.path(name)
        if path in missing:
            continue
        try:
            sizes.append(tuple(read(index).shape[-2:]))
            if isinstance(part, FilePattern):
                sums[path] = hashlib.sha256(part.bytes(name)).hexdigest()
        except UserError as error:
            faults.append(str(error))
    if len(sizes) == 2 and sizes[0] != sizes[1]:
        faults.append(f"mask '{pictures.labels.path(name)}' is {sizes[1]} but its picture is {sizes[0]}.")
    return faults, sums


def checksum_list(data: OriginalFiles) -> Path:
    folder = Path(data.root) if Path(data.root).is_dir() else Path(data.root).parent
    return folder / f"zerolabel-{type(data).__name__.lower()}-{data.split}.sha256"


def read_checksums(path: Path) -> dict[str, str]:
    """File -> SHA-256, from lines of ``sha256sum``; empty where there is no list."""
    if not path.is_file():
        return {}
    lines = (line.partition("  ") for line in path.read_text(encoding="utf-8").splitlines())
    return {name: digest for digest, _, name in lines}


def keep_checksums(path: Path, sums: dict[str, str]) -> None:
    try:
        with atomic_path(path) as temporary:
            temporary.write_text("".join(f"{digest}  {name}\n" for name, digest in sums.items()), encoding="utf-8")
    except UserError as error:
        print(f"note: no checksum list is kept: {error}")
