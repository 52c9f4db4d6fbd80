"""The page to play with: its functions, as a service for two at once, and in a real browser."""

import base64
import importlib.util
import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from conftest import tiny_network
from PIL import Image

from keras_ddpm import DiffusionModel, GaussianDiffusion, build_mlp
from keras_ddpm.plotting import image_grid
from keras_ddpm.samplers.seeds import initial_noise

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "examples" / "app.py"


def skip_loudly(reason, **kwargs):
    """A skip that the summary tells even without -r s: as a warning."""
    warnings.warn(f"NOT TESTED: {reason}", stacklevel=2)
    pytest.skip(reason, **kwargs)


try:
    import gradio
    from gradio_client import Client
    from gradio_client.exceptions import AppError
except ImportError:
    skip_loudly('the page, for Gradio is missing: pip install -e ".[app]"', allow_module_level=True)


# Gradio's own, of pandas, one for each request.
pytestmark = [
    pytest.mark.needs("gradio"),
    pytest.mark.filterwarnings(
        "ignore:'future.no_silent_downcasting' is deprecated",
        "ignore:The copy keyword is deprecated",
    ),
]


@pytest.fixture(scope="module")
def app():
    spec = importlib.util.spec_from_file_location("app", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Untrained models in files, by name."""
    folder = tmp_path_factory.mktemp("models")
    networks = {
        "named": (tiny_network(8, 1, num_classes=3), ("rose", "tulip", "iris")),
        "numbered": (tiny_network(8, 3, num_classes=12), None),
        "plain": (tiny_network(8, 3), None),
        "points": (build_mlp(2, width=8), None),
    }
    for name, (network, label_names) in networks.items():
        model = DiffusionModel(network, GaussianDiffusion(20, "cosine"), label_names=label_names)
        model.compile()
        model.save(folder / f"{name}.keras")
    return {name: str(folder / f"{name}.keras") for name in networks}


def settings(source, **changes):
    """What the page hands to `draw`, in its order."""
    values = {
        "source": source,
        "labels": [],
        "guidance_scale": 1,
        "sampler": "ddim",
        "steps": 4,
        "eta": 0,
        "num_images": 3,
        "seed": 0,
    }
    return list({**values, **changes}.values())


def pixels(picture):
    """The image in a piece of HTML."""
    data = re.search(r"data:image/png;base64,([^\"]+)", picture)[1]
    image = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
    return image if image.ndim == 3 else image[..., None]


def enlarged(images):
    grid = image_grid(images)
    scale = 512 // max(grid.shape)
    return grid.repeat(scale, axis=0).repeat(scale, axis=1)


# ---- the functions ------------------------------------------------------------


def test_every_step_is_shown_and_at_last_what_generate_draws(app, models):
    options = {"guidance_scale": 2.0, "sampler": "dpm_solver++", "eta": 0.5, "seed": 5}
    shown = list(app.draw(*settings(models["named"], labels=["iris", "rose"], **options)))
    assert [text for *_, text in shown[:-1]] == ["t = 19", "t = 14", "t = 9", "t = 4"]
    assert re.fullmatch(r"3 images in \d+\.\d s", shown[-1][2])
    noise = initial_noise(5, (3, 8, 8, 1))
    np.testing.assert_array_equal(pixels(shown[0][0]), enlarged(noise))
    model = app.cached_model(models["named"])
    images, way = model.generate(
        labels=["iris", "rose", "iris"], steps=4, return_trajectory=True, **options
    )
    for part in (0, 1):
        np.testing.assert_array_equal(pixels(shown[-1][part]), enlarged(images))
    np.testing.assert_array_equal(pixels(shown[1][1]), enlarged(way.x_start[1]))


def test_classes_without_names_are_numbers(app, models):
    text, classes = app.describe(models["numbered"])
    assert text.startswith("8 × 8 × 3, ") and text.endswith(" parameters, 20 timesteps")
    assert classes == list(map(str, range(12)))
    assert app.describe(models["named"])[1] == ["rose", "tulip", "iris"]
    assert app.describe(models["plain"])[1] == []
    *_, (_, picture, _) = app.draw(*settings(models["numbered"], labels=["11", "2"]))
    model = app.cached_model(models["numbered"])
    expected = model.generate(labels=[11, 2, 11], steps=4, seed=0)
    np.testing.assert_array_equal(pixels(picture), enlarged(expected))


def test_a_model_is_read_once_and_again_when_its_file_changed(app, models, tmp_path):
    path = tmp_path / "model.keras"
    shutil.copy(models["plain"], path)
    model = app.cached_model(str(path))
    assert app.cached_model(str(path)) is model
    shutil.copy(models["numbered"], path)
    os.utime(path, ns=(0, 0))
    assert app.cached_model(str(path)).num_classes == 12
    folder = str(model.save_to_preset(tmp_path / "preset"))
    assert app.cached_model(folder) is app.cached_model(folder)


@pytest.mark.parametrize(
    "name, changes, message",
    [
        ("plain", {"guidance_scale": 2}, "guidance_scale=2 needs labels to push towards"),
        ("plain", {"labels": ["1"]}, "the network has no classes"),
        ("named", {"labels": ["3"]}, "must lie in [0, 2]"),
        ("named", {"labels": ["rsoe"]}, "did you mean 'rose'"),
        ("plain", {"steps": 21}, "steps=21 is more than the 20 timesteps"),
        ("plain", {"steps": 0}, "steps must be at least 1, got 0"),
        ("plain", {"steps": 2.5}, "steps must be an int, got 2.5"),
        ("plain", {"sampler": "ddpm", "eta": 0.5}, "eta=0.5 belongs to sampler="),
        ("plain", {"seed": -1}, "seed must be at least 0, got -1"),
        ("plain", {"seed": None}, "seed must be an int, got None"),
        ("points", {}, "generates points, not images"),
    ],
)
def test_wrong_settings_are_answered_on_the_page(app, models, name, changes, message):
    with pytest.raises(gradio.Error) as caught:
        next(app.draw(*settings(models[name], **changes)))
    answer = caught.value.message
    assert message in answer.replace("&#x27;", "'") and caught.value.duration is None


def test_what_is_no_model_is_answered_on_the_page(app, tmp_path):
    (tmp_path / "text.keras").write_text("no model")
    for source, message in (
        (tmp_path / "text.keras", "no .keras file at all"),
        (tmp_path / "nowhere.keras", "there is no file"),
        ("drawn_flowers", "did you mean &#x27;drawn_flowers_16&#x27;"),
        ("<b>", "there is no preset &#x27;&lt;b&gt;&#x27;"),
    ):
        for function in (app.describe, lambda path: next(app.draw(*settings(path)))):
            with pytest.raises(gradio.Error) as caught:
                function(str(source))
            assert message in caught.value.message


# ---- the service ------------------------------------------------------------


@pytest.fixture(scope="module")
def address(app, models):
    page = app.build_page(models["named"])
    yield app.launch(page)
    page.close()


def visitor(address):
    return Client(address, verbose=False, analytics_enabled=False)


def test_two_visitors_at_once_get_what_each_asked_for(app, models, address):
    asked = [
        ("named", {"labels": ["tulip"], "sampler": "ddpm", "seed": 1, "steps": 6}),
        ("numbered", {"labels": ["4"], "guidance_scale": 3, "seed": 2, "num_images": 2}),
    ] * 2
    jobs = [
        visitor(address).submit(*settings(models[name], **changes), api_name="/draw")
        for name, changes in asked
    ]
    for job, (name, changes) in zip(jobs, asked):
        picture = job.result(timeout=120)[1]
        assert len(job.outputs()) >= changes.get("steps", 4)
        options = {"num_images": 3, "steps": 4, **changes}
        options["labels"] = 1 if name == "named" else 4
        images = app.cached_model(models[name]).generate(**options)
        np.testing.assert_array_equal(pixels(picture), enlarged(images))


def test_an_error_reaches_the_visitor_and_hurts_no_other(models, address):
    client = visitor(address)
    with pytest.raises(AppError, match="needs labels to push towards"):
        client.predict(*settings(models["plain"], guidance_scale=2), api_name="/draw")
    text, _ = client.predict(models["plain"], api_name="/show_model")
    assert text.startswith("8 × 8 × 3")
    assert client.predict(*settings(models["plain"]), api_name="/draw")[2].startswith("3 images")


def wait_until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_visitors_see_steps_at_once_and_wait_for_those_before_them(
    app, models, address, monkeypatch
):
    running = []

    def endless(*_, **__):
        image = np.zeros((1, 8, 8, 1), "float32")
        running.append(True)
        try:
            while True:
                time.sleep(0.02)
                yield 0, image, image
        finally:
            running.pop()

    monkeypatch.setattr(app.cached_model(models["named"]), "watch", endless)
    clients = [visitor(address) for _ in range(3)]
    first = clients[0].submit(*settings(models["named"]), api_name="/draw")
    wait_until(first.outputs)
    second = clients[1].submit(*settings(models["named"]), api_name="/draw")
    third = clients[2].submit(models["named"], api_name="/show_model")
    time.sleep(1)
    assert len(running) == 1 and not second.outputs() and not third.outputs()
    first.cancel()
    wait_until(second.outputs)
    assert len(running) == 1
    second.cancel()
    wait_until(third.outputs)
    wait_until(lambda: not running)


def test_an_address_that_cannot_be_had(app, address, monkeypatch, capsys):
    taken = address.rstrip("/").rsplit(":", 1)[1]
    for options in (["--port", taken], ["--port", "70000"], ["--host", "198.51.100.7"]):
        monkeypatch.setattr(sys, "argv", ["app.py", *options])
        with pytest.raises(SystemExit) as stop:
            app.main()
        assert stop.value.code == 2
        message = capsys.readouterr().err
        assert message.startswith("error: --host ") and " ".join(options) in message
        assert "cannot be had" in message


# ---- in a browser ------------------------------------------------------------

# Without sandbox: a container's root has none. The others keep Chromium from calling home.
BROWSER_FLAGS = (
    "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking "
    "disable-component-update disable-sync window-size=1400,980"
)


@pytest.fixture
def browser(tmp_path):
    """Debian's Chromium, driven by selenium."""
    try:
        from selenium import webdriver
    except ImportError:
        skip_loudly('the page in a browser, for selenium is missing: pip install -e ".[browser]"')
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        skip_loudly("the page in a browser: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in BROWSER_FLAGS.split():
        options.add_argument(f"--{flag}")
    options.add_argument(f"--user-data-dir={tmp_path / 'browser'}")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    browser = webdriver.Chrome(options, webdriver.ChromeService(driver))
    browser.implicitly_wait(60)  # seconds, until what is looked for is there
    yield browser
    browser.quit()


@pytest.fixture
def command(tmp_path):
    """The address of the page, started as a user starts it."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    with open(tmp_path / "errors.txt", "w") as errors:
        process = subprocess.Popen(
            [sys.executable, SCRIPT, "--model", "drawn_flowers_16"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": path},
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    try:
        line = process.stdout.readline()
        assert line.startswith("the page is at "), (tmp_path / "errors.txt").read_text()
        yield line.split()[-1]
    finally:
        process.terminate()
        process.communicate()


def find(browser, xpath):
    return browser.find_element("xpath", xpath)


def enter(browser, label, text):
    """Replaces what is in the input that follows a label."""
    from selenium.webdriver.common.keys import Keys

    field = find(browser, f"//*[normalize-space()='{label}']/following::input[1]")
    field.send_keys(Keys.CONTROL, "a")
    field.send_keys(text, Keys.ENTER)


def click(browser, button):
    find(browser, f"//button[normalize-space()='{button}']").click()


def look(browser):
    """What the page shows at one moment: the addresses of its two pictures, and its text."""
    script = "return [[...document.images].map(i => i.src), document.body.innerText]"
    return browser.execute_script(script)


def watch(browser, condition):
    """The different pictures until the page's text fulfils a condition."""
    seen, text = [], ""
    end = time.monotonic() + 300
    while not condition(text):
        assert time.monotonic() < end, text
        now, text = look(browser)
        if now and now not in seen:
            seen.append(now)
        time.sleep(0.1)
    return seen


def at_rest(browser):
    """The page's text, once nothing on it has changed for three seconds."""
    before, since = None, time.monotonic()
    end = since + 60
    while time.monotonic() < since + 3:
        assert time.monotonic() < end, before
        if (now := look(browser)) != before:
            before, since = now, time.monotonic()
        time.sleep(0.2)
    return before[1]


def requests(browser):
    """The addresses that the page has asked a network for."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [m["params"]["request"]["url"] for m in messages if m["method"].endswith("BeSent")]
    return [url for url in urls if url.startswith(("http", "ws"))]


@pytest.mark.once
def test_the_page_in_a_browser(browser, command, tmp_path):
    browser.get(command)
    find(browser, "//*[contains(text(), '1 773 419 parameters')]")  # the model is there
    for name in ("red 5-petalled", "white 8-petalled"):
        enter(browser, "Classes", name)
    enter(browser, "Guidance scale", "2")
    enter(browser, "Steps", "20")
    click(browser, "Generate")
    watch(browser, lambda text: re.search(r"t = [1-4]\d\d\b", text))
    click(browser, "Stop")
    assert "16 images in" not in at_rest(browser)
    browser.save_screenshot(str(tmp_path / "app.png"))  # docs/app.png is such a one

    click(browser, "Generate")
    seen = watch(browser, lambda text: "16 images in" in text)
    assert len(seen) > 3  # it was live
    x_t, x_start = map(pixels, seen[-1])
    np.testing.assert_array_equal(x_t, x_start)
    # Columns of red flowers, and of white ones between them: grids of 18 pixels, enlarged 6 times.
    red, _, blue = np.moveaxis(x_t[12:, 12:].reshape(432, 4, 108, 3).mean((0, 2)), -1, 0)
    assert (red - blue)[::2].min() > (red - blue)[1::2].max() + 20
    assert not [url for url in requests(browser) if not url.startswith(command)]

    enter(browser, "Steps", "0")
    click(browser, "Generate")
    find(browser, "//*[contains(text(), 'steps must be at least 1, got 0')]")
    enter(browser, "Model", "<b>nothing")
    find(browser, """//*[contains(text(), "there is no preset '<b>nothing'")]""")
