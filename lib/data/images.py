"""Real photographs by name: found on the disk, counted, packed on first use, opened.

Sets lie in the folder that the environment variable COURSE_DATA names, or else in data/cache. torchvision reads what it
knows; any folder with train/ and val/, and in each a folder for each class, is a set too. Nothing is trained on a set
that is not whole: its images are counted, and a file that does not decode is named.
"""
import os
import shlex
import sys
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from torchvision import datasets
from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

from lib import distributed, locks
from lib.data.store import Listing, PackedImages, fingerprint, pack, read_header
from lib.errors import CourseError

SPLITS = ("train", "val")
CHECKED = 10e9                                                    # bytes of a packed file that is read whole to check it
LAYOUT = "a set is a folder with train/ and val/, and in each one folder for each class"


@dataclass(frozen=True)
class KnownSet:
    folders: dict[str, tuple[int, int]]                           # folder below the root: images in train, in val
    download: str                                                 # how much there is to download
    address: str
    by_hand: str = ""                                             # what to do with it, if torchvision cannot fetch it


KNOWN = {
    "cifar10": KnownSet({"cifar-10-batches-py": (50_000, 10_000)}, "170 MB",
                        "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"),
    "imagenette": KnownSet({"imagenette2-160": (9_469, 3_925)}, "99 MB",
                           "https://s3.amazonaws.com/fast-ai-imageclas/imagenette2-160.tgz"),
    "tiny-imagenet": KnownSet({"tiny-imagenet-200": (100_000, 10_000), "tiny-imagenet-100": (42_000, 5_000)}, "248 MB",
                              "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
                               "unpack it in {root}, which makes {root}/tiny-imagenet-200"),
    "imagenet": KnownSet({"imagenet": (1_281_167, 50_000)}, "144 GB", "https://image-net.org/download.php",
                         "put train/CLASS/*.JPEG and val/CLASS/*.JPEG into {root}/imagenet, "
                         "as torchvision.datasets.ImageNet unpacks them"),
}


def data_root() -> Path:
    """The folder that holds the sets. Raises CourseError if COURSE_DATA names one that does not exist."""
    given = os.environ.get("COURSE_DATA")
    if not given:
        return Path(__file__).resolve().parents[2] / "data" / "cache"
    root = Path(given).expanduser()
    if not root.is_dir():
        raise CourseError(f"COURSE_DATA names {given}, which is no folder: make it, or unset it to use data/cache")
    return root


def open_images(name: str, split: str, size: int, root: str | Path | None = None, verify: bool | None = None,
                whole: bool = False) -> PackedImages:
    """A source of square images of `size` pixels: a known set by name, or a folder with train/ and val/ by its path.

    split is "train" or "val" (CIFAR-10: its test set). The set is packed into root/packed on first use, and again when
    its folder has changed since; a packed file is enough where the folder is not there. whole: all of each image squeezed
    into the square, see `lib.data.store`. verify: look at every file of the folder and every checksum first; None does so
    for files of at most 10 GB, since it takes minutes for larger ones (`python -m lib.data pack` checks those as well).
    Raises CourseError, in one line, for a set that is missing, incomplete or damaged.
    """
    if not name:
        raise CourseError("an empty name was given for the images; name a set or a folder")
    if split not in SPLITS:
        raise CourseError(f"{name} has no split {split!r}; choose one of {', '.join(SPLITS)}")
    if size < 8:
        raise CourseError(f"images need a size of at least 8 pixels, got {size}")
    root = data_root() if root is None else Path(root).expanduser()
    paths = {folder: root / "packed" / f"{_label(name, folder)}-{split}-{size}{'-whole' * whole}.images"
             for folder in candidates(name, root)}
    folder = next((folder for folder in paths if folder.is_dir()), None)
    if folder is None:
        packed = next((path for path in paths.values() if path.is_file()), None)
        if packed is None:
            raise CourseError(missing(name, root))
        return PackedImages(packed, _checks(worth_checking(packed) if verify is None else verify))
    path = paths[folder]
    if verify is None:
        verify = not path.is_file() or worth_checking(path)
    try:
        if not (path.is_file() and (not verify or _fresh(path, folder, split))):
            with _alone(path.parent):
                if not (path.is_file() and _fresh(path, folder, split)):       # another process may have packed it
                    pack(list_images(name, split, folder), path, size, whole)
    except OSError as error:
        raise CourseError(f"cannot pack {folder / split} into {path} ({error}): mend what it names, or name a folder to "
                          "write to in COURSE_DATA") from error
    return PackedImages(path, _checks(verify))


