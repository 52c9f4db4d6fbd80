"""Presets and data sets of the Hugging Face Hub, with a stand-in for it on this machine."""

import functools
import io
import itertools
import json
import re
import sys

import numpy as np
import pytest
import yaml
from hub_service import TOKEN, hub_service
from PIL import Image
from tools import ROOT, TINY_RUN, make_model, random_weights, run_python, to_options

from keras_ddpm import DiffusionModel, UNet, load_images, upload_preset
from keras_ddpm.data.drawn_flowers import CLASS_NAMES
from keras_ddpm.presets import CARD, CONFIG, WEIGHTS
from keras_ddpm_cli.measure import NO_TEST_SPLIT

pytestmark = [pytest.mark.once, pytest.mark.needs("datasets")]
NAME = "hf://user/garden"
UNSEEN = "the hub has no '{}' that you may see: check the name, or run `hf auth login`."
FILES = (CONFIG, WEIGHTS, CARD)
# Answers each expression with its value, or with its error in one line.
CHILD = """
import json, os, sys
import numpy as np
from keras_ddpm import *
from keras_ddpm.data import *
from keras_ddpm_cli import app, common, main
def command(*args):
    try:
        main(list(args))
    except SystemExit as stop:
        return stop.code
def total(name):
    weights = DiffusionModel.from_preset(name).ema_network.get_weights()
    return float(sum(np.abs(weight).sum() for weight in weights))
def facts(image_set):
    labels = None if image_set.labels is None else image_set.labels.tolist()
    return image_set.images.mean((1, 2, 3)).round().tolist(), labels, image_set.class_names
answers = []
for expression in json.loads(sys.argv[1]):
    try:
        answers.append(eval(expression))
    except Exception as error:
        answers.append(f"{type(error).__name__}: {error}")
print("=>" + json.dumps(answers))
"""


@pytest.fixture
def hub():
    with hub_service() as hub:
        yield hub


@pytest.fixture
def ask(tmp_path, hub):
    """A function that evaluates expressions in another process, which has its own empty cache."""

    def ask(*expressions, **environment):
        given = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
        given |= {"HF_HOME": str(tmp_path / "cache"), "HOME": str(tmp_path / "home")}
        printed = run_python(
            "-c", CHILD, json.dumps(expressions), cwd=tmp_path, **given | environment
        )
        *lines, last = [line for line in printed.splitlines() if line.startswith("=>")]
        assert not lines
        answers = json.loads(last[2:])
        assert not [a for a in answers if isinstance(a, str) and "\n" in a]
        return answers if len(answers) > 1 else answers[0]

    return ask


@pytest.fixture
def preset(tmp_path):
    network = UNet(16, 3, (8,), (False,), 1, num_classes=len(CLASS_NAMES))
    model = make_model(network=network, class_names=CLASS_NAMES)
    random_weights(model.ema_network, seed=1)
    return model.save_to_preset(tmp_path / "garden", "Grown *at home*.", license="cc0-1.0")


def put(hub, preset, name="garden", **changes):
    """A repository with the files of a preset, one that is none, and changes of them."""
    files = {name: (preset / name).read_bytes() for name in FILES}
    hub.files["models", f"user/{name}", "main"] = {**files, "pickle.bin": b"never read", **changes}


def total(preset):
    weights = DiffusionModel.from_preset(preset).ema_network.get_weights()
    return float(sum(np.abs(weight).sum() for weight in weights))


def test_the_card_has_what_the_hub_reads(preset, tmp_path):
    _, head, text = (preset / CARD).read_text().split("---\n", 2)
    facts = {
        "library_name": "keras_ddpm",
        "license": "cc0-1.0",
        "tags": ["diffusion", "keras_ddpm"],
    }
    assert yaml.safe_load(head) == {**facts, "pipeline_tag": "unconditional-image-generation"}
    assert text.startswith("\n# garden\n\nGrown *at home*.\n")
    without = (make_model().save_to_preset(tmp_path / "plain") / CARD).read_text()
    assert "license" not in without
    for license, error in (("a\nb: c", ValueError), (None, TypeError)):
        with pytest.raises(error, match="^license=.* must be a "):
            make_model().save_to_preset(tmp_path / "no", license=license)
    assert not (tmp_path / "no").exists()


