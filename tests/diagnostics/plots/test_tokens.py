from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st

from blob_pyro.diagnostics import color_tokens, tokens_html


class Page(HTMLParser):
    """Collects the tags of a page and the text of its paragraph."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.colors: list[Any] = []
        self.text: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        if tag == "span":
            self.colors.append(dict(attrs)["style"])

    def handle_data(self, data: str) -> None:
        if "p" in self.tags:
            self.text.append(data)


@given(st.lists(st.text(min_size=1), min_size=1, max_size=6), st.text())
def test_any_text_is_shown_as_it_is_and_never_as_markup(tokens: list[str], title: str) -> None:
    page = Page(tokens_html(tokens, [0.1] * len(tokens), maximum=1.0, title=title))
    assert page.tags == ["html", "head", "meta", "title", "body", "p", *["span"] * len(tokens)]
    if "\r" not in "".join(tokens):
        assert "".join(page.text).strip("\n") == "".join(tokens).strip("\n")


def test_colours_go_from_white_to_red() -> None:
    values = torch.tensor([0.0, 1.0, 2.0, 5.0], requires_grad=True)
    page = Page(tokens_html("abcd", values, maximum=2.0))
    colors = ["#ffffff", "#ffa0a0", "#ff4040", "#ff4040"]
    assert page.colors == [f"background: {color}" for color in colors]
    text = color_tokens("abcd", values, maximum=2.0)
    assert [str(span.style) for span in text.spans] == [f"black on {color}" for color in colors]


def test_a_terminal_is_told_nothing_but_colours() -> None:
    text = color_tokens(["\x1b[2J", "\x9b31m", " fine\n", "[red]"], [0.0] * 4, maximum=1.0)
    assert text.plain == "\ufffd[2J\ufffd31m fine\n[red]"
