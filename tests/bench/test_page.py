"""The page in a real browser: draws, sorts, fits a phone, follows dark mode, stays offline."""

import json
import shutil

import pytest

CHROMEDRIVER = shutil.which("chromedriver")
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.skipif(
        not (CHROMEDRIVER and BROWSER), reason="no Chromium with its driver on this machine"
    ),
    # Selenium's own sockets to the driver are closed by the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--no-first-run",
        f"--user-data-dir={tmp_path_factory.mktemp('profile')}",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(executable_path=CHROMEDRIVER)
    driver = webdriver.Chrome(options=options, service=service)
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def page(browser, comparison, tmp_path_factory):
    folder = comparison.save(tmp_path_factory.mktemp("page"))
    browser.get((folder / "comparison.html").as_uri())
    return browser


def column(page, index):
    rows = page.find_elements("css selector", "#table tbody tr")
    return [row.find_elements("tag name", "td")[index].text for row in rows]


def test_draws_without_errors_and_without_network(page, comparison):
    assert len(page.find_elements("css selector", "#curves .scatterlayer .trace")) == 2 * len(
        comparison.results
    )
    assert len(page.find_elements("css selector", "#intervals .scatterlayer .trace")) == 2 * len(
        comparison.results
    )
    assert [entry for entry in page.get_log("browser") if entry["level"] == "SEVERE"] == []
    events = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    asked = [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
        and event["params"]["documentURL"] == page.current_url
    ]
    assert asked == [page.current_url]


def test_shows_the_table(page, comparison):
    table = comparison.to_pandas()
    assert [name.removesuffix(" (baseline)") for name in column(page, 0)] == list(table.index)
    assert column(page, 1) == [f"{mean:.4f}" for mean in table["mean"]]


def test_sorts_by_a_click(page):
    header = page.find_elements("css selector", "#table th button")
    header[1].click()
    assert column(page, 1) == sorted(column(page, 1), key=float)
    header[1].click()
    assert column(page, 1) == sorted(column(page, 1), key=float, reverse=True)
    header[0].click()
    assert column(page, 0) == sorted(column(page, 0))


def test_fits_a_phone(page):
    phone = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    page.refresh()
    assert page.execute_script("return document.documentElement.scrollWidth") <= 390
    width = page.execute_script("return document.querySelector('#curves svg').clientWidth")
    assert 200 < width <= 390
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_follows_the_dark_mode(page):
    colours = {}
    for scheme in ("light", "dark"):
        page.execute_cdp_cmd(
            "Emulation.setEmulatedMedia",
            {"features": [{"name": "prefers-color-scheme", "value": scheme}]},
        )
        page.refresh()
        style = "return getComputedStyle(document.querySelector('{}')).{}"
        colours[scheme] = (
            page.execute_script(style.format("body", "backgroundColor")),
            page.execute_script(style.format("#curves .xtick text", "fill")),
        )
    assert colours["light"] == ("rgb(255, 255, 255)", "rgb(27, 31, 36)")
    assert colours["dark"] == ("rgb(20, 24, 29)", "rgb(232, 235, 238)")
