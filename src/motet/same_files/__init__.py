"""Two jobs of one run that write the same file: seen, whoever writes, and reported before a job loads another's model.

From bottom to top: `ledger` (who has written what), `paths` (which of them matter), `libraries` (who writes past
Python), `hook` (what Python tells), `children` (what forked processes tell), `outputs` (what arguments tell before the
start), `telling` (what the user is told), `watch`.
"""

from __future__ import annotations

from motet.same_files.watch import SameFiles, about_to_start, about_to_write, aside, tell_and_write

__all__ = ["SameFiles", "about_to_start", "about_to_write", "aside", "tell_and_write"]
