"""A set of images, decoded once: one file of square uint8 images that training reads at memory speed.

Decoding a JPEG takes longer than a small network needs to learn from it. So a set is decoded once, at one size S, in one
of two ways (bicubic, antialiased): `centre` brings the short side to S pixels and cuts out the centre, as networks are
evaluated; `whole` squeezes all of the image into the square and keeps its width / height, so that a random crop can be cut
from it as from the file, at most S pixels a side. The file holds, in this order,

    images   count x 3 x S x S bytes
    header   JSON: name, split, size, count, classes, folders, labels, resized, aspects, fingerprint, checksums, version
    end      16 bytes: length and CRC-32 of the header, and b"VITS"

and is renamed to its final name only when all of it is on the disk: an interrupted pack leaves nothing that opens, and a
journal of checksums beside it from which the next one goes on.
"""
import json
import math
import os
import shutil
import struct
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFile
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F
from tqdm import tqdm

from lib.errors import CourseError

VERSION = 1
CHUNK = 1024                                                      # images under one checksum
END = struct.Struct("<QI4s")
MAGIC = b"VITS"
KINDS = {"name": str, "split": str, "size": int, "count": int, "classes": list, "folders": list, "labels": list,
         "fingerprint": dict, "checksums": list, "chunk": int}
CENTRE, WHOLE = "short side bicubic, centre crop", "whole image bicubic, squeezed"


@dataclass
class Listing:
    """A set as it lies on the disk: `read(i)` decodes image i, an RGB PIL image of any shape, labels[i] its class.

    `folders` are the classes as the set writes them, WordNet ids say (CIFAR-10 has none); `classes` as people say them.
    `fingerprint` tells whether the folder has changed since (see below).
    """
    name: str
    split: str
    classes: list[str]
    folders: list[str]
    labels: list[int]
    read: Callable[[int], Image.Image]
    fingerprint: dict[str, int]


def fingerprint(directory: Path) -> dict[str, int]:
    """Number of files below a directory, their bytes together, a checksum of where each lies and how large it is, and when
    one was last written to, in nanoseconds."""
    found = {os.path.relpath(path, directory): os.stat(path)
             for parent, _, files in os.walk(directory, followlinks=True) for path in (os.path.join(parent, f) for f in files)}
    listing = "\n".join(f"{path} {stat.st_size}" for path, stat in sorted(found.items()))
    return {"files": len(found), "bytes": sum(stat.st_size for stat in found.values()),
            "listing": zlib.crc32(listing.encode(errors="replace")),
            "newest": max((stat.st_mtime_ns for stat in found.values()), default=0)}


def square(image: Image.Image, size: int) -> np.ndarray:
    """Short side to `size` pixels, then the centre: any PIL image -> (3, size, size) uint8."""
    image = F.resize(image.convert("RGB"), size, InterpolationMode.BICUBIC)      # PIL always antialiases
    return np.asarray(F.center_crop(image, size)).transpose(2, 0, 1)             # (3, S, S)


def squeezed(image: Image.Image, size: int) -> tuple[np.ndarray, float]:
    """All of any PIL image, not only its centre -> (3, size, size) uint8, and width / height as it was."""
    pixels = F.resize(image.convert("RGB"), [size, size], InterpolationMode.BICUBIC)
    return np.asarray(pixels).transpose(2, 0, 1), image.width / image.height


def pack(listing: Listing, path: Path, size: int, whole: bool = False) -> None:
    """Decode a whole listing into the file `path`, in its order, on all CPU cores.

    whole: all of each image, squeezed into the square, instead of its centre.

    A call that was interrupted leaves what it had decoded beside `path`, and the next call for the same images goes on from
    there. Raises CourseError if the disk is too small, and whatever `listing.read` raises.
    """
    ImageFile.LOAD_TRUNCATED_IMAGES = False                       # half an image is an error, whoever allowed it before
    about = {field: value for field, value in vars(listing).items() if field != "read"}
    about |= {"size": size, "count": len(listing.labels), "resized": WHOLE if whole else CENTRE, "chunk": CHUNK,
              "version": VERSION}
    partial, journal = (path.with_name(path.name + end) for end in (".partial", ".partial.log"))
    path.parent.mkdir(parents=True, exist_ok=True)
    title = f"{zlib.crc32(json.dumps(about).encode())}"           # first line of the journal: what is being packed
    chunks = _packed_before(partial, journal, title, CHUNK * 3 * size**2)
    done = min(CHUNK * len(chunks), about["count"])
    needed, free = (about["count"] - done) * 3 * size**2, shutil.disk_usage(path.parent).free
    if needed > free:
        raise CourseError(f"{path} needs {needed / 1e9:.1f} GB and the disk has {free / 1e9:.1f} GB left: make room, "
                          "choose a smaller size, or name a folder on another disk in COURSE_DATA")

    def decode(i: int) -> tuple[np.ndarray, float]:
        return squeezed(listing.read(i), size) if whole else (square(listing.read(i), size), 1.0)

    try:
        with (open(partial, "r+b" if done else "wb") as file, open(journal, "w") as log,
              ThreadPoolExecutor(os.cpu_count()) as pool,
              tqdm(total=about["count"], initial=done, desc=f"packing {listing.name}/{listing.split} at {size} px",
                   unit=" images") as bar):
            print(title, *map(json.dumps, chunks), sep="\n", file=log, flush=True)
            file.seek(done * 3 * size**2)
            file.truncate()
            for start in range(done, about["count"], CHUNK):
                chunk = np.empty((min(CHUNK, about["count"] - start), 3, size, size), np.uint8)
                aspects = []
                for k, (image, aspect) in enumerate(pool.map(decode, range(start, start + len(chunk)))):
                    chunk[k] = image
                    aspects.append(round(aspect, 4))
                    bar.update()
                file.write(chunk)
                file.flush()
                chunks.append([zlib.crc32(chunk), aspects])
                print(json.dumps(chunks[-1]), file=log, flush=True)
            about |= {"aspects": [aspect for _, aspects in chunks for aspect in aspects]} if whole else {}
            header = json.dumps(about | {"checksums": [checksum for checksum, _ in chunks]}).encode()
            file.write(header + END.pack(len(header), zlib.crc32(header), MAGIC))
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:                                                      # after Ctrl-C as well
        if not chunks or not partial.exists():
            journal.unlink(missing_ok=True)
            partial.unlink(missing_ok=True)


