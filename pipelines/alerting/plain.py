"""Text from outside made harmless: no markup of any chat, mail or page, no second line, no end of its length.

Symbol names and error texts come from venues and libraries. Whoever can list a market could otherwise write to a
risk desk: `@everyone`, a link, a line that looks like ours.
"""

import re
import unicodedata

SWAPPED = str.maketrans(
    {"<": "‹", ">": "›", "`": "'", "*": "∗", "[": "(", "]": ")", "@": "(at)", "|": "¦", "~": "∼", "\\": "∖", "#": "♯",
     "&": "+", '"': "'", "{": "(", "}": ")"}
)  # fmt: skip
LINE = frozenset("CZ")  # general categories: control, format, surrogate; separators
_EMPHASIS = re.compile(r"(?<![^\W_])_|_(?![^\W_])")
_SCHEME = re.compile(r"(?<=:)//")


def plain(text: object, most: int = 300) -> str:
    """`text` on one line, without characters that mean something to a chat, at most `most` characters.

    >>> plain("<b>*BTC*</b>\\n@everyone see http://x.example [now]")
    '‹b›∗BTC∗‹/b› (at)everyone see http:/ /x.example (now)'
    >>> plain("BTC_USDT:USDT"), plain("_BTC__USDT_"), plain("a" * 9, most=5)
    ('BTC_USDT:USDT', '·BTC··USDT·', 'aaaa…')
    """
    spaced = "".join(" " if unicodedata.category(one)[0] in LINE else one for one in str(text))
    swapped = " ".join(spaced.translate(SWAPPED).split())
    safe = _SCHEME.sub("/ /", _EMPHASIS.sub("·", swapped))
    return safe if len(safe) <= most else safe[: most - 1] + "…"


def name(symbol: str) -> str:
    """A symbol as people see it.

    >>> name("*"), name("BTC-PERP")
    ('the whole venue', 'BTC-PERP')
    """
    return "the whole venue" if symbol == "*" else plain(symbol, 40)
