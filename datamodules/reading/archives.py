"""Files by name straight from a published zip or tar: nothing is unpacked.

Archives are read with ``os.pread`` through the standard library's readers, so that forked loader workers share one index
and never each other's position.
"""

from __future__ import annotations

import io
import os
import tarfile
import zipfile
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from common.errors import UserError
from datamodules.reading.contents import Stamp, file_stamp
from datamodules.reading.files import Files

OPEN_ARCHIVES = 64  # tar shards and archives whose index is kept


class Archive(Files):
    """Files in a folder ``inside`` an archive.

    Args:
        archive: an opened archive.
        inside: folder in it; "" for all.
    """

    def __init__(self, archive: ZipArchive | TarArchive, inside: str = "") -> None:
        super().__init__(f"{archive.where}:{inside}")
        self.archive = archive
        self.prefix = f"{inside}/" if inside else ""

    def names(self, folder: str = "") -> list[str]:
        return sorted(self.archive.folders.get((self.prefix + folder).rstrip("/"), []))

    def folders(self) -> list[str]:
        inside = {folder[len(self.prefix) :] for folder in self.archive.folders if folder.startswith(self.prefix)}
        return sorted(folder for folder in inside if folder and "/" not in folder)

    def walk(self) -> list[str]:
        return sorted(name[len(self.prefix) :] for name in self.archive.members if name.startswith(self.prefix))

    def has(self, folder: str) -> bool:
        return (self.prefix + folder).rstrip("/") in self.archive.folders

    def read(self, name: str) -> bytes:
        return self.archive.read(self.prefix + name)

    def stamp(self, name: str) -> Stamp:
        return self.archive.stamp(self.prefix + name)

    def path(self, name: str) -> str:
        return f"{self.archive.where}:{self.prefix}{name}"


class _Members:
    """What zip and tar have in common: member names, by folder; pickled (for spawned workers) as their place."""

    path: str
    inner: str
    where: str
    members: list[str]

    def __reduce__(self) -> tuple[Any, ...]:
        return open_archive, (self.path, self.inner)

    @cached_property
    def folders(self) -> dict[str, list[str]]:
        """Folder -> names of the files directly in it, none for one that holds folders alone."""
        found: dict[str, list[str]] = {}
        for member in self.members:
            folder, _, name = member.rpartition("/")
            found.setdefault(folder, []).append(name)
        for folder in list(found):
            while folder := folder.rpartition("/")[0]:
                found.setdefault(folder, [])
        return found


class ZipArchive(_Members):
    """A zip file, or one inside another; zipfile checks each file's CRC as it is read."""

    def __init__(self, path: str, inner: str, file: PositionedFile | io.BytesIO) -> None:
        self.path, self.inner, self.where = path, inner, f"{path}:{inner}" if inner else path
        self.zip = zipfile.ZipFile(file)
        self.members = [info.filename for info in self.zip.infolist() if not info.is_dir()]

    def stamp(self, name: str) -> Stamp:
        """The entry's own checksum and size."""
        info = self.zip.NameToInfo.get(name)
        return (
            Stamp(f"{name} {info.CRC} {info.file_size}", is_content=True)
            if info
            else Stamp(f"{self.where}:{name}", is_content=True)
        )

    def read(self, name: str) -> bytes:
        try:
            return self.zip.read(name)
        except KeyError as error:
            raise UserError(f"'{self.where}:{name}' does not exist.") from error
        except (zipfile.BadZipFile, OSError, EOFError) as error:
            raise UserError(f"'{self.where}:{name}' cannot be read: {error}") from error


