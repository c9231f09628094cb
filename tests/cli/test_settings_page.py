from __future__ import annotations

from pathlib import Path

from blob_pyro.cli.settings import page

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"


def test_the_page_has_what_the_settings_say() -> None:
    assert PAGE.read_text() == page(), "run: blob-pyro settings > docs/settings.md"
