"""Several devices train and sample as one does: simulated on a CPU, and in two processes."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from tools import BACKEND, ROOT, assert_same_states, make_model, run_python, states

from keras_ddpm.devices import use_devices

SCRIPT = Path(__file__).with_name("many_devices.py")
DEVICES = 4

only_jax = pytest.mark.skipif(BACKEND != "jax", reason="several devices are for JAX")


def environment(devices, **variables):
    # Compiling takes longer than training.
    flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    paths = {"PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), str(ROOT)])}
    return {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, **paths, **variables}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("devices")
    run_python(SCRIPT, "simulated", folder, **environment(DEVICES))
    return folder


@pytest.fixture(scope="module")
def results(folder):
    """The arrays of each part, by the name of the part."""
    parts = {}
    for name, values in np.load(folder / "simulated.npz").items():
        part, name = name.split("/", 1)
        parts.setdefault(part, {})[name] = values
    return parts


@pytest.fixture(scope="module")
def two_processes(folder):
    """What each of two processes found, and what it printed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    variables = environment(
        1, KERAS_DISTRIBUTION_JOB_ADDRESSES=address, KERAS_DISTRIBUTION_NUM_PROCESSES="2"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, SCRIPT, "process", folder],
            env={**os.environ, **variables, "KERAS_DISTRIBUTION_PROCESS_ID": str(number)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=300)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], outputs
    return [dict(np.load(folder / f"process_{i}.npz")) for i in range(2)], outputs


def assert_trained_alike(found, one):
    """The noise is drawn for the whole batch, so that only rounding differs."""
    names = ("network", "ema", "optimizer", "loss", "val_loss", "images")
    for name in one:
        if name.startswith(names):
            np.testing.assert_allclose(found[name], one[name], atol=1e-5, rtol=0, err_msg=name)


@only_jax
def test_devices_take_the_steps_of_one_and_draw_its_images(results):
    one, found = results["devices_1"], results[f"devices_{DEVICES}"]
    assert one["loss"][1] < 0.8 * one["loss"][0]  # it does learn
    assert one["images"].shape == (7, 8, 8, 1) and one["images"].std() > 0.1
    assert_trained_alike(found, one)
    # What the network sees in noise is divided by little signal.
    np.testing.assert_allclose(found["frames"], one["frames"], rtol=0, atol=1e-3)
    assert one["parts"].tolist() == [4] and found["parts"].tolist() == [4 // DEVICES]


@only_jax
def test_a_checkpoint_of_several_devices_goes_on_to_the_same_bits(folder, results):
    whole, resumed = results[f"devices_{DEVICES}"], results["resumed"]
    for name in resumed.keys() - {"loss", "val_loss"}:
        np.testing.assert_array_equal(whole[name], resumed[name], err_msg=name)
    # And it loads on one device.
    model = keras.saving.load_model(folder / str(DEVICES) / "epoch_0002.keras")
    for name, value in states(model).items():
        np.testing.assert_array_equal(whole[name], value, err_msg=name)


@only_jax
def test_a_faulty_step_changes_nothing_on_any_device(results):
    assert "labels run from 0 to 3" in str(results["messages"]["label"])
    assert_same_states(results["before"], results["after"], ("network", "ema", "optimizer"))


@only_jax
@pytest.mark.parametrize(
    "case, message",
    [
        ("too many", "devices=5: there are 4 .cpu:0, cpu:1, cpu:2, cpu:3."),
        ("batch", "batch_size=6 does not divide among 4 devices.*multiple of 4"),
        ("validation", "batch_size=3 does not divide among 4 devices"),
    ],
)
def test_what_does_not_fit_the_devices_is_refused(results, case, message):
    assert re.match(message, str(results["messages"][case]))


@only_jax
def test_two_processes_take_the_steps_of_one_and_draw_its_images(results, two_processes):
    for found in two_processes[0]:
        assert found["parts"].tolist() == [2]
        assert_trained_alike(found, results["devices_1"])


@only_jax
def test_two_processes_share_a_run_that_one_of_them_writes(folder, two_processes):
    """It was trained for an epoch, and then gone on with."""
    found, outputs = two_processes
    for arrays in found:  # at first they were started with different seeds
        assert "the processes do not agree on the configuration" in str(arrays["message"])
    assert "; 15 images " in outputs[0]
    assert "\n1 of 2 epochs of " in outputs[0]
    assert "Epoch" not in outputs[1] and "epochs" not in outputs[1]
    log = np.genfromtxt(folder / "run" / "log.csv", delimiter=",", names=True)
    assert len(log) == 2 and np.isfinite(log["val_loss"]).all()
    assert (folder / "run" / "final.keras").exists()


def test_more_devices_than_there_are_are_refused():
    with pytest.raises(ValueError, match="devices=64: " + ("there are 1" * (BACKEND == "jax"))):
        use_devices(64)
    with pytest.raises(ValueError, match="devices=0 must be at least 1"):
        use_devices(0)
    assert use_devices("all") == use_devices(1) == 1


@pytest.mark.skipif(BACKEND == "jax", reason="JAX does these")
def test_what_only_jax_does_is_refused(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setenv("KERAS_DISTRIBUTION_NUM_PROCESSES", "2")
        with pytest.raises(ValueError, match="several need KERAS_BACKEND=jax"):
            use_devices()
    model = make_model()
    cpus = keras.distribution.DataParallel(devices=["cpu:0", "cpu:1"])
    with cpus.scope(), pytest.raises(ValueError, match=f"no effect with KERAS_BACKEND={BACKEND}"):
        model.compile("sgd")
