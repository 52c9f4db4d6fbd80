"""Images as conditions: in training, in sampling and in files, and what makes them of images."""

import keras
import numpy as np
import pytest
from keras import ops
from PIL import Image
from tools import (
    BACKEND,
    FLOATS,
    IMAGES,
    LABELS,
    fit,
    make_model,
    random_weights,
    tiny_network,
)
from tools import to_numpy as numpy_of

from keras_ddpm import (
    Colouring,
    DiffusionModel,
    Inpainting,
    SampleImages,
    SuperResolution,
    UNet,
    colour,
    image_to_image,
    inpaint,
    load_diffusion_model,
    upscale,
)

PHOTOS = IMAGES.repeat(3, 3)
CONDITION = np.random.default_rng(1).normal(size=(8, 8, 8, 2)).astype("float32")
BATCH = {"images": IMAGES, "condition": CONDITION}
HALF = np.ones((8, 8), bool)
HALF[:, 4:] = False


def conditional(num_classes=None, channels=1, condition_channels=2, **kwargs):
    """A compiled model with conditions for `CONDITION`."""
    shapes = {"channels": channels, "condition_channels": condition_channels}
    return make_model(network=tiny_network(num_classes=num_classes, **shapes), **kwargs)


def made(conditioning, **kwargs):
    """A model that makes its conditions of RGB images."""
    channels = conditioning.channels((8, 8, 3))
    return conditional(None, 3, channels, conditioning=conditioning, **kwargs)


def seeds():
    return keras.random.SeedGenerator(0)


# ---- data ------------------------------------------------------------------------------------


