"""A gang of two workers that have the frameworks' environment, as under torchrun; kept for all tests here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from motet.testing import Gang

NUM_WORKERS = 2


@pytest.fixture(scope="session")
def framework_gang() -> Iterator[Gang]:
    """Return the gang. Frameworks take seconds to import: its workers do it once."""
    with Gang(NUM_WORKERS, timeout_seconds=120, environment={"OMP_NUM_THREADS": "1", "CI": ""}) as gang:
        yield gang


@pytest.fixture
def equal_alone(framework_gang: Gang, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Return what trains loops together and requires of each what it gives alone."""

    def must_equal_alone(*names: str, **options: Any) -> dict[str, Any]:
        for name in names:
            skip_without(name)
        reports = framework_gang.run(
            "tests.integrations.harness:must_equal_alone", names, folder=str(tmp_path), **options
        )
        return reports[0]  # type: ignore[no-any-return]

    return must_equal_alone


def skip_without(name: str) -> None:
    """Skip a test whose loop needs a framework that is not installed."""
    needed = {"loops_lightning": "lightning", "loops_fabric": "lightning"}
    needed |= {"loops_accelerate": "accelerate", "loops_hugging_face": "transformers"}
    module = needed.get(name.partition(":")[0])
    if module is not None and find_spec(module) is None:
        pytest.skip(f"{module} is not installed: pip install -c constraints.txt -e '.[lightning,huggingface]'")
