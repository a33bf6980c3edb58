"""The page for everybody: keyboard, screen reader, contrast, phone, both themes. The checks follow WCAG 2.2 AA."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest
from browser_page import Console, open_page, upload


@pytest.fixture(scope="module")
def full(browser: Any, server: str) -> Iterator[Any]:
    """One page for the tests that change nothing: two clips, the comparison with noise, text fields for editing."""
    context = browser.new_context(locale="en-US")
    page = fill(open_page(context, server, Console()))
    page.locator("#edit").click()
    yield page
    context.close()


def fill(page: Any) -> Any:
    """Bring everything on the page."""
    upload(page, "en-digit-seven.flac", "en-adult.flac")
    page.locator("#noise summary").click()
    page.locator("#noise-run").click()
    page.locator(".sound").nth(1).wait_for()
    return page


# Each visible text with its colour, the colour behind it, its size and weight.
TEXTS = """() => {
  const shown = e => e.checkVisibility({ opacityProperty: true, visibilityProperty: true }) && !e.closest(".unseen");
  const behind = e => {
    for (; e; e = e.parentElement) {
      const colour = getComputedStyle(e).backgroundColor;
      if (!/, 0\\)$/.test(colour)) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const e = walker.currentNode.parentElement, text = walker.currentNode.data.trim();
    if (!text || !shown(e) || e.closest("script, style, option")) continue;
    const s = getComputedStyle(e);
    found.push([text, s.color, behind(e), parseFloat(s.fontSize), Number(s.fontWeight)]);
  }
  for (const e of document.querySelectorAll("input[type=text], select, textarea"))
    if (shown(e)) found.push([e.id, getComputedStyle(e).color, behind(e), 16, 400]);
  for (const e of document.querySelectorAll("input[type=text]"))
    if (shown(e)) found.push([e.id, getComputedStyle(e, "::placeholder").color, behind(e), 16, 400]);
  return found;
}"""

# The name that assistive technology reads, by the rules that matter here.
NAMES = """() => [...document.querySelectorAll(
    "button, input, select, textarea, a[href], summary, canvas, dialog, nav, section, article")]
  .filter(e => !e.closest("[aria-hidden=true]") && !e.closest("[hidden]"))
  .map(e => [e.outerHTML.slice(0, 120), (e.getAttribute("aria-label")
    || [...(e.labels ?? [])].map(l => l.textContent).join(" ")
    || document.getElementById(e.getAttribute("aria-labelledby"))?.textContent
    || e.textContent).trim()])"""


def luminance(colour: str) -> float:
    """Relative luminance of rgb(…), as WCAG defines it."""
    channels = [float(part) / 255 for part in colour.split("(")[1].rstrip(")").split(",")[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """From 1 (same) to 21 (black and white)."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_formula_against_known_values() -> None:
    assert contrast("rgb(0, 0, 0)", "rgb(255, 255, 255)") == pytest.approx(21)
    assert contrast("rgb(119, 119, 119)", "rgb(255, 255, 255)") == pytest.approx(4.48, abs=0.01)  # the famous #777


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_enough_contrast(open_at: Callable[..., Any], server: str, scheme: str) -> None:
    page = fill(open_at(server, color_scheme=scheme))
    assert page.locator("html").get_attribute("data-theme") == scheme
    page.locator("#edit").click()  # text fields are texts, too
    texts = page.evaluate(TEXTS)
    assert len(texts) > 40
    for text, colour, behind, size_px, weight in texts:
        large = size_px >= 24 or (size_px >= 18.66 and weight >= 700)
        assert contrast(colour, behind) >= (3 if large else 4.5), (text, colour, behind)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_controls_can_be_made_out(open_at: Callable[..., Any], server: str, scheme: str) -> None:
    page = open_at(server, color_scheme=scheme)
    for name in ("#language", "#context", "#choose"):
        edge = page.locator(name).evaluate("e => getComputedStyle(e).borderTopColor")
        card = page.locator("#intake").evaluate("e => getComputedStyle(e).backgroundColor")
        assert contrast(edge, card) >= 3, name  # WCAG 1.4.11


def test_everything_has_a_name(full: Any) -> None:
    names = full.evaluate(NAMES)
    assert len(names) > 20
    assert [element for element, name in names if not name] == []


