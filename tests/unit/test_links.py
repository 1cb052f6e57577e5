"""The arithmetic of an emulated link, its control door and its command line; no sockets, no real time."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.link_control import ControlError, LinkControl
from testbed.links import EmulatedLink, LinkShape, format_address, main, parse_address, symmetric
from testbed.pacer import Pacer
from testbed.pipes import Lane, Pipe
from testbed.traces import ConstantRate, QuantityError, RateTrace


def a_pacer(rate: float = 1000.0, delay: float = 0.0, jitter: float = 0.0, now: float = 0.0, seed: int = 0) -> Pacer:
    return Pacer(LinkShape(ConstantRate(rate), delay, jitter), now, random.Random(seed))


def a_link(**shape: Any) -> EmulatedLink:
    up, down = symmetric(shape.pop("rate", 2.5e6), shape.pop("rtt", 0.010))
    return EmulatedLink(("127.0.0.1", 0), ("127.0.0.1", 1), up, down, clock=lambda: 0.0)


def test_parcels_share_one_serialisation_clock() -> None:
    pacer = a_pacer(rate=1000.0, delay=0.5)
    first, second = pacer.send(bytes(100), 0.0), pacer.send(bytes(200), 0.0)
    assert (pacer.due(first), pacer.due(second)) == pytest.approx((0.6, 0.8))


def test_an_idle_link_saves_nothing_up() -> None:
    pacer = a_pacer(rate=1000.0)
    pacer.send(bytes(100), 0.0)
    assert pacer.due(pacer.send(bytes(100), 10.0)) == pytest.approx(10.1)


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=30), st.floats(0.0, 0.1))
def test_a_busy_link_carries_exactly_its_rate(sizes: list[int], delay: float) -> None:
    pacer = a_pacer(rate=1e4, delay=delay, now=7.0)
    parcels = [pacer.send(bytes(size), 7.0) for size in sizes]
    assert pacer.due(parcels[-1]) == pytest.approx(7.0 + sum(sizes) / 1e4 + delay)


@given(st.integers(0, 1000))
def test_jitter_stays_within_its_bounds_and_follows_its_seed(seed: int) -> None:
    pacers = [a_pacer(rate=1e6, delay=0.010, jitter=0.004, seed=seed) for _ in range(2)]
    parcels = [[pacer.send(bytes(10), n * 0.1) for n in range(20)] for pacer in pacers]
    delays = [[p.due(x) - x.finish for x in sent] for p, sent in zip(pacers, parcels, strict=True)]
    assert delays[0] == delays[1]
    assert all(0.006 - 1e-9 <= delay <= 0.014 + 1e-9 for delay in delays[0])
    assert max(delays[0]) - min(delays[0]) > 1e-3


def test_jitter_never_makes_a_delay_negative() -> None:
    pacer = a_pacer(rate=1e6, delay=0.001, jitter=0.050)
    parcels = [pacer.send(bytes(10), 0.0) for _ in range(50)]
    assert all(pacer.due(parcel) >= parcel.finish for parcel in parcels)


def test_raising_the_rate_speeds_up_a_parcel_half_serialised() -> None:
    pacer = a_pacer(rate=125.0)  # 1 kbit/s
    parcel, behind = pacer.send(bytes(1000), 0.0), pacer.send(bytes(1000), 0.0)
    assert pacer.due(parcel) == pytest.approx(8.0)
    pacer.reshape(LinkShape(ConstantRate(125_000.0)), 1.0)
    assert pacer.due(parcel) == pytest.approx(1.0 + 875 / 125_000)
    assert pacer.due(behind) == pytest.approx(1.0 + 1875 / 125_000)


def test_raising_the_rate_ends_an_outage() -> None:
    outage = RateTrace.from_rates([0.0] * 1000 + [1e6])
    pacer = Pacer(LinkShape(outage), 50.0, random.Random(0))
    parcel = pacer.send(bytes(1000), 50.0)
    assert pacer.due(parcel) > 1000
    pacer.reshape(LinkShape(ConstantRate(1e6)), 51.0)
    assert pacer.due(parcel) == pytest.approx(51.001)


@given(st.lists(st.tuples(st.floats(0.001, 1.0), st.floats(10.0, 1e5)), max_size=8), st.integers(1, 50_000))
def test_reshaping_any_number_of_times_loses_and_invents_no_bytes(steps: list[tuple[float, float]], size: int) -> None:
    pacer, now, left, rate = a_pacer(rate=1000.0), 0.0, float(size), 1000.0
    parcel = pacer.send(bytes(size), now)
    for seconds, next_rate in steps:
        if left <= seconds * rate:
            break
        now, left, rate = now + seconds, left - seconds * rate, next_rate
        pacer.reshape(LinkShape(ConstantRate(rate)), now)
    assert pacer.due(parcel) == pytest.approx(now + left / rate, rel=1e-6)


def test_a_changed_delay_leaves_a_trace_in_its_place() -> None:
    trace = RateTrace.from_rates([1000.0, 10.0])
    pacer = Pacer(LinkShape(trace), 5.0, random.Random(0))
    pacer.reshape(LinkShape(trace, delay_seconds=0.1), 6.5)
    assert pacer.rate_now(6.5) == 10
    pacer.reshape(LinkShape(RateTrace.from_rates([1000.0, 10.0])), 6.5)
    assert pacer.rate_now(6.5) == 1000


def test_a_cut_link_keeps_what_it_holds_and_goes_on_where_it_was() -> None:
    pacer = a_pacer(rate=1000.0, delay=0.1)
    gone, half, later = (pacer.send(bytes(1000), 0.0) for _ in range(3))
    pacer.set_carrying(False, 1.5)
    assert pacer.due(gone) == pytest.approx(1.1)
    assert pacer.due(half) == math.inf
    during = pacer.send(bytes(1000), 2.0)
    assert (pacer.due(during), pacer.rate_now(2.0)) == (math.inf, 0)
    pacer.set_carrying(True, 10.0)
    assert [pacer.due(p) for p in (half, later, during)] == pytest.approx([10.6, 11.6, 12.6])


def test_an_outage_holds_the_end_of_a_connection_too() -> None:
    pacer = Pacer(LinkShape(RateTrace.from_rates([0.0, 1e6])), 0.0, random.Random(0))
    assert pacer.due(pacer.send(b"", 0.2)) == pytest.approx(1.0, abs=1e-3)


def test_a_quantum_is_a_millisecond_between_a_packet_and_64_kib() -> None:
    assert [a_pacer(rate=rate).quantum(0.0) for rate in (100.0, 1e7, 1e9)] == [1500, 10_000, 65_536]


def test_a_pipe_reads_into_one_buffer_and_keeps_only_what_came() -> None:
    class Source:
        def __init__(self) -> None:
            self.buffers: list[Any] = []

        def recv_into(self, buffer: memoryview) -> int:
            self.buffers.append(buffer.obj)
            return [3, 5, 0][len(self.buffers) - 1]

    source: Any = Source()
    lane = Lane(LinkShape(ConstantRate(1e9)), 0, lambda: 0.0)
    pipe = Pipe(lane, source, source)
    pipe.read_all()
    assert all(each is source.buffers[0] for each in source.buffers)
    assert [len(parcel.payload) for parcel in pipe._line] == [3, 5, 0]


def test_symmetric_halves_the_round_trip() -> None:
    up, down = symmetric(2.5e6, 0.010)
    assert up == down == LinkShape(ConstantRate(2.5e6), 0.005)


@pytest.mark.parametrize("seconds", [-0.001, 61.0, math.nan, math.inf])
def test_a_shape_refuses_impossible_times(seconds: float) -> None:
    for times in ({"delay_seconds": seconds}, {"jitter_seconds": seconds}):
        with pytest.raises(QuantityError, match="between 0s and 60s"):
            LinkShape(ConstantRate(1.0), **times)


@pytest.mark.parametrize(
    ("text", "address"),
    [("127.0.0.1:80", ("127.0.0.1", 80)), ("[::1]:0", ("::1", 0)), ("edge:8001", ("edge", 8001))],
)
def test_an_address_reads_back(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address
    assert format_address(address) == text


@pytest.mark.parametrize("text", ["", "80", ":80", "host:", "host:x", "host:65536", "host:-1", "host:٣"])
def test_a_bad_address_is_refused(text: str) -> None:
    with pytest.raises(QuantityError, match="not an address"):
        parse_address(text)


def test_a_put_changes_only_what_it_names() -> None:
    link = a_link()
    LinkControl(link).change(b'{"up": {"rate": "5mbit"}, "down": {"delay": "20ms", "jitter": "1ms"}}')
    assert link.up.pacer.shape == LinkShape(ConstantRate(625e3), 0.005)
    assert link.down.pacer.shape == LinkShape(ConstantRate(2.5e6), 0.020, 0.001)


def test_a_put_at_the_top_goes_both_ways_and_a_direction_wins_over_it() -> None:
    link = a_link()
    LinkControl(link).change(b'{"rate": "8mbit", "rtt": "40ms", "up": {"rate": "16mbit"}, "carrying": false}')
    assert link.up.pacer.shape == LinkShape(ConstantRate(2e6), 0.020)
    assert link.down.pacer.shape == LinkShape(ConstantRate(1e6), 0.020)
    assert not link.carrying


def test_a_change_of_something_else_does_not_mend_a_link_that_is_being_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    link = a_link()
    control = LinkControl(link)
    shape = control._shape

    def cut_meanwhile(*given: Any) -> LinkShape:
        link.cut()
        return shape(*given)

    monkeypatch.setattr(control, "_shape", cut_meanwhile)
    control.change(b'{"jitter": "1ms"}')
    assert not link.carrying


def test_what_get_says_can_be_put_back() -> None:
    control = LinkControl(a_link(rate=1234567.0, rtt=0.0123))
    before = control.describe()
    control.change(json.dumps({key: before[key] for key in ("up", "down", "carrying")}).encode())
    assert control.describe() == before
    assert before["stats"]["open_connections"] == 0


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"[]",
        b"not json",
        b"[" * 60_000,
        b'{"speed": "5mbit"}',
        b'{"up": "5mbit"}',
        b'{"up": {"rtt": "5ms"}}',
        b'{"rate": 5}',
        b'{"rate": "0mbit"}',
        b'{"delay": "-1ms"}',
        b'{"delay": "61s"}',
        b'{"jitter": null}',
        b'{"carrying": "no"}',
        b'{"rate": "5mbit", "down": {"delay": "soon"}}',
        b'{"rate": "trace:/etc/passwd"}',
    ],
)
def test_a_bad_put_is_refused_and_changes_nothing(body: bytes) -> None:
    control = LinkControl(a_link())
    before = control.describe()
    with pytest.raises(ControlError) as caught:
        control.change(body)
    assert caught.value.status == 400
    assert control.describe() == before


def test_only_traces_of_the_directory_can_be_chosen(tmp_path: Path) -> None:
    folder = tmp_path / "traces"
    folder.mkdir()
    (folder / "a.csv").write_text("t_s,mbps\n0,8\n", encoding="utf-8")
    (tmp_path / "secret.csv").write_text("t_s,mbps\n0,8\n", encoding="utf-8")
    link = a_link()
    control = LinkControl(link, folder)
    control.change(b'{"up": {"rate": "trace:a.csv"}}')
    assert link.up.pacer.shape.rate.label == "trace:a.csv"
    for name in ("../secret.csv", str(tmp_path / "secret.csv"), "..", "", "b.csv"):
        with pytest.raises(ControlError, match="no trace"):
            control.change(json.dumps({"rate": f"trace:{name}"}).encode())


@pytest.mark.parametrize(
    "wrong",
    [
        ["--rate", "fast"],
        ["--rate", "20mbit", "--rtt", "10"],
        ["--up-rate", "20mbit"],
        ["--rate", "20mbit", "--trace", "/nowhere.csv"],
        ["--rate", "20mbit", "--control", "8002"],
        ["--rate", "20mbit", "--traces", "/nowhere"],
        ["--rate", "20mbit", "--rtt", "600s"],
        ["--rate", "20mbit", "--speed", "9"],
        [],
    ],
)
def test_a_bad_argument_is_one_line_and_exit_code_2(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--listen", "127.0.0.1:0", "--target", "127.0.0.1:1", *wrong])
    said = capsys.readouterr()
    assert caught.value.code == 2
    assert said.err.count("\n") == 1
    assert said.out == ""