def test_a_preset_goes_to_the_hub_and_comes_back(hub, ask, preset, tmp_path):
    hub.files["models", "user/garden", "next"] = {}
    answers = ask(
        f"upload_preset({NAME!r}, 'garden')",
        f"total({NAME!r})",
        f"upload_preset('{NAME}@next', 'mnist_28')",
        f"DiffusionModel.from_preset('{NAME}@next').sample_shape",
        f"DiffusionModel.from_preset({NAME!r}).sample_shape",
        f"upload_preset({NAME!r}, 'mnist_28')",
        f"DiffusionModel.from_preset({NAME!r}).sample_shape",
        f"upload_preset('{NAME}@nowhere', 'garden')",
        f"upload_preset({NAME!r}, 'nowhere')",
        "os.environ.update(HF_TOKEN='hf_wrong')",
        f"upload_preset({NAME!r}, 'garden')",
    )
    assert answers[1] == pytest.approx(total(preset), rel=1e-6)
    assert [answers[i] for i in (0, 2, 5)] == [None] * 3
    assert [answers[i] for i in (3, 4, 6)] == [[28, 28, 1], [16, 16, 3], [28, 28, 1]]
    assert answers[7] == f"FileNotFoundError: {UNSEEN.format(f'{NAME}@nowhere')}"
    assert "there is no preset 'nowhere'" in answers[8]
    pattern = rf"RuntimeError: '{NAME}' cannot be written \(.* login\?\): .*Invalid username"
    assert re.match(pattern, answers[10]), answers[10]
    sent = hub.commits[0]
    for name in (CONFIG, WEIGHTS):
        assert sent[name] == (preset / name).read_bytes()
    card = (preset / CARD).read_text().replace('("garden")', f'("{NAME}")')
    assert sent[CARD].decode() == card and NAME in card and len(sent) == 3
    assert not list((tmp_path / "home").rglob("huggingface"))


def test_every_command_takes_the_name(hub, ask, preset, tmp_path):
    put(hub, preset)
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    few = ["--steps", "2", "--output", "out"]
    run = {key: TINY_RUN[key] for key in TINY_RUN if key.startswith(("training.", "sampling."))}
    run |= {"data.name": "drawn_flowers", "data.num_images": 24, "training.epochs": 1}
    run |= {"run": "run", "from": NAME}
    *answers, described, wrong, file = ask(
        f"command('sample', {NAME!r}, '--num_images', '1', *{few})",
        f"command('edit', {NAME!r}, 'a.png', *{few})",
        f"command('evaluate', {NAME!r}, '--num_images', '3', '--data_images', '8', "
        f"'--features', 'pixels', *{few})",
        f"command('train', *{to_options(run)})",
        f"app.describe({NAME!r})",
        "command('sample', 'hf://garden')",
        f"load_diffusion_model('{NAME}/final.keras')",
    )
    assert answers == [None] * 4 and (tmp_path / "run" / "final.keras").is_file()
    assert described[1] == list(CLASS_NAMES) and wrong == 2
    assert file.startswith(f"ValueError: preset '{NAME}/final.keras' must be hf://user/name")
    assert len([line for line in hub.asked if "GET" in line and "resolve" in line]) == len(FILES)
    assert not [line for line in hub.asked if "pickle" in line]


def test_a_name_that_is_none_is_refused_before_anything_else(monkeypatch):
    for package in ("huggingface_hub", "datasets"):
        monkeypatch.setitem(sys.modules, package, None)  # cannot be imported
    calls = {
        "preset": DiffusionModel.from_preset,
        "name": load_images,
        "uri": functools.partial(upload_preset, preset="mnist_28"),
    }
    wrong = ["hf://", "hf://garden", "hf://a/b/c/d", "hf://a/b@", "hf://a b/c", "hf://a/b.keras/c"]
    for (argument, call), name in itertools.product(calls.items(), wrong):
        expected = f"^{argument} {name!r} must be hf://user/name or hf://user/name@revision.$"
        with pytest.raises(ValueError, match=expected):
            call(name)
    with pytest.raises(TypeError, match="^uri=None must be a str"):
        upload_preset(None, "mnist_28")
    for call in calls.values():
        with pytest.raises(ImportError, match=r"'hf://a/b' needs .*: pip install .keras-ddpm\[hub"):
            call("hf://a/b")


