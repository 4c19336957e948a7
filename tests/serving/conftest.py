"""What do several files of this room's tests share?"""

from __future__ import annotations

import pytest

from storage.settings import Settings


@pytest.fixture(scope="session")
def judged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, str]:
    """The settings and the id of a small judged night; its lake may grow, its folder stays."""
    from tests.serving.nights import make_night  # loads torch, which most of the room's tests do without

    return make_night(tmp_path_factory.mktemp("home"))
