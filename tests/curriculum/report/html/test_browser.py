"""A report as its reader meets it: opened in a real browser, in light and dark, narrow and wide, printed, offline."""

from __future__ import annotations

import base64
import http.server
import json
import math
import random
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pretend_arms import decided
from pretend_runs import pretend
from projects import write_small_project

from curriculum.config.init import init
from curriculum.config.project import Project
from curriculum.report.html.write import render, render_study
from curriculum.studies.arm import Arm

pytestmark = pytest.mark.promise(
    "A report opens with every chart drawn, no console message and no request, in light and dark, from "
    "400 to 1,040 pixels, and prints completely, in a real browser"
)

if TYPE_CHECKING:
    from selenium.webdriver.remote.webdriver import WebDriver

WIDE, NARROW = 1040, 400
STUDY = """\
about: how much code the continual stage takes
for: variant/continual
vary: {mixture: {around: mixed, runs: 6}}
goal: {lower: {code: 1}, keep: {prose: before + 0.02}}
"""
# Every text that is seen, with its colour and what lies behind it: its own background or that of the nearest above.
TEXTS = """
const seen = [], rgb = c => c.match(/[\\d.]+/g).map(Number);
const behind = e => { for (; e; e = e.parentElement) {
  const c = rgb(getComputedStyle(e).backgroundColor); if (c.length < 4 || c[3] > 0) return c.slice(0, 3); }
  return [255, 255, 255]; };
const band = n => { const p = document.createElement('p'); p.style.color = `var(--${n})`; document.body.append(p);
  const c = rgb(getComputedStyle(p).color); p.remove(); return c.slice(0, 3); };
const bands = ['band', 'odd'].map(band);
for (const e of document.querySelectorAll('body *')) {
  const own = [...e.childNodes].some(n => n.nodeType == 3 && n.data.trim());
  if (!own || ['TITLE', 'title', 'desc', 'STYLE'].includes(e.tagName) || !e.checkVisibility()) continue;
  const svg = e instanceof SVGElement, style = getComputedStyle(e);
  seen.push({text: e.textContent.trim().slice(0, 40), size: parseFloat(style.fontSize),
    colour: rgb(svg ? style.fill : style.color).slice(0, 3), on: svg ? [behind(e), ...bands] : [behind(e)]});
}
return seen;
"""
# The boxes of all words in every chart that is seen, in the chart's own units.
WORDS = """
return [...document.querySelectorAll('svg.chart')].filter(s => s.checkVisibility()).map(s => ({
  name: s.querySelector('title').textContent, width: s.viewBox.baseVal.width, height: s.viewBox.baseVal.height,
  box: [s.getBoundingClientRect().width, s.getBoundingClientRect().height],
  words: [...s.querySelectorAll('text')].map(t => { const b = t.getBBox();
    return {text: t.textContent, x: b.x, y: b.y, width: b.width, height: b.height}; })}));
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a trunk that is done and of a variant that is under way."""
    root = write_small_project(tmp_path_factory.mktemp("report") / "project")
    pretend(root, "trunk")
    pretend(root, "variant", part=0.7)
    path = root / "report.html"
    path.write_text(render(Project(root), ["trunk", "variant"], "full"))
    return path


