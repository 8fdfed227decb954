"""What looking inside costs, in one run: `python tests/benchmarks/analysis.py --out results.json`.

The same batches go through the bare network, through it with the attention suite and the Fourier analysis of the course,
and through the plain procedure of plain.py. Both analyses must say the same. Random weights: the cost does not depend on them.
The course checks the attention it computes in the first batch of a run, so one batch alone costs more than one of many.
"""
import argparse
import statistics
from pathlib import Path

import torch
from common import about, interleaved, pick, write
from plain import analyse

from lib.analysis.attention import AttentionStatistics
from lib.analysis.fourier import Frequencies
from lib.analysis.recording import record
from lib.models import vit


class Given:
    """Normalised images on the device, as a source."""
    name = "random images"

    def __init__(self, images: torch.Tensor):
        self.all = images

    def __len__(self) -> int:
        return len(self.all)

    def images(self, indices: torch.Tensor) -> torch.Tensor:
        return self.all[indices.to(self.all.device)]


def main(arguments: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--model", default="vit_base", help="size of the network")
    parser.add_argument("--image-size", type=int, default=224, help="pixels on a side")
    parser.add_argument("--patch-size", type=int, default=16, help="pixels on a side of a patch")
    parser.add_argument("--images", type=int, default=512, help="how many")
    parser.add_argument("--batch-size", type=int, default=64, help="images at a time")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/analysis.json"), help="JSON file")
    a = parser.parse_args(arguments)
    a.device = pick(a.device)
    torch.manual_seed(0)
    backbone = vit.init_xavier(vit.create(a.model, image_size=a.image_size, patch_size=a.patch_size)).to(a.device).eval()
    images, found = torch.randn(a.images, 3, a.image_size, a.image_size, device=a.device), {}

    def bare() -> None:
        with torch.no_grad():
            for batch in images.split(a.batch_size):
                backbone.forward_features(batch)

    def course() -> None:
        found["course"] = record(backbone, Given(images), [AttentionStatistics(), Frequencies()], batch_size=a.batch_size)

    def plain() -> None:
        batches = [analyse(backbone, batch) for batch in images.split(a.batch_size)]
        found["plain"] = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}

    times = interleaved({"bare": bare, "course": course, "plain": plain}, a.device, a.rounds)
    median = {name: statistics.median(values) for name, values in times.items()}
    differ = {name: (found["course"][name].double().cpu() - values.double()).abs().max().item()
              for name, values in found["plain"].items()}
    results = {"about": about(a.device), "model": a.model, "image_size": a.image_size, "images": a.images,
               "batch_size": a.batch_size, "seconds": times,
               "course_over_bare": median["course"] / median["bare"], "plain_over_course": median["plain"] / median["course"],
               "plain_analysis_over_course_analysis":
                   (median["plain"] - median["bare"]) / max(median["course"] - median["bare"], 1e-9),
               "largest_difference": differ}
    write(a.out, results)
    print(f"the course's analysis takes {results['course_over_bare']:.2f} times the bare forward pass, the plain one "
          f"{results['plain_over_course']:.1f} times the course's; largest differences "
          + ", ".join(f"{name} {value:.1e}" for name, value in differ.items()))
    return results


if __name__ == "__main__":
    main()
