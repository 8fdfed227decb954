"""What the benchmarks share: a clock that waits for the device, the device's own rate, and a file for the results."""
import datetime
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from lib.training.trainer import pick_device

HERE = Path(__file__).parent


class Noise:
    """A source of random images, held on a device, so that no benchmark waits for a disk."""
    name, split = "noise", "train"

    def __init__(self, count: int, size: int, device: str, classes: int = 10):
        generator = torch.Generator().manual_seed(0)
        self.size, self.classes = size, [str(k) for k in range(classes)]
        self.all = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator).to(device)

    def __len__(self) -> int:
        return len(self.all)

    def images(self, indices: torch.Tensor) -> torch.Tensor:
        return self.all[indices.to(self.all.device)]

    def labels(self, indices: torch.Tensor) -> torch.Tensor:
        return indices % len(self.classes)


def pick(name: str) -> str:
    """The device that a word names. On a CPU everything runs on one thread, for `seconds`."""
    device = pick_device(name)
    if device == "cpu":
        torch.set_num_threads(1)
    return device


def seconds(work: Callable[[], object], device: str) -> float:
    """How long one call takes, until the device has done it; on a CPU its processor time, so that other work does not count."""
    if device == "cpu":
        begun = time.process_time()
        work()
        return time.process_time() - begun
    torch.cuda.synchronize()
    begun = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - begun


def interleaved(works: dict[str, Callable[[], object]], device: str, rounds: int) -> dict[str, list[float]]:
    """Seconds of each work in each round, after one round that does not count. Taking turns, all meet the same machine."""
    for work in works.values():
        work()
    times = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            times[name].append(seconds(work, device))
    return times


def median_ratio(slow: list[float], fast: list[float]) -> float:
    """How many times as long the first takes: the median over rounds, each with its own."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def matmul_rate(device: str, bf16: bool, size: int, rounds: int = 10) -> float:
    """FLOP/s of a square matrix product: the best the device does, against which utilisation is measured."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16 if bf16 else torch.float32) for _ in range(2))
    times = interleaved({"product": lambda: a @ b}, device, rounds)["product"]
    return 2 * size**3 / statistics.median(times)


def about(device: str) -> dict:
    """Where and when this was measured, and how, but for the file that it is written to."""
    out = sys.argv.index("--out") if "--out" in sys.argv else len(sys.argv)
    try:
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True).stdout
    except OSError:                                                # no git on this machine
        commit = ""
    return {"device": torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} thread(s), "
                                                                            f"{platform.machine()}",
            "date": datetime.date.today().isoformat(), "torch": torch.__version__, "commit": commit.strip(),
            "command": " ".join(["python", *sys.argv[:out], *sys.argv[out + 2:]])}


def write(path: Path, results: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")
