"""Tampering is found, and the first broken line is named."""

import hashlib
import json
import math
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardrails.audit import GENESIS, BrokenLogError, Seal, chain, verify, walk

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


SEAL = Seal(6, verify(LINES).last_hash)


@pytest.mark.parametrize("count", range(6))
def test_a_seal_tells_how_many_lines_were_cut_off(count):
    report = verify(LINES[:count], seal=SEAL)
    said = f"missing: 6 entries were sealed, the log ends after {count}"
    assert (report.ok, report.entries, report.line, report.reason) == (False, count, count + 1, said)


def test_a_seal_tells_lines_that_came_after_it_sound_or_not():
    more = chain([{"n": 7}], SEAL.sha256, first_seq=6)
    for line in (more[0], more[0][:20], "", LINES[0]):
        report = verify([*LINES, line], seal=SEAL)
        assert (report.ok, report.line, report.entries) == (False, 7, 6)
        assert "was never sealed: 6 entries were" in report.reason
    assert verify(LINES, seal=SEAL) == verify(LINES)


def test_a_log_written_anew_from_any_line_on_is_not_the_one_that_was_sealed():
    for start in range(6):
        previous = json.loads(LINES[start - 1])["sha256"] if start else GENESIS
        anew = chain([{**entry, "rule": "other"} for entry in ENTRIES[start:]], previous, first_seq=start)
        report = verify([*LINES[:start], *anew], seal=SEAL)
        assert (report.line, report.entries) == (6, 5)
        assert "it or one before it was written anew" in report.reason


def test_an_empty_log_has_a_seal_too():
    assert verify([], seal=Seal()).ok
    assert verify(LINES[:1], seal=Seal()).line == 1


def test_entries_are_given_out_only_while_their_lines_are_sound():
    walked = walk([*LINES[:3], *LINES[4:]])
    assert [next(walked)[0]["n"] for _ in range(3)] == [0, 1, 2]
    with pytest.raises(BrokenLogError, match="line 4 number must be 3, was 4"):
        next(walked)
    assert [own for _, own in walk(LINES)] == [json.loads(line)["sha256"] for line in LINES]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ({"entry": {}, "previous": GENESIS, "seq": 0}, "must hold entry, previous, seq and sha256 and nothing else"),
        ({"entry": {}, "previous": GENESIS, "seq": 0, "sha256": "x", "more": 1},
         "must hold entry, previous, seq and sha256 and nothing else"),
        ({"entry": {}, "previous": GENESIS, "seq": 1, "sha256": "x"},
         "number must be 0, was 1: a line is missing or out of order"),
        ({"entry": {}, "previous": "x", "seq": 0, "sha256": "x"},
         "does not follow the line before: that line was changed, or one is missing"),
        ({"entry": [], "previous": GENESIS, "seq": 0, "sha256": "x"}, "entry must be a table"),
        ({"entry": {}, "previous": GENESIS, "seq": 0, "sha256": "x"}, "content does not match its hash"),
        ({"entry": {"x": math.nan}, "previous": GENESIS, "seq": 0, "sha256": "x"}, "entry holds NaN or infinity"),
        (3, "must hold entry, previous, seq and sha256 and nothing else"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_line_is_said_whole(line, reason):
    report = verify([json.dumps(line)])
    assert (report.ok, report.line, report.entries, report.reason) == (False, 1, 0, reason)


def test_a_line_is_its_content_in_the_order_of_names_and_its_hash_last():
    (line,) = chain([{"b": 1, "a": None}])
    body = f'{{"entry":{{"a":null,"b":1}},"previous":"{"0" * 64}","seq":0'
    assert line == f'{body},"sha256":"{hashlib.sha256((body + "}").encode()).hexdigest()}"}}'
    assert verify([line]).reason is None
    assert verify([line + "\n\n"]).reason == "content does not match its hash"


def test_what_json_cannot_hold_is_named():
    with pytest.raises(TypeError, match=r"^an entry must hold text, numbers, true, false, null and times, held \{1\}$"):
        chain([{"x": {1}}])


def test_a_broken_log_says_its_line_and_its_reason():
    error = BrokenLogError(4, "was changed")
    assert (error.line, error.reason, str(error)) == (4, "was changed", "line 4 was changed")


def test_lines_are_counted_from_where_the_part_begins():
    part = chain(ENTRIES[4:], verify(LINES[:4]).last_hash, first_seq=4)
    report = verify(part, verify(LINES[:4]).last_hash, first_seq=4, seal=Seal(7, "x"))
    assert (report.line, report.reason) == (3, "missing: 7 entries were sealed, the log ends after 6")
    assert verify(part, verify(LINES[:4]).last_hash, first_seq=4, seal=Seal(6, SEAL.sha256)).ok
    broken = verify([part[0], "{"], verify(LINES[:4]).last_hash, first_seq=4)
    assert (broken.line, broken.entries, broken.reason) == (2, 1, "not JSON")
    cut = verify(part[:1], verify(LINES[:4]).last_hash, first_seq=4)
    assert (cut.ok, cut.entries) == (True, 1)


def test_a_thousand_sealed_entries_are_said_with_their_comma():
    assert verify([], seal=Seal(1_234, "x")).reason == "missing: 1,234 entries were sealed, the log ends after 0"
    said = "was never sealed: 0 entries were, and then a writer was killed here or it was forged"
    assert verify(LINES[:1], seal=Seal()).reason == said
    other = "is not the line that was sealed last: it or one before it was written anew"
    assert verify(LINES, seal=Seal(6, "x")).reason == other
