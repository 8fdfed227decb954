"""Images with masks: paired by name, divided by name, cut alike; damaged and lonely files are named."""
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lib.data.pairs import VOID, PairFolder
from lib.data.store import square
from lib.errors import CourseError


def draw(folder: Path, name: str, size=(24, 16), values=(0, 255), suffix=".png", mode="L"):
    """A mask of rectangles and an image that shows it in red, width x height pixels."""
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(list(name.encode()))
    mask = np.array(values)[rng.integers(len(values), size=(4, 4))].astype(np.uint8)
    mask.flat[:len(values)] = values                                                 # every value occurs
    mask = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
    Image.fromarray(np.stack([mask, 0 * mask, 255 - mask], -1)).save(folder / "images" / f"{name}{suffix}")
    saved = Image.fromarray(mask)
    if mode == "P":
        saved.putpalette(bytes(range(255, -1, -1)) * 3)           # colours that are not the values
    elif mode == "1":
        saved = saved.convert("1")
    saved.save(folder / "masks" / f"{name}.png")


@pytest.fixture
def folder(tmp_path):
    for k in range(9):
        draw(tmp_path / "beasts", f"beast{k}")
    return tmp_path / "beasts"


def everything(source):
    numbers = torch.arange(len(source))
    return source.images(numbers), source.masks(numbers)


# --------------------------------------------------------------------------------------------------------------- pictures

def test_image_and_mask_show_the_same(folder):
    for split in ("train", "val"):
        source = PairFolder(folder, split, size=16)
        images, masks = everything(source)
        assert images.dtype == torch.uint8 and images.shape == (len(source), 3, 16, 16)
        assert masks.dtype == torch.int64 and masks.shape == (len(source), 16, 16)
        assert torch.equal(images[:, 0] > 128, masks == 1)       # 16 pixels high already: nothing is resized
        assert (source.name, source.split, source.size, source.classes) == ("beasts", split, 16, ["0", "255"])


