"""What users are notified of: frozen weights that are held once, or could not be."""

from __future__ import annotations

from collections.abc import Callable

from motet.frozen.register import Register, Saving
from motet.memory.footprint import size_text

BUSY = (
    "has frozen weights that other jobs may hold as well, and a thread that computes at the end of each turn: they are "
    "shared once it waits."
)
NOT_OURS = "lie in memory that is not torch's own (NumPy's, or a mapped file), so they stay where they are."


class SavingNotices:
    """Notifies of what is saved, whenever that has become more."""

    def __init__(self, notice: Callable[[str | None, str], None]) -> None:
        self._notice = notice
        self._saved = self._kept = Saving(0, 0, 0)

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

    def no_room(self, error: str) -> None:
        """Notify that memory has run out."""
        self._notice(None, f"equal frozen weights are not shared, there is no memory to write them to: {error}")


def saved_text(saving: Saving) -> str:
    """Return the line that says what is saved."""
    return (
        f"{saving.num_jobs} jobs share {size_text(saving.num_bytes)} of frozen weights: "
        f"{size_text(saving.saved_bytes)} saved"
    )
