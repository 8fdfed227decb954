"""How fast each objective trains, in one run: `python tests/benchmarks/training.py --out results.json`.

Of each objective: images a second, compiled and not, the views' share of a step, peak memory beside the plan's estimate, and
model-FLOP utilisation: operations of the plan a second, over those of a large matrix product on the same device. And how
plain_training.py, each objective as its paper's pseudocode reads, stands beside it.

Where the device's memory does not do, the batch is halved, and the file says at which sizes it did not; an objective that
fails otherwise is noted, and the others go on. The file is written after each.
"""
import argparse
import gc
import statistics
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
from common import Noise, about, interleaved, matmul_rate, median_ratio, pick, write
from plain_training import LOSSES, Plain, views

from lib.training.plan import Assumptions, plan
from lib.training.recipes import OBJECTIVES, recipe
from lib.training.trainer import Trainer

HEADS = dict(hidden=32, dim=16, bottleneck=16, prototypes=32, decoder_dim=16, decoder_depth=1, decoder_heads=2, local_size=16)


def chosen(objective: str, a: argparse.Namespace, batch_size: int) -> dict:
    """What is changed in the recipe of the paper."""
    changes = dict(model=a.model, image_size=a.image_size, patch_size=a.patch_size, batch_size=batch_size, device=a.device,
                   data="shapes", images=8 * batch_size, compile=False)
    changes |= {"classes": 1000} if objective == "supervised" else {}
    if a.small_heads:
        changes |= {name: value for name, value in HEADS.items() if hasattr(recipe(objective, "paper"), name)}
    return changes


def speed(objective: str, a: argparse.Namespace, batch_size: int, rate: float) -> dict:
    """The course's own steps: seconds of each round, and what follows from their medians."""
    changes, source = chosen(objective, a, batch_size), Noise(8 * batch_size, a.image_size, a.device)
    r = recipe(objective, "paper", **changes)
    eager = Trainer(r, source)
    works = {"eager": lambda: eager.train_step(1), "views": lambda: eager.prepare(1)}
    expected = plan(r, Assumptions(gpus=1))
    result = {"batch_size": batch_size, "flops_per_image": expected.flops, "estimated_bytes": sum(expected.memory.values())}
    if a.device == "cuda":
        works["eager"]()                                           # before the compiled one takes memory too
        torch.cuda.reset_peak_memory_stats()
        works["eager"]()
        result["peak_bytes"] = torch.cuda.max_memory_allocated()
    if a.compile:
        torch.compiler.reset()                                     # what was compiled before counts towards its limit
        compiled = Trainer(recipe(objective, "paper", **changes | {"compile": True}), source)
        works["compiled"] = lambda: compiled.train_step(1)
    times = interleaved(works, a.device, a.rounds)
    result["seconds"] = times
    for name in [name for name in ("eager", "compiled") if name in times]:
        step = statistics.median(times[name])
        result[name] = {"images_per_second": batch_size / step, "views_share": statistics.median(times["views"]) / step,
                        "utilisation": expected.flops * batch_size / step / rate}
    if a.compile:
        result["compiled_over_eager"] = median_ratio(times["eager"], times["compiled"])
    return result


def beside_plain(objective: str, a: argparse.Namespace, batch_size: int) -> dict:
    """The course's eager steps and the plain ones, which begin with the same weights."""
    source = Noise(8 * batch_size, a.image_size, a.device)
    eager = Trainer(recipe(objective, "paper", **chosen(objective, a, batch_size)), source)
    if type(eager.objective) not in LOSSES:
        return {}
    plain, given = Plain(eager.objective, bf16=a.device == "cuda"), eager.prepare(1)
    images = source.images(eager.batch_indices(1))
    times = interleaved({"eager": lambda: eager.train_step(1), "views": lambda: eager.prepare(1),
                         "plain": lambda: plain.step(given), "plain views": lambda: views(eager.objective, images)},
                        a.device, a.rounds)
    own = [whole - part for whole, part in zip(times["eager"], times["views"], strict=True)]
    both = [step + made for step, made in zip(times["plain"], times["plain views"], strict=True)]
    return {"beside_plain": {"batch_size": batch_size, "seconds": times},
            "plain_over_course": {"whole": median_ratio(both, times["eager"]), "step": median_ratio(times["plain"], own),
                                  "views": median_ratio(times["plain views"], times["views"])}}


