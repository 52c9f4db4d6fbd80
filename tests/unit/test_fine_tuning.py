"""Models that start from others: other classes, other sizes, and LoRA."""

import keras
import numpy as np
import pytest
from tools import make_model, random_weights, tiny_network, to_numpy

from keras_ddpm import MLP, DiffusionModel, GaussianDiffusion, UNet
from keras_ddpm.diffusers import to_diffusers

NAMES = ["rose", "tulip", "iris"]
IMAGES = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 1), "uint8")


def make_source(num_classes=3, class_names=NAMES):
    """A model whose averaged weights differ from those that are trained."""
    network = UNet(8, 1, (4, 8), (False, True), 1, 2, num_classes=num_classes)
    options = {"class_names": class_names if num_classes else None, "min_snr_gamma": 5}
    model = DiffusionModel(network, GaussianDiffusion(20, prediction="velocity"), **options)
    random_weights(model.network, seed=1)
    random_weights(model.ema_network, seed=2)
    model.updates.assign(7)
    return model


@pytest.fixture(scope="module")
def source():
    return make_source()


def draw(model, **options):
    return model.generate(2, steps=2, seed=0, clip_denoised=False, **options)


def rows(model):
    return to_numpy(model.ema_network.get_layer("label_embedding").embeddings)


def test_new_classes_leave_what_is_without_a_label_as_it_was(source):
    model = source.adapt(class_names=["daisy", "iris"], ema_decay=0.5, seed=3)
    assert (model.num_classes, model.class_names) == (2, ["daisy", "iris"])
    assert (model.ema_decay, model.min_snr_gamma, model.seed) == (0.5, 5, 3)
    assert model.diffusion.get_config() == source.diffusion.get_config()
    np.testing.assert_array_equal(draw(model), draw(source))
    np.testing.assert_array_equal(draw(model, labels="iris"), draw(source, labels="iris"))
    new, old = rows(model), rows(source)
    assert not any(np.allclose(new[0], row) for row in old)
    for mine, average in zip(model.network.weights, model.ema_network.weights):
        np.testing.assert_array_equal(to_numpy(mine), to_numpy(average))
    assert int(to_numpy(model.updates)) == 0


def test_classes_without_names_are_kept_if_there_are_as_many():
    unnamed = make_source(class_names=None)
    np.testing.assert_array_equal(rows(unnamed.adapt(num_classes=3)), rows(unnamed))
    assert not np.array_equal(rows(unnamed.adapt(num_classes=4))[:3], rows(unnamed)[:3])