def test_what_is_wrong_with_a_download_is_said_in_one_sentence(hub, ask, preset):
    config, weights = ((preset / name).read_bytes() for name in (CONFIG, WEIGHTS))
    put(hub, preset)
    put(hub, preset, "cut", **{WEIGHTS: weights[:-20]})
    put(hub, preset, "other", **{CONFIG: b"{}"})
    put(hub, preset, "broken")
    put(hub, preset, "down")
    hub.files["models", "user/empty", "main"] = {CONFIG: config}
    hub.truncated.add("user/broken")
    hub.failing.add("user/down")
    damaged = "ValueError: preset '{}', which `hf cache rm model/{}` removes .*, is damaged: {}"
    absent = "RuntimeError: '{}' is not in the cache and cannot be downloaded .is there a network.."
    expected = {
        "user/none": f"FileNotFoundError: {UNSEEN}",
        "user/garden@v2": f"FileNotFoundError: {UNSEEN}",
        "user/empty": "FileNotFoundError: '{}' is no preset: it has no model.safetensors.",
        "user/cut": damaged.format("{}", "user/cut", "SafetensorError"),
        "user/other": damaged.format("{}", "user/other", "KeyError"),
        "user/broken": absent + ": .*(complete|size)",
        "user/down": absent + ": HfHubHTTPError: .*500",
        "user/a..b": absent + ": HFValidationError: .*'user/a..b'",
    }
    answers = ask(*(f"total('hf://{name}')" for name in expected), f"total({NAME!r})")
    for answer, (name, pattern) in zip(answers, expected.items()):
        assert re.match(pattern.format(f"hf://{name}"), answer), answer
    assert answers[-1] == pytest.approx(total(preset), rel=1e-6)
    # Without a network what is in the cache is used.
    for error, environment in (
        ("ConnectError: .*refused", {"HF_ENDPOINT": "http://127.0.0.1:9"}),
        ("OfflineModeIsEnabled: .*HF_HUB_OFFLINE", {"HF_HUB_OFFLINE": "1"}),
    ):
        names = (NAME, "hf://user/empty", "hf://user/new")
        answers = ask(*(f"total({name!r})" for name in names), **environment)
        assert answers[0] == pytest.approx(total(preset), rel=1e-6)
        assert "is no preset: it has no model.safetensors" in answers[1]
        assert re.match(absent.format(names[2]) + f": {error}", answers[2]), answers[2]


@pytest.fixture(scope="module")
def parquet():
    """A function that makes the bytes of a Parquet file from columns and their features."""
    import datasets

    def parquet(columns, **features):
        kinds = {"image": datasets.Image(), "int": datasets.Value("int64")}
        kinds = {
            name: kinds[kind] if isinstance(kind, str) else datasets.ClassLabel(names=kind)
            for name, kind in features.items()
        }
        file = io.BytesIO()
        table = datasets.Dataset.from_dict(columns, features=datasets.Features(kinds))
        table.to_parquet(file)
        return file.getvalue()

    return parquet


def pictures(count):
    """Pictures of growing brightness in the middle, and dark at their sides."""
    images = np.zeros((count, 12, 36, 3), "uint8")
    images[:, :, 12:24] = 50 * (np.arange(count) + 1)[:, None, None, None]
    return [Image.fromarray(image) for image in images]


def to_png(image):
    image.save(file := io.BytesIO(), "png")
    return file.getvalue()


@pytest.fixture
def data_sets(hub, parquet):
    """Data sets on the hub: two that can be trained on, one without labels, and others."""
    labelled = {"picture": "image", "kind": ["rose", "tulip"]}
    train = parquet({"picture": pictures(4), "kind": [1, 0, 1, 0]}, **labelled)
    test = parquet({"picture": pictures(2), "kind": [0, 0]}, **labelled)
    bare = parquet({"image": pictures(3)}, image="image")
    two = {"a": pictures(1), "b": pictures(1)}
    one_file = {
        "bare": bare,
        "numbers": parquet({"a": [1, 2]}, a="int"),
        "pairs": parquet(two, a="image", b="image"),
        "kinds": parquet({**two, "b": [0], "c": [0]}, a="image", b=["x"], c=["y"]),
        "bad": parquet({"a": [{"bytes": b"no PNG"}]}, a="image"),
        "cut": bare[:-20],
    }
    for name, content in one_file.items():
        hub.files["datasets", f"user/{name}", "main"] = {"train.parquet": content}
    photos = {"data/train-00000-of-00001.parquet": train, "data/test-00000-of-00001.parquet": test}
    hub.files["datasets", "user/photos", "main"] = photos
    folder = {f"train/{name}/{name}.png": to_png(pictures(1)[0]) for name in ("oak", "elm")}
    hub.files["datasets", "user/folder", "main"] = folder


