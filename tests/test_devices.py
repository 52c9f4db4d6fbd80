"""Several devices train and sample as one does. Simulated on a CPU, in a process of their own."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import states, tiny_network

from keras_ddpm import DiffusionModel
from keras_ddpm.devices import use_devices

BACKEND = keras.backend.backend()
TESTS = Path(__file__).parent
DEVICES = 4
CONFIG = """
data: {name: drawn_flowers, num_images: 20, image_size: 16, validation_fraction: 0.25}
diffusion: {timesteps: 8, beta_start: 0.05, beta_end: 0.8}
network: {widths: [8], has_attention: [false], num_res_blocks: 1, norm_groups: 4, dropout: 0.1}
training: {epochs: 3, batch_size: 4}
sampling: {steps: 2, num_images: 3}
"""

many = pytest.mark.skipif(BACKEND == "torch", reason="Keras has no distribution for PyTorch")
only_tensorflow = pytest.mark.skipif(BACKEND != "tensorflow", reason="about MirroredStrategy")
only_jax = pytest.mark.skipif(BACKEND != "jax", reason="several processes are for JAX")


def start(task, folder, devices=DEVICES, **environment):
    """Starts `many_devices.py`."""
    (folder / "flowers.yaml").write_text(CONFIG)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)]),
        "KERAS_BACKEND": BACKEND,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        # Compiling takes longer than training.
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} "
        "--xla_backend_optimization_level=0",
        **environment,
    }
    return subprocess.Popen(
        [sys.executable, TESTS / "many_devices.py", task, folder],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("devices")
    process = start("simulated", folder)
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 0, output
    return folder


@pytest.fixture(scope="module")
def results(folder):
    return dict(np.load(folder / "simulated.npz"))


@pytest.fixture(scope="module")
def messages(folder):
    return json.loads((folder / "messages.json").read_text())


def group(results, name):
    found = {key.split("/")[1]: v for key, v in results.items() if key.startswith(f"{name}/")}
    assert found
    return found


def assert_close(found, expected, atol=1e-5, names=("network", "ema", "optimizer", "data_mean")):
    assert {"network_0", "ema_0", "optimizer_0", "data_mean", "loss"} <= found.keys()
    for key in found:
        if key.startswith((*names, "loss")):
            np.testing.assert_allclose(found[key], expected[key], rtol=0, atol=atol, err_msg=key)


# ---- training ------------------------------------------------------------


@many
@pytest.mark.parametrize("devices", [2, 4])
def test_devices_take_the_steps_of_one(results, devices):
    one, found = group(results, "sgd_1"), group(results, f"sgd_{devices}")
    for name in ("network_0", "ema_0", "data_mean"):
        assert np.abs(np.diff(one[name], axis=0)).max() > 1e-3  # they do move
    assert one["network_0"].shape[0] == 6
    assert_close(found, one)


@many
@pytest.mark.parametrize("devices", [2, 4])
def test_all_devices_hold_the_same_numbers(results, devices):
    for name, copies in group(results, f"copies_{devices}").items():
        assert len(copies) == devices
        if "seed" not in name:
            np.testing.assert_array_equal(copies, copies[:1].repeat(devices, 0), err_msg=name)


@many
@pytest.mark.parametrize("devices", [2, 4])
def test_with_their_own_noise_devices_learn_as_one_does(results, devices):
    one, found = group(results, "whole_1")["loss"], group(results, f"whole_{devices}")["loss"]
    assert one[1] < 0.8 * one[0]
    # JAX draws for the whole batch: the same noise. Means of 288 losses else.
    np.testing.assert_allclose(found, one, rtol=1e-3 if BACKEND == "jax" else 0.1)


@many
def test_a_checkpoint_of_several_devices_goes_on_to_the_same_bits(results):
    whole = group(results, "whole_4")
    assert whole.pop("loss").shape == (2,)
    resumed = group(results, "resumed")
    assert resumed.keys() == whole.keys()
    for name, value in whole.items():
        np.testing.assert_array_equal(resumed[name], value, err_msg=name)


@many
def test_a_checkpoint_of_several_devices_loads_on_one(folder, results):
    model = keras.saving.load_model(folder / "checkpoints_4" / "epoch_0002.keras")
    for name, value in states(model).items():
        np.testing.assert_array_equal(value, results[f"whole_4/{name}"], err_msg=name)


@many
@pytest.mark.parametrize(
    "fault, message", [("label", "labels run from 0 to 3"), ("nan", "loss is nan.*diverged")]
)
def test_a_faulty_step_changes_nothing_on_any_device(results, messages, fault, message):
    assert re.search(message, messages[fault]), messages[fault]
    before, after = group(results, f"before_{fault}"), group(results, f"after_{fault}")
    for name, value in before.items():
        if not name.startswith("seeds"):
            np.testing.assert_array_equal(after[name], value, err_msg=name)


# ---- MirroredStrategy ------------------------------------------------------------


@only_tensorflow
def test_replicas_draw_noise_and_dropout_of_their_own(results):
    for name, values in group(results, "replicas").items():
        assert len(values) == 2 * DEVICES
        assert len({value.tobytes() for value in values}) == 2 * DEVICES, name


@only_tensorflow
def test_clipping_and_accumulation_see_the_whole_gradient(results):
    one, two = group(results, "adam_1"), group(results, "adam_2")
    moves = np.abs(np.diff(one["network_0"], axis=0)).reshape(5, -1).max(1)
    assert (moves[::2] > 1e-4).all() and (moves[1::2] == 0).all()  # every second batch
    assert_close(two, one)


@only_tensorflow
def test_batches_that_do_not_divide_count_each_image_once(results):
    """The sizes of a tf.data.Dataset are not known beforehand."""
    assert group(results, "uneven_1")["network_0"].shape[0] == 3
    assert_close(group(results, "uneven_2"), group(results, "uneven_1"))


@only_tensorflow
def test_a_strategy_of_one_device_changes_nothing(results):
    assert_close(group(results, "sgd_alone"), group(results, "sgd_1"), atol=1e-6)


@only_tensorflow
def test_loss_scaling_works_on_several_devices(results):
    one, two = group(results, "float16_1"), group(results, "float16_2")
    assert np.abs(one["network_0"][-1] - one["network_0"][0]).max() > 0.01
    assert_close(two, one, atol=1e-3, names=("network", "ema"))


@only_tensorflow
def test_flowers_runs_on_several_devices(folder):
    kept = {str(path.relative_to(folder / "run")) for path in (folder / "run").rglob("*.*")}
    assert kept >= {"log.csv", "samples.png", "final.keras", "checkpoints/epoch_0001.keras"}


# ---- sampling ------------------------------------------------------------


@many
@pytest.mark.parametrize("devices", [2, 4])
def test_devices_share_the_work_of_sampling_and_draw_the_images_of_one(results, devices):
    one, found = group(results, "sgd_1"), group(results, f"sgd_{devices}")
    assert one["images"].shape == (7, 8, 8, 1) and one["images"].std() > 0.1
    assert one["parts"].tolist() == [4] and found["parts"].tolist() == [4 // devices]
    np.testing.assert_allclose(found["images"], one["images"], rtol=0, atol=1e-5)
    # What the network sees in noise is divided by little signal.
    np.testing.assert_allclose(found["frames"], one["frames"], rtol=0, atol=1e-3)


# ---- several processes ------------------------------------------------------------


def run_two(folder):
    """Both processes' exit codes and outputs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    processes = [
        start(
            "process",
            folder,
            devices=1,
            KERAS_DISTRIBUTION_JOB_ADDRESSES=address,
            KERAS_DISTRIBUTION_NUM_PROCESSES="2",
            KERAS_DISTRIBUTION_PROCESS_ID=str(number),
        )
        for number in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=400)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], outputs


