"""A straight line that is learned while it is used: recursive least squares that forgets."""

from __future__ import annotations

from dataclasses import dataclass, replace

FORGETS = 0.2  # of what was known, with each measurement, and only of what it speaks of


@dataclass(frozen=True)
class Line:
    """y = a + c·x as believed, and how far a and c may be off, in units of one measurement's noise.

    Forgetting is directional (Kulhavý 1987): measurements at one x move a and c together, the way
    they are believed to err, and leave what is known of other x as sure as it was. Only a second x
    tells the two apart.

    >>> line = Line(a=1.0, c=1.0, aa=10.0, cc=10.0)
    >>> for x, y in 40 * [(1.0, 5.0), (3.0, 9.0)]:
    ...     line = line.seen(x, y)
    >>> round(line.a, 2), round(line.c, 2)
    (3.0, 2.0)
    """

    a: float
    c: float
    aa: float  # variance of a
    cc: float  # variance of c
    ac: float = 0.0  # their covariance

    def at(self, x: float) -> float:
        """The value believed at x."""
        return self.a + self.c * x

    def seen(self, x: float, y: float, noise: float = 1.0) -> Line:
        """The line after y was measured at x; `noise` is that measurement's against others'."""
        reach_a, reach_c = self.aa + self.ac * x, self.ac + self.cc * x
        reach = reach_a + reach_c * x  # variance of what is believed at x
        if reach <= 0:
            return self
        keeps, variance = 1 - FORGETS, noise * noise
        error = (y - self.at(x)) / (keeps * variance + reach)
        # What is forgotten along x before, less what is learned of it.
        change = (FORGETS / reach - 1 / (keeps * variance + reach)) / keeps
        return replace(
            self,
            a=self.a + reach_a * error,
            c=self.c + reach_c * error,
            aa=self.aa + change * reach_a * reach_a,
            cc=self.cc + change * reach_c * reach_c,
            ac=self.ac + change * reach_a * reach_c,
        )
