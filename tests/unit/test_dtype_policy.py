"""A model under another dtype policy: nearly the same samples, from the same weights."""

import keras
import numpy as np
import pytest
from tools import (
    FLOATS,
    assert_same_states,
    distance,
    fit,
    make_model,
    random_weights,
    states,
    to_numpy,
)

from keras_ddpm import MLP, DiffusionModel, GaussianDiffusion, UNet, load_diffusion_model


@pytest.fixture(scope="module")
def model():
    network = UNet(8, 1, (4, 8), (False, True), 1, 2, num_heads=2, num_classes=3)
    diffusion = GaussianDiffusion(20, "cosine", prediction="velocity")
    model = DiffusionModel(network, diffusion, class_names=("rose", "tulip", "iris"), seed=3)
    random_weights(model.network, seed=1)
    random_weights(model.ema_network, seed=2)
    model.data_mean.assign([0.1])
    model.updates.assign(7)
    model.compile()
    return model


@pytest.fixture(scope="module")
def half(model):
    return model.with_dtype_policy("mixed_bfloat16")


def compute_dtypes(network):
    return {layer.name: layer.compute_dtype for layer in network.layers if layer.weights}


def test_samples_are_nearly_the_same(model, half):
    expected, found = (m.generate(labels=[0, 1, 2], steps=3, seed=0) for m in (model, half))
    assert found.dtype == "float32" and 0 < np.abs(found - expected).max() < 0.1
    for name, dtype in compute_dtypes(half.ema_network).items():
        assert dtype == ("float32" if name == "conv_out" else "bfloat16"), name
    assert set(compute_dtypes(model.ema_network).values()) == {"float32"}


def test_the_way_there_and_back_changes_nothing(model, half):
    back = half.with_dtype_policy("float32")
    assert back.get_config() == model.get_config()
    for name in ("network", "ema_network"):
        pairs = zip(getattr(model, name).weights, getattr(back, name).weights, strict=True)
        for one, other in pairs:
            np.testing.assert_array_equal(to_numpy(one), to_numpy(other))
    np.testing.assert_array_equal(to_numpy(model.data_mean), to_numpy(back.data_mean))
    assert int(to_numpy(back.updates)) == 7


def test_the_copy_trains_and_leaves_the_original_as_it_is():
    model = make_model(network=MLP(2, 8, 1))
    before, copy = states(model), model.with_dtype_policy("mixed_bfloat16")
    copy.compile(optimizer=keras.optimizers.Adam(1e-2))
    assert np.isfinite(fit(copy, np.ones((8, 2), "float32"), epochs=2)).all()
    assert distance(copy.network.get_weights(), model.network.get_weights()) > 1e-3
    assert_same_states(before, states(model))


def test_a_file_or_a_preset_is_opened_under_it(model, tmp_path):
    model.save(tmp_path / "model.keras")
    preset = model.save_to_preset(tmp_path / "preset")
    for source in (tmp_path / "model.keras", preset):
        found = load_diffusion_model(source, "mixed_bfloat16")
        assert compute_dtypes(found.ema_network)["conv_in"] == "bfloat16"
        assert compute_dtypes(load_diffusion_model(source).ema_network)["conv_in"] == "float32"


@pytest.mark.parametrize("network", [None, "mlp"])
def test_float16_keeps_its_loss_scale_in_a_file(tmp_path, dtype_policy, network):
    """Under another global policy, as in a new process."""
    dtype_policy("mixed_float16")
    model = make_model(network=network and MLP(2, 8, 1))
    x = FLOATS if network is None else FLOATS.reshape(-1, 2)[:8]
    fit(model, x, epochs=2)
    model.save(tmp_path / "model.keras")
    dtype_policy("float32")
    loaded = load_diffusion_model(tmp_path / "model.keras")
    assert_same_states(states(loaded), states(model))
    assert isinstance(loaded.optimizer, keras.optimizers.LossScaleOptimizer)
    assert loaded.dtype_policy.name == "mixed_float16" and int(to_numpy(loaded.updates)) > 0
    assert np.isfinite(fit(loaded, x)).all()


@pytest.mark.once
def test_a_copy_in_float16_scales_its_loss(model):
    for policy, scales in (("mixed_float16", True), ("float32", False)):
        copy = model.with_dtype_policy(policy)
        copy.compile()
        assert isinstance(copy.optimizer, keras.optimizers.LossScaleOptimizer) == scales


@pytest.mark.once
def test_other_policies_and_networks_are_refused(model):
    for policy in ("bfloat16", "float64", "float31"):  # weights stay float32
        with pytest.raises(ValueError, match=policy):
            model.with_dtype_policy(policy)
    with pytest.raises(TypeError, match="policy=None"):
        model.with_dtype_policy(None)
    with pytest.raises(ValueError, match="the network a UNet, MLP, or another"):
        make_model().with_dtype_policy("mixed_bfloat16")