@pytest.fixture(scope="module")
def killed(folder):
    return run_two(folder)


@only_jax
def test_two_processes_take_the_steps_of_one_and_draw_its_images(folder, results, killed):
    found = dict(np.load(folder / "processes.npz"))
    assert found["parts"].tolist() == [2]
    assert_close(found, group(results, "sgd_1"), names=("network", "ema", "data_mean", "images"))


@only_jax
def test_a_killed_process_ends_the_run_which_goes_on_when_started_again(folder, killed):
    codes, outputs = killed
    assert codes[1] == -signal.SIGKILL and codes[0] not in (0, None), outputs
    assert "error: process 0 of 2 ends here" in outputs[0], outputs[0]
    run = folder / "run"
    assert (run / "checkpoints" / "epoch_0002.keras").exists()
    assert not (run / "final.keras").exists()

    codes, outputs = run_two(folder)
    assert codes == [0, 0], outputs
    assert "resuming     after epoch 2 of 3" in outputs[0]
    assert "images       15 for training, 4 for validation" in outputs[0]
    assert "Epoch" not in outputs[1]  # one of them tells, and writes
    found, one = (
        np.genfromtxt(path / "log.csv", delimiter=",", names=True) for path in (run, folder / "one")
    )
    assert found.dtype.names == one.dtype.names
    for name in one.dtype.names:
        np.testing.assert_allclose(found[name], one[name], rtol=0.01, atol=1e-3, err_msg=name)


# ---- what is refused ------------------------------------------------------------


@many
@pytest.mark.parametrize(
    "case, message",
    [
        ("too many", "devices=5, but there are only 4: cpu:0, cpu:1, cpu:2, cpu:3"),
        ("batch", "a batch of 6 does not divide among 4 devices.*multiple of 4"),
        ("rest", "a batch of 2 does not divide among 4 devices"),
        ("validation", "a batch of 3 does not divide among 4 devices"),
        ("memory", "out of memory with batches of 48 on 4 devices: .* a multiple of 4"),
    ],
)
def test_what_does_not_fit_the_devices_is_refused(messages, case, message):
    assert re.match(message, messages[case], re.IGNORECASE), messages[case]


@only_tensorflow
@pytest.mark.parametrize(
    "case, message",
    [
        ("jit_compile", "jit_compile=True does not work with MirroredStrategy"),
        ("steps_per_execution", "steps_per_execution=2 does not work with MirroredStrategy"),
        ("loss", "loss=.* returns one number for the whole batch"),
    ],
)
def test_what_mirrored_strategy_cannot_do_is_refused(messages, case, message):
    assert re.match(message, messages[case]), messages[case]


def test_more_devices_than_there_are_are_refused_also_where_there_is_one():
    message = "there is only 1: .*" + ("PyTorch" if BACKEND == "torch" else "")
    with pytest.raises(ValueError, match=f"devices=64, but {message}"):
        use_devices(64)
    with pytest.raises(ValueError, match="devices must be at least 1, got 0"):
        use_devices(0)
    assert use_devices("all") == 1


@pytest.mark.skipif(BACKEND == "jax", reason="JAX does these")
def test_what_only_jax_does_is_refused(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setenv("KERAS_DISTRIBUTION_NUM_PROCESSES", "2")
        with pytest.raises(ValueError, match="NUM_PROCESSES is set.*KERAS_BACKEND=jax only"):
            use_devices()
    cpus = keras.distribution.DataParallel(devices=["cpu:0", "cpu:1"])
    model = DiffusionModel(tiny_network())
    with cpus.scope(), pytest.raises(ValueError, match=f"with {BACKEND} it has no effect"):
        model.compile("sgd")
