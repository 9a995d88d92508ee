"""A slow oracle for every feature: its card, written out in plain Python, one bar at a time.

An oracle sees a `Past`: what one symbol's usable inputs were up to a bar. It returns the value or None for null, and
knows nothing of the expressions. `ORACLES` of each family's module maps a feature's name to its oracle.
"""
