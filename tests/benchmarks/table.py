"""The README's table of benchmarks, from tests/benchmarks/results: `python tests/benchmarks/table.py`.

How many times as long something else takes as the course does, each ratio from one run; where a GPU was measured, also images
a second and utilisation.
"""
import json
from pathlib import Path

from lib.evaluation.report import put_into_readme

HERE = Path(__file__).resolve().parent
NAMES = {"mocov3": "MoCo v3", "dino": "DINO", "simmim": "SimMIM", "mae": "MAE", "hybrid": "hybrid", "supervised": "supervised"}


def ratios(found: dict) -> list[tuple[str, str, float]]:
    """(what is measured, what it is compared with, how many times as long that takes), of one file."""
    if "jpeg_over_store" in found:
        return [(f"reading images of {found['size']} px", "JPEG files", found["jpeg_over_store"])]
    if "torchvision_over_course" in found:
        what = f"two views of {found['size']} px"
        return [(what, words, found[key]) for key, words in (("torchvision_over_course", "torchvision, image by image"),
                                                             ("kornia_over_course", "kornia")) if key in found]
    if "course_over_bare" in found:
        what = f"forward pass with attention and Fourier analysis, {found['model']}, {found['image_size']} px"
        return [(what, "the forward pass alone", 1 / found["course_over_bare"]),
                (what, "the plain procedure", found["plain_over_course"])]
    size = f"{found['model']}, {found['image_size']} px"
    return [(f"a step of {NAMES[name]} and its views, {size}", "the plain way", one["plain_over_course"]["whole"])
            for name, one in found["objectives"].items() if "plain_over_course" in one]


def speeds(found: dict) -> list[tuple[str, str, float, float]]:
    """(what is trained, how, images a second, share of the matrix rate), of one file from a GPU."""
    if "objectives" not in found or found["about"]["device"].startswith("CPU"):
        return []
    size = f"{found['model']}, {found['image_size']} px"
    return [(f"{NAMES[name]}, {size}", way, one[way]["images_per_second"], one[way]["utilisation"])
            for name, one in found["objectives"].items() for way in ("eager", "compiled") if way in one]


def table(folder: Path = HERE / "results") -> str:
    """Markdown, of all files in the folder. Of a processor no images a second: they would say more of its other work."""
    files = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    where = {id(found): f"{found['about']['device']}, {found['about']['date']}" for found in files}
    lines = ["| the course's | beside it | which takes so many times as long | where, when |", "|---|---|---|---|"]
    lines += [f"| {what} | {other} | {ratio:.{2 if ratio < 10 else 0}f} | {where[id(found)]} |"
              for found in files for what, other, ratio in ratios(found)]
    fast = [f"| {what} | {way} | {rate:,.0f} | {share:.0%} | {where[id(found)]} |"
            for found in files for what, way, rate, share in speeds(found)]
    head = ["", "| training | | images a second | of the matrix rate | where, when |", "|---|---|---|---|---|"]
    return "\n".join([*lines, *(head + fast if fast else [])]) + "\n"


if __name__ == "__main__":
    put_into_readme("benchmarks", table())
