"""The static page of `docs/browser` in Chromium: it draws what `generate` draws."""

import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from test_page_in_browser import start_chromium
from tools import ROOT

from keras_ddpm import DiffusionModel
from keras_ddpm.pixels import to_uint8

pytestmark = [pytest.mark.once, pytest.mark.needs("selenium", "tf2onnx", "onnx")]
NOISE = """
const done = arguments[arguments.length - 1];
import("./draw.js").then((page) => done(Array.from(page.normal(5, 2 * 16 * 16 * 3))));
"""
PIXELS = """
return [...document.querySelectorAll("canvas")].map((canvas) => Array.from(
  canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data));
"""


@pytest.fixture
def browser(tmp_path):
    if shutil.which("npm") is None:
        pytest.skip("needs npm: apt-get install npm")
    browser = start_chromium(tmp_path, "760,620")
    try:
        script = ROOT / "docs" / "browser" / "build.py"
        subprocess.run([sys.executable, script, "--output", "page"], check=True, cwd=tmp_path)
        command = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1"]
        options = {"cwd": tmp_path / "page", "text": True, "stderr": subprocess.DEVNULL}
        with subprocess.Popen(command, stdout=subprocess.PIPE, **options) as server:
            try:
                browser.get(server.stdout.readline().split("(")[1].split(")")[0])
                yield browser
            finally:
                server.terminate()
    finally:
        browser.quit()


def test_the_browser_draws_what_generate_draws(browser, tmp_path):
    def find(name):
        return browser.find_element("id", name)

    def wait_for(text):
        end = time.monotonic() + 300
        while text not in (status := find("status").text):
            assert time.monotonic() < end and "failed" not in status, status
            time.sleep(0.05)

    def draw(count, **values):
        for name, value in {"count": count, **values}.items():
            browser.execute_script("arguments[0].value = arguments[1]", find(name), value)
        find("draw").click()
        wait_for(f"{count} images in")

    wait_for("The model is loaded.")
    draw(2, colour="violet", petals="8-petalled", guidance=3, seed=5)
    noise = np.float32(browser.execute_async_script(NOISE)).reshape(2, 16, 16, 3)
    assert abs(noise.mean()) < 0.1 and abs(noise.std() - 1) < 0.1
    found = np.reshape(browser.execute_script(PIXELS), (2, 16, 16, 4))
    expected = DiffusionModel.from_preset("drawn_flowers_16").generate(
        noise=noise,
        labels="violet 8-petalled",
        guidance_scale=3.0,
        sampler="dpm_solver++",
        steps=20,
    )
    assert (found[..., 3] == 255).all()
    assert np.abs(found[..., :3] - to_uint8(expected).astype(int)).max() <= 1
    draw(16, colour="red", petals="5-petalled", guidance=2)
    browser.save_screenshot(str(tmp_path / "browser.png"))  # docs/browser.png is such a picture
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