class Pairs(keras.utils.PyDataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        return ({name: array[4 * index : 4 * index + 4] for name, array in BATCH.items()},)


def tf_data():
    tf = pytest.importorskip("tensorflow")
    return tf.data.Dataset.from_tensor_slices(BATCH).batch(4)


def torch_loader():
    torch = pytest.importorskip("torch")

    class Samples(torch.utils.data.Dataset):
        def __len__(self):
            return 8

        def __getitem__(self, index):
            return ({name: torch.tensor(array[index]) for name, array in BATCH.items()},)

    return torch.utils.data.DataLoader(Samples(), batch_size=4)


# TensorFlow and PyTorch with CUDA do not share a process.
SOURCES = [Pairs] + {"tensorflow": [tf_data], "torch": [torch_loader]}.get(BACKEND, [])


@pytest.mark.parametrize("source", SOURCES)
def test_each_source_trains_like_arrays(source):
    expected = fit(conditional(), BATCH, batch_size=4, epochs=2)
    data = source()
    found = conditional().fit(data, epochs=2, verbose=0, shuffle=False).history["loss"]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_labels_come_in_the_dict_or_beside_it():
    expected = fit(conditional(3), {**BATCH, "labels": LABELS})
    assert fit(conditional(3), BATCH, LABELS) == expected
    others = {**BATCH, "condition": -CONDITION}
    assert fit(conditional(3), others, LABELS) != expected, "the condition has an influence"


def test_bytes_become_floats_in_minus_one_to_one():
    conditions = IMAGES.repeat(2, 3)
    model = conditional(condition_dropout=0.0)
    as_bytes = model.prepare_batch(({"images": IMAGES, "condition": conditions},))["condition"]
    np.testing.assert_allclose(numpy_of(as_bytes), FLOATS.repeat(2, 3), atol=1e-6)


def test_the_share_that_is_dropped_and_none_of_validation():
    model = conditional(3, condition_dropout=0.25, label_dropout=0.5)
    many = {name: np.concatenate([array] * 250) for name, array in BATCH.items()}
    many["labels"] = np.concatenate([LABELS] * 250)
    batch = model.prepare_batch((many,))
    is_zero = (numpy_of(batch["condition"]) == 0).all((1, 2, 3))
    no_label = numpy_of(batch["label"]) == 3
    assert abs(is_zero.mean() - 0.25) < 0.05  # 2000 draws: a standard error of 0.01
    assert abs(no_label.mean() - 0.5) < 0.06
    assert abs((is_zero & no_label).mean() - 0.125) < 0.04, "independently of each other"
    kept = numpy_of(batch["condition"])[~is_zero]
    np.testing.assert_array_equal(kept, many["condition"][~is_zero])
    validation = model.prepare_batch((many,), validation=True)["condition"]
    np.testing.assert_array_equal(numpy_of(validation), many["condition"])


# ---- sampling --------------------------------------------------------------------------------


def test_guidance_towards_the_condition_or_the_label():
    """s times the prediction with it, and 1 − s times the one without."""
    x_t, t = FLOATS, np.full(8, 7, "int32")
    for classes in (None, 3):
        model = conditional(classes)
        labels = () if classes is None else (LABELS,)
        nothing = (0 * CONDITION,) if classes is None else (np.full(8, 3, "int32"), CONDITION)

        def predict(*inputs, model=model):
            return numpy_of(model([ops.convert_to_tensor(x) for x in (x_t, t, *inputs)]))

        given = model.sampling_conditions(labels[0] if labels else None, 3.0, CONDITION, 8)
        tensors = [ops.convert_to_tensor(x) for x in (x_t, t, *given)]
        found = numpy_of(model.sampling_loop.denoiser(*tensors))
        expected = 3 * predict(*labels, CONDITION) - 2 * predict(*nothing)
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_sample_depends_on_its_condition_alone():
    model = conditional()
    options = {"steps": 4, "seed": 0}
    images = model.generate(condition=CONDITION, **options)
    some = model.generate(condition=CONDITION[:3], **options, batch_size=2)
    np.testing.assert_allclose(some, images[:3], atol=1e-5)
    assert np.abs(model.generate(condition=CONDITION[::-1], **options) - images).max() > 0.01
    *_, (_, watched, _) = model.watch(condition=CONDITION, **options)
    np.testing.assert_allclose(watched, images, atol=1e-5)


@pytest.mark.parametrize("num_classes", [None, 3])
def test_a_file_and_a_preset_keep_the_condition(tmp_path, num_classes):
    model = conditional(num_classes, condition_dropout=0.3)
    fit(model, BATCH if num_classes is None else {**BATCH, "labels": LABELS})
    model.save(tmp_path / "model.keras")
    model.save_to_preset(tmp_path / "preset", dtype="float32")
    options = {"condition": CONDITION, "steps": 3, "seed": 0}
    options["labels"] = None if num_classes is None else LABELS
    images = model.generate(**options)
    for other in map(load_diffusion_model, (tmp_path / "model.keras", tmp_path / "preset")):
        assert other.condition_dropout == 0.3
        np.testing.assert_allclose(other.generate(**options), images, atol=1e-5)
    assert ", condition=condition, " in (tmp_path / "preset" / "README.md").read_text()


def test_the_pictures_of_a_training_show_fixed_examples(tmp_path):
    model = conditional()
    pictures = SampleImages(tmp_path, num_images=8, condition=CONDITION, steps=2)
    fit(model, BATCH, callbacks=[pictures])
    np.testing.assert_allclose(
        pictures.draw(), model.generate(condition=CONDITION, steps=2, seed=0), atol=1e-6
    )
    with pytest.raises(ValueError, match="condition=None: the model needs"):
        fit(model, BATCH, callbacks=[SampleImages(num_images=8)])


def test_edits_take_a_condition_or_refuse():
    model = conditional()
    options = {"strength": 0.5, "steps": 4, "seed": 0}
    edited = image_to_image(model, FLOATS, condition=CONDITION, **options)
    assert (
        np.abs(image_to_image(model, FLOATS, condition=-CONDITION, **options) - edited).max() > 0.01
    )
    inpainted = inpaint(model, FLOATS, HALF, condition=CONDITION, steps=2, resample_steps=1)
    np.testing.assert_array_equal(inpainted[:, :, :4], FLOATS[:, :, :4])
    for edit in (lambda: image_to_image(model, FLOATS), lambda: inpaint(model, FLOATS, HALF)):
        with pytest.raises(ValueError, match="condition=None: the model needs"):
            edit()


@pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow and JAX write SavedModels")
@pytest.mark.parametrize("num_classes", [None, 3])
def test_an_exported_sampler_takes_the_condition(tmp_path, num_classes):
    import tensorflow as tf

    model, noise = conditional(num_classes), FLOATS[::-1].copy()
    model.export_sampler(tmp_path / "sampler", steps=3, guided=True)
    given = {"noise": noise, "condition": CONDITION, "guidance_scale": np.full(8, 2, "float32")}
    given |= {} if num_classes is None else {"label": LABELS}
    artifact = tf.saved_model.load(tmp_path / "sampler")
    found = artifact.serve({name: tf.constant(value) for name, value in given.items()})
    labels = None if num_classes is None else LABELS
    options = {"guidance_scale": 2.0, "noise": noise, "condition": CONDITION, "steps": 3}
    np.testing.assert_allclose(found, model.generate(labels=labels, **options), atol=1e-5)


@pytest.mark.parametrize(
    "wrong, expected",
    [
        (
            {"condition": CONDITION[:, :4]},
            r"condition has shape \(8, 4, 8, 2\), but must be \(8, 8, 8, 2\)",
        ),
        (
            {"condition": CONDITION[:3], "num_images": 8},
            r"condition has shape \(3, .* must be \(8, 8",
        ),
        ({"condition": CONDITION[0]}, r"condition has shape \(8, 8, 2\)"),
        ({"condition": CONDITION * np.nan}, "condition holds NaN"),
        ({"condition": CONDITION.astype(int)}, "condition has dtype int64; give uint8 or float"),
        ({"num_images": 2}, r"condition=None: the model needs an array of shape \(2, 8, 8, 2\)"),
        ({"condition": CONDITION, "guidance_scale": 2}, r"condition_dropout=0"),
    ],
)
def test_a_wrong_condition_of_samples(wrong, expected):
    with pytest.raises((TypeError, ValueError), match=expected):
        conditional(condition_dropout=0.0).generate(**wrong)


@pytest.mark.parametrize(
    "wrong, expected",
    [
        (
            {"condition": CONDITION[:, :4]},
            r"condition holds samples of shape \(4, 8, 2\), .*\(8, 8, 2\)",
        ),
        ({"condition": CONDITION[:3]}, r"condition has shape \(3, .* one for each of the 8 images"),
        ({"condition": CONDITION * np.nan}, "condition holds values from"),
        ({"condition": CONDITION.astype(int)}, "condition has dtype int"),
        ({"condition": None}, "the network takes a condition, but the data have none"),
        ({"conditions": CONDITION}, r"with the keys \['condition', 'conditions', 'images'\]"),
        ({"labels": LABELS}, "labels were given to an unconditional network"),
    ],
)
def test_a_wrong_batch_changes_nothing(wrong, expected):
    model = conditional()
    batch = {name: value for name, value in {**BATCH, **wrong}.items() if value is not None}
    before = model.network.get_weights()
    with pytest.raises((TypeError, ValueError), match=expected):
        fit(model, batch)
    for weight, old in zip(model.network.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, old)


def test_a_model_without_condition_refuses_one():
    model = make_model()
    with pytest.raises(ValueError, match="condition was given, but the network takes none"):
        model.generate(condition=CONDITION)
    with pytest.raises(TypeError, match="x is a dict"):
        fit(model, BATCH)


def test_the_unet_reads_the_condition_beside_the_pixels():
    options = {"widths": (8,), "has_attention": (False,), "num_res_blocks": 1, "patch_size": 2}
    network = random_weights(UNet(8, 1, num_classes=3, condition_channels=2, **options))
    assert [x.name for x in network.inputs] == ["x_t", "t", "label", "condition"]
    plain = UNet(8, 1, num_classes=3, **options)
    shapes = [network.get_layer("conv_in").kernel.shape, plain.get_layer("conv_in").kernel.shape]
    assert [tuple(shape) for shape in shapes] == [(3, 3, 4 * 3, 8), (3, 3, 4, 8)]
    t = np.full(8, 3, "int32")
    outputs = [numpy_of(network([FLOATS, t, t % 3, c])) for c in (CONDITION, 0 * CONDITION)]
    assert np.abs(outputs[0] - outputs[1]).max() > 0.01
    model = make_model(network=network)
    given = {"labels": t % 3, "condition": CONDITION, "steps": 1, "seed": 0}
    lower = model.with_dtype_policy("mixed_bfloat16").generate(**given)
    np.testing.assert_allclose(lower, model.generate(**given), atol=0.2)
    assert type(network).from_config(network.get_config()).inputs[-1].shape == (None, 8, 8, 2)
    with pytest.raises(ValueError, match="condition_channels=0"):
        UNet(8, 1, condition_channels=0, **options)


# ---- what makes conditions --------------------------------------------------------------------


def test_a_small_image_is_the_mean_of_its_pixels_and_noise_of_the_level_that_is_told():
    images = np.zeros((2000, 4, 6, 1), "float32") + np.linspace(-1, 1, 6, dtype="float32")[:, None]
    found = numpy_of(SuperResolution(2, max_level=0.5).draw(images, seeds()))
    assert found.shape == (2000, 4, 6, 2)
    for part in (found[:, 1::2], found[:, ::2]):  # each pixel twice in each direction
        np.testing.assert_array_equal(part[:, :, 1::2], part[:, :, ::2])
    noisy, level = found[:, ::2, ::2, 0], found[:, 0, 0, 1]
    assert (found[..., 1] == level[:, None, None]).all()
    assert 0 <= level.min() < 0.01 and 0.49 < level.max() <= 0.5
    means = np.linspace(-1, 1, 6).reshape(3, 2).mean(1)
    noise = (noisy - np.sqrt(1 - level**2)[:, None, None] * means) / level[:, None, None]
    assert abs(noise.mean()) < 0.03 and abs(noise.std() - 1) < 0.03


def test_sampling_has_the_same_formula():
    small = FLOATS[:2, :4, :4]
    noise = np.random.default_rng(0).normal(size=small.shape).astype("float32")
    found = SuperResolution(2).make(small, noise, 0.2)
    expected = np.kron(0.96**0.5 * small[..., 0] + 0.2 * noise[..., 0], np.ones((2, 2)))
    np.testing.assert_allclose(found[..., 0], expected.reshape(2, 8, 8), atol=1e-6)
    np.testing.assert_allclose(found[..., 1], 0.2)


def test_grey_is_that_of_pillow():
    pixels = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 3), "uint8")
    expected = np.asarray(Image.fromarray(pixels[0]).convert("L"))
    grey = numpy_of(Colouring().draw(ops.convert_to_tensor(pixels / 127.5 - 1, "float32")))
    np.testing.assert_allclose((grey[0, ..., 0] + 1) * 127.5, expected, atol=0.51)