def _checks(verify: bool) -> bool:
    """Of several processes one reads a file to check it; where it is damaged, a launcher ends the others."""
    return verify and distributed.rank() == 0


def worth_checking(packed: Path) -> bool:
    """Whether a packed file is so small that reading it all takes seconds."""
    return packed.stat().st_size <= CHECKED


def candidates(name: str, root: Path) -> list[Path]:
    """The folders in which a set may lie."""
    return [root / folder for folder in KNOWN[name].folders] if name in KNOWN else [Path(name).expanduser().resolve()]


def missing(name: str, root: Path) -> str:
    """One line: where a set that is not there comes from, how large it is, and how to get it."""
    if name == "shapes":
        return "shapes are drawn when they are needed: there is nothing to fetch or to pack"
    if name not in KNOWN:
        return f"no image set {name!r}: choose one of {', '.join(KNOWN)}, shapes, or the path of a folder with train/ and val/"
    return f"{name} is not in {root}: {how_to_get(name, root)}"


def how_to_get(name: str, root: Path) -> str:
    known = KNOWN[name]
    if known.by_hand:
        return f"download it from {known.address} ({known.download}) and {known.by_hand.format(root=root)}"
    where = "" if root == data_root() else f" --root {shlex.quote(str(root))}"
    return f"run `python -m lib.data fetch {name}{where}` ({known.download} from {known.address})"


def list_images(name: str, split: str, folder: Path) -> Listing:
    """Every image of one split, by class and file name. Raises CourseError if it is laid out badly or not whole."""
    again = f"delete {folder} and fetch again: {how_to_get(name, folder.parent)}" if name in KNOWN else LAYOUT
    try:
        return _list_cifar10(folder, split) if name == "cifar10" else _list_files(name, folder, split)
    except (OSError, RuntimeError, LookupError, ValueError) as error:
        raise CourseError(f"{folder} cannot be used ({' '.join(str(error).split())}): {again}") from error


def _list_cifar10(folder: Path, split: str) -> Listing:
    data = datasets.CIFAR10(folder.parent, train=split == "train")              # compares its checksums
    return Listing("cifar10", split, data.classes, [], data.targets, lambda i: Image.fromarray(data.data[i]),
                   fingerprint(folder))


