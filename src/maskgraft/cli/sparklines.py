"""The course of a number in one line of characters, over all steps however many they are."""

import math

_BLOCKS, _PLAIN = "▁▂▃▄▅▆▇█", "_.-~=+*#"


class Course:
    """A number as it went: at most `width` means, each over more and more steps as they come."""

    def __init__(self, width: int = 40) -> None:
        self.width, self.size = width, 1
        self.sums: list[tuple[float, int]] = []
        self.last: float | None = None
        self.first: float | None = None

    def add(self, value: float | None) -> None:
        """The next value; what is not finite is left out."""
        if value is None or not math.isfinite(value):
            return
        self.first = value if self.first is None else self.first
        self.last = value
        if self.sums and self.sums[-1][1] < self.size:
            total, count = self.sums[-1]
            self.sums[-1] = total + value, count + 1
        else:
            self.sums.append((value, 1))
        if len(self.sums) > self.width:
            pairs = [self.sums[place : place + 2] for place in range(0, len(self.sums), 2)]
            self.sums = [(sum(one for one, _ in pair), sum(count for _, count in pair)) for pair in pairs]
            self.size *= 2

    def line(self, *, log: bool = False, plain: bool = False) -> str:
        """The course as characters from lowest to highest; `plain` ones for terminals that know no others."""
        marks = _PLAIN if plain else _BLOCKS
        means = [total / count for total, count in self.sums]
        if log and min(means, default=0) > 0:
            means = [math.log(mean) for mean in means]
        low, high = min(means, default=0.0), max(means, default=0.0)
        if high - low < 1e-12:
            return marks[0] * len(means)
        return "".join(marks[min(int((mean - low) / (high - low) * len(marks)), len(marks) - 1)] for mean in means)
