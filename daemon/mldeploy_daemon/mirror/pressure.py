"""How much of the time some process of this machine waited for a processor.

By the kernel's pressure stall information, as the difference between two looks: its own averages are ten
seconds late. Where the kernel has none, by how busy the processors are with what is not niced (as shadows
and the mirror are): its last tenth is taken for the pressure. The load average is not used: it takes a
minute.
Source: Linux, Documentation/accounting/psi.rst; proc(5), /proc/stat.
"""

from __future__ import annotations

from pathlib import Path

PSI, STAT = Path("/proc/pressure/cpu"), Path("/proc/stat")
_BUSY = 0.9


class Pressure:
    """Call `since_last` at every look; the first one says 0."""

    def __init__(self, psi: Path = PSI, stat: Path = STAT) -> None:
        self._psi, self._stat = psi, stat
        self._waited: tuple[float, float] | None = None  # seconds of waiting, and the clock
        self._worked: tuple[int, int] | None = None  # ticks busy, and in all

    def since_last(self, now: float) -> float:
        """The share of the time since the last look, 0 to 1; `now` in seconds."""
        waited = self._stalled()
        if waited is None:
            return self._busy()
        before, self._waited = self._waited, (waited, now)
        if before is None or now <= before[1]:
            return 0.0
        return min(1.0, max(0.0, (waited - before[0]) / (now - before[1])))

    def _stalled(self) -> float | None:
        try:
            for line in self._psi.read_text().splitlines():
                if line.startswith("some "):
                    return int(line.rpartition("total=")[2]) / 1e6
        except (OSError, ValueError):
            return None
        return None

    def _busy(self) -> float:
        try:
            fields = [int(field) for field in self._stat.read_text().split("\n", 1)[0].split()[1:9]]
            user, nice, system, idle, iowait, irq, softirq, steal = fields
        except (OSError, ValueError):
            return 0.0
        busy = user + system + irq + softirq + steal
        before, self._worked = self._worked, (busy, busy + nice + idle + iowait)
        if before is None or self._worked[1] <= before[1]:
            return 0.0
        share = (busy - before[0]) / (self._worked[1] - before[1])
        return max(0.0, share - _BUSY) / (1 - _BUSY)
