"""Venue mechanics: the formulas by which venues demand margin and force trades."""
