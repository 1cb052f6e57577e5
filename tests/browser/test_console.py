"""The console in a real browser, over a real testbed: what people do with it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar

import pytest

from device_agent.console.server import ConsoleServer
from tests.browser.conftest import Seen, console_of_testbed, in_thread, opened
from tests.consoles import console as served_console

T = TypeVar("T")

CONTRAST = """() => {
  const luminance = (rgb) => {
    const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = rgb.slice(0, 3).map((v) => linear(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const paint = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (color) => {
    paint.clearRect(0, 0, 1, 1);
    paint.fillStyle = color;
    paint.fillRect(0, 0, 1, 1);
    return [...paint.getImageData(0, 0, 1, 1).data];
  };
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const [r, g, b, a] = rgba(getComputedStyle(e).backgroundColor);
      if (a > 250) return [r, g, b];
    }
    return [255, 255, 255];
  };
  const faint = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    const apart = element.closest("svg, .toast, .skip, noscript, fieldset:disabled");
    if (!own || apart || !element.checkVisibility()) continue;
    const style = getComputedStyle(element), one = luminance(rgba(style.color)), two = luminance(behind(element));
    const ratio = (Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05);
    const large = parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.7 && style.fontWeight >= 700);
    if (ratio < (large ? 3 : 4.5)) faint.push(`${element.className || element.tagName}: ${ratio.toFixed(2)}`);
  }
  return faint;
}"""
"""Text that has less contrast with what is behind it than WCAG 2.2 AA asks for (1.4.3)."""

STROKES = [[(0.28, 0.18), (0.72, 0.18), (0.45, 0.85)]]
"""A seven, in shares of the field."""


def draw(seen: Seen) -> None:
    field = seen.page.locator(".drawing")
    field.scroll_into_view_if_needed()
    box = field.bounding_box()
    for stroke in STROKES:
        points = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in stroke]
        seen.page.mouse.move(*points[0])
        seen.page.mouse.down()
        for point in points[1:]:
            seen.page.mouse.move(*point, steps=8)
        seen.page.mouse.up()


def plan(seen: Seen) -> str:
    return str(seen.page.get_attribute(".network", "aria-label"))


def test_an_idle_page_says_what_to_do(browser: Any, console: str) -> None:
    with opened(browser, console) as seen:
        assert "Draw a digit" in seen.text("#try")
        assert seen.text("#model") == "digits version 1"
        assert seen.page.title() == "Offramp: digits"


def test_numbers_move_under_load(browser: Any, console: str) -> None:
    with opened(browser, console) as seen:
        seen.load()
        seen.until("parseFloat(document.querySelector('#figures dd').textContent) > 5")
        first = seen.text(".request .took")
        seen.until(f"document.querySelector('.request .took').textContent !== {first!r}")
        assert "answered here" in seen.text("#tiers")
        assert seen.page.locator("#latency canvas").count() == 1


def test_a_request_is_listed_once_however_often_the_page_is_loaded(browser: Any, console: str) -> None:
    numbers = "[...document.querySelectorAll('.request [data-number]')].map((each) => each.dataset.number)"
    with opened(browser, console) as seen:
        seen.load(per_second=50)
        for _ in range(3):
            seen.page.reload()
            seen.until(f"{numbers}.length > 3")
            first = seen.page.evaluate(f"{numbers}[0]")
            seen.until(f"{numbers}[0] !== {first!r}")
            listed = seen.page.evaluate(numbers)
            assert len(listed) == len(set(listed))


def test_a_page_whose_model_is_served_no_more_goes_on_with_what_is(browser: Any, console: str) -> None:
    with opened(browser, f"{console}?model=digits%3A99") as seen:
        assert seen.text("#model") == "digits version 1"
        assert "model=" not in seen.page.url
        seen.complaints.clear()  # the browser reports the tries that were refused


def test_a_digit_that_is_drawn_gets_an_answer_and_its_journey_is_shown(browser: Any, console: str) -> None:
    with opened(browser, console) as seen:
        draw(seen)
        seen.page.wait_for_selector(".answer-card .big")
        assert seen.text(".answer-card .big") == "7"
        assert seen.page.locator(".step img").count() >= 4
        assert seen.page.locator(".gauge").count() == 3
        assert seen.page.locator(".leaves").count() == 1


def test_an_empty_field_says_what_to_do(browser: Any, console: str) -> None:
    with opened(browser, console) as seen:
        seen.page.get_by_role("button", name="Send", exact=True).click()
        seen.page.wait_for_selector(".toast.shown")
        assert "Nothing is drawn yet" in seen.text("#toast")
        seen.complaints.clear()  # the browser reports the refusal, too


def test_a_worse_link_moves_the_plan_to_the_device_and_a_better_one_back(browser: Any, console: str) -> None:
    with opened(browser, console) as seen:
        seen.load()
        near = seen.page.locator("#controls fieldset").first
        near.get_by_role("button", name="Trickle").click()
        seen.until("document.querySelector('.network').getAttribute('aria-label').startsWith('Plan: device 0:20.')")
        assert "edge" not in plan(seen).partition(". ")[0]
        near.get_by_role("button", name="Wi-Fi").click()
        seen.until("document.querySelector('.network').getAttribute('aria-label').includes('edge 0:')")


OVERLAPS = """() => {
  const seen = [...document.querySelectorAll(".network text")].filter((each) => {
    for (let e = each; e.tagName !== "svg"; e = e.parentElement) if (getComputedStyle(e).opacity < 0.05) return false;
    return each.textContent;
  });
  const boxes = seen.map((each) => [each.textContent, each.getBoundingClientRect()]);
  return boxes.flatMap(([one, a], i) => boxes.slice(i + 1)
    .filter(([, b]) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
      && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 5)
    .map(([other]) => `${one} over ${other}`));
}"""
"""Labels of the network that cover each other, now."""


@pytest.mark.parametrize("width", [1440, 360])
def test_labels_never_cover_each_other_not_even_in_the_first_second(browser: Any, console: str, width: int) -> None:
    with opened(browser, console, width) as seen:
        seen.page.wait_for_selector(".network text")
        for _ in range(20):
            assert seen.page.evaluate(OVERLAPS) == []
            seen.page.wait_for_timeout(50)


def test_a_tier_behind_a_cut_link_is_not_called_reachable(browser: Any, console: str) -> None:
    with opened(browser, console) as seen:
        seen.until("document.querySelectorAll('.tier .state')[1].textContent === 'reachable'")
        near = seen.page.locator("#controls fieldset").first
        near.get_by_role("button", name="Cut").click()
        for tier in (1, 2):
            seen.until(f"document.querySelectorAll('.tier .state')[{tier}].textContent.startsWith('unreachable for')")
        near.get_by_role("button", name="Mend").click()
        seen.until("document.querySelectorAll('.tier .state')[1].textContent === 'reachable'")


def test_a_link_that_is_cut_is_shown_as_cut_and_mended_again(browser: Any, console: str) -> None:
    with opened(browser, console) as seen:
        far = seen.page.locator("#controls fieldset").nth(1)
        far.get_by_role("button", name="Cut").click()
        seen.page.wait_for_selector(".link[data-state=cut]")
        far.get_by_role("button", name="Mend").click()
        seen.page.wait_for_selector(".link[data-state=cut]", state="detached")


def test_a_request_opens_by_keyboard_and_closes_again(browser: Any, console: str) -> None:
    with opened(browser, console) as seen:
        seen.load()
        seen.page.locator(".row").first.focus()
        seen.page.keyboard.press("Enter")
        seen.page.wait_for_selector(".details table")
        assert "plan" in seen.text(".details")
        seen.page.keyboard.press("Escape")
        seen.page.wait_for_selector(".details", state="detached")


def test_every_control_can_be_reached_by_keyboard_and_has_a_name(browser: Any, console: str) -> None:
    with opened(browser, console) as seen:
        nameless = seen.page.evaluate(
            """() => [...document.querySelectorAll("button, input, select, [tabindex]")]
              .filter((e) => e.checkVisibility() && !(e.ariaLabel || e.labels?.length || e.textContent.trim()))
              .map((e) => e.outerHTML.slice(0, 80))"""
        )
        assert nameless == []
        seen.page.keyboard.press("Tab")
        assert seen.page.evaluate("document.activeElement.className") == "skip"


def test_the_page_finds_an_agent_that_was_restarted_and_says_so(browser: Any, tiny: Path) -> None:
    with in_thread() as loop:

        def run(work: Coroutine[Any, Any, T]) -> T:
            return asyncio.run_coroutine_threadsafe(work, loop).result(60)

        stack = AsyncExitStack()
        served = run(stack.enter_async_context(served_console(tiny)))
        try:
            with opened(browser, served.url) as seen:
                run(served.server.stop())
                seen.page.wait_for_selector("#status[data-state=lost]")
                again = ConsoleServer({"tiny:1": served.view})
                run(again.start(served.url.removeprefix("http://")))
                seen.page.wait_for_selector("#status[data-state=live]")
                seen.page.wait_for_selector(".toast.shown")
                assert "started anew" in seen.text("#toast")
                seen.complaints.clear()  # the browser reports each try that failed
            run(again.stop())
        finally:
            run(stack.aclose())


@pytest.mark.parametrize(
    ("name", "width", "scheme"),
    [("light", 1440, "light"), ("dark", 1440, "dark"), ("phone", 360, "light"), ("phone-dark", 360, "dark")],
)
def test_it_looks_right_in_both_themes_and_on_a_phone(
    browser: Any, console: str, name: str, width: int, scheme: str
) -> None:
    with opened(browser, console, width, scheme, device_scale_factor=2 if width < 500 else 1) as seen:
        seen.load()
        seen.page.locator(".samples button").nth(4).click()
        seen.page.wait_for_selector(".answer-card")
        seen.until("document.querySelectorAll('.request').length >= 14")
        seen.picture(name)
        assert seen.page.evaluate("document.documentElement.scrollWidth") == width
        assert seen.page.evaluate(CONTRAST) == []


def test_a_plan_over_three_tiers_shows_each_in_its_colour(browser: Any, tmp_path: Path) -> None:
    with console_of_testbed(tmp_path, splits="8,14") as console, opened(browser, console) as seen:
        seen.load()
        seen.page.locator(".samples button").nth(2).click()
        seen.page.wait_for_selector(".answer-card")
        seen.until("document.querySelectorAll('.request').length >= 14")
        colours = [seen.page.locator(f".block.t-{tier}").count() for tier in ("device", "edge", "cloud")]
        assert colours == [8, 6, 6]
        assert "nothing is compared" in seen.text("#why")
        seen.picture("three-tiers")


def test_the_theme_can_be_switched_and_stays(browser: Any, console: str) -> None:
    with opened(browser, console) as seen:
        seen.page.click("#theme")
        assert seen.page.get_attribute("html", "data-theme") == "dark"
        seen.page.reload()
        assert seen.page.get_attribute("html", "data-theme") == "dark"


def test_who_wants_no_motion_sees_none(browser: Any, console: str) -> None:
    with opened(browser, console, reduced_motion="reduce") as seen:
        seen.load()
        seen.until("parseFloat(document.querySelector('#figures dd').textContent) > 5")
        assert seen.page.locator(".dot").count() == 0
