"""Real sets by name: found, counted, packed, opened; and what is said when they are missing, incomplete or damaged."""
import dataclasses
import hashlib
import os
import pickle
import random
import subprocess
import sys
import urllib.error
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile
from torchvision import datasets

from lib.data import images
from lib.data.__main__ import main
from lib.data.images import KNOWN, data_root, list_images, open_images
from lib.data.store import PackedImages, pack, read_header
from lib.errors import CourseError

S = 16
NETTE = ("n01440764", "n02102040")                                               # tench, English springer


def draw(path):
    """A photograph of a kind: smooth noise that depends on the file name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = random.Random(path.name).randbytes(27)
    Image.frombytes("RGB", (3, 3), noise).resize((S, S), Image.Resampling.BICUBIC).save(path, quality=95)


def draw_set(folder, train=None, val=None):
    for split, classes in (("train", train or {"cat": 3, "dog": 2}), ("val", val or {"cat": 1, "dog": 2})):
        for name, count in classes.items():
            for k in range(count):
                draw(folder / split / name / f"{split}_{name}_{k}.JPEG")
    return folder


def everything(source):
    return source.images(torch.arange(len(source)))


def decoded(files):
    return torch.stack([torch.from_numpy(np.asarray(Image.open(file)).copy()).permute(2, 0, 1) for file in files])


def expect(monkeypatch, name, folder, train, val):
    monkeypatch.setitem(KNOWN, name, dataclasses.replace(KNOWN[name], folders={folder: (train, val)}))


@pytest.fixture
def pets(tmp_path):
    return draw_set(tmp_path / "pets")


@pytest.fixture
def nette(tmp_path, monkeypatch):
    expect(monkeypatch, "imagenette", "imagenette2-160", 5, 3)
    return draw_set(tmp_path / "imagenette2-160", {NETTE[0]: 3, NETTE[1]: 2}, {NETTE[0]: 1, NETTE[1]: 2})


# ---- a folder of one's own

def test_a_folder_is_a_set(pets, tmp_path):
    source = open_images(str(pets), "train", S, root=tmp_path)
    files = [pets / "train" / c / f"train_{c}_{k}.JPEG" for c, n in (("cat", 3), ("dog", 2)) for k in range(n)]
    assert (source.name, source.split, source.size, source.classes) == ("pets", "train", S, ["cat", "dog"])
    assert source.labels(torch.arange(5)).tolist() == [0, 0, 0, 1, 1]
    assert torch.equal(everything(source), decoded(files))
    assert source.labels(torch.tensor([4, 0])).tolist() == [1, 0]
    assert open_images(str(pets), "val", S, root=tmp_path).labels(torch.arange(3)).tolist() == [0, 1, 1]


def test_a_set_is_packed_once(pets, tmp_path, monkeypatch):
    first = everything(open_images(pets, "train", S, root=tmp_path))
    monkeypatch.setattr(images, "pack", lambda *given: pytest.fail("packed again"))
    assert torch.equal(everything(open_images(pets, "train", S, root=tmp_path)), first)


def test_a_changed_folder_is_packed_again(pets, tmp_path):
    open_images(pets, "train", S, root=tmp_path)
    draw(pets / "train" / "cat" / "another.JPEG")
    assert len(open_images(pets, "train", S, root=tmp_path, verify=False)) == 5
    assert len(open_images(pets, "train", S, root=tmp_path)) == 6


def test_labels_follow_train_when_it_gains_a_class(pets, tmp_path):
    assert open_images(pets, "val", S, root=tmp_path).labels(torch.arange(3)).tolist() == [0, 1, 1]
    draw(pets / "train" / "ant" / "0.JPEG")
    source = open_images(pets, "val", S, root=tmp_path)
    assert source.classes == ["ant", "cat", "dog"]
    assert source.labels(torch.arange(3)).tolist() == [1, 2, 2]


def test_folders_of_one_name_stay_apart(tmp_path):
    one, two = draw_set(tmp_path / "one" / "pets"), draw_set(tmp_path / "two" / "pets", {"cat": 7, "dog": 1})
    assert [len(open_images(folder, "train", S, root=tmp_path)) for folder in (one, two, one)] == [5, 8, 5]


def test_two_at_once_pack_once(pets, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(images, "pack", lambda *given: (calls.append(1), pack(*given)))
    with ThreadPoolExecutor(2) as pool:
        sources = list(pool.map(lambda _: open_images(pets, "train", S, root=tmp_path), range(2)))
    assert len(calls) == 1
    assert torch.equal(everything(sources[0]), everything(sources[1]))


@pytest.mark.parametrize("spoil, message", [
    (lambda f: draw(f / "val" / "bird" / "0.JPEG"), "val/ has a class that train/ has not: bird"),
    (lambda f: os.rename(f / "val", f / "test"), "no folder val/"),
    (lambda f: [os.remove(file) for file in f.glob("val/*/*")], "no images in val/"),
])
def test_a_folder_of_another_shape_is_refused(pets, tmp_path, spoil, message):
    spoil(pets)
    with pytest.raises(CourseError, match=f"pets cannot be used .*{message}.*train/ and val/") as caught:
        open_images(pets, "val", S, root=tmp_path)
    assert "\n" not in str(caught.value)


def test_images_beside_class_folders_make_no_set(tmp_path):
    draw(tmp_path / "flat" / "train" / "0.JPEG")
    with pytest.raises(CourseError, match=r"flat cannot be used .*no images in train/CLASS"):
        open_images(tmp_path / "flat", "train", S, root=tmp_path)


def test_val_may_lack_a_class_and_train_may_not(tmp_path):
    folder = draw_set(tmp_path / "pets", val={"dog": 2})
    assert open_images(folder, "val", S, root=tmp_path).labels(torch.arange(2)).tolist() == [1, 1]
    (folder / "train" / "cow").mkdir()
    with pytest.raises(CourseError, match="no images in train/cow/"):
        open_images(folder, "train", S, root=tmp_path)


# ---- image files that cannot be trained on

@pytest.mark.parametrize("spoil", [lambda b: b[:len(b) // 2], lambda b: b"", lambda b: b"no image", lambda b: b[:20]])
@pytest.mark.parametrize("allowed", [False, True])
def test_a_broken_image_is_named_and_nothing_is_packed(pets, tmp_path, monkeypatch, spoil, allowed):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", allowed)
    broken = pets / "train" / "dog" / "train_dog_1.JPEG"
    broken.write_bytes(spoil(broken.read_bytes()))
    with pytest.raises(CourseError, match=r"train_dog_1\.JPEG cannot be decoded") as caught:
        open_images(pets, "train", S, root=tmp_path)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "packed").glob("*.images*"))


def test_a_damaged_packed_file_is_named(pets, tmp_path):
    path = open_images(pets, "train", S, root=tmp_path).path
    content = bytearray(path.read_bytes())
    content[100] ^= 4
    path.write_bytes(content)
    with pytest.raises(CourseError, match=f"{path.name} is damaged"):
        open_images(pets, "train", S, root=tmp_path)
    path.unlink()
    assert len(open_images(pets, "train", S, root=tmp_path)) == 5


# ---- known sets

def test_imagenette_has_words_for_classes(nette, tmp_path):
    source = open_images("imagenette", "train", S, root=tmp_path)
    assert (source.name, source.classes, source.folders) == ("imagenette", ["tench", "English springer"], list(NETTE))
    assert source.labels(torch.arange(5)).tolist() == [0, 0, 0, 1, 1]
    assert source.path == tmp_path / "packed" / f"imagenette2-160-train-{S}.images"


def test_a_packed_file_is_enough(nette, tmp_path):
    open_images("imagenette", "train", S, root=tmp_path)
    nette.rename(tmp_path / "elsewhere")
    assert len(open_images("imagenette", "train", S, root=tmp_path)) == 5
    with pytest.raises(CourseError, match="imagenette is not in"):
        open_images("imagenette", "train", S + 1, root=tmp_path)


def test_an_incomplete_set_is_refused(nette, tmp_path):
    open_images("imagenette", "train", S, root=tmp_path)
    (nette / "train" / NETTE[0] / f"train_{NETTE[0]}_1.JPEG").unlink()
    with pytest.raises(CourseError, match=r"train/ holds 4 of 5 images: incomplete.*: delete .*2-160 and fetch again"):
        open_images("imagenette", "train", S, root=tmp_path)
    assert len(open_images("imagenette", "val", S, root=tmp_path)) == 3


def test_a_set_with_more_than_was_published_is_refused(nette, tmp_path):
    draw(nette / "val" / NETTE[1] / "another.JPEG")
    with pytest.raises(CourseError, match="holds 4 of 3 images: not the published set"):
        open_images("imagenette", "val", S, root=tmp_path)
    (nette / "train" / "a stray folder").mkdir()                                 # would shift every label by one
    with pytest.raises(CourseError, match="no images in train/a stray folder/"):
        open_images("imagenette", "train", S, root=tmp_path)


def test_the_published_counts():
    counts = {folder: numbers for known in KNOWN.values() for folder, numbers in known.folders.items()}
    assert counts == {"imagenette2-160": (9469, 3925), "cifar-10-batches-py": (50000, 10000),
                      "tiny-imagenet-200": (100000, 10000), "tiny-imagenet-100": (42000, 5000),
                      "imagenet": (1281167, 50000)}


def draw_tiny(folder, monkeypatch):
    """The official layout: images two folders down in train, one heap and a table in val."""
    expect(monkeypatch, "tiny-imagenet", "tiny-imagenet-200", 4, 3)
    for wnid in ("n01", "n02"):
        for k in range(2):
            draw(folder / "train" / wnid / "images" / f"{wnid}_{k}.JPEG")
        (folder / "train" / wnid / f"{wnid}_boxes.txt").write_text("n01_0.JPEG\t0\t10\t63\t58\n")
    for k in range(3):
        draw(folder / "val" / "images" / f"val_{k}.JPEG")
    (folder / "val" / "val_annotations.txt").write_text(
        "".join(f"val_{k}.JPEG\t{wnid}\t0\t32\t44\t62\n" for k, wnid in ((2, "n01"), (0, "n02"), (1, "n01"))))
    (folder / "words.txt").write_text("n00\tentity\nn01\tgoldfish, Carassius auratus\nn02\tEuropean fire salamander\n")
    return folder


def test_tiny_imagenet_as_published(tmp_path, monkeypatch):
    folder = draw_tiny(tmp_path / "tiny-imagenet-200", monkeypatch)
    train, val = (open_images("tiny-imagenet", split, S, root=tmp_path) for split in ("train", "val"))
    assert train.classes == val.classes == ["goldfish", "European fire salamander"]
    assert train.folders == ["n01", "n02"]
    assert train.labels(torch.arange(4)).tolist() == [0, 0, 1, 1]
    assert val.labels(torch.arange(3)).tolist() == [0, 1, 0]
    assert torch.equal(everything(val), decoded([folder / "val" / "images" / f"val_{k}.JPEG" for k in (2, 0, 1)]))


def test_tiny_imagenet_without_an_image_or_without_train(tmp_path, monkeypatch):
    folder = draw_tiny(tmp_path / "tiny-imagenet-200", monkeypatch)
    (folder / "val" / "images" / "val_1.JPEG").unlink()
    with pytest.raises(CourseError, match="holds 2 of 3 images: incomplete"):
        open_images("tiny-imagenet", "val", S, root=tmp_path)
    draw(folder / "val" / "images" / "val_1.JPEG")
    annotations = folder / "val" / "val_annotations.txt"
    whole = annotations.read_text()
    annotations.write_text(whole[:20])
    with pytest.raises(CourseError, match="tiny-imagenet-200 cannot be used"):
        open_images("tiny-imagenet", "val", S, root=tmp_path)
    annotations.write_text(whole)
    (folder / "train").rename(tmp_path / "elsewhere")                            # the heap is not one class
    with pytest.raises(CourseError, match="tiny-imagenet-200 cannot be used"):
        open_images("tiny-imagenet", "val", S, root=tmp_path)


def test_tiny_imagenet_in_class_folders(tmp_path, monkeypatch):
    expect(monkeypatch, "tiny-imagenet", "tiny-imagenet-100", 5, 3)
    draw_set(tmp_path / "tiny-imagenet-100")
    assert open_images("tiny-imagenet", "val", S, root=tmp_path).labels(torch.arange(3)).tolist() == [0, 1, 1]


def test_imagenet_val_alone_with_names_from_torchvision(tmp_path, monkeypatch):
    expect(monkeypatch, "imagenet", "imagenet", 5, 3)
    folder = draw_set(tmp_path / "imagenet")
    (folder / "train").rename(tmp_path / "elsewhere")
    assert open_images("imagenet", "val", S, root=tmp_path).classes == ["cat", "dog"]
    torch.save(({"cat": ("tabby", "tabby cat"), "dog": ("husky",)}, []), folder / "meta.bin")
    assert list_images("imagenet", "val", folder).classes == ["tabby", "husky"]
    with pytest.raises(CourseError, match="no folder train/"):
        open_images("imagenet", "train", S, root=tmp_path)


def write_cifar10(root, monkeypatch):
    """CIFAR-10's files with 2 images in each batch, and torchvision told their checksums."""
    pixels = np.random.default_rng(0).integers(0, 256, (6, 2, 3072), dtype=np.uint8)
    folder = root / "cifar-10-batches-py"
    folder.mkdir()

    def write(name, content):
        (folder / name).write_bytes(pickle.dumps(content))
        return [name, hashlib.md5((folder / name).read_bytes()).hexdigest()]

    batches = [write(name, {"data": pixels[k], "labels": [k, 9 - k]})
               for k, name in enumerate([f"data_batch_{k}" for k in range(1, 6)] + ["test_batch"])]
    names = write("batches.meta", {"label_names": [f"class {k}" for k in range(10)]})
    monkeypatch.setattr(datasets.CIFAR10, "train_list", batches[:5])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", batches[5:])
    monkeypatch.setattr(datasets.CIFAR10, "meta", {"filename": names[0], "key": "label_names", "md5": names[1]})
    expect(monkeypatch, "cifar10", "cifar-10-batches-py", 10, 2)
    return torch.from_numpy(pixels).view(12, 3, 32, 32)


