"""The action ladder: what an action allows, from the mildest to the strictest."""

NORMAL, CAUTIOUS, REDUCE_ONLY, HALTED = "normal", "cautious", "reduce_only", "halted"
ACTIONS = (NORMAL, CAUTIOUS, REDUCE_ONLY, HALTED)
MEANING = {
    NORMAL: "the caps apply",
    CAUTIOUS: "new positions only up to the leverage floor",
    REDUCE_ONLY: "new positions are paused",
    HALTED: "trading is halted",
}


def severity(action: str) -> int:
    """Rank on the ladder, 0 is the mildest. Raises ValueError for a word that is not an action.

    >>> [severity(action) for action in ACTIONS]
    [0, 1, 2, 3]
    """
    return ACTIONS.index(action)
