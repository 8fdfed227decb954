"""How fast each objective trains, in one run: `python tests/benchmarks/training.py --out results.json`.

Of each objective: images a second, compiled and not, the views' share of a step, peak memory beside the plan's estimate, and
model-FLOP utilisation: operations of the plan a second, over those of a large matrix product on the same device. And how
plain_training.py, each objective as its paper's pseudocode reads, stands beside it.
"""
import argparse
import statistics
from pathlib import Path

import torch
from common import Noise, about, interleaved, matmul_rate, median_ratio, pick, write
from plain_training import LOSSES, Plain, views

from lib.training.plan import Assumptions, plan
from lib.training.recipes import OBJECTIVES, recipe
from lib.training.trainer import Trainer

HEADS = dict(hidden=32, dim=16, bottleneck=16, prototypes=32, decoder_dim=16, decoder_depth=1, decoder_heads=2, local_size=16)


def measure(objective: str, a: argparse.Namespace, rate: float) -> dict:
    """One objective: seconds of each round, and what follows from their medians."""
    changes = dict(model=a.model, image_size=a.image_size, patch_size=a.patch_size, batch_size=a.batch_size, device=a.device,
                   data="shapes", images=8 * a.batch_size, compile=False)
    changes |= {"classes": 1000} if objective == "supervised" else {}
    if a.small_heads:
        changes |= {name: value for name, value in HEADS.items() if hasattr(recipe(objective, "paper"), name)}
    r, source = recipe(objective, "paper", **changes), Noise(8 * a.batch_size, a.image_size, a.device)
    eager = Trainer(r, source)
    works = {"eager": lambda: eager.train_step(1), "views": lambda: eager.prepare(1)}
    expected = plan(r, Assumptions(gpus=1))
    result = {"batch_size": r.batch_size, "flops_per_image": expected.flops, "estimated_bytes": sum(expected.memory.values())}
    if a.device == "cuda":
        works["eager"]()                                           # before the compiled one takes memory too
        torch.cuda.reset_peak_memory_stats()
        works["eager"]()
        result["peak_bytes"] = torch.cuda.max_memory_allocated()
    if a.compile:
        compiled = Trainer(recipe(objective, "paper", **changes | {"compile": True}), source)
        works["compiled"] = lambda: compiled.train_step(1)
    if a.plain and type(eager.objective) in LOSSES:
        plain, given = Plain(eager.objective, bf16=a.device == "cuda"), eager.prepare(1)
        images = source.images(eager.batch_indices(1))
        works |= {"plain": lambda: plain.step(given), "plain views": lambda: views(eager.objective, images)}
    times = interleaved(works, a.device, a.rounds)
    result["seconds"] = times
    for name in [name for name in ("eager", "compiled") if name in times]:
        step = statistics.median(times[name])
        result[name] = {"images_per_second": r.batch_size / step, "views_share": statistics.median(times["views"]) / step,
                        "utilisation": expected.flops * r.batch_size / step / rate}
    if a.compile:
        result["compiled_over_eager"] = median_ratio(times["eager"], times["compiled"])
    if "plain" in times:
        own, plain = ([whole - part for whole, part in zip(times["eager"], times["views"], strict=True)], times["plain"])
        both = [step + made for step, made in zip(plain, times["plain views"], strict=True)]
        result["plain_over_course"] = {"whole": median_ratio(both, times["eager"]), "step": median_ratio(plain, own),
                                       "views": median_ratio(times["plain views"], times["views"])}
    return result


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
        print(f"{objective:<11}" + "; ".join(
            f"{name} {found[name]['images_per_second']:,.1f} images/s, views {found[name]['views_share']:.0%} of the step, "
            f"{found[name]['utilisation']:.0%} of the matmul rate" for name in ("eager", "compiled") if name in found)
            + (f"; compiled / eager {found['compiled_over_eager']:.2f}" if a.compile else "")
            + "".join(f"; {part}: the plain way takes {ratio:.1f} times as long"
                      for part, ratio in found.get("plain_over_course", {}).items()), flush=True)
    return results


if __name__ == "__main__":
    main()