def _list_files(name: str, folder: Path, split: str) -> Listing:
    if not (folder / split).is_dir():
        raise FileNotFoundError(f"no folder {split}/ in it")
    before, folders = fingerprint(folder / split), class_folders(folder, split)
    numbers = {wnid: k for k, wnid in enumerate(folders)}
    annotations = folder / "val" / "val_annotations.txt"
    if name == "tiny-imagenet" and split == "val" and annotations.is_file() and (folder / "val" / "images").is_dir():
        lines = (line.split("\t") for line in annotations.read_text().splitlines())     # file, WordNet id, box
        samples = [(folder / "val" / "images" / file, numbers[wnid]) for file, wnid, *_ in lines]
        samples = [(file, label) for file, label in samples if file.is_file()]
    else:
        extra = {entry.name for entry in os.scandir(folder / split) if entry.is_dir()} - set(folders)
        if extra:
            raise LookupError(f"{split}/ has a class that train/ has not: {min(extra)}")
        samples = make_dataset(folder / split, numbers, IMG_EXTENSIONS, allow_empty=True) if folders else []
    expected = KNOWN[name].folders[folder.name][SPLITS.index(split)] if name in KNOWN else len(samples)
    if len(samples) != expected:
        what = "incomplete" if len(samples) < expected else "not the published set"
        raise RuntimeError(f"{split}/ holds {len(samples):,} of {expected:,} images: {what}")
    if before["files"] > len(samples) > 0 and name not in KNOWN:
        print(f"note: {before['files'] - len(samples)} of {before['files']} files in {folder / split} are left out: their "
              f"names do not end in {', '.join(IMG_EXTENSIONS)}", file=sys.stderr, flush=True)
    files, labels = [file for file, _ in samples], [label for _, label in samples]
    present = set(labels)
    lacking = [wnid for wnid in folders if numbers[wnid] not in present]
    if not files or (lacking and (name in KNOWN or split == "train")):          # val/ of one's own set may lack a class
        raise LookupError(f"no images in {split}/{lacking[0] if lacking else 'CLASS'}/")
    words = _words(name, folder, split)
    name = name if name in KNOWN else folder.name
    return Listing(name, split, [words.get(wnid, wnid) for wnid in folders], folders, labels,
                   lambda i: read_image(files[i]), before)


def _words(name: str, folder: Path, split: str) -> dict[str, str]:
    """What people call the classes, by class folder, where the set tells."""
    if name == "imagenette":
        known = datasets.Imagenette(folder.parent, split, size="160px")
        return {wnid: names[0] for wnid, names in zip(known.wnids, known.classes, strict=True)}
    if name == "imagenet" and (folder / "meta.bin").is_file():                  # torchvision's extract of the devkit
        return {wnid: names[0] for wnid, names in datasets.imagenet.load_meta_file(folder)[0].items()}
    if name == "tiny-imagenet" and (folder / "words.txt").is_file():
        lines = (line.split("\t") for line in (folder / "words.txt").read_text().splitlines())
        return {wnid: names.split(",")[0] for wnid, names in lines}
    return {}


def class_folders(folder: Path, split: str) -> list[str]:
    """The class folders of a set, in the order of their labels: those of train/, or without it those of the split."""
    parent = next((folder / part for part in ("train", split) if (folder / part).is_dir()), None)
    return sorted(entry.name for entry in os.scandir(parent) if entry.is_dir()) if parent else []


def read_image(path: str | Path) -> Image.Image:
    """An image file as RGB. Raises CourseError, which names the file, if it is empty, cut short or not an image."""
    try:
        if not Path(path).is_file():
            raise ValueError("no regular file")
        with Image.open(path) as image:
            if image.mode.startswith("I") or image.mode == "F":
                raise ValueError(f"mode {image.mode}, more than 8 bits a channel, which RGB would clip: convert it to 8 bits")
            return image.convert("RGB")
    except Exception as error:                                    # decoders raise SyntaxError, struct.error and more
        raise CourseError(f"{path} cannot be decoded ({error}): replace this file, or fetch its set again") from error


def _label(name: str, folder: Path) -> str:
    """What packed files of a set are called: two folders of the same name get two names."""
    return folder.name if name in KNOWN else f"{folder.name}-{zlib.crc32(str(folder).encode()):08x}"


def _fresh(path: Path, folder: Path, split: str) -> bool:
    """Whether a packed file still belongs to what lies in the folder."""
    header, directory = read_header(path), folder / split
    return (header["fingerprint"] == fingerprint(directory if directory.is_dir() else folder)
            and header["folders"] == class_folders(folder, split))


@contextmanager
def _alone(directory: Path):
    """One process at a time packs into a directory; the others wait and find it done."""
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / ".lock", "w") as lock:
        locks.take(lock, "two processes that pack one set would spoil it; before a run of several, `python -m lib.data pack`")
        yield
