"""Tampering is found, and the first broken line is named."""

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardrails.audit import GENESIS, chain, verify

ENTRIES = [{"rule": "price_band", "n": i, "at": datetime(2026, 1, 5, i, tzinfo=UTC), "limit": None} for i in range(6)]
LINES = chain(ENTRIES, GENESIS)


def test_a_sound_chain_is_sound_and_reports_its_head():
    report = verify(LINES)
    assert (report.ok, report.entries, report.line, report.reason) == (True, 6, None, None)
    assert report.last_hash == json.loads(LINES[-1])["sha256"]
    assert verify(line + "\n" for line in LINES) == report
    assert verify([]).last_hash == GENESIS


def test_a_chain_can_be_continued_and_verified_in_parts():
    first = verify(LINES[:4])
    more = chain(ENTRIES[4:], first.last_hash, first_seq=first.entries)
    assert LINES[:4] + more == LINES
    assert verify(more, first.last_hash, first_seq=4).ok


def test_an_entry_can_be_read_back():
    assert json.loads(LINES[2])["entry"] == {
        "rule": "price_band",
        "n": 2,
        "at": "2026-01-05T02:00:00+00:00",
        "limit": None,
    }


@given(line=st.integers(0, 5), place=st.integers(0, 10_000), byte=st.integers(32, 126))
def test_any_edited_byte_is_found_in_its_line(line, place, byte):
    text = LINES[line]
    place %= len(text)
    edited = text[:place] + chr(byte) + text[place + 1 :]
    report = verify([*LINES[:line], edited, *LINES[line + 1 :]])
    assert report.ok == (edited == text)
    assert report.line == (None if edited == text else line + 1)


@pytest.mark.parametrize(
    ("lines", "line", "reason"),
    [
        (LINES[1:], 1, "number must be 0, was 1"),
        (LINES[:2] + LINES[3:], 3, "number must be 2, was 3"),
        ([LINES[1], LINES[0], *LINES[2:]], 1, "number must be 0, was 1"),
        (LINES[:3] + LINES[2:], 4, "number must be 3, was 2"),
        ([*LINES[:2], "{", *LINES[3:]], 3, "not JSON"),
        ([*LINES[:2], "", *LINES[3:]], 3, "not JSON"),
        ([*LINES[:2], "[]", *LINES[3:]], 3, "must hold entry, previous, seq and sha256"),
        ([*LINES[:2], LINES[2].replace('"n":2', '"n":9'), *LINES[3:]], 3, "content does not match its hash"),
        ([*LINES[:2], LINES[2].replace('"n":2', '"n": 2'), *LINES[3:]], 3, "content does not match its hash"),
        ([*LINES[:2], LINES[2].replace('"n":2', '"n":NaN'), *LINES[3:]], 3, "NaN"),
    ],
)
def test_the_first_broken_line_is_named(lines, line, reason):
    report = verify(lines)
    assert (report.ok, report.line, report.entries) == (False, line, line - 1)
    assert reason in str(report.reason)


def test_an_entry_forged_with_a_fitting_hash_breaks_the_line_after_it():
    forged = chain([{**ENTRIES[2], "n": 99}], json.loads(LINES[1])["sha256"], first_seq=2)
    report = verify([*LINES[:2], *forged, *LINES[3:]])
    assert (report.line, report.reason) == (
        4,
        "does not follow the line before: that line was changed, or one is missing",
    )


@pytest.mark.parametrize(("entry", "error"), [({"x": float("nan")}, ValueError), ({"x": object()}, TypeError)])
def test_what_json_cannot_hold_is_refused(entry, error):
    with pytest.raises(error):
        chain([entry], GENESIS)
