"""Whatever a server answers, there is a report, or one sentence: rubbish, and good pages spoilt.

``HYPOTHESIS_PROFILE=long HYPOTHESIS_EXAMPLES=20000`` searches further, anew each time.
"""

from __future__ import annotations

import json
import math
import os
from unittest import mock

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

import scripted
from poolscope import catalog, events, history, scrape
from poolscope.backends import prometheus
from poolscope.cli import report
from poolscope.fetching import Page
from poolscope.summary import summarize
from poolscope.table import render

LONG = os.environ.get("HYPOTHESIS_PROFILE") == "long"
FUZZ = settings(
    max_examples=int(os.environ.get("HYPOTHESIS_EXAMPLES", "300")),
    derandomize=not LONG,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
pytestmark = pytest.mark.timeout(0 if LONG else 60)
EVENTS = [
    *scripted.idle_race(),
    *scripted.small_pool(),
    *scripted.session_per_call(scripted.API._replace(address="other")),
    *scripted.failed("timeout", 7),
    events.AskedFor(scripted.API, "a.py", "f", "12", "new_pool"),
    events.Held(scripted.API, "a.py", "f", "12"),
    events.Levels(scripted.API, active=1, idle=2, max=4, pools=5, age_sum=6.5, stale=1),
    events.Faulted("somewhere"),
]


def good(generate):
    registry = CollectorRegistry()
    prometheus.observer(registry, lambda: None).tell(EVENTS)
    return generate(registry).decode()


PAGES = [good(generate_latest), good(generate_openmetrics)]
#: Pieces that are put where they do not belong.
PIECES = st.one_of(
    st.text(max_size=20),
    st.sampled_from([
        "1e308", "-1", "NaN", "+Inf", "-Inf", "9" * 400, "1e-320", "0x10", "1_000", "\u0663",
        "5e14", '"', "{", "}", ",", "=", "\\", "\n", "\r", "\0", "\x1b[31m", "\u202e", "\ud800",
        "# ", "le=", 'code_line_number="', "# TYPE ", "# EOF\n", " 1 1e400\n", "_bucket",
        "_created 1\n",
    ]),
)  # fmt: skip


@st.composite
def spoilt(draw):
    """Return a good page with some pieces exchanged, taken out or put in."""
    page = draw(st.sampled_from(PAGES))
    for _ in range(draw(st.integers(1, 8))):
        at = draw(st.integers(0, len(page)))
        size = draw(st.sampled_from([0, 0, 1, 1, 3, 10, 100, 10_000]))
        page = page[:at] + draw(PIECES) + page[at + size :]
    return page


@st.composite
def valued(draw):
    """Return a good page with other values, such as counters have, and such as have none."""
    rows = draw(st.sampled_from(PAGES)).splitlines()
    numbers = [at for at, row in enumerate(rows) if not row.startswith("#")]
    odd = st.sampled_from(["inf", "1e308", "-1", "nan", "1e-320", "1e15", "0", "1e-9"])
    values = st.one_of(odd, st.floats().map(repr), st.integers(0, 10**6).map(str))
    for at in draw(st.lists(st.sampled_from(numbers), min_size=1, max_size=40)):
        rows[at] = f"{rows[at].rpartition(' ')[0]} {draw(values)}"
    return "\n".join(rows) + "\n"


def holds(readings):
    """Assert that a report can be made of readings, in both forms, and that no terminal minds."""
    summary = summarize(readings)
    for colour in (False, True):
        text = render(summary, colour=colour)
        for code in ("\x1b[1m", "\x1b[1;31m", "\x1b[1;33m", "\x1b[0m") if colour else ():
            text = text.replace(code, "")
        assert text.replace("\n", "").isprintable(), text
    told = json.dumps(report.document(summary), allow_nan=False)
    assert told.isprintable()


def read(fetch, answer):
    try:
        with mock.patch.object(scrape, "get", return_value=answer), \
                mock.patch.object(history, "get", return_value=answer):  # fmt: skip
            readings = fetch()
    except scrape.ScrapeError as error:
        assert str(error)  # noqa: PT017 - either is good
        return False
    holds(readings)
    return True


def fetched(text, date=1.8e9):
    return read(lambda: scrape._fetch("http://h/metrics", 1.0), Page(text, date))


def test_good_pages_are_good():
    assert [fetched(page) for page in PAGES] == [True, True]


@FUZZ
@given(st.one_of(st.binary(max_size=2000).map(lambda data: data.decode("utf-8", "replace")),
                 st.text(max_size=2000)))  # fmt: skip
@example("# EOF")
@example("poolscope_connections_opened_total{" * 1000)
@example('poolscope_pools_opened_total{poolscope_client="' + '\\"' * 8000)
def test_rubbish_is_refused_or_read(text):
    fetched(text)


@FUZZ
@given(spoilt(), st.floats(0, 1e11))
def test_a_spoilt_page_is_refused_or_read(text, date):
    fetched(text, date)


@FUZZ
@given(valued())
def test_values_of_any_kind_are_passed_over_or_read(text):
    fetched(text)


LABELS = sorted({label for metric in catalog.CATALOG for label in metric.labels} | {"le"})
ANYTHING = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), PIECES),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(PIECES, inner, max_size=3)
    ),
    max_leaves=8,
)
ROWS = st.lists(
    st.fixed_dictionaries({
        "metric": st.one_of(
            st.dictionaries(st.sampled_from(LABELS), st.one_of(PIECES, st.just("12"))), ANYTHING
        ),
        "value": st.one_of(
            st.tuples(st.just(1.5), st.one_of(PIECES, st.floats().map(str), st.just("12"))),
            ANYTHING,
        ),
    }),
    max_size=4,
)  # fmt: skip


@FUZZ
@given(
    st.one_of(ANYTHING, st.fixed_dictionaries({"data": st.fixed_dictionaries({"result": ROWS})}))
)
def test_a_prometheus_may_answer_anything(document):
    text = json.dumps(document)
    read(lambda: history._ask("http://h", "", "1h"), Page(text, math.nan))
