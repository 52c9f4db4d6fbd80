"""The page of `examples/app.py` in Chromium: images appear step by step, and mistakes are shown."""

import shutil
import subprocess
import sys
import time

import pytest
from tools import ROOT

pytestmark = [pytest.mark.once, pytest.mark.needs("gradio", "selenium")]
FLAGS = "headless no-sandbox disable-gpu disable-background-networking disable-sync no-first-run"


def start_chromium(folder, size="1400,980"):
    from selenium import webdriver

    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("needs Chromium: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS.split(), f"user-data-dir={folder / 'browser'}", f"window-size={size}"):
        options.add_argument(f"--{flag}")
    return webdriver.Chrome(options, webdriver.ChromeService(driver))


@pytest.fixture
def browser(tmp_path):
    browser = start_chromium(tmp_path)
    browser.implicitly_wait(60)  # seconds, until an element is there
    command = [sys.executable, ROOT / "examples" / "app.py", "--model", "drawn_flowers_16"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        try:
            browser.get(process.stdout.readline().split()[-1])
            yield browser
        finally:
            browser.quit()
            process.terminate()


def test_images_are_drawn_step_by_step_and_mistakes_are_shown(browser, tmp_path):
    from selenium.webdriver.common.keys import Keys

    def find(xpath):
        return browser.find_element("xpath", xpath)

    def enter(label, text):
        field = find(f"//*[normalize-space()='{label}']/following::input[1]")
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(text, Keys.ENTER)

    def generate():
        find("//button[normalize-space()='Generate']").click()

    find("//*[contains(text(), '1 773 419 parameters')]")  # the model has been read
    enter("Classes", "red 5-petalled")
    enter("Steps", "20")
    generate()
    pictures, end = set(), time.monotonic() + 120
    while "16 images in" not in browser.find_element("tag name", "body").text:
        assert time.monotonic() < end
        script = "return [...document.images].map(image => image.src).join()"
        pictures.add(browser.execute_script(script))
        time.sleep(0.05)
    assert len(pictures) > 3
    browser.save_screenshot(str(tmp_path / "app.png"))  # docs/app.png is such a picture
    enter("Steps", "0")
    generate()
    find("//*[contains(text(), 'steps=0 must be at least 1')]")