def largest_batch(work: Callable[[int], dict], name: str, batch_size: int) -> dict:
    """The work at the batch size, or at the half, the quarter, ... for which the device's memory does."""
    failed = []
    while batch_size:
        try:
            return work(batch_size) | ({f"{name}_out_of_memory": failed} if failed else {})
        except RuntimeError as error:                              # torch.OutOfMemoryError, or torch.compile's word for it
            if "out of memory" not in str(error).lower() and "ALLOC_FAILED" not in str(error):
                raise
        finally:
            free()                                                 # here, where no error holds on to what the work had made
        failed.append(batch_size)
        batch_size //= 2
    return {f"{name}_out_of_memory": failed}


def free() -> None:
    """Give back what nobody holds any more, and what compiled code holds."""
    gc.collect()
    if torch.cuda.is_available():
        torch.compiler.reset()
        torch.cuda.empty_cache()


def measure(objective: str, a: argparse.Namespace, rate: float) -> dict:
    """One objective, as far as it goes: an error is noted beside what was found."""
    works = {"course": lambda batch_size: speed(objective, a, batch_size, rate)}
    if a.plain:
        works["plain"] = lambda batch_size: beside_plain(objective, a, batch_size)
    found = {}
    for name, work in works.items():
        try:
            found |= largest_batch(work, name, a.batch_size)
        except Exception as error:                                 # on a machine that is lent, the rest is worth having
            traceback.print_exc()
            found[f"{name}_error"] = (str(error).strip() or type(error).__name__).splitlines()[0]
    return found


def words(found: dict) -> list[str]:
    """What was found of one objective, for people."""
    lines = [f"{found['batch_size']} images a step"] if "batch_size" in found else []
    for name in ("course", "plain"):
        if f"{name}_out_of_memory" in found:
            lines.append(f"{name}: not enough memory for {', '.join(map(str, found[f'{name}_out_of_memory']))} images")
        if f"{name}_error" in found:
            lines.append(f"{name}: {found[f'{name}_error']}")
    lines += [f"{name} {found[name]['images_per_second']:,.1f} images/s, views {found[name]['views_share']:.0%} of the step, "
              f"{found[name]['utilisation']:.0%} of the matmul rate" for name in ("eager", "compiled") if name in found]
    if "compiled_over_eager" in found:
        lines.append(f"compiled / eager {found['compiled_over_eager']:.2f}")
    return lines + [f"{part}: the plain way takes {ratio:.1f} times as long"
                    for part, ratio in found.get("plain_over_course", {}).items()]


def main(arguments: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--objectives", nargs="+", choices=OBJECTIVES, default=list(OBJECTIVES), help="which to train")
    parser.add_argument("--model", default="vit_tiny", help="size of the backbone")
    parser.add_argument("--image-size", type=int, default=224, help="pixels on a side")
    parser.add_argument("--patch-size", type=int, default=16, help="pixels on a side of a patch")
    parser.add_argument("--batch-size", type=int, default=256, help="images a step")
    parser.add_argument("--rounds", type=int, default=10, help="steps of each kind that count")
    parser.add_argument("--small-heads", action="store_true", help="heads of a toy instead of the published ones")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True, help="measure torch.compile too")
    parser.add_argument("--plain", action=argparse.BooleanOptionalAction, default=True, help="measure the plain way too")
    parser.add_argument("--matmul", type=int, default=8192, help="rows of the matrices whose product gives the device's rate")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/training.json"), help="JSON file")
    a = parser.parse_args(arguments)
    a.device = pick(a.device)
    rate = matmul_rate(a.device, bf16=a.device == "cuda", size=a.matmul)
    results = {"about": about(a.device), "model": a.model, "image_size": a.image_size, "patch_size": a.patch_size,
               "precision": "bf16" if a.device == "cuda" else "fp32", "matmul_flops_per_second": rate, "objectives": {}}
    for objective in a.objectives:
        results["objectives"][objective] = found = measure(objective, a, rate)
        write(a.out, results)
        print(f"{objective}: {'; '.join(words(found))}", flush=True)
    return results


if __name__ == "__main__":
    main()