class TarArchive(_Members):
    """An uncompressed tar file, indexed once by tarfile; the members are then read where they lie."""

    def __init__(self, path: str, file: PositionedFile) -> None:
        self.path, self.inner, self.where, self.file = path, "", path, file
        with tarfile.open(fileobj=file, mode="r:") as tar:
            files = [member for member in tar if member.isreg()]
        self.places = {member.name.removeprefix("./"): (member.offset_data, member.size) for member in files}
        self.members = list(self.places)

    def stamp(self, name: str) -> Stamp:
        """The archive's path, size and times, and the place in it: a tar holds no checksum of what is in it."""
        return Stamp(f"{file_stamp(self.path).text} {name} {self.places.get(name)}", is_content=name not in self.places)

    def read(self, name: str) -> bytes:
        if name not in self.places:
            raise UserError(f"'{self.where}:{name}' does not exist.")
        offset, size = self.places[name]
        data = os.pread(self.file.descriptor, size, offset)
        if len(data) != size:
            raise UserError(f"'{self.where}:{name}' is cut off; is the download of '{self.where}' complete?")
        return data


class PositionedFile(io.RawIOBase):
    """A file that keeps its own position, so that processes that inherit it do not move each other's."""

    def __init__(self, path: str) -> None:
        self.descriptor = os.open(path, os.O_RDONLY)
        self.position, self.size = 0, os.fstat(self.descriptor).st_size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self.position = offset + (0, self.position, self.size)[whence]
        return self.position

    def tell(self) -> int:
        return self.position

    def readinto(self, buffer: Any) -> int:
        count = os.preadv(self.descriptor, [buffer], self.position)
        self.position += count
        return count

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


def open_archive(path: str | Path, inner: str = "") -> ZipArchive | TarArchive:
    """Opens a zip or tar file; its index is kept as long as the file does not change.

    Args:
        path: the file.
        inner: a zip inside the zip, which is then held in memory.

    Raises:
        UserError: missing, broken, or compressed as a whole (``.tar.gz``), which leaves no way into the middle.
    """
    try:
        stat = Path(path).stat()
    except OSError as error:
        raise UserError(f"archive '{path}' does not exist.") from error
    return _open_archive(str(path), inner, stat.st_size, stat.st_mtime_ns)


@lru_cache(OPEN_ARCHIVES)
def _open_archive(path: str, inner: str, size: int, changed: int) -> ZipArchive | TarArchive:
    try:
        if inner:
            return ZipArchive(path, inner, io.BytesIO(_open_archive(path, "", size, changed).read(inner)))
        file = PositionedFile(path)
        return ZipArchive(path, "", file) if path.endswith(".zip") else TarArchive(path, file)
    except tarfile.ReadError as error:
        if path.endswith((".gz", ".tgz", ".bz2", ".xz")):
            raise UserError(f"'{path}' is compressed as a whole. Unpack it once: tar xf {path}") from error
        raise UserError(f"archive '{path}' cannot be read: {error}. Is the download complete?") from error
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(f"archive '{path}' cannot be read: {error}. Is the download complete?") from error


def find_files(root: str | Path, places: Sequence[str], holds: str, source: str) -> Files:
    """The first of ``places`` that holds a folder.

    Args:
        root: folder of the data set, or one of its archives.
        places: folders below it, or ``"ARCHIVE.zip:FOLDER INSIDE"``; a zip inside a zip has two colons.
        holds: a folder that must be there; "" for any.
        source: where it is published, for the message.

    Raises:
        UserError: none is there.
    """
    root = Path(root)
    if root.is_file():
        root, places = root.parent, [place for place in places if place.partition(":")[0] == root.name]
    for place in places:
        name, colon, inside = place.partition(":")
        inner, _, inside = inside.rpartition(":")
        if colon and (root / name).is_file():
            files: Files = Archive(open_archive(root / name, inner), inside)
        else:
            files = Files(str(root / name))
        if files.has(holds):
            return files
    if not root.exists():
        place = places[0].partition(":")[0]
        raise UserError(f"'{root}' does not exist. Set --data.root to where {place} lies (of prepare: --root).")
    looked = " or ".join(f"{place}/{holds}".removeprefix("./").rstrip("/") for place in places) or "an archive of another name"
    raise UserError(f"'{root}' does not hold {looked}. Published at {source}")