@pytest.fixture(scope="module")
def written_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a study whose proposal ran."""
    root = write_small_project(tmp_path_factory.mktemp("study") / "project")
    (root / "studies").mkdir()
    (root / "studies/code.yaml").write_text(STUDY)
    project = Project(root)
    for _ in range(2):
        decided(project, "code", "full", end_loss, {"prose": 5.0, "code": 6.0})
    path = root / "study.html"
    path.write_text(render_study(project, "code", "full"))
    return path


def end_loss(arm: Arm, source: str) -> float:
    own = float(arm.point.mixture.shares.get(source, 0))
    return 4 + math.exp(-own) + random.Random(f"{arm.name} {source}").gauss(0, 0.002)


def show(
    browser: WebDriver, path: Path, *, width: int = WIDE, scheme: str = "light", media: str = ""
) -> list[dict[str, Any]]:
    """Open a file and return what the browser asked for since, as (method, parameters) of its network log."""
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    )
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})
    for log in ("browser", "performance"):
        browser.get_log(log)
    browser.get(path.as_uri())
    return requests(browser)


def requests(browser: WebDriver) -> list[dict[str, Any]]:
    sent = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [e["params"] for e in sent if e["method"] == "Network.requestWillBeSent"]


def addresses(asked: list[dict[str, Any]]) -> list[str]:
    return [a["request"]["url"] for a in asked if not a["request"]["url"].startswith("data:")]


@pytest.fixture
def heard() -> Iterator[tuple[str, list[str]]]:
    """A server on the loopback that answers and writes down every path it is asked for."""
    paths: list[str] = []

    class Listening(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Listening)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", paths
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [WIDE, 760, NARROW])
def test_every_chart_is_drawn_and_nothing_is_asked_for_or_complained_about(
    browser: WebDriver, written: Path, scheme: str, width: int
) -> None:
    asked = show(browser, written, width=width, scheme=scheme)
    assert addresses(asked) == [written.as_uri()]
    assert browser.get_log("browser") == []
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    charts = browser.execute_script(WORDS)
    # two curricula, the training loss, two sources, the tree: each seen once, at this width's own drawing
    assert len(charts) == 6
    assert all(chart["box"][0] > 200 and chart["box"][1] > 80 for chart in charts)
    paper = browser.execute_script("return getComputedStyle(document.documentElement).backgroundColor")
    assert paper == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(18, 22, 28)")


@pytest.mark.parametrize(("width", "scheme"), [(WIDE, "light"), (NARROW, "dark")])
def test_every_chart_of_a_study_is_drawn_its_text_can_be_read_and_nothing_is_asked_for(
    browser: WebDriver, written_study: Path, width: int, scheme: str
) -> None:
    asked = show(browser, written_study, width=width, scheme=scheme)
    assert addresses(asked) == [written_study.as_uri()]
    assert browser.get_log("browser") == []
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    charts = browser.execute_script(WORDS)
    # verdicts at this width's own drawing, two laws, the shares of two sources
    assert len(charts) == 4
    assert all(chart["box"][0] > 200 and chart["box"][1] > 80 for chart in charts)
    check_words(charts)
    check_texts(browser, 100)


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_lines_have_as_many_points_as_there_are_measurements(browser: WebDriver, written: Path, width: int) -> None:
    show(browser, written, width=width)
    counted = browser.execute_script(
        "return [...document.querySelectorAll('#training svg.chart')].filter(s => s.checkVisibility())"
        ".flatMap(s => [...s.querySelectorAll('polyline.raw')].map(p => [p.points.numberOfItems, p.getBBox().width]))"
    )
    lines = [
        len((written.parent / "runs" / "full" / stage / "metrics.jsonl").read_text().splitlines())
        for stage in ("trunk/basic", "trunk/continual", "trunk/cooldown", "variant/continual", "variant/cooldown")
    ]
    assert [points for points, _ in counted] == lines
    assert all(box > 0 for points, box in counted)


@pytest.mark.parametrize("width", [WIDE, NARROW])
@pytest.mark.parametrize("which", ["trained", "shipped", "constant batch"])
def test_no_words_of_a_chart_cover_one_another_or_leave_it(
    browser: WebDriver, written: Path, tmp_path: Path, width: int, which: str
) -> None:
    path = written
    if which == "shipped":  # its last stages are a twelfth of the axis, its ramp a three-hundredth
        init(tmp_path / "shipped")
        path = tmp_path / "plan.html"
        path.write_text(render(Project(tmp_path / "shipped"), ["v1.1", "v1.1-math-code", "v1.1-chinese"], "full"))
    if which == "constant batch":  # its one label stands where the row is named, and the control branches below
        init(tmp_path / "shipped")
        path = tmp_path / "constant.html"
        names = ["v1.1", "v1.1-math-code", "v1.1-math-code-control"]
        path.write_text(render(Project(tmp_path / "shipped"), names, "rehearsal"))
    show(browser, path, width=width)
    check_words(browser.execute_script(WORDS))


def check_words(charts: list[dict[str, Any]]) -> None:
    """No word of a chart leaves it or covers another."""
    for chart in charts:
        words = chart["words"]
        assert words
        for at, one in enumerate(words):
            where = f"{chart['name']}: {one['text']}"
            assert one["x"] >= -1, where
            assert one["x"] + one["width"] <= chart["width"] + 1, where
            assert one["y"] + one["height"] <= chart["height"] + 1, where
            for other in words[at + 1 :]:
                across = min(one["x"] + one["width"], other["x"] + other["width"]) - max(one["x"], other["x"])
                down = min(one["y"] + one["height"], other["y"] + other["height"]) - max(one["y"], other["y"])
                assert across <= 1 or down <= 3, f"{where} covers {other['text']}"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_all_text_can_be_read(browser: WebDriver, written: Path, scheme: str, width: int) -> None:
    show(browser, written, width=width, scheme=scheme)
    check_texts(browser, 200)


def check_texts(browser: WebDriver, least: int) -> None:
    """Every text of the page that is shown is large enough, and its colour far enough from what it is on."""
    browser.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
    texts = browser.execute_script(TEXTS)
    assert len(texts) > least
    for text in texts:
        for paper in text["on"]:
            assert contrast(text["colour"], paper) >= 4.5, text
        assert text["size"] >= 11, text


def test_the_tables_of_how_it_ran_fit_a_wide_page_with_long_names(browser: WebDriver, tmp_path: Path) -> None:
    root = write_small_project(tmp_path / "project")
    name = "a-variant-of-the-trunk-named-at-length"
    (root / "stages/variant.yaml").rename(root / f"stages/{name}.yaml")
    pretend(root, name)
    path = tmp_path / "report.html"
    path.write_text(render(Project(root), [name], "full"))
    show(browser, path, width=1200)
    cut = browser.execute_script(
        "return [...document.querySelectorAll('#environment .scroll')]"
        ".filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.getAttribute('aria-label'))"
    )
    assert cut == []


def contrast(one: list[float], other: list[float]) -> float:
    """WCAG 2's contrast ratio of two sRGB colours."""

    def luminance(colour: list[float]) -> float:
        linear = [c / 255 / 12.92 if c <= 10.31 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_print_shows_what_is_folded_away_and_cuts_nothing(browser: WebDriver, written: Path) -> None:
    show(browser, written, width=720, media="print", scheme="dark")
    paper = browser.execute_script("return getComputedStyle(document.documentElement).backgroundColor")
    assert paper == "rgb(255, 255, 255)"  # paper is light whatever the screen is
    hidden = browser.execute_script(
        "return [...document.querySelectorAll('details, details table, pre')].filter(e => e.firstElementChild && "
        "(e.getBoundingClientRect().height < 30 || !e.checkVisibility({contentVisibilityAuto: true})))"
        ".map(e => e.textContent.slice(0, 40))"
    )
    assert hidden == []
    cut = browser.execute_script(
        "return [...document.querySelectorAll('pre, .scroll')].filter(e => e.scrollWidth > e.clientWidth + 1)"
        ".map(e => [e.scrollWidth, e.clientWidth, e.textContent.slice(0, 40)])"
    )
    assert cut == []
    printed = browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": True, "preferCSSPageSize": True})
    pdf = base64.b64decode(printed["data"])
    assert pdf.startswith(b"%PDF-")
    assert len(re.findall(rb"/Type\s*/Page\b", pdf)) >= 4


def test_all_of_it_can_be_reached_and_opened_by_keyboard(browser: WebDriver, written: Path) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    show(browser, written)

    def focused(script: str) -> Any:
        return browser.execute_script(f"const e = document.activeElement; return {script}")

    ActionChains(browser).send_keys(Keys.TAB).perform()
    assert focused("e.textContent") == "Skip to the report"
    assert focused("e.getBoundingClientRect().left") >= 0  # it shows itself once it has the focus
    for _ in range(40):
        ActionChains(browser).send_keys(Keys.TAB).perform()
        if focused("e.tagName") == "SUMMARY":
            break
    assert focused("e.tagName") == "SUMMARY"
    assert not focused("e.parentElement.open")
    ActionChains(browser).send_keys(Keys.ENTER).perform()
    assert focused("e.parentElement.open")
    assert focused("getComputedStyle(e).outlineStyle") == "solid"


@pytest.mark.promise(
    "Hostile text in any file stays text in a report; injected markup could neither run nor request anything"
)
def test_even_markup_that_slipped_in_could_neither_run_nor_ask_for_anything(
    browser: WebDriver, written: Path, heard: tuple[str, list[str]], tmp_path: Path
) -> None:
    address, paths = heard
    slipped = f'<img src="{address}/image"><script src="{address}/script"></script>'
    slipped += '<script>document.title="ran"</script>'
    open_page = tmp_path / "open.html"
    closed_page = tmp_path / "closed.html"
    html = written.read_text().replace("</main>", f"{slipped}</main>")
    closed_page.write_text(html)
    open_page.write_text(re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", html))
    show(browser, closed_page)
    assert browser.title != "ran"
    assert paths == []
    # without the policy the same page does all of it, and the count of requests notices: the control
    asked = show(browser, open_page)
    assert browser.title == "ran"
    assert sorted(paths) == ["/image", "/script"]
    assert len(addresses(asked)) == 3


def test_a_curriculum_that_has_not_run_gives_a_report_of_its_plan(browser: WebDriver, tmp_path: Path) -> None:
    root = write_small_project(tmp_path / "project")
    path = tmp_path / "plan.html"
    path.write_text(render(Project(root), ["variant"], "full"))
    assert addresses(show(browser, path)) == [path.as_uri()]
    assert browser.get_log("browser") == []
    assert "Nothing has been trained yet" in browser.page_source
    names = [chart["name"] for chart in browser.execute_script(WORDS)]
    assert names == ["variant: shares of the sources, learning rate and batch along the tokens", "Lineage"]
