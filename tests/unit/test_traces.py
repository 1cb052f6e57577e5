"""Rates over time: reading trace files, and the arithmetic of constant and recorded rates."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from testbed.traces import (
    ConstantRate,
    QuantityError,
    RateTrace,
    TraceError,
    format_duration,
    format_rate,
    is_trace,
    parse_duration,
    parse_rate,
    read_rate,
    read_trace,
)

DATA = Path(os.environ.get("TEST_DATA", Path(__file__).parents[3] / "shared" / "data")) / "traces"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no recorded traces at {DATA}")

rates = st.lists(st.one_of(st.just(0.0), st.floats(1.0, 1e8)), min_size=1, max_size=12).filter(any)
moments = st.floats(0.0, 1e4)
sizes = st.floats(0.0, 1e9)


def written(folder: Path, text: str) -> Path:
    path = folder / "a.trace"
    path.write_text(text, encoding="utf-8")
    return path


def bytes_by_steps(trace: RateTrace, start: float, end: float) -> float:
    """The integral of the rate, one whole second (or what is left of one) at a time."""
    total, at = 0.0, start
    while at < end:
        step = min(float(int(at) + 1), end)
        total += trace.rate_at((at + step) / 2) * (step - at)
        at = step
    return total


@given(rates, st.floats(0.0, 50.0), st.floats(1.0, 1e6))
def test_the_integral_of_the_rate_until_the_finish_is_the_bytes(values: list[float], start: float, size: float) -> None:
    trace = RateTrace.from_rates(values)
    assume(size < 100 * trace.levels[-1])
    end = trace.finish(start, size)
    assert bytes_by_steps(trace, start, end) == pytest.approx(size, rel=1e-6, abs=1.0)


@given(rates, moments, sizes)
def test_capacity_is_the_inverse_of_finish(values: list[float], start: float, size: float) -> None:
    trace = RateTrace.from_rates(values)
    end = trace.finish(start, size)
    slack = 1e-9 * max(end, 1.0) * max(values)  # the resolution of a float that holds seconds
    assert end >= start
    assert trace.capacity(start, end) == pytest.approx(size, rel=1e-6, abs=1e-3 + slack)


@given(rates, moments, sizes, sizes)
def test_more_bytes_never_finish_earlier(values: list[float], start: float, a: float, b: float) -> None:
    trace = RateTrace.from_rates(values)
    assert trace.finish(start, min(a, b)) <= trace.finish(start, max(a, b))


@given(st.floats(1.0, 1e9), moments, sizes)
def test_a_flat_trace_equals_a_constant_rate(rate: float, start: float, size: float) -> None:
    flat, constant = RateTrace.from_rates([rate, rate, rate]), ConstantRate(rate)
    assert flat.finish(start, size) == pytest.approx(constant.finish(start, size), rel=1e-9, abs=1e-6)
    assert flat.rate_at(start) == pytest.approx(constant.rate_at(start))
    assert flat.capacity(start, start + 2) == pytest.approx(constant.capacity(start, start + 2), rel=1e-6)


def test_an_outage_is_waited_out() -> None:
    trace = RateTrace.from_rates([100.0, 0.0, 100.0])
    assert trace.finish(0.5, 100) == pytest.approx(2.5)
    assert trace.finish(1.5, 10) == pytest.approx(2.1)
    assert trace.rate_at(1.5) == 0


def test_bytes_that_just_fit_do_not_wait_for_the_next_outage() -> None:
    assert RateTrace.from_rates([100.0, 0.0]).finish(0.0, 100) == pytest.approx(1.0)
    assert RateTrace.from_rates([0.0, 100.0]).finish(0.0, 100) == pytest.approx(2.0)


def test_a_trace_loops() -> None:
    trace = RateTrace.from_rates([100.0, 300.0])
    assert trace.duration_seconds == 2
    assert [trace.rate_at(second + 0.5) for second in range(5)] == [100, 300, 100, 300, 100]
    assert trace.finish(0.0, 900) == pytest.approx(5.0)
    assert trace.capacity(0.0, 1e6) == pytest.approx(200e6)


def test_csv_bins_are_seconds_of_megabits(tmp_path: Path) -> None:
    trace = read_trace(written(tmp_path, "t_s,mbps\n0,8\n1,0.0\n2,16\n"))
    assert [trace.rate_at(t) for t in (0.5, 1.5, 2.5, 3.5)] == [1e6, 0, 2e6, 1e6]


def test_one_mahimahi_packet_per_millisecond_is_twelve_megabits(tmp_path: Path) -> None:
    trace = read_trace(written(tmp_path, "1\n"))
    assert trace.rate_at(0.0) * 8 / 1e6 == pytest.approx(12)
    assert trace.finish(0.0, 1_500_000) == pytest.approx(1.0)


def test_mahimahi_packets_leave_at_their_milliseconds(tmp_path: Path) -> None:
    trace = read_trace(written(tmp_path, "0\n5\n5\n10\n"))
    leaves = [trace.finish(0.0, 1500 * n) for n in range(1, 6)]
    assert leaves == pytest.approx([0.001, 0.0045, 0.005, 0.010, 0.011])
    assert trace.duration_seconds == pytest.approx(0.010)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        ("\n \n", "empty"),
        ("t_s,mbps\n", "no rows"),
        ("t_s,mbps\n0,0\n1,0\n", "zero everywhere"),
        ("t_s,mbps\n0,5\n1,-2\n", "line 3"),
        ("t_s,mbps\n0,nan\n", "line 2"),
        ("t_s,mbps\n0,1e99\n", "line 2"),
        ("t_s,mbps\nnan,1\n", "line 2"),
        ("t_s,mbps\n0,5\n2,5\n", "one second per row"),
        ("t_s,mbps\n0,5,6\n", "expected two numbers"),
        ("t_s,mbps\nzero,five\n", "expected two numbers"),
        ("5\n4\n", "line 2"),
        ("5\n-7\n", "line 2"),
        ("5\nsix\n", "line 2"),
        ("0\n0\n", "millisecond 0"),
        ("-5\n", "not a trace"),
        ("hello\n", "not a trace"),
    ],
)
def test_a_bad_trace_is_refused_with_its_reason(tmp_path: Path, text: str, says: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(TraceError, match=says) as caught:
        read_trace(path)
    assert str(path) in str(caught.value)


def test_what_is_not_a_text_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00\x01")
    for path in (tmp_path / "binary", tmp_path / "missing", tmp_path):
        with pytest.raises(TraceError):
            read_trace(path)


def test_a_huge_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "huge"
    with path.open("wb") as file:
        file.truncate(1 << 34)
    with pytest.raises(TraceError, match="at most"):
        read_trace(path)


def test_a_distant_millisecond_costs_no_memory(tmp_path: Path) -> None:
    assert read_trace(written(tmp_path, "1\n999999999999\n")).finish(0.0, 3000) == pytest.approx(999999999.999)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("20mbit", 2.5e6), ("8kbit", 1e3), ("1Gbit", 1.25e8), ("0.5mbit", 62500), ("8bit", 1)],
)
def test_rates_are_bytes_per_second(text: str, expected: float) -> None:
    assert parse_rate(text) == expected
    assert read_rate(text) == ConstantRate(expected)


@pytest.mark.parametrize("text", ["", "20", "mbit", "-5mbit", "0mbit", "1e3mbit", "5 mb", "nanbit", "200gbit", "٢mbit"])
def test_a_nonsense_rate_is_refused(text: str) -> None:
    with pytest.raises(QuantityError, match="like 20mbit"):
        parse_rate(text)


@pytest.mark.parametrize(("text", "seconds"), [("10ms", 0.01), ("0ms", 0), ("250us", 0.00025), ("1.5s", 1.5)])
def test_durations_are_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "10", "ms", "-1ms", "1e3ms", "1 min", "infs"])
def test_a_nonsense_duration_is_refused(text: str) -> None:
    with pytest.raises(QuantityError, match="like 10ms"):
        parse_duration(text)


@given(st.floats(1.0, 1e10))
def test_a_formatted_rate_reads_back(rate: float) -> None:
    assert parse_rate(format_rate(rate)) == pytest.approx(rate, rel=1e-9)


@given(st.floats(0.0, 60.0))
def test_a_formatted_duration_reads_back(seconds: float) -> None:
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds, abs=1e-9)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_a_constant_rate_is_positive_and_finite(value: float) -> None:
    with pytest.raises(QuantityError):
        ConstantRate(value)


@pytest.mark.parametrize(
    "text", ["\n  \n0\n3\n", "\n\ufefft_s,mbps\n0,8\n", "\ufefft_s,mbps\n0,8\n", "\n\n", "", "\nname\n"]
)
def test_a_file_is_taken_for_a_trace_where_it_reads_as_one(tmp_path: Path, text: str) -> None:
    path = written(tmp_path, text)
    try:
        read_trace(path)
    except TraceError:
        assert not is_trace(path)
    else:
        assert is_trace(path)


def test_a_rate_may_name_a_trace(tmp_path: Path) -> None:
    path = written(tmp_path, "t_s,mbps\n0,8\n")
    assert read_rate(f"trace:{path}").label == "trace:a.trace"


@needs_data
def test_every_recorded_trace_loads() -> None:
    paths = [
        *(DATA / "csv").glob("*.csv"),
        *(DATA / "mahimahi").glob("*.up"),
        *(DATA / "mahimahi").glob("*.down"),
    ]
    assert len(paths) > 10
    for path in paths:
        assert read_trace(path).duration_seconds > 60


@needs_data
def test_a_mahimahi_trace_agrees_with_its_one_second_bins() -> None:
    packets = read_trace(DATA / "mahimahi" / "ATT-LTE-driving-2016.up")
    bins = read_trace(DATA / "csv" / "mahimahi_ATT-LTE-driving-2016_up.csv")
    for second in range(118):
        got = packets.capacity(second, second + 1)
        assert got == pytest.approx(bins.rate_at(second + 0.5), abs=20 * 1500)
