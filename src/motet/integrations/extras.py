"""What to install where an optional package is missing."""

from __future__ import annotations

from motet.errors import UsageError


class MissingExtraError(UsageError, ImportError):
    """A package that this integration needs is not installed."""


def missing(package: str, extra: str, error: ImportError) -> MissingExtraError:
    """Return the error that says what to install. ``error`` is what the import raised."""
    if error.name is not None and error.name.split(".")[0] != package.split(".")[0]:
        return MissingExtraError(f"{package} is installed, but cannot be imported: {error}")
    return MissingExtraError(f"this needs {package}, which is not installed: pip install 'motet[{extra}]'")