def test_classes_come_and_go(source):
    plain = source.adapt(num_classes=0)
    assert plain.num_classes is None and plain.class_names is None
    np.testing.assert_allclose(draw(plain), draw(source), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(draw(plain.adapt(num_classes=5)), draw(plain), rtol=1e-5, atol=1e-5)


def test_a_preset_at_another_size_is_trained_on(source, tmp_path):
    preset = source.save_to_preset(tmp_path / "preset", dtype="float32")
    model = DiffusionModel.from_preset(preset, image_size=16, num_classes=2)
    assert model.sample_shape == (16, 16, 1) and model.class_names is None
    model.compile(keras.optimizers.Adam(1e-2))
    before = rows(model)
    model.fit(np.zeros((8, 16, 16, 1), "uint8"), np.arange(8) % 2, batch_size=4, verbose=0)
    assert not np.array_equal(rows(model)[:2], before[:2])
    # The average follows at once: decay ≤ 1 − 3^(−3/4) for two updates.
    assert int(to_numpy(model.updates)) == 2


@pytest.mark.once
@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"num_classes": -1}, "num_classes=-1 must be at least 0"),
        ({"num_classes": 2, "class_names": ["a"]}, "num_classes=2 is not the 1 class_names"),
        ({"class_names": ["a", "a"]}, "class_names: 'a' is there 2 times"),
        ({"image_size": 9}, r"image_size=\(9, 9\) must be divisible by 2"),
        ({"ema_decay": 2}, "ema_decay=2 must be"),
    ],
)
def test_what_does_not_fit_is_refused(source, wrong, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        source.adapt(**wrong)


@pytest.mark.once
def test_only_a_unet_is_adapted():
    with pytest.raises(ValueError, match="is not a UNet"):
        make_model().adapt(num_classes=2)


@pytest.fixture(scope="module")
def tuned():
    """A model after two steps with LoRA, and its weights before."""
    model = make_source()
    start = draw(model, labels=1)
    model.enable_lora(rank=2)
    np.testing.assert_array_equal(draw(model, labels=1), start)  # B is zero
    before = {weight.path: to_numpy(weight).copy() for weight in model.network.weights}
    model.compile(keras.optimizers.Adam(1e-2))
    model.fit(IMAGES, np.arange(8) % 3, batch_size=4, epochs=2, verbose=0)
    return model, before, start


def test_only_the_matrices_and_the_label_embedding_move(tuned):
    model, before, start = tuned
    for network in (model.network, model.ema_network):
        moved = {w.path for w in network.weights if np.any(to_numpy(w) != before[w.path])}
        parts = {path.rpartition("/")[2] for path in moved}
        assert parts == {"lora_kernel_a", "lora_kernel_b", "embeddings"}
        for layer in ("conv_in", "conv_out", "time_dense_1", "down_0_block_0/conv_1"):
            assert f"{layer}/lora_kernel_b" in moved
        assert "down_1_attention_0/query/lora_kernel_b" in moved
    assert np.abs(draw(model, labels=1) - start).max() > 1e-3


def test_a_merged_model_is_ordinary_and_draws_the_same(tuned, tmp_path):
    model, before, _ = tuned
    merged = model.merge_lora()
    expected = draw(model, labels=1)
    np.testing.assert_allclose(draw(merged, labels=1), expected, rtol=1e-3, atol=1e-3)
    kernel = "down_0_block_0/conv_1/kernel"
    found = {weight.path: to_numpy(weight) for weight in merged.ema_network.weights}
    assert np.abs(found[kernel] - before[kernel]).max() > 1e-4
    assert len(merged.trainable_variables) == len(merged.network.weights) < len(before)
    merged.save(tmp_path / "merged.keras")
    loaded = keras.saving.load_model(tmp_path / "merged.keras")
    np.testing.assert_array_equal(draw(loaded, labels=1), draw(merged, labels=1))
    merged.enable_lora(1)  # once more


def test_a_file_of_the_matrices_is_small_and_comes_back(tuned, tmp_path):
    model, _, _ = tuned
    path = model.save_lora(tmp_path / "lora.safetensors")
    model.merge_lora().save_to_preset(tmp_path / "preset", dtype="float32")
    whole = (tmp_path / "preset" / "model.safetensors").stat().st_size
    assert path.stat().st_size < whole
    other = make_source()
    other.load_lora(path)
    np.testing.assert_array_equal(draw(other, labels=1), draw(model, labels=1))
    assert other.lora_rank == 2
    with pytest.raises(ValueError, match=r"^filepath=.* is of another model: .*label_embedding"):
        make_source(num_classes=5, class_names=None).load_lora(path)
    three = make_source()
    three.enable_lora(3)
    with pytest.raises(ValueError, match="rank is 2, that of the model 3"):
        three.load_lora(path)


@pytest.mark.once
def test_wrong_calls_of_lora_say_what_would_work(tuned, tmp_path):
    model, _, _ = tuned
    (tmp_path / "a.safetensors").write_bytes(b"a")
    for rank, error in ((0, ValueError), (2.5, TypeError)):
        with pytest.raises(error, match=f"^rank={rank} must be"):
            make_source().enable_lora(rank)
    with pytest.raises(ValueError, match="rank=4: the model has LoRA of rank 2 already"):
        model.enable_lora(4)
    with pytest.raises(ValueError, match="no LoRA; call `enable_lora` before"):
        make_source().merge_lora()
    with pytest.raises(ValueError, match="^filepath=.*call `enable_lora` before"):
        make_source().save_lora(tmp_path / "b.safetensors")
    with pytest.raises(ValueError, match="^filepath='a' must end with .safetensors"):
        model.save_lora("a")
    with pytest.raises(FileNotFoundError, match="^filepath='nowhere': there is no such file"):
        model.load_lora("nowhere")
    with pytest.raises(ValueError, match="^filepath=.*is no file of save_lora"):
        model.load_lora(tmp_path / "a.safetensors")
    for write in (
        lambda: model.save(tmp_path / "model.keras"),
        lambda: model.save_to_preset(tmp_path / "preset"),
        lambda: to_diffusers(model, tmp_path / "theirs"),
        lambda: model.adapt(num_classes=2),
        lambda: model.with_dtype_policy("float32"),
    ):
        with pytest.raises(ValueError, match="LoRA of rank 2: .*`save_lora`.*`merge_lora`"):
            write()
    assert not list(tmp_path.rglob("*.keras")) and not (tmp_path / "preset").exists()


@pytest.mark.parametrize("make", [lambda: MLP(2, 8, 1), tiny_network])
def test_any_network_with_dense_layers_or_convolutions_has_lora(make):
    model = make_model(network=random_weights(make()))
    model.enable_lora(1)
    model.compile()
    assert len(model.trainable_variables) % 2 == 0
    expected = draw(model)
    np.testing.assert_allclose(draw(model.merge_lora()), expected, rtol=1e-4, atol=1e-4)
