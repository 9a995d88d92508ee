"""What can be wrong with market data, one check per module; `CHECKS` in `checks.py` is the whole list."""
