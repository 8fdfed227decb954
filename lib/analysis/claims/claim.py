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

    Where the networks of a claim ship with several seeds, "checks" and verdict are over all of them: networks of the same seed,
    which began with the same weights, are compared. "first" is what the first training alone would say, and "left_out" says
    which seeds lack what was needed. "reads" is what the checks alone would say, of undertrained networks too; "" where
    something is missing. The control is put to the same seeds: as many random networks as there are trained ones.
    """
    begun = time.perf_counter()
    said = {k: v for k, v in asdict(claim).items() if k not in ("measure", "control", "others", "networks")}
    said |= {"world": lab.world, "images": lab.images, "networks": list(claim.networks)}
    if claim.measure is None:
        found = {"verdict": NOT_HERE, "why": claim.reason, "reads": "", "checks": [], "seeds": [], "first": None,
                 "left_out": {}, "control": None, "others": []}
    else:
        checks, missing = collect(claim, lab, claim.networks)
        trainings, left_out = again(claim, lab, claim.networks, checks, [] if missing else lab.seeds(claim.networks))
        found = weighed(claim, lab, trainings, missing) | {"left_out": left_out}
        found["first"] = weighed(claim, lab, {0: checks}) if len(trainings) > 1 else None
        found |= {"control": beside(claim, lab, claim.control, list(trainings)[1:]) if claim.control and not missing else None,
                  "others": [beside(claim, lab, those, lab.seeds(those)) for those in claim.others if not missing]}
    return said | found | {"commit": commit(), "date": time.strftime("%Y-%m-%d"),
                           "seconds": round(time.perf_counter() - begun, 1)}


def again(claim: Claim, lab: Lab, networks: tuple[str, ...], first: list[Check], seeds: list[int],
          ) -> tuple[dict[int, list[Check]], dict[str, str]]:
    """-> {seed: checks} of the first training and of all further ones that have what is needed, {seed: what it lacks}."""
    further = {seed: collect(claim, lab.again(seed), networks) for seed in seeds}
    whole = {seed: checks for seed, (checks, lacking) in further.items() if not lacking}
    return {0: first} | whole, {str(seed): lacking for seed, (_, lacking) in further.items() if lacking}


def over(trainings: dict[int, list[Check]]) -> tuple[list[Check], list[dict]]:
    """Checks of one training or several -> their means, and the same as plain data with "values", one for each seed."""
    rows = list(zip(*trainings.values(), strict=True))             # (checks, seeds)
    ends = [over_seeds([(check.value, check.low, check.high) for check in row]) for row in rows]
    checks = [replace(row[0], text=common(row), value=value, low=low, high=high)
              for row, (value, low, high) in zip(rows, ends, strict=True)]
    return checks, [plain(check) | {"values": [c.value for c in row]} for check, row in zip(checks, rows, strict=True)]


def weighed(claim: Claim, lab: Lab, trainings: dict[int, list[Check]], missing: str = "") -> dict:
    """What the checks of one training or several read together, and the verdict."""
    checks, shown = over(trainings)
    short = {label(name) + (f" of seed {seed}" if seed else ""): why for seed in trainings
             for name, why in lab.again(seed).undertrained(claim.networks).items() if not missing}
    result, why = verdict(checks, missing, short)
    return {"verdict": result, "why": why, "seeds": list(trainings) if checks else [],
            "reads": together([check.reading for check in checks]) if checks and not missing else "", "checks": shown}


def common(row: tuple[Check, ...]) -> str:
    """The text of a check of several trainings; it may name a block that each of them has found for itself."""
    return row[0].text + (" (in the first training)" if len({check.text for check in row}) > 1 else "")


def beside(claim: Claim, lab: Lab, networks: tuple[str, ...], seeds: list[int]) -> dict:
    """The same checks with other networks: "reads" is what their intervals say, "" where something is missing."""
    first, missing = collect(claim, lab, networks)
    trainings, _ = again(claim, lab, networks, first, [] if missing else seeds)
    checks, shown = over(trainings)
    return {"networks": list(networks), "seeds": list(trainings) if checks else [], "checks": shown, "missing": missing,
            "undertrained": lab.undertrained(networks),
            "reads": "" if missing else together([check.reading for check in checks])}


def plain(check: Check) -> dict:
    return asdict(check) | {"reading": check.reading}
