"""Image sets from the command line: `python -m lib.data list`, `fetch imagenette` or `pack imagenette --size 96`."""
import argparse
import http.client
import socket
import sys
from pathlib import Path

from torchvision import datasets

from lib import cli
from lib.data.images import KNOWN, SPLITS, candidates, data_root, how_to_get, list_images, missing, open_images
from lib.errors import CourseError


def list_sets(root: Path) -> None:
    """One line for each known set: how much there is to download, where it is, and whether it is whole."""
    for name, known in KNOWN.items():
        folder = next((folder for folder in candidates(name, root) if folder.is_dir()), None)
        try:
            state = f"found in {folder}: {_counts(name, folder)}" if folder else f"not found: {how_to_get(name, root)}"
        except CourseError as error:
            state = str(error)
        print(f"{name:14}  {known.download:>6}  {state}")
    for path in sorted((root / "packed").glob("*.images")):
        print(f"{'packed':14}  {f'{path.stat().st_size / 1e6:,.0f} MB':>6}  {path}")


def fetch(name: str, root: Path) -> None:
    """Download a set with torchvision, which compares its checksum, and count its images."""
    if name not in KNOWN:
        raise CourseError(missing(name, root))
    if KNOWN[name].by_hand:
        raise CourseError(f"{name} cannot be fetched from here: {how_to_get(name, root)}")
    folder = candidates(name, root)[0]
    if not folder.is_dir():
        socket.setdefaulttimeout(30)
        try:
            if name == "cifar10":
                datasets.CIFAR10(root, download=True)
            else:
                datasets.Imagenette(root, size="160px", download=True)
        except (OSError, RuntimeError, http.client.HTTPException) as error:
            raise CourseError(f"could not reach {KNOWN[name].address} ({' '.join(str(error).split())}): "
                              f"download it by hand into {root} and run this command again") from error
    print(f"{name} is in {folder}: {_counts(name, folder)}")


def pack(name: str, size: int, root: Path, whole: bool, split: str | None) -> None:
    """Decode the splits of a set into packed files, or one, or check those that are there. whole: training images, squeezed."""
    if whole and split == "val":
        raise CourseError("--whole is for the images that views are cut from, those to train on; leave out --split val")
    for part in (split,) if split else ("train",) if whole else SPLITS:
        source = open_images(name, part, size, root, verify=True, whole=whole)
        print(f"{source.path}: {len(source):,} images of {size} px, {source.path.stat().st_size / 1e6:,.0f} MB")


def _counts(name: str, folder: Path) -> str:
    return " and ".join(f"{len(list_images(name, split, folder).labels):,} {split} images" for split in SPLITS)


def main(arguments: list[str] | None = None) -> None:
    parser = cli.Parser(prog="python -m lib.data", description="Find, fetch and pack sets of real images.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="list|fetch|pack")
    listing = commands.add_parser("list", help="the known sets and where they are")
    fetching = commands.add_parser("fetch", help="download a set")
    packing = commands.add_parser("pack", help="decode a set once, for training")
    fetching.add_argument("name", help=" or ".join(name for name, known in KNOWN.items() if not known.by_hand))
    packing.add_argument("name", help=f"{', '.join(KNOWN)}, or the path of a folder with train/ and val/")
    packing.add_argument("--size", type=int, default=96, help="pixels a side")
    packing.add_argument("--whole", action="store_true",
                         help="all of each training image, squeezed, to cut views from: what --stored-size of a recipe reads")
    packing.add_argument("--split", choices=SPLITS, help="this split only")
    for command in (listing, fetching, packing):
        command.add_argument("--root", default=argparse.SUPPRESS,
                             help="the folder of the sets (default: COURSE_DATA, or data/cache)")
    given = parser.parse_args(arguments)

    def run() -> None:
        root = Path(given.root).expanduser() if "root" in given else data_root()
        if given.command == "list":
            list_sets(root)
        elif given.command == "fetch":
            fetch(given.name, root)
        else:
            pack(given.name, given.size, root, given.whole, given.split)

    try:
        cli.main(run)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
