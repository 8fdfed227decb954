"""A claim of a paper, as data, and what comes out when it is measured."""
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace

from lib.analysis.claims.intervals import over_seeds
from lib.analysis.claims.lab import Lab, label
from lib.analysis.claims.verdict import NOT_HERE, Check, NotMeasured, together, verdict
from lib.evaluation.report import commit

BOTH = ("shapes", "imagenette")        # the worlds in which networks ship


@dataclass(frozen=True)
class Claim:
    """`measure(lab, *networks)` yields the checks; it raises NotMeasured where something it needs is not there.

    Where there is no such function, `reason` says why. `control` puts other networks, an untrained one among them, in the place
    of `networks`: where the control passes the same checks, what the claim says is true, and not a sign of what was learned.
    """
    id: str
    paper: str
    figure: str
    statement: str                    # what the paper says
    metric: str                       # how it is measured
    expected: str                     # the relation, with the paper's numbers where there are any
    scale: str                        # what it takes where it does not show here
    measure: Callable[..., Iterator[Check]] | None = None
    networks: tuple[str, ...] = ()
    control: tuple[str, ...] = ()
    others: tuple[tuple[str, ...], ...] = ()      # the same of other networks; no part of the verdict
    worlds: tuple[str, ...] = ("shapes",)
    stand_in: str = ""                # where what is measured is not what the paper measured: in how far
    reason: str = ""


def collect(claim: Claim, lab: Lab, networks: tuple[str, ...]) -> tuple[list[Check], str]:
    """The checks of a claim for some networks, and what was missing when they ended early ("" if nothing)."""
    checks = []
    try:
        for check in claim.measure(lab, *networks):
            checks.append(check)
    except NotMeasured as missing:
        return checks, str(missing)
    return checks, ""


def measured(claim: Claim, lab: Lab) -> dict:
    """Everything about a claim, plain data: what it says, checks, control, verdict, and how it was made.

    "reads" is what the checks alone would say, of undertrained networks too; "" where something is missing.
    """
    begun = time.perf_counter()
    said = {k: v for k, v in asdict(claim).items() if k not in ("measure", "control", "others", "networks")}
    said |= {"world": lab.world, "images": lab.images, "networks": list(claim.networks)}
    if claim.measure is None:
        found = {"verdict": NOT_HERE, "why": claim.reason, "reads": "", "checks": [], "control": None, "others": [],
                 "trainings": None}
    else:
        checks, missing = collect(claim, lab, claim.networks)
        short = {} if missing else lab.undertrained(claim.networks)
        result, why = verdict(checks, missing, {label(name): why for name, why in short.items()})
        reads = together([check.reading for check in checks]) if checks and not missing else ""
        found = {"verdict": result, "why": why, "reads": reads, "checks": [plain(check) for check in checks],
                 "control": beside(claim, lab, claim.control) if claim.control and not missing else None,
                 "others": [beside(claim, lab, networks) for networks in claim.others if not missing]}
        found["trainings"] = None if missing else over_trainings(claim, lab, checks)
    return said | found | {"commit": commit(), "date": time.strftime("%Y-%m-%d"),
                           "seconds": round(time.perf_counter() - begun, 1)}


def beside(claim: Claim, lab: Lab, networks: tuple[str, ...]) -> dict:
    """The same checks with other networks: "reads" is what their intervals say, "" where something is missing."""
    checks, missing = collect(claim, lab, networks)
    return {"networks": list(networks), "checks": [plain(check) for check in checks], "missing": missing,
            "undertrained": lab.undertrained(networks),
            "reads": "" if missing else together([check.reading for check in checks])}


def over_trainings(claim: Claim, lab: Lab, first: list[Check]) -> dict | None:
    """The checks over all seeds of which the claim's networks ship, the first among them: what another training would say.

    "seeds", "values" of every check for each of them, and checks and verdict of their means, with `over_seeds`' intervals.
    None where there is one seed.
    """
    labs = {0: lab} | {seed: lab.again(seed) for seed in lab.seeds(claim.networks)}
    further = {seed: collect(claim, labs[seed], claim.networks) for seed in labs if seed}
    whole = {0: first} | {seed: checks for seed, (checks, missing) in further.items() if not missing}
    if len(whole) < 2:
        return None
    short = {f"{label(name)} of seed {seed}": why for seed in whole
             for name, why in labs[seed].undertrained(claim.networks).items()}
    rows = list(zip(*whole.values(), strict=True))                 # (checks, seeds)
    checks = [replace(row[0], **dict(zip(("value", "low", "high"), over_seeds([(c.value, c.low, c.high) for c in row]),
                                         strict=True))) for row in rows]
    result, why = verdict(checks, "", short)
    return {"seeds": list(whole), "values": [[check.value for check in row] for row in rows],
            "checks": [plain(check) for check in checks], "verdict": result, "why": why}


def plain(check: Check) -> dict:
    return asdict(check) | {"reading": check.reading}
