"""Spans of one process, as a collector gets them."""

import sys
import time

import pytest

from contract.tracing import OFF, Tracing, TracingUnavailable
from tests.collector import collecting
from tests.service.test_webhook_delivery import free_port


@pytest.mark.parametrize("parent", [None, "", "rubbish", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "ü" * 55])
def test_a_parent_that_names_none_begins_a_trace(parent: str | None) -> None:
    with collecting() as collector:
        tracing = Tracing.open(collector.url, "test")
        span = tracing.begin("first", parent, began=100.0, attributes={"seemly.attempt": 1})
        span.child("second", began=100.5).end(101.0)
        span.end(102.0, name="renamed")
        tracing.close()
    second, first = collector.spans
    assert (first.name, first.process, first.parent_id, first.attributes) == (
        "renamed",
        "seemly-test",
        "",
        {"seemly.attempt": "1"},
    )
    assert (second.parent_id, second.trace_id) == (first.span_id, first.trace_id)
    assert (first.began, first.ended, second.began, second.ended) == (100.0, 102.0, 100.5, 101.0)


def test_a_share_of_none_keeps_what_others_keep_and_nothing_else() -> None:
    with collecting() as collector:
        tracing = Tracing.open(collector.url, "test", share=0.0)
        tracing.begin("own", None).end()
        tracing.begin("theirs", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").end()
        tracing.close()
    assert [span.name for span in collector.spans] == ["theirs"]


def test_a_strangers_flag_keeps_nothing_and_its_trace_is_linked() -> None:
    theirs = "1" + "0" * 31  # low enough for any share
    for share, kept in ((0.0, 0), (1.0, 1)):
        with collecting() as collector:
            tracing = Tracing.open(collector.url, "test", share=share)
            tracing.begin("stranger", f"00-{theirs}-00f067aa0ba902b7-01", is_trusted=False).end()
            tracing.close()
        assert len(collector.spans) == kept
    [span] = collector.spans
    assert (span.parent_id, span.linked) == ("", (theirs,))
    assert span.trace_id != theirs


def test_without_an_address_there_is_nothing() -> None:
    span = Tracing.open(None, "test").begin("a", None)
    assert span is OFF
    assert span.child("b") is OFF
    assert span.traceparent is None
    span.end()


def test_a_collector_that_is_away_holds_nobody_up() -> None:
    tracing = Tracing.open(f"http://127.0.0.1:{free_port()}", "test")
    began = time.monotonic()
    tracing.begin("lost", None).end()
    assert time.monotonic() - began < 0.5
    tracing.close()
    assert time.monotonic() - began < 8


def test_the_extra_is_named_where_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(TracingUnavailable, match=r"seemly\[tracing\]"):
        Tracing.open("http://127.0.0.1:4318", "test")
