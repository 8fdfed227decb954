"""Packed images come back as they went in, and a file that is not whole does not open."""
import json
import subprocess
import sys
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

from lib.data import store
from lib.data.store import END, Listing, PackedImages, fingerprint, pack, square
from lib.errors import CourseError

N, S = 10, 8


def pictures(n=N, size=S):
    return np.random.default_rng(0).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def listing(read=lambda i: Image.fromarray(pictures()[i]), n=N):
    labels = [k * k % 3 for k in range(n)]
    return Listing("toys", "train", ["ball", "bear", "bus"], ["n1", "n2", "n3"], labels, read, {"files": n, "bytes": 1})


@pytest.fixture
def packed(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "CHUNK", 4)                                       # 10 images: chunks of 4, 4 and 2
    pack(listing(), tmp_path / "toys.images", S)
    return tmp_path / "toys.images"


def test_images_and_labels_come_in_the_order_of_the_indices(packed):
    source, indices = PackedImages(packed), torch.tensor([7, 0, 9, 7, 4])
    expected = torch.from_numpy(pictures()).permute(0, 3, 1, 2)[indices]
    assert source.images(indices).dtype == torch.uint8
    assert torch.equal(source.images(indices), expected)
    assert source.labels(indices).tolist() == [k * k % 3 for k in indices.tolist()]
    assert source.labels(indices).dtype == torch.int64


def test_the_source_says_what_it_holds(packed):
    source = PackedImages(packed)
    assert (len(source), source.size, source.name, source.split) == (N, S, "toys", "train")
    assert (source.classes, source.folders) == (["ball", "bear", "bus"], ["n1", "n2", "n3"])
    assert source.images(torch.empty(0, dtype=torch.int64)).shape == (0, 3, S, S)


def test_what_is_handed_out_is_a_copy(packed):
    source, index = PackedImages(packed), torch.tensor([3])
    before = source.images(index)
    source.images(index).zero_()
    assert torch.equal(source.images(index), before)
    PackedImages(packed)                                                         # its checksums still agree


@pytest.mark.parametrize("index", [-1, N])
def test_an_index_that_does_not_exist_is_refused(packed, index):
    for read in (PackedImages(packed).images, PackedImages(packed).labels):
        with pytest.raises(CourseError, match=f"toys/train holds images 0 to 9, got {index}"):
            read(torch.tensor([index]))


@pytest.mark.parametrize("width, height, box", [(40, 20, (4, 0, 12, 8)), (20, 40, (0, 4, 8, 12)), (8, 8, (0, 0, 8, 8))])
def test_square_takes_the_short_side_and_the_centre(width, height, box):
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8))
    scale = S / min(width, height)
    expected = image.resize((round(width * scale), round(height * scale)), Image.Resampling.BICUBIC).crop(box)
    assert np.array_equal(square(image, S), np.asarray(expected).transpose(2, 0, 1))


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "P"])
def test_every_kind_of_image_becomes_rgb(mode):
    image = Image.new("RGB", (12, 9), (200, 100, 50))
    image = image.quantize(4) if mode == "P" else image.convert(mode)
    assert square(image, S).shape == (3, S, S)
    assert np.abs(square(image, S)[:, 4, 4].astype(int) - np.asarray(image.convert("RGB"))[4, 4]).max() <= 1


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("position, where", [(0, "images from 0"), (5 * 3 * S * S, "images from 4"),
                                             (N * 3 * S * S - 1, "images from 8"), (N * 3 * S * S + 12, "header"),
                                             (-20, "header"), (-16, "header"), (-6, "header"), (-1, "its end")])
def test_one_flipped_bit_is_noticed_and_the_file_named(packed, position, where):
    flip(packed, position)
    with pytest.raises(CourseError, match=rf"toys\.images is damaged \(.*{where}.*delete it and run") as caught:
        PackedImages(packed)
    assert "\n" not in str(caught.value)


def test_without_verify_pixels_are_not_compared(packed):
    flip(packed, 0)
    assert len(PackedImages(packed, verify=False)) == N


@pytest.mark.parametrize("content", [lambda b: b[:-1], lambda b: b[:50], lambda b: b"", lambda b: b + b"x",
                                     lambda b: b[1:], lambda b: b"x" + b])
def test_a_file_of_another_length_is_damaged(packed, content):
    packed.write_bytes(content(packed.read_bytes()))
    with pytest.raises(CourseError, match=r"toys\.images is damaged"):
        PackedImages(packed, verify=False)


def test_another_format_is_refused(packed):
    content, header = packed.read_bytes(), store.read_header(packed)
    header = json.dumps({**header, "version": 0}).encode()
    packed.write_bytes(content[:N * 3 * S * S] + header + END.pack(len(header), zlib.crc32(header), store.MAGIC))
    with pytest.raises(CourseError, match="format 0"):
        PackedImages(packed)


