"""Every alert has a section on the page for the person on call."""

from __future__ import annotations

import re
from typing import get_args

from serving.monitoring.checks import Kind
from tests.paths import ROOT


def test_every_alert_has_a_section_and_a_first_step() -> None:
    text = (ROOT / "docs" / "operate.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## (.+)\n((?:(?!^## ).*\n?)*)", text, flags=re.MULTILINE))
    assert len(get_args(Kind)) == 9
    for kind in get_args(Kind):
        assert kind in sections, kind
        assert "\n1. " in sections[kind], f"{kind}: no first step"
