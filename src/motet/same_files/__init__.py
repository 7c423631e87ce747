"""Two jobs of one run that write the same file: seen, whoever writes, and reported before a job loads another's model.

From bottom to top: `ledger` (who has written what), `paths` (which of them matter), `libraries` (who writes past
Python), `hook` (what Python reports), `children` (what forked processes report), `outputs` (what arguments show before
the start), `notices` (what the user reads), `watch`.
"""

from __future__ import annotations

from motet.same_files.watch import SameFiles, about_to_start, about_to_write, aside, report_and_write

__all__ = ["SameFiles", "about_to_start", "about_to_write", "aside", "report_and_write"]