def test_structure_is_sound(full: Any) -> None:
    levels = full.evaluate(
        """() => [...document.querySelectorAll("h1, h2, h3, h4, h5, h6")]
        .filter(h => h.checkVisibility()).map(h => Number(h.tagName[1]))"""
    )
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    ids = full.evaluate("() => [...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))
    broken = full.evaluate(
        """() => ["for", "aria-labelledby", "aria-describedby"].flatMap(name =>
            [...document.querySelectorAll(`[${name}]`)].flatMap(e => e.getAttribute(name).split(" "))
            .filter(id => !document.getElementById(id)))"""
    )
    assert broken == []
    for landmark in ("banner", "main", "contentinfo", "navigation"):
        assert full.get_by_role(landmark).count() == 1
    assert full.locator("[style]:not(#spans *, #playhead, textarea)").count() == 0


def test_nothing_hidden_takes_the_focus(full: Any) -> None:
    full.locator(".skip").focus()
    seen = ["skip"]
    for _ in range(80):
        full.keyboard.press("Tab")
        focused = full.evaluate(
            """() => { const e = document.activeElement, r = e.getBoundingClientRect();
            return [e.tagName, e.id || e.className || e.textContent.slice(0, 20), r.width > 1 && r.height > 1,
                !e.closest("[aria-hidden=true]")]; }"""
        )
        if focused[0] == "BODY":
            break
        assert focused[2] and focused[3], focused
        seen.append(focused[1])
    assert {"skip", "record", "files", "language", "context", "play", "position", "edit", "copy", "snr"} <= set(seen)
    assert len(seen) < 60  # no trap


def test_focus_can_be_seen(page: Any) -> None:
    page.keyboard.press("Tab")
    skip = page.locator(".skip")
    assert skip.bounding_box()["y"] >= 0  # it comes into view
    for _ in range(3):
        page.keyboard.press("Tab")
    outline = "() => { const s = getComputedStyle(document.activeElement); return [s.outlineStyle, s.outlineWidth]; }"
    assert page.evaluate("() => document.activeElement.id") == "record"
    assert page.evaluate(outline) == ["solid", "3px"]


def test_a_recording_is_made_heard_and_edited_by_keyboard_alone(page: Any) -> None:
    def tab_to(condition: str) -> None:
        for _ in range(40):
            page.keyboard.press("Tab")
            if page.evaluate(f"() => {{ const e = document.activeElement; return {condition}; }}"):
                return
        pytest.fail(f"no way by Tab to {condition}")

    tab_to("e.id === 'record'")
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.getElementById('timer').textContent >= '0:03'")
    assert page.evaluate("() => document.activeElement.id") == "record"
    page.keyboard.press("Space")
    page.locator("#segments .reading").first.wait_for()
    tab_to("e.id === 'position'")
    page.keyboard.press("ArrowRight")
    page.wait_for_function("() => document.getElementById('audio').currentTime > 0")
    tab_to("e.id === 'edit'")
    page.keyboard.press("Enter")
    page.keyboard.press("Control+A")  # the focus is in the first field
    page.keyboard.type("typed by hand")
    tab_to("e.matches('#downloads button')")
    with page.expect_download() as download:
        page.keyboard.press("Enter")
    assert download.value.suggested_filename == "Recording 1.txt"
    assert download.value.path().read_text(encoding="utf-8").startswith("typed by hand")


def test_the_page_fits_a_small_phone(open_at: Callable[..., Any], server: str) -> None:
    width = 320  # WCAG 1.4.10
    page = fill(open_at(server, viewport={"width": width, "height": 640}, is_mobile=True, has_touch=True))
    page.locator("#edit").click()
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width
    cut = page.evaluate(
        """width => [...document.querySelectorAll("main *, header *")]
        .filter(e => e.checkVisibility() && !e.closest(".unseen") && !e.closest("[aria-hidden=true]"))
        .filter(e => { const r = e.getBoundingClientRect(); return r.width && (r.left < -1 || r.right > width + 1); })
        .map(e => e.outerHTML.slice(0, 80))""",
        width,
    )
    assert cut == []
    small = page.evaluate(
        """() => [...document.querySelectorAll("button, select, summary, input:not([type=file])")]
        .filter(e => e.checkVisibility()).map(e => [e.outerHTML.slice(0, 80), e.getBoundingClientRect().height])
        .filter(([, height]) => height < 24)"""
    )
    assert small == []  # WCAG 2.5.8


def test_what_happens_is_said_aloud(page: Any) -> None:
    page.set_input_files("#files", {"name": "empty.wav", "mimeType": "audio/wav", "buffer": b""})
    page.locator(".problem-inside").wait_for()
    assert "The recording is empty." in page.get_by_role("alert").all_inner_texts()
    upload(page, "en-digit-seven.flac")
    page.get_by_role("status").get_by_text("seven").wait_for()


def test_the_page_loads_nothing_from_elsewhere(open_at: Callable[..., Any], server: str) -> None:
    page = open_at("about:blank", ready=False)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    response = page.goto(server)
    page.wait_for_selector("html[data-ready]")
    fill(page)
    assert asked and all(url.startswith((server, "blob:")) for url in asked)
    policy = response.headers["content-security-policy"]
    assert "script-src 'self'" in policy and "unsafe" not in policy
    assert page.evaluate("() => document.querySelectorAll('script:not([src]), style, [onclick], [onload]').length") == 0