def test_pixels_are_those_of_the_files(folder):
    source = PairFolder(folder, "val", size=16)
    image, mask = source.pairs[1]
    assert source.images(torch.tensor([1]))[0].tolist() == square(Image.open(image), 16).tolist()
    assert source.masks(torch.tensor([1]))[0].tolist() == (np.asarray(Image.open(mask))[:, 4:20] // 255).tolist()


def test_masks_are_resized_by_the_nearest_pixel(tmp_path):
    for k in range(4):
        draw(tmp_path, str(k), size=(90, 60), values=(0, 3, 200))
    source = PairFolder(tmp_path, "train", size=20)
    images, masks = everything(source)
    for (_, file), image, mask in zip(source.pairs, images, masks, strict=True):
        expected = np.asarray(Image.open(file))[1::3, 1::3][:, 5:25]                 # the middle of every 3 x 3 pixels
        assert [[(0, 3, 200)[c] for c in row] for row in mask.tolist()] == expected.tolist()
        assert (abs(image[0].numpy().astype(int) - expected) < 12).mean() > 0.6     # bicubic differs near outlines


@pytest.mark.parametrize("mode", ["L", "1", "P"])
def test_modes_of_masks(tmp_path, mode):
    for k in range(4):
        draw(tmp_path, str(k), size=(16, 16), mode=mode)
    source = PairFolder(tmp_path, "train", size=16)
    assert source.classes == (["0", "1"] if mode == "1" else ["0", "255"])
    images, masks = everything(source)
    assert torch.equal(images[:, 0] > 128, masks == 1)


def test_void_belongs_to_no_class(tmp_path):
    for k in range(4):
        draw(tmp_path, str(k), size=(16, 16), values=(0, 7, 9, 255))
    plain, source = PairFolder(tmp_path, "train", 16), PairFolder(tmp_path, "train", 16, void=255)
    assert plain.classes == ["0", "7", "9", "255"] and source.classes == ["0", "7", "9"]
    every, known = everything(plain)[1], everything(source)[1]
    assert (every == 3).any() and torch.equal(known, torch.where(every == 3, VOID, every))


def test_classes_are_those_of_the_set_not_of_the_split(tmp_path):
    draw(tmp_path / "train", "a", values=(0, 1))
    draw(tmp_path / "train", "b", values=(0, 1))
    draw(tmp_path / "val", "c", values=(0, 5))
    train, val = (PairFolder(tmp_path, split, 16) for split in ("train", "val"))
    assert train.classes == val.classes == ["0", "1", "5"]
    assert set(everything(train)[1].flatten().tolist()) == {0, 1} and set(everything(val)[1].flatten().tolist()) == {0, 2}


# ----------------------------------------------------------------------------------------------------------------- splits

def test_a_quarter_is_kept_for_validation(folder):
    train, val = ({image.stem for image, _ in PairFolder(folder, split, 16).pairs} for split in ("train", "val"))
    assert len(val) == 2 and len(train) == 7 and train.isdisjoint(val)
    assert [p[0].stem for p in PairFolder(folder, "train", 16).pairs] == sorted(train)


def test_the_division_depends_on_the_names_alone(folder, tmp_path):
    val = [image.stem for image, _ in PairFolder(folder, "val", 16).pairs]
    for k in range(9):
        draw(tmp_path / "other", f"beast{k}", values=(3, 4), suffix=".jpg")
    assert [image.stem for image, _ in PairFolder(tmp_path / "other", "val", 16).pairs] == val
    draw(folder, "newcomer")
    after = [image.stem for image, _ in PairFolder(folder, "val", 16).pairs]
    assert len(set(after) & set(val)) >= 1 and len(after) == 2


def test_splits_that_are_there_are_kept(tmp_path):
    for split, names in (("train", "abc"), ("val", "de")):
        for name in names:
            draw(tmp_path / split, name)
    assert [[i.stem for i, _ in PairFolder(tmp_path, s, 16).pairs] for s in ("train", "val")] == [["a", "b", "c"], ["d", "e"]]


def test_a_missing_split_is_named(tmp_path):
    for name in "abc":
        draw(tmp_path / "train", name)
    with pytest.raises(CourseError, match="has no folder val/"):
        PairFolder(tmp_path, "val", 16)
    with pytest.raises(CourseError, match="no split 'test'; choose one of train, val"):
        PairFolder(tmp_path, "test", 16)


# ----------------------------------------------------------------------------------------------------------------- errors

def test_a_file_without_a_partner_is_named(folder):
    (folder / "masks" / "beast4.png").unlink()
    with pytest.raises(CourseError, match=r"images/beast4.png has no partner of the same name \(1 such files\)"):
        PairFolder(folder, "train", 16)
    (folder / "images" / "beast4.png").unlink()
    (folder / "images" / "beast2.png").unlink()
    with pytest.raises(CourseError, match=r"masks/beast2.png has no partner"):
        PairFolder(folder, "train", 16)


def test_two_images_of_one_mask_are_named(folder):
    Image.open(folder / "images" / "beast1.png").save(folder / "images" / "beast1.jpg")
    with pytest.raises(CourseError, match=r"beast1.jpg and .*beast1.png are both images of the mask beast1.png"):
        PairFolder(folder, "train", 16)


@pytest.mark.parametrize("part", ["images", "masks"])
def test_a_damaged_file_is_named(folder, part):
    for k in range(9):                                             # all of them, so that it is in either split
        path = folder / part / f"beast{k}.png"
        path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(CourseError, match=rf"{part}/beast\d.png cannot be decoded .*: replace this file"):
        PairFolder(folder, "train", 16).images(torch.arange(7))
    (folder / part / "beast0.png").write_bytes(b"")
    with pytest.raises(CourseError, match=rf"{part}/beast\d.png cannot be decoded"):
        PairFolder(folder, "train", 16)


def test_masks_of_another_kind_are_named(folder):
    path = folder / "masks" / "beast3.png"
    Image.open(path).convert("RGB").save(path)
    with pytest.raises(CourseError, match=r"masks/beast3.png is of mode RGB: a mask has one channel"):
        PairFolder(folder, "train", 16)
    Image.fromarray(np.zeros((24, 16), np.uint8)).save(path)
    with pytest.raises(CourseError, match=r"masks/beast3.png has 16 x 24 pixels and .*images/beast3.png 24 x 16"):
        PairFolder(folder, "train", 16)


def test_other_layouts_are_named(tmp_path):
    with pytest.raises(CourseError, match=r"has no folder images/: such a set holds images/NAME.jpg"):
        PairFolder(tmp_path / "nowhere", "train", 16)
    (tmp_path / "images").mkdir()
    with pytest.raises(CourseError, match="has no folder masks/"):
        PairFolder(tmp_path, "train", 16)
    (tmp_path / "masks").mkdir()
    with pytest.raises(CourseError, match="holds no pairs"):
        PairFolder(tmp_path, "train", 16)
    draw(tmp_path, "only")
    with pytest.raises(CourseError, match="holds 1 pair: at least 2 are needed"):
        PairFolder(tmp_path, "train", 16)


def test_masks_must_tell_something_apart(tmp_path):
    for name in "abcd":
        draw(tmp_path, name, values=(0, 255))
    with pytest.raises(CourseError, match=r"hold no two values, only \[0\]"):
        PairFolder(tmp_path, "train", 16, void=255)


def test_wrong_indices_are_named(folder):
    source = PairFolder(folder, "val", 16)
    for indices in ([2], [-1, 0]):
        for read in (source.images, source.masks):
            with pytest.raises(CourseError, match="beasts/val holds images 0 to 1, got"):
                read(torch.tensor(indices))
    assert source.images(torch.arange(0)).shape == (0, 3, 16, 16) and source.masks(torch.arange(0)).shape == (0, 16, 16)


@pytest.mark.real
@pytest.mark.skipif(not os.environ.get("COURSE_DATA"), reason="COURSE_DATA names no folder of real images")
def test_real_horses():
    folder = Path(os.environ["COURSE_DATA"]) / "weizmann-horses"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    train, val = (PairFolder(folder, split, 64) for split in ("train", "val"))
    assert (len(train), len(val)) == (246, 82) and train.classes == ["0", "255"]
    images, masks = everything(val)
    assert 0.2 < masks.float().mean() < 0.4 and images.float().std() > 30
