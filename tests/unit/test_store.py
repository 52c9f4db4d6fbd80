"""Sets larger than memory: a folder's images in a file that is mapped into memory."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from keras_ddpm.data import ImageDataset, load_folder, load_images
from keras_ddpm.data import folder as folder_module

pytestmark = pytest.mark.once


@pytest.fixture
def folder(tmp_path):
    """Six images of two classes, the second of which is damaged."""
    rng = np.random.default_rng(0)
    for number in range(6):
        path = tmp_path / "images" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), "uint8")).save(path)
    (tmp_path / "images" / "a" / "2.png").write_bytes(b"no image")
    return tmp_path / "images"


def load(folder, store=None, **options):
    with pytest.warns(UserWarning, match="skipped .*2.png"):
        return load_folder(folder, 8, store=store, **options)


def is_mapped(array):
    while array.base is not None and not isinstance(array, np.memmap):
        array = array.base
    return isinstance(array, np.memmap) or "mmap" in type(array).__module__


def test_a_store_holds_what_memory_would_and_trains_in_the_same_order(folder, tmp_path):
    expected, found = load(folder), load(folder, tmp_path / "set" / "store.npy")
    assert is_mapped(found.images) and not is_mapped(expected.images)
    np.testing.assert_array_equal(found.images, expected.images)
    np.testing.assert_array_equal(found.labels, expected.labels)
    for one, other in zip(*(ImageDataset(s, batch_size=2, epoch=3) for s in (expected, found))):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])


def test_the_next_call_decodes_only_what_has_changed(folder, tmp_path, monkeypatch):
    store, decoded = tmp_path / "store.npy", []
    read_image = folder_module.read_image

    def read(path, *args):
        decoded.append(path.name)
        return read_image(path, *args)

    monkeypatch.setattr(folder_module, "read_image", read)
    first = load(folder, store).images.copy()
    assert len(decoded) == 6
    np.testing.assert_array_equal(load(folder, store).images, first)
    assert len(decoded) == 6  # none again
    np.testing.assert_array_equal(load(folder, store, background="red").images, first)
    assert len(decoded) == 12  # with other options, all
    Image.new("RGB", (8, 8), "blue").save(folder / "a" / "0.png")
    assert (load(folder, store).images[0] == (0, 0, 255)).all() and len(decoded) == 18


@pytest.mark.parametrize("damage", ["interrupted", "cut", "record"])
def test_an_unfinished_or_damaged_store_is_made_again(folder, tmp_path, damage):
    store, record = tmp_path / "store.npy", tmp_path / "store.npy.json"
    expected = load(folder, store).images.copy()
    if damage == "interrupted":
        record.unlink()
    elif damage == "cut":
        store.write_bytes(store.read_bytes()[:-50])
    else:
        record.write_text(json.dumps([1]))
    np.testing.assert_array_equal(load(folder, store).images, expected)


def test_two_processes_fill_a_store_once(folder, tmp_path, monkeypatch):
    """Here threads, of which the second comes while the first decodes."""
    decoded, read_image = [], folder_module.read_image

    def read(path, *args):
        decoded.append(path.name)
        time.sleep(0.05)
        return read_image(path, *args)

    monkeypatch.setattr(folder_module, "read_image", read)
    (folder / "a" / "2.png").unlink()
    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(load_folder, folder, 8, store=tmp_path / "s.npy") for _ in range(2)]
        one, other = (call.result().images for call in calls)
    assert len(decoded) == 5 and one.any((1, 2, 3)).all()
    np.testing.assert_array_equal(one, other)


def test_a_damaged_image_stops_if_asked_and_other_names_are_refused(folder, tmp_path):
    with pytest.raises(ValueError, match="damaged='raise': .*2.png cannot be read"):
        load_folder(folder, 8, damaged="raise")
    with pytest.raises(ValueError, match="damaged='stop'"):
        load_folder(folder, 8, damaged="stop")
    with pytest.raises(ValueError, match=r"store='.*images' must be a file named \*.npy"):
        load_folder(folder, 8, store=tmp_path / "images")
    with pytest.raises(ValueError, match="store=.*needs a folder, and .drawn_flowers"):
        load_images("drawn_flowers", image_size=8, store=tmp_path / "store.npy")
