from __future__ import annotations

from pathlib import Path

from blob_pyro.cli.app import settings_page

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"


def test_the_page_has_what_the_settings_say() -> None:
    assert PAGE.read_text() == settings_page() + "\n", "run: blob-pyro settings > docs/settings.md"
