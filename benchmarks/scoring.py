"""How often an answer was right: over made faults the cause comes first, over healthy things nothing is said."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Score:
    """How many faults there were, how many had their cause first; how many healthy things, how many were silent."""

    faults: int
    right: int
    healthy: int
    quiet: int

    def reaches(self, share: float) -> bool:
        """Whether that share of the causes came first, and every healthy thing was silent."""
        return self.right >= share * self.faults and self.quiet == self.healthy


def counted(found: Sequence[Any], *, healthy: str, what: str) -> Score:
    """Print what was missed and the score; `healthy` is what is expected of `what`, which have no fault."""
    for one in found:
        if not one.right:
            print(f"missed: {one.fault.name}: {one.found}, not {one.fault.expected}: {one.message[:160]}")
    faulty = [one.right for one in found if one.fault.expected != healthy]
    sound = [one.right for one in found if one.fault.expected == healthy]
    score = Score(len(faulty), sum(faulty), len(sound), sum(sound))
    share = score.right / max(1, score.faults)
    print(f"faults: the first finding is the cause in {score.right} of {score.faults} ({share:.1%})")
    print(f"healthy {what}: {score.quiet} of {score.healthy} without a finding above info")
    return score
