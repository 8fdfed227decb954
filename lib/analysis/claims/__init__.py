"""Every claim of the three papers as an executable check: `python -m lib.analysis claims`.

`CLAIMS` is the list; `verdict` holds the rules from an interval to a verdict, `ledger` measures and writes. One claim:

    from lib.analysis.claims import CLAIMS, Lab, measured
    measured(CLAIMS["park-2"], Lab("shapes"))["verdict"]
"""
from lib.analysis.claims import park, raghu, shekhar
from lib.analysis.claims.claim import Claim, measured
from lib.analysis.claims.lab import Lab

__all__ = ["CLAIMS", "Claim", "Lab", "measured"]
CLAIMS = {claim.id: claim for claim in [*park.CLAIMS, *raghu.CLAIMS, *shekhar.CLAIMS]}