def test_a_hole_is_a_box_of_the_sizes_asked_for_anywhere():
    found = numpy_of(Inpainting(0.25, 0.75).draw(0.5 * ops.ones((2000, 12, 8, 3)), seeds()))
    known = found[..., 3]
    assert set(np.unique(known)) == {0.0, 1.0}
    np.testing.assert_array_equal(found[..., :3], 0.5 * known[..., None].repeat(3, -1))
    rows, columns = (known == 0).any(2), (known == 0).any(1)
    np.testing.assert_array_equal(known == 0, rows[:, :, None] & columns[:, None])
    for inside in (rows, columns):
        size = inside.shape[1]
        sides = inside.sum(1)
        assert sides.min() == size / 4 and sides.max() == 3 * size / 4
        assert (np.diff(inside, axis=1).sum(1) <= 2).all(), "in one piece"
        middle = inside.mean(0)
        assert inside[:, 0].any() and inside[:, -1].any()
        np.testing.assert_allclose(middle, middle[::-1], atol=0.06)


def test_models_train_on_images_and_keep_what_they_are_for(tmp_path):
    for conditioning in (SuperResolution(2, 0.4), Colouring(), Inpainting(0.5, 0.5)):
        model = made(conditioning)
        fit(model, PHOTOS)
        model.save_to_preset(tmp_path / "preset")
        assert DiffusionModel.from_preset(tmp_path / "preset").conditioning == conditioning
        assert repr(conditioning) in (tmp_path / "preset" / "README.md").read_text()


