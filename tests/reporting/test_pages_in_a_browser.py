"""The pages in headless Chromium: no error of the console, sorting, pictures, the map by pointer and by keyboard."""

import socket

import browser
import pytest
from made_runs import VAE, make, three_models

from pae_zoo import leaderboard, report
from pae_zoo.experiment import launch

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(not browser.DRIVER or not browser.CHROMIUM, reason="there is no chromium with its chromedriver"),
]
WIDTHS = (400, 1280)
ENTER, SPACE, ESCAPE, RIGHT, TAB = "\ue007", " ", "\ue00c", "\ue014", "\ue004"


@pytest.fixture(scope="module")
def window():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    found = browser.Browser(port)
    yield found
    found.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """{name: path of a page}"""
    folder = tmp_path_factory.mktemp("pages")
    three_models(folder / "runs")
    assert launch.run(leaderboard.main, [f"--workdirs={folder}/runs/*", f"--output={folder}"]) == 0
    found = {"leaderboard": folder / "leaderboard.html"}
    for kind in ("images", "rows", "windows"):
        run = make(folder / kind, "vae", 0, VAE[0], ("reconstructions", "samples"), kind)
        assert launch.run(report.main, [f"--workdir={run.workdir}"]) == 0
        found[kind] = run.workdir / "report.html"
    return found


COLUMN = """const head = [...document.querySelectorAll('th[aria-sort]')].find((h) => h.textContent.startsWith('MSE'));
const body = head.closest('table').tBodies[0];
return [head.getAttribute('aria-sort'), ...[...body.rows].map((row) => row.cells[head.cellIndex].dataset.v)];"""
FOCUS = """[...document.querySelectorAll('th[aria-sort] button')].find((b) => b.textContent === 'MSE').focus();"""


@pytest.mark.parametrize("width", WIDTHS)
def test_the_leaderboard(window, pages, width, tmp_path):
    window.show(pages["leaderboard"], width, scheme="dark" if width == 400 else "light")
    assert window.run("return document.documentElement.scrollWidth <= window.innerWidth + 1;")
    assert window.run(COLUMN) == ["none", "0.025", "0.05"]
    window.run(FOCUS)
    window.press(ENTER)
    assert window.run(COLUMN) == ["ascending", "0.025", "0.05"]
    window.press(SPACE)
    assert window.run(COLUMN) == ["descending", "0.05", "0.025"]
    window.click("td button[data-show]")
    assert window.run("return document.getElementById('dialog').open;")
    assert window.run("return [...document.querySelectorAll('#dialog img')].every((i) => i.complete && "
                      "i.naturalWidth > 0) && document.querySelectorAll('#dialog img').length;")
    window.press(ESCAPE)
    assert not window.run("return document.getElementById('dialog').open;")
    window.screenshot(tmp_path / "leaderboard.png", whole=True)
    assert not window.errors()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("kind", ["images", "rows", "windows"])
def test_the_map_of_a_report(window, pages, kind, width):
    window.show(pages[kind], width)
    assert window.run("return document.documentElement.scrollWidth <= window.innerWidth + 1;")
    window.run("document.querySelector('.map svg').scrollIntoView({block: 'center'});")
    panel = "return document.querySelector('.panel').textContent;"
    assert "Point at one" in window.run(panel)
    x, y = window.run("const box = document.querySelectorAll('.map circle.p')[7].getBoundingClientRect(); "
                      "return [box.x + box.width / 2, box.y + box.height / 2];")
    window.hover(x, y)
    shown = window.run(panel)
    assert "mean squared error" in shown and "decoded" in shown
    if kind == "images":
        assert window.run("return [...document.querySelectorAll('.panel canvas')].every((c) => new Set(c.getContext("
                          "'2d').getImageData(0, 0, c.width, c.height).data).size > 9);")
    window.run("document.querySelector('.map svg').focus();")
    window.press(RIGHT)
    assert window.run(panel) != shown
    window.click(".legend button")
    assert window.run("return document.querySelectorAll('.map circle.off').length;") == 20
    assert window.run("return document.getElementById('picture-0').naturalWidth;") == 60
    if width == 1280:
        window.click(".gallery button")
        assert window.run("return document.querySelector('#dialog img').naturalWidth;") == 60
        window.click("#dialog .close")
    assert not window.errors()
