"""Where ``motet.__init__`` finds `launch`.

To be removed with that line: a module of this name hides the function ``motet.launch`` once it has been imported.
"""

from __future__ import annotations

from motet.launching import launch

__all__ = ["launch"]