def _packed_before(partial: Path, journal: Path, title: str, length: int) -> list[list]:
    """[checksum, aspects] of each chunk, of `length` bytes, that an interrupted call for the same images left whole."""
    lines = journal.read_text().splitlines() if journal.is_file() and partial.is_file() else []
    if not lines or lines[0] != title:
        return []
    found = []
    with open(partial, "rb") as file:
        for line in lines[1:]:
            try:
                checksum, aspects = json.loads(line)
            except ValueError:                                    # the last one may be cut short
                break
            if zlib.crc32(file.read(length)) != checksum:
                break
            found.append([checksum, aspects])
    return found


def read_header(path: Path) -> dict:
    """The header of a packed file. Raises CourseError, which names the file, unless it is whole and of this version."""
    if not path.is_file():
        raise CourseError(f"{path} does not exist: pack the set first, with `python -m lib.data pack`")
    with open(path, "rb") as file:
        total = file.seek(0, os.SEEK_END)
        file.seek(max(0, total - END.size))
        end = file.read()
        length, checksum, magic = END.unpack(end) if len(end) == END.size else (0, 0, b"")
        if magic != MAGIC or length + END.size > total:
            raise _damaged(path, "its end is missing")
        file.seek(total - END.size - length)
        header = file.read(length)
    if zlib.crc32(header) != checksum:
        raise _damaged(path, "its header is not what was written")
    header = json.loads(header)
    version = header.get("version") if isinstance(header, dict) else None
    if version != VERSION:
        raise CourseError(f"{path} has format {version}, this course reads {VERSION}: delete it, run again")
    if not all(isinstance(header.get(key), kind) for key, kind in KINDS.items()):
        raise _damaged(path, "its header lacks something")
    labels, classes = header["labels"], len(header["classes"])
    if len(labels) != header["count"] or not all(isinstance(k, int) and 0 <= k < classes for k in labels):
        raise _damaged(path, f"its labels are not {header['count']} numbers of its {classes} classes")
    if total != header["count"] * 3 * header["size"] ** 2 + length + END.size:
        raise _damaged(path, f"{total:,} bytes is not its length")
    return header


def _damaged(path: Path, why: str) -> CourseError:
    return CourseError(f"{path} is damaged ({why}): delete it and run again, which packs the set anew")


class PackedImages:
    """A source of images in a packed file: `PackedImages(path).images(torch.tensor([5, 2]))` -> (2, 3, S, S) uint8.

    The file is mapped, not read: the operating system loads what is asked for and keeps it while there is memory.
    `aspects` (N,) are widths / heights of whole images that were squeezed, None where their centres were cut out.
    `verify` compares every checksum first, which reads the file once.
    Raises CourseError, which names the file, if it is damaged, and for an index that does not exist.
    """

    def __init__(self, path: str | Path, verify: bool = True):
        self.path, self.header = Path(path), read_header(Path(path))
        self.name, self.split, self.size = (self.header[key] for key in ("name", "split", "size"))
        self.classes, self.folders = self.header["classes"], self.header["folders"]
        self.all_labels = torch.tensor(self.header["labels"], dtype=torch.int64)
        self.aspects = torch.tensor(self.header["aspects"]) if "aspects" in self.header else None     # None: all square
        shape = (self.header["count"], 3, self.size, self.size)
        self.pixels = torch.from_file(str(path), shared=False, size=math.prod(shape), dtype=torch.uint8).view(shape)
        if verify:
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                found = list(pool.map(lambda chunk: zlib.crc32(chunk.numpy()), self.pixels.split(self.header["chunk"])))
            wrong = [k for k, checksum in enumerate(self.header["checksums"]) if found[k] != checksum]
            if wrong:
                raise _damaged(self.path, f"checksum of images from {wrong[0] * self.header['chunk']} on")

    def __len__(self) -> int:
        return len(self.all_labels)

    def images(self, indices: Tensor) -> Tensor:
        return self.pixels.index_select(0, self._checked(indices))       # twenty times faster than pixels[indices]

    def labels(self, indices: Tensor) -> Tensor:
        return self.all_labels[self._checked(indices)]

    def _checked(self, indices: Tensor) -> Tensor:
        indices = torch.as_tensor(indices, dtype=torch.int64)
        if len(indices) and not (0 <= int(indices.min()) and int(indices.max()) < len(self)):
            raise CourseError(f"{self.name}/{self.split} holds images 0 to {len(self) - 1}, "
                              f"got {int(indices.min())} to {int(indices.max())}")
        return indices
