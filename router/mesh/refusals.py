"""Who was refused and why: counted for ever, remembered for a while, logged sparingly.

Strangers can make us refuse as often as they like, so everything here is bounded.
"""

from collections import deque
from dataclasses import dataclass

MAX_RECENT = 64
MAX_REASONS = 64
LOG_AGAIN_S = 60.0
MAX_LINES_PER_MINUTE = 20
WARN_FOR_S = 600.0

_WORTH_A_WARNING = ("wrong-secret", "encryption-mismatch", "bad-version", "cloned-identity")
"""What an operator can mend. The rest is noise of the internet."""


@dataclass(frozen=True, slots=True)
class Refusal:
    host: str
    reason: str
    text: str
    at: float


class Refusals:
    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.recent: deque[Refusal] = deque(maxlen=MAX_RECENT)
        self._logged: deque[Refusal] = deque(maxlen=MAX_LINES_PER_MINUTE)

    def note(self, host: str, reason: str, text: str, now: float) -> bool:
        """Count it. Returns whether it deserves a line in the log."""
        if reason in self.counts or len(self.counts) < MAX_REASONS:
            self.counts[reason] = self.counts.get(reason, 0) + 1
        refusal = Refusal(host, reason, text, now)
        self.recent.append(refusal)
        while self._logged and now >= self._logged[0].at + LOG_AGAIN_S:
            self._logged.popleft()
        logged = {(one.host, one.reason) for one in self._logged}
        if (host, reason) in logged or len(self._logged) == MAX_LINES_PER_MINUTE:
            return False
        self._logged.append(refusal)
        return True

    def warnings(self, now: float) -> list[str]:
        """A sentence for each host and reason of the last minutes that an operator can mend."""
        newest: dict[tuple[str, str], Refusal] = {}
        for refusal in self.recent:
            if refusal.reason in _WORTH_A_WARNING and now < refusal.at + WARN_FOR_S:
                newest[refusal.host, refusal.reason] = refusal
        return [
            f"refused {refusal.host} {now - refusal.at:.0f} s ago: {refusal.text}"
            for refusal in newest.values()
        ]
