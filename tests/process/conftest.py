"""The forking helper is made once for all tests of this folder."""

from collections.abc import Iterator

import pytest
from deployment import Zygote, zygote


@pytest.fixture(scope="session")
def forks() -> Iterator[Zygote]:
    with zygote() as made:
        yield made