def test_what_the_models_are_used_with():
    options = {"steps": 2, "seed": 0}
    small = PHOTOS[:, ::2, ::2]
    large = upscale(made(SuperResolution(2)), small, **options)
    assert large.shape == PHOTOS.shape
    assert np.abs(upscale(made(SuperResolution(2)), small, 0.2, **options) - large).max() > 1e-3
    grey = PHOTOS[..., :1]  # all three channels are the same
    coloured = colour(made(Colouring()), PHOTOS, **options)
    np.testing.assert_allclose(colour(made(Colouring()), grey, **options), coloured, atol=1e-5)
    photo = Image.fromarray(PHOTOS[0])
    assert colour(made(Colouring()), photo, **options).shape == (1, 8, 8, 3)
    images = PHOTOS.astype("float32") / 127.5 - 1
    filled = inpaint(made(Inpainting()), images, HALF, **options)
    np.testing.assert_array_equal(filled[:, :, :4], images[:, :, :4])
    hidden = np.where(HALF[..., None], images, 1)
    np.testing.assert_array_equal(inpaint(made(Inpainting()), hidden, HALF, **options), filled)


@pytest.mark.parametrize(
    "make, expected",
    [
        (lambda: SuperResolution(1), "factor=1 must be"),
        (lambda: SuperResolution(2, 0), "max_level=0 must be"),
        (
            lambda: SuperResolution(3).channels((8, 8, 3)),
            r"image_size=\(8, 8\) must be divisible by factor=3",
        ),
        (lambda: Colouring().channels((8, 8, 1)), "channels=1 must be 3 for Colouring"),
        (lambda: Inpainting(0.8), "min_share=0.8 must be a number in"),
        (
            lambda: conditional(conditioning=Inpainting(), condition_channels=5),
            "condition_channels=2",
        ),
        (lambda: conditional(conditioning="grey"), "conditioning='grey' must be a Conditioning"),
        (lambda: upscale(made(Colouring()), PHOTOS), r"conditioning=Colouring\(\), but must"),
        (lambda: upscale(made(SuperResolution()), PHOTOS), r"images has shape .*\(n, 4, 4, 3\)"),
        (
            lambda: upscale(made(SuperResolution()), PHOTOS[:, ::2, ::2], 0.9),
            "noise_level=0.9 must",
        ),
        (lambda: colour(conditional(), PHOTOS), "conditioning=None, but must"),
        (lambda: colour(made(Colouring()), PHOTOS[:, ::2]), r"images has shape \(8, 4, 8, 3\)"),
    ],
)
def test_wrong_makers(make, expected):
    with pytest.raises((TypeError, ValueError), match=expected):
        make()
