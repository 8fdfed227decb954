"""What reading images costs, in one run: `python tests/benchmarks/reading.py --out results.json`.

The same images, in the same random order, out of the packed store and out of JPEG files that are decoded and brought to size,
on one thread. Without --folder they are drawn: shapes with texture at 256 pixels, saved at quality 90, so that what is read
is in the memory of the operating system already and no disk is measured. A folder has train/CLASS/*.jpg in it.
"""
import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from common import about, interleaved, median_ratio, write
from PIL import Image

from lib.data import open_source
from lib.data.images import list_images
from lib.data.store import PackedImages, pack, square


def drawn(folder: Path, count: int) -> None:
    """A folder of JPEG files, of two classes."""
    world = open_source("shapes", "train", 256, limit=count, difficulty="hard")
    for name in ("a", "b"):
        (folder / "train" / name).mkdir(parents=True)
        (folder / "val" / name).mkdir(parents=True)
    for start in range(0, count, 64):
        for k, image in enumerate(world.images(torch.arange(start, min(start + 64, count))), start):
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / "train" / "ab"[k % 2] / f"{k:06}.jpg", quality=90)


def main(arguments: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--folder", type=Path, default=None, help="images in train/CLASS/, of any size; else they are drawn")
    parser.add_argument("--images", type=int, default=512, help="how many are drawn")
    parser.add_argument("--size", type=int, default=224, help="pixels on a side, as the training asks for them")
    parser.add_argument("--batch-size", type=int, default=64, help="images at a time")
    parser.add_argument("--rounds", type=int, default=10, help="how many batches count")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/reading.json"), help="JSON file")
    a = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = a.folder or Path(scratch) / "drawn"
        if a.folder is None:
            drawn(folder, a.images)
        listing, path = list_images(str(folder), "train", folder), Path(scratch) / "packed.images"
        pack(listing, path, a.size)
        store, generator, found = PackedImages(path), torch.Generator().manual_seed(0), {}
        batches = torch.randint(len(store), (a.rounds + 1, a.batch_size), generator=generator)
        turn = {"store": iter(batches), "jpeg": iter(batches)}

        def from_store() -> None:
            found["store"] = store.images(next(turn["store"]))

        def from_jpeg() -> None:
            found["jpeg"] = torch.from_numpy(np.stack([square(listing.read(i), a.size) for i in next(turn["jpeg"]).tolist()]))

        times = interleaved({"store": from_store, "jpeg": from_jpeg}, "cpu", a.rounds)
    results = {"about": about("cpu"), "images": len(store), "size": a.size, "batch_size": a.batch_size, "seconds": times,
               "same": torch.equal(found["store"], found["jpeg"]),
               "jpeg_over_store": median_ratio(times["jpeg"], times["store"])}
    write(a.out, results)
    print(f"reading: JPEG files take {results['jpeg_over_store']:,.0f} times as long as the store; "
          f"the images are {'the same' if results['same'] else 'NOT the same'}")
    return results


if __name__ == "__main__":
    main()
