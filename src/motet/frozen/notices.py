"""What users are notified of: frozen weights that are held once, or could not be."""

from __future__ import annotations

from collections.abc import Callable

from motet.frozen.register import Register, Saving
from motet.memory.footprint import size_text

BUSY = (
    "has frozen weights that other jobs may hold as well, and something uses them at the end of each turn (a thread, a "
    "collective under way, a graph that is kept, DLPack, TorchScript). Now and then it is tried again."
)
FAILED = "holds frozen weights by itself that it might share with other jobs"
NOT_OURS = "lie in memory that is not torch's own (NumPy's, or a mapped file), so they stay where they are."


class SavingNotices:
    """Notifies of what is saved, whenever that has become more."""

    def __init__(self, notice: Callable[[str | None, str], None]) -> None:
        self._notice = notice
        self._saved = self._kept = Saving(0, 0, 0)
        self._failed: set[str] = set()

    def notify(self, register: Register) -> None:
        """Notify of what is saved now, if it is more than before."""
        saved, kept = register.saving(), register.kept()
        if saved.saved_bytes > self._saved.saved_bytes:
            self._saved = saved
            self._notice(None, saved_text(saved))
        if kept.saved_bytes > self._kept.saved_bytes:
            self._kept = kept
            size = size_text(kept.num_bytes)
            self._notice(None, f"{kept.num_jobs} jobs hold {size} of equal frozen weights, which {NOT_OURS}")

    def failed(self, job: str, error: str) -> None:
        """Notify that a job could not share what it might, once for each job."""
        if job in self._failed:
            return
        self._failed.add(job)
        self._notice(job, f"{FAILED}: {error}")


def saved_text(saving: Saving) -> str:
    """Return the line that says what is saved."""
    return (
        f"{saving.num_jobs} jobs share {size_text(saving.num_bytes)} of frozen weights: "
        f"{size_text(saving.saved_bytes)} saved"
    )
