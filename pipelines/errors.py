"""The one error a user can cause: it names what is wrong, where, and how to mend it."""


class InputError(Exception):
    """Bad usage or bad input. The command line prints it as one line and exits with code 2.

    >>> str(InputError("contract size is unknown", where="AVAXUSD_PERP", mend="add it to an instruments file"))
    'contract size is unknown: AVAXUSD_PERP; add it to an instruments file'
    """

    def __init__(self, what: str, *, where: object = None, mend: str | None = None) -> None:
        text = what if where is None else f"{what}: {where}"
        super().__init__(" ".join((text if mend is None else f"{text}; {mend}").split()))