def test_images_and_classes_of_a_data_set(ask, data_sets, tmp_path):
    run = {"data.name": "hf://user/photos", "data.use_labels": True, "data.num_images": None}
    run = {**TINY_RUN, **run, "training.batch_size": 2, "training.epochs": 1, "run": "run"}
    photos = "facts(load_images('hf://user/photos', image_size=8))"
    expected = {
        photos: [[50, 99, 149, 198], [1, 0, 1, 0], ["rose", "tulip"]],
        "facts(load_images('hf://user/photos', 'test[:1]+train', 8, 1, num_images=3))": [
            [50, 50, 99],
            [0, 1, 0],
            ["rose", "tulip"],
        ],
        "facts(load_images('hf://user/bare', image_size=8))": [[50, 99, 149], None, None],
        "facts(load_images('hf://user/folder', image_size=8))": [[50, 50], [0, 1], ["elm", "oak"]],
        f"command('train', *{to_options(run)})": None,
    }
    assert ask(*expected) == list(expected.values())
    assert (tmp_path / "run" / "final.keras").is_file()
    # Without a network what is in the cache is used.
    cached, absent = ask(photos, "load_images('hf://user/new')", HF_HUB_OFFLINE="1")
    assert cached == expected[photos]
    assert re.match("RuntimeError: 'hf://user/new' cannot be loaded: .*reach", absent), absent


def test_what_is_wrong_with_a_data_set_is_said_in_one_sentence(ask, data_sets):
    columns = "name='hf://user/{}' must have one column of images .*, but has {} and {}. Choose"
    split = "split='{}' is no split of 'hf://user/{}', which has {}, nor parts of them such as 'tra"
    expected = {
        "'hf://user/photos', 'dev'": split.format("dev", "photos", r"\['train', 'test'\]"),
        "'hf://user/bare', 'test'": split.format("test", "bare", r"\['train'\]"),
        "'hf://user/numbers'": columns.format("numbers", r"\[\]", r"\[\]"),
        "'hf://user/pairs'": columns.format("pairs", r"\['a', 'b'\]", r"\[\]"),
        "'hf://user/kinds'": columns.format("kinds", r"\['a'\]", r"\['b', 'c'\]"),
        "'hf://user/bad'": "'hf://user/bad': image 0 cannot be read: cannot identify image",
        "'hf://user/cut'": "'hf://user/cut' cannot be loaded: .*corrupt",
        "'hf://user/none'": "'hf://user/none' cannot be loaded: .*doesn't exist",
        "'hf://user/photos@v2'": ".* cannot be loaded: .*Revision 'v2' doesn't exist",
        "'hf://user/bare', store='a.npy'": "store='a.npy' needs a folder",
    }
    answers = ask(*(f"load_images({arguments})" for arguments in expected))
    for answer, pattern in zip(answers, expected.values(), strict=True):
        assert re.match(f"(ValueError|RuntimeError): {pattern}", answer), answer
    assert NO_TEST_SPLIT.match(answers[1].removeprefix("ValueError: "))  # so others are held out


def test_the_page_about_the_hub(ask, data_sets):
    page = (ROOT / "docs" / "hub.md").read_text()
    code = "\n".join(re.findall(r"```python\n(.*?)```", page, re.S))
    example = re.search(r">>> (.*)", upload_preset.__doc__)[1]
    assert example in code
    shapes = "[array.shape for array in (run['images'], run['photos'].images)]"
    assert ask(f"[run := {{}}, exec({code!r}, run), {shapes}][2]") == [
        [4, 16, 16, 3],
        [2, 32, 32, 3],
    ]