def test_cifar10(tmp_path, monkeypatch):
    pixels = write_cifar10(tmp_path, monkeypatch)
    train, val = (open_images("cifar10", split, 32, root=tmp_path) for split in ("train", "val"))
    assert torch.equal(everything(train), pixels[:10])
    assert torch.equal(everything(val), pixels[10:])
    assert train.labels(torch.arange(10)).tolist() == [0, 9, 1, 8, 2, 7, 3, 6, 4, 5]
    assert (train.name, train.classes[3], len(train.classes)) == ("cifar10", "class 3", 10)
    with open(tmp_path / "cifar-10-batches-py" / "data_batch_3", "ab") as file:
        file.write(b"x")
    with pytest.raises(CourseError, match=r"cifar-10-batches-py cannot be used .*delete .* and fetch again"):
        open_images("cifar10", "train", 32, root=tmp_path)


@pytest.mark.parametrize("name, parts", [
    ("cifar10", ["170 MB", "https://www.cs.toronto.edu", "python -m lib.data fetch cifar10"]),
    ("imagenette", ["99 MB", "imagenette2-160.tgz", "python -m lib.data fetch imagenette"]),
    ("tiny-imagenet", ["248 MB", "http://cs231n.stanford.edu/tiny-imagenet-200.zip", "{root}/tiny-imagenet-200"]),
    ("imagenet", ["144 GB", "https://image-net.org", "{root}/imagenet"]),
    ("imagenete", ["cifar10, imagenette, tiny-imagenet, imagenet", "train/ and val/"]),
])
def test_a_missing_set_says_where_to_get_it(tmp_path, name, parts):
    with pytest.raises(CourseError) as caught:
        open_images(name, "train", S, root=tmp_path)
    for part in (name, *parts):
        assert part.format(root=tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_what_does_not_exist_is_refused(pets, tmp_path):
    with pytest.raises(CourseError, match="no split 'test'; choose one of train, val"):
        open_images(pets, "test", S, root=tmp_path)
    with pytest.raises(CourseError, match="at least 8 pixels, got 0"):
        open_images(pets, "val", 0, root=tmp_path)
    (tmp_path / "packed").write_text("a file where a folder should be")
    with pytest.raises(CourseError, match=r"cannot pack .*COURSE_DATA"):
        open_images(pets, "val", S, root=tmp_path)


def test_course_data_names_the_root(nette, tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_DATA", str(tmp_path))
    assert data_root() == tmp_path
    assert len(open_images("imagenette", "val", S)) == 3
    monkeypatch.setenv("COURSE_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(CourseError, match=r"COURSE_DATA names .*nowhere, which is no folder"):
        open_images("imagenette", "val", S)
    monkeypatch.delenv("COURSE_DATA")
    assert data_root().parts[-2:] == ("data", "cache")


# ---- the command line

def exit_code(arguments):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    return caught.value.code


def test_ctrl_c_is_one_line(nette, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(images, "pack", refuse(KeyboardInterrupt))
    assert exit_code(["pack", "imagenette", "--root", str(tmp_path)]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def refuse(error):
    def download(*given, **named):
        raise error
    return download


@pytest.mark.parametrize("arguments, message", [
    (["pack", "nothing"], "no image set 'nothing'"),
    (["pack", "shapes"], "shapes are drawn when they are needed"),
    (["fetch", "shapes"], "shapes are drawn when they are needed"),
    (["pack", ""], "an empty name was given for the images"),
    (["pack", "imagenette"], "python -m lib.data fetch imagenette"),
    (["pack", "imagenette", "--size", "2"], "at least 8 pixels"),
    (["fetch", "tiny-imagenet"], "cs231n.stanford.edu"),
    (["fetch", "imagenet"], "image-net.org"),
    (["fetch", "nothing"], "no image set 'nothing'"),
    (["fetch", "cifar10"], "could not reach https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"),
    (["fetch", "imagenette"], "could not reach https://s3.amazonaws.com/fast-ai-imageclas/imagenette2-160.tgz"),
])
def test_an_error_is_one_line_and_exit_code_2(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.setattr(datasets, "CIFAR10", refuse(urllib.error.URLError("no route\nto host")))
    monkeypatch.setattr(datasets, "Imagenette", refuse(RuntimeError("File not found or corrupted.")))
    assert exit_code([*arguments, "--root", str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and said.err.endswith("\n")
    assert message in said.err and said.out == ""


def test_one_split_is_packed_alone(pets, tmp_path, capsys):
    """pets: the folder of a set."""
    for flags, expected in ((["--split", "val"], ["val"]), (["--split", "train"], ["train", "val"])):
        main(["pack", str(pets), "--size", "16", "--root", str(tmp_path / "root"), *flags])
        assert sorted(path.name.split("-")[-2] for path in (tmp_path / "root" / "packed").glob("*.images")) == expected
    assert exit_code(["pack", str(pets), "--whole", "--split", "val", "--root", str(tmp_path / "root")]) == 2
    assert "leave out --split val" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["bake"], ["pack"], ["pack", "imagenette", "--size", "large"]])
def test_a_wrong_command_is_one_line_and_exit_code_2(capsys, arguments):
    assert exit_code(arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_course_data_that_is_no_folder_is_one_line_from_the_shell(tmp_path):
    done = subprocess.run([sys.executable, "-m", "lib.data", "list"], capture_output=True, text=True,
                          env={**os.environ, "COURSE_DATA": str(tmp_path / "nowhere")})
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "nowhere" in done.stderr


def test_list_tells_what_is_there(nette, tmp_path, capsys):
    main(["list", "--root", str(tmp_path)])
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert set(lines) == set(KNOWN)
    assert f"found in {nette}: 5 train images and 3 val images" in lines["imagenette"]
    assert "not found: run" in lines["cifar10"] and "170 MB" in lines["cifar10"]
    next(nette.glob("val/*/*.JPEG")).unlink()
    main(["list", "--root", str(tmp_path)])
    assert "holds 2 of 3 images: incomplete" in capsys.readouterr().out


def test_pack_packs_both_splits(nette, tmp_path, capsys):
    main(["pack", "imagenette", "--size", "16", "--root", str(tmp_path)])
    assert [line.split(": ")[1].split(",")[0] for line in capsys.readouterr().out.splitlines()] == [
        "5 images of 16 px", "3 images of 16 px"]
    paths = [tmp_path / "packed" / f"imagenette2-160-{split}-16.images" for split in ("train", "val")]
    assert [read_header(path)["count"] for path in paths] == [5, 3]


def test_fetch_downloads_what_is_missing_and_counts(nette, tmp_path, monkeypatch, capsys):
    real, asked = datasets.Imagenette, []

    def imagenette(root, split="train", size="full", download=False):
        if download:
            asked.append(size)
            (tmp_path / "away").rename(nette)
        return real(root, split, size)

    nette.rename(tmp_path / "away")
    monkeypatch.setattr(datasets, "Imagenette", imagenette)
    for _ in range(2):                                                           # the second time it is there
        main(["fetch", "imagenette", "--root", str(tmp_path)])
        assert "5 train images and 3 val images" in capsys.readouterr().out
    assert asked == ["160px"]
    next(nette.glob("val/*/*.JPEG")).unlink()                                    # cut short: say so, delete nothing
    assert exit_code(["fetch", "imagenette", "--root", str(tmp_path)]) == 2
    assert "holds 2 of 3 images: incomplete): delete" in capsys.readouterr().err
    assert nette.is_dir()


# ---- real photographs

def real_root():
    if not os.environ.get("COURSE_DATA"):
        pytest.skip("COURSE_DATA is not set: it names a folder with real photographs")
    return data_root()


@pytest.mark.real
@pytest.mark.parametrize("name, size", [("imagenette", 96), ("tiny-imagenet", 64)])
def test_real_photographs_come_back_as_pil_decodes_them(name, size, tmp_path):
    folder = next((f for f in images.candidates(name, real_root()) if f.is_dir()), None)
    if folder is None:
        pytest.skip(f"{name} is not in COURSE_DATA")
    train, val = (list_images(name, split, folder) for split in ("train", "val"))
    assert (len(train.labels), len(val.labels)) == KNOWN[name].folders[folder.name]
    pack(val, tmp_path / "val.images", size)
    source = PackedImages(tmp_path / "val.images")
    for i in range(0, len(source), 97):
        image = val.read(i)
        scale = size / min(image.size)
        image = image.resize([max(size, int(side * scale)) for side in image.size], Image.Resampling.BICUBIC)
        left, top = (round((side - size) / 2) for side in image.size)
        expected = np.asarray(image.crop((left, top, left + size, top + size))).transpose(2, 0, 1)
        assert np.array_equal(source.images(torch.tensor([i]))[0].numpy(), expected), i
        assert source.labels(torch.tensor([i])).item() == val.labels[i]