def test_no_file_is_one_line(tmp_path):
    with pytest.raises(CourseError, match=r"toys\.images does not exist"):
        PackedImages(tmp_path / "toys.images")


@pytest.mark.parametrize("error", [KeyboardInterrupt, CourseError, MemoryError])
def test_an_interrupted_pack_leaves_nothing(tmp_path, error):
    def read(i):
        if i == 6:
            raise error
        return Image.fromarray(pictures()[i])

    with pytest.raises(error):
        pack(listing(read), tmp_path / "toys.images", S)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("harm, again", [
    ("none", [8, 9]), ("cut", range(4, 10)), ("changed", range(10)), ("no journal", range(10)), ("torn line", range(4, 10)),
    ("another set", range(10)), ("another size", range(10))])
def test_an_interrupted_pack_goes_on_where_it_stopped(tmp_path, monkeypatch, packed, harm, again):
    decoded, stop = [], 9

    def read(i):
        decoded.append(i)
        if i == stop:
            raise KeyboardInterrupt
        return Image.fromarray(pictures()[i])

    path = tmp_path / "x" / "toys.images"
    partial, journal = (path.with_name(path.name + end) for end in (".partial", ".partial.log"))
    with pytest.raises(KeyboardInterrupt):
        pack(listing(read), path, S)
    assert {each.name for each in path.parent.iterdir()} == {partial.name, journal.name}
    content = partial.read_bytes()
    {"none": lambda: None, "cut": lambda: partial.write_bytes(content[:-1]), "no journal": journal.unlink,
     "changed": lambda: partial.write_bytes(b"x" + content[1:]),
     "torn line": lambda: journal.write_text(journal.read_text()[:-2]),
     "another set": lambda: None, "another size": lambda: None}[harm]()
    decoded, stop, new, size = [], None, listing(read), S
    if harm == "another set":
        new.fingerprint = {"files": 11, "bytes": 2}
    if harm == "another size":
        size = S + 1
    pack(new, path, size)
    assert sorted(decoded) == list(again)
    assert list(path.parent.iterdir()) == [path]
    if harm in ("none", "cut", "changed", "no journal", "torn line"):
        assert path.read_bytes() == packed.read_bytes()
    assert len(PackedImages(path)) == N


def test_what_is_packed_already_needs_no_room(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "CHUNK", 4)
    path = tmp_path / "toys.images"
    with pytest.raises(ZeroDivisionError):
        pack(listing(lambda i: Image.fromarray(pictures()[i]) if i < 8 else 1 / 0), path, S)
    monkeypatch.setattr(store.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 2 * 3 * S * S}))
    pack(listing(), path, S)
    assert len(PackedImages(path)) == N


def test_an_interrupted_pack_keeps_the_file_it_was_to_replace(packed):
    before = packed.read_bytes()
    with pytest.raises(ZeroDivisionError):
        pack(listing(lambda i: 1 / 0), packed, S)
    assert packed.read_bytes() == before


def test_a_killed_pack_leaves_nothing_that_opens(tmp_path):
    path = tmp_path / "toys.images"
    code = f"""if True:
        import os, pathlib
        from PIL import Image
        from lib.data import store
        store.CHUNK = 4
        read = lambda i: os._exit(9) if i == 9 else Image.new("RGB", (8, 8))
        listing = store.Listing("toys", "train", ["a"], ["a"], [0] * 10, read, {{}})
        store.pack(listing, pathlib.Path({str(path)!r}), 8)"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 9
    assert not path.exists()
    for left in tmp_path.iterdir():
        with pytest.raises(CourseError, match="damaged"):
            PackedImages(left, verify=False)
    pack(listing(), path, S)
    assert len(PackedImages(path)) == N
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_noticed_before_decoding(tmp_path, monkeypatch):
    monkeypatch.setattr(store.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 100}))
    with pytest.raises(CourseError, match="GB left"):
        pack(listing(lambda i: pytest.fail("decoded")), tmp_path / "toys.images", S)


def test_pack_turns_truncated_images_off(tmp_path, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    pack(listing(), tmp_path / "toys.images", S)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


def test_fingerprint_counts_files_and_bytes_below(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "x").write_bytes(b"12345")
    (tmp_path / "y").write_bytes(b"1")
    before = fingerprint(tmp_path)
    assert (before["files"], before["bytes"]) == (2, 6)
    moved = next(path for path in tmp_path.rglob("*") if path.is_file())
    (tmp_path / "elsewhere").mkdir()
    moved.rename(tmp_path / "elsewhere" / moved.name)
    after = fingerprint(tmp_path)
    assert (after["files"], after["bytes"]) == (2, 6) and after["listing"] != before["listing"]
