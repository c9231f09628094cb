"""A text whose tokens are coloured by their uncertainty, for the terminal and as HTML."""

from collections.abc import Iterator, Sequence
from html import escape

from rich.text import Text

from blob_pyro.diagnostics.predictive import Values, as_numpy

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title></head>
<body><p style="white-space: pre-wrap; color: black; background: white">{spans}</p></body></html>
"""


def color_tokens(tokens: Sequence[str], uncertainty: Values, *, maximum: float) -> Text:
    """Colour tokens for the terminal, from white (certain) to red.

    Parameters
    ----------
    tokens
        The text in pieces.  What a terminal would obey rather than show is replaced.
    uncertainty
        One number a token, such as nats.
    maximum
        What is shown as fully red; the same for texts that shall be compared.

    Returns
    -------
    rich.text.Text
        For ``rich.print``.

    Raises
    ------
    ValueError
        If there is not one number a token, or ``maximum`` is not positive.

    Examples
    --------
    >>> color_tokens(["no", " idea"], [0.0, 2.0], maximum=2.0).spans
    [Span(0, 2, 'black on #ffffff'), Span(2, 7, 'black on #ff4040')]
    """
    colored = _colored(tokens, uncertainty, maximum)
    return Text().append_tokens(
        (_printable(token), f"black on {color}") for token, _, color in colored
    )


def tokens_html(
    tokens: Sequence[str], uncertainty: Values, *, maximum: float, title: str = "Uncertainty"
) -> str:
    """Write coloured tokens as an HTML page, each token with its number as a tooltip.

    Parameters
    ----------
    tokens, uncertainty, maximum
        See :func:`color_tokens`.
    title
        Title of the page; like the tokens it is escaped.

    Returns
    -------
    str
        A whole page that loads nothing.

    Raises
    ------
    ValueError
        As :func:`color_tokens`.

    Examples
    --------
    >>> "&lt;script&gt;" in tokens_html(["<script>"], [0.1], maximum=1.0)
    True
    """
    spans = "".join(
        f'<span style="background: {color}" title="{value:.3f}">{escape(token)}</span>'
        for token, value, color in _colored(tokens, uncertainty, maximum)
    )
    return _PAGE.format(title=escape(title), spans=spans)


def _colored(
    tokens: Sequence[str], uncertainty: Values, maximum: float
) -> Iterator[tuple[str, float, str]]:
    values = as_numpy(uncertainty)
    if values.shape != (len(tokens),):
        raise ValueError(f"uncertainty has shape {values.shape} but there are {len(tokens)} tokens")
    if not maximum > 0:
        raise ValueError(f"maximum={maximum} must be positive; give the largest number to be shown")
    for token, value in zip(tokens, values.tolist(), strict=True):
        share = min(max(value / maximum, 0.0), 1.0)
        other = round(255 - share * (255 - 64))
        yield token, value, f"#ff{other:02x}{other:02x}"


def _printable(token: str) -> str:
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in token)
