"""The page to play with: its functions, and as a service for several visitors at once."""

import base64
import html
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from types import ModuleType

import numpy as np
import pytest
from PIL import Image
from tools import ROOT, command, error_line_of, make_model, tiny_network

from keras_ddpm import MLP, image_grid
from keras_ddpm.samplers.noise import initial_noise
from keras_ddpm_cli import app

needs_gradio = pytest.mark.needs("gradio")
# Gradio's own, of pandas, one for each request.
pytestmark = pytest.mark.filterwarnings(
    "ignore:'future.no_silent_downcasting' is deprecated", "ignore:The copy keyword is deprecated"
)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Untrained models in files, by name."""
    folder = tmp_path_factory.mktemp("models")
    networks = {
        "named": (tiny_network(8, 1, num_classes=3), ("rose", "tulip", "iris")),
        "numbered": (tiny_network(8, 3, num_classes=12), None),
        "plain": (tiny_network(8, 3), None),
        "points": (MLP(2, width=8), None),
    }
    for name, (network, class_names) in networks.items():
        make_model(network=network, class_names=class_names).save(folder / f"{name}.keras")
    return {name: str(folder / f"{name}.keras") for name in networks}


def settings(source, **changes):
    """What the page hands to `draw`, in its order."""
    values = {"source": source, "labels": [], "guidance_scale": 1, "sampler": "ddim"}
    values |= {"steps": 4, "eta": 0, "num_images": 3, "seed": 0}
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


@needs_gradio
def test_every_step_is_shown_and_at_last_what_generate_draws(models):
    options = {"guidance_scale": 2.0, "sampler": "dpm_solver++", "eta": 0.5, "seed": 5}
    shown = list(app.draw(*settings(models["named"], labels=["iris", "rose"], **options)))
    assert re.fullmatch(r"3 images in \d+\.\d s", shown[-1][2])
    noise = initial_noise(5, (3, 8, 8, 1))
    np.testing.assert_array_equal(pixels(shown[0][0]), enlarged(noise))
    model = app.cached_model(models["named"])
    images, way = model.generate(
        labels=["iris", "rose", "iris"], steps=4, return_trajectory=True, **options
    )
    assert [text for *_, text in shown[:-1]] == [f"t = {t}" for t in way.timesteps[:-1]]
    for part in (0, 1):
        np.testing.assert_array_equal(pixels(shown[-1][part]), enlarged(images))
    np.testing.assert_array_equal(pixels(shown[1][1]), enlarged(way.x_start[1]))


@needs_gradio
@pytest.mark.once
def test_classes_without_names_are_numbers(models):
    text, classes = app.describe(models["numbered"])
    assert text.startswith("8 × 8 × 3, ") and text.endswith(" parameters, 50 timesteps")
    assert classes == list(map(str, range(12)))
    assert app.describe(models["named"])[1] == ["rose", "tulip", "iris"]
    assert app.describe(models["plain"])[1] == []
    model = app.cached_model(models["numbered"])
    expected = model.generate(labels=[11, 2, 11], steps=4, seed=0)
    for labels in (["11", "2"], [11, 2]):  # the second from a program that asks the page
        *_, (_, picture, _) = app.draw(*settings(models["numbered"], labels=labels))
        np.testing.assert_array_equal(pixels(picture), enlarged(expected))


@pytest.mark.once
def test_a_model_is_read_once_and_again_when_its_file_has_changed(models, tmp_path):
    path = tmp_path / "model.keras"
    shutil.copy(models["plain"], path)
    model = app.cached_model(str(path))
    assert app.cached_model(str(path)) is model
    shutil.copy(models["numbered"], path)
    assert app.cached_model(str(path)).num_classes == 12


@needs_gradio
@pytest.mark.once
@pytest.mark.parametrize(
    "name, changes, message",
    [
        ("plain", {"guidance_scale": 2}, "guidance_scale=2 needs labels"),
        ("named", {"labels": ["rsoe"]}, "did you mean 'rose'"),
        ("plain", {"steps": 2.5}, "steps=2.5 must be an int"),  # a TypeError
        ("plain", {"seed": None}, "seed=None must be an int"),
        ("named", {"num_images": "a"}, "num_images='a' must be an int"),
        ("named", {"num_images": 65}, "num_images=65 must be from 1 to 64"),
        ("named", {"num_images": 1.5, "labels": [0]}, "num_images=1.5 must be an int"),
        ("named", {"labels": "red 5-petalled"}, "labels='red 5-petalled' is no class"),
        ("named", {"labels": {"a": 1}}, "labels={'a': 1} is no class"),
        ("named", {"labels": 3}, "labels=3 is no class"),
        ("points", {}, "generates points, not images"),
        ("nowhere.keras", {}, "there is no file"),
        ("<b>", {}, "there is no preset '<b>'"),
    ],
)
def test_mistakes_are_answered_on_the_page(models, name, changes, message):
    import gradio

    with pytest.raises(gradio.Error) as caught:
        next(app.draw(*settings(models.get(name, name), **changes)))
    answer = caught.value.message
    assert "<" not in answer and caught.value.duration is None
    assert message in html.unescape(answer)


@pytest.mark.once
def test_the_command_says_what_it_needs_and_what_it_cannot_read(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert error_line_of(command("app")) == 'the page needs Gradio: pip install "keras-ddpm[app]"\n'
    monkeypatch.setitem(sys.modules, "gradio", ModuleType("gradio"))
    message = error_line_of(command("app"), "--model", "nowhere.keras")
    assert message == "there is no file 'nowhere.keras'.\n"


@pytest.fixture(scope="module")
def address(models):
    page = app.build_page(models["named"])
    yield app.launch(page)
    page.close()


def visitor(address):
    from gradio_client import Client

    return Client(address, verbose=False, analytics_enabled=False)


def wait_until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@needs_gradio
def test_an_error_reaches_the_visitor_and_hurts_no_other(models, address):
    from gradio_client.exceptions import AppError

    changes = {"labels": ["4"], "guidance_scale": 3, "seed": 2, "num_images": 2}
    job = visitor(address).submit(*settings(models["numbered"], **changes), api_name="/draw")
    client = visitor(address)
    with pytest.raises(AppError, match="needs labels to guide towards"):
        client.predict(*settings(models["plain"], guidance_scale=2), api_name="/draw")
    text, _ = client.predict(models["plain"], api_name="/show_model")
    assert text.startswith("8 × 8 × 3")
    picture = job.result(timeout=120)[1]
    assert len(job.outputs()) >= 4
    images = app.cached_model(models["numbered"]).generate(**{**changes, "labels": 4, "steps": 4})
    np.testing.assert_array_equal(pixels(picture), enlarged(images))


def ask(address, values):
    """What `/draw` answers to a program that sends any JSON."""
    body = json.dumps({"data": values}).encode()
    request = urllib.request.Request(
        f"{address}gradio_api/call/draw", body, {"Content-Type": "application/json"}
    )
    event = json.load(urllib.request.urlopen(request, timeout=60))["event_id"]
    answer = urllib.request.urlopen(f"{request.full_url}/{event}", timeout=60).read().decode()
    return answer.rstrip().rpartition("event: ")[2]


@needs_gradio
@pytest.mark.once
def test_values_of_any_type_are_answered_with_a_sentence(models, address, tmp_path, capfd):
    os.mkfifo(tmp_path / "fifo.keras")
    wrong = {
        "source": [7, ["a"], None, {}, "", "x" * 10**4, "\ud800", str(tmp_path / "fifo.keras")],
        "labels": [["iris", None], [[1]], 1.5, True, "x" * 10**6],
        "guidance_scale": [None, "a", {}, [1, 2]],
        "sampler": [{}, 3, ["ddim"], None],
        "steps": ["a", [1], 2.5, {}],
        "eta": ["a", {}],
        "num_images": ["a", None, 65, {}],
        "seed": [1e99, None, "a", True],
    }
    names = {"source": "(model=|there is no|.*name too long)"}
    for argument, values in wrong.items():
        for value in values:
            answer = ask(address, settings(**{"source": models["named"], argument: value}))
            event, _, data = answer.partition("\ndata: ")
            assert event == "error", (argument, value)
            message = html.unescape(json.loads(data)["error"])
            assert re.match(names.get(argument, f"{argument}="), message) and len(message) <= 500
    assert ask(address, settings(models["named"], labels=[0, "rose"])).startswith("complete")
    assert "Traceback" not in "".join(capfd.readouterr())


@needs_gradio
@pytest.mark.once
def test_the_page_takes_no_uploads(address):
    head = 'Content-Disposition: form-data; name="files"; filename="a.txt"'
    body = f"--B\r\n{head}\r\n\r\nabc\r\n--B--\r\n".encode()
    kind = {"Content-Type": "multipart/form-data; boundary=B"}
    request = urllib.request.Request(f"{address}gradio_api/upload", body, kind)
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(request, timeout=60)
    assert error.value.code == 413


@needs_gradio
@pytest.mark.once
def test_visitors_see_steps_at_once_and_wait_for_those_before_them(models, address, monkeypatch):
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


@pytest.mark.once
def test_an_address_that_cannot_be_had_ends_in_one_line():
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        hosts = [["--host", host] for host in ("198.51.100.7", "a" * 300, "ü" * 70)]
        for options in (["--port", taken], ["--port", 70000], *hosts):
            message = error_line_of(command("app"), *options)
            assert message.startswith("--host=") and str(options[1]) in message
            assert "cannot be served" in message


@needs_gradio
@pytest.mark.once
def test_the_script_serves_the_page(tmp_path, models):
    """As a user starts it; the page asks no other address for scripts or fonts."""
    command = [sys.executable, ROOT / "examples" / "app.py", "--model", models["named"]]
    options = {"env": {**os.environ, "PYTHONPATH": str(ROOT)}, "cwd": tmp_path, "text": True}
    with subprocess.Popen(command, stdout=subprocess.PIPE, **options) as process:
        try:
            line = process.stdout.readline()
            assert line.startswith("the page is at http://127.0.0.1:")
            page = urllib.request.urlopen(line.split()[-1], timeout=60).read().decode()
        finally:
            process.terminate()
    assert "x_t: the noisy state" in page
    loaded = re.findall(r"<(?:script|link|img)\b[^>]*\b(?:src|href)=\"([^\"]+)\"", page)
    assert loaded and not [url for url in loaded if re.match(r"https?://(?!127\.)", url)]
