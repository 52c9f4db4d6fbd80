"""What happens when memory runs out in training: simulated, and for real."""

import re
import subprocess
import sys

import keras
import numpy as np
import pytest
from conftest import assert_same_states, states, tiny_network

from keras_ddpm import DiffusionModel, GaussianDiffusion

BACKEND = keras.backend.backend()
# What each says: TensorFlow, JAX, PyTorch on a GPU and on a CPU, NumPy.
MESSAGES = [
    RuntimeError("OOM when allocating tensor with shape[4096,32,32,64]"),
    RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 11920394560 bytes."),
    RuntimeError("INTERNAL: YNNPACK operation failed: error"),
    RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."),
    MemoryError("Unable to allocate 7.28 TiB for an array"),
    MemoryError(),
]


def make_model(num_classes=None):
    keras.utils.set_random_seed(0)
    network = tiny_network(num_classes=num_classes)
    model = DiffusionModel(network, GaussianDiffusion(10, beta_end=0.5))
    model.compile(keras.optimizers.SGD(0.1))
    return model


@pytest.fixture
def room_for(monkeypatch):
    """Lets Keras' own methods fail on more images than a number."""
    step = keras.Model.train_on_batch

    def limit(most, error=MESSAGES[0]):
        def fit(self, x, y=None, batch_size=None, *args, **kwargs):
            raise error

        def train_on_batch(self, x, *args, **kwargs):
            if len(x) > most:
                raise error
            return step(self, x, *args, **kwargs)

        monkeypatch.setattr(keras.Model, "fit", fit)
        monkeypatch.setattr(keras.Model, "train_on_batch", train_on_batch)

    return limit


@pytest.mark.parametrize("error", MESSAGES)
def test_a_batch_size_that_fits_is_named_and_nothing_changes(room_for, error):
    model = make_model(num_classes=3)
    before = states(model)
    room_for(4, error)
    with pytest.raises(
        MemoryError, match="batches of 12; batch_size=3 fits.*steps=4 in the opt"
    ) as raised:
        model.fit(np.zeros((20, 8, 8, 1), "float32"), np.zeros(20, "int32"), batch_size=12)
    assert str(error) in str(raised.value)
    assert_same_states(states(model), before)


@pytest.mark.parametrize(
    "images, batch_size, most, message",
    [
        (20, 8, 0, "out of memory with batches of 8, and with one image: take a smaller one"),
        (1, 8, 0, "out of memory with batches of 1, and with one image"),
        (40, None, 16, "out of memory with batches of 32; batch_size=16 fits"),
        (20, None, 16, "out of memory with batches of 20; batch_size=10 fits"),
    ],
)
def test_the_size_of_the_batches_is_known_for_arrays(room_for, images, batch_size, most, message):
    model = make_model()
    room_for(most)
    with pytest.raises(MemoryError, match=message):
        model.fit(np.zeros((images, 8, 8, 1), "float32"), batch_size=batch_size)


def test_and_may_be_unknown(room_for):
    model = make_model()
    room_for(20)
    with pytest.raises(MemoryError, match="with these batches; batch_size=16 fits"):
        model.fit(iter([np.zeros((300, 8, 8, 1), "float32")]))


def test_other_errors_stay_what_they_are(room_for):
    model, error = make_model(), RuntimeError("no such device")
    room_for(0, error)
    with pytest.raises(RuntimeError) as raised:
        model.fit(np.zeros((4, 8, 8, 1), "float32"))
    assert raised.value is error


PLAIN = """
import resource, sys
import keras, numpy as np
from keras_ddpm import DiffusionModel, GaussianDiffusion, build_unet

plain = {"widths": (16,), "has_attention": (False,), "num_res_blocks": 1}
model = DiffusionModel(build_unet(32, **plain), GaussianDiffusion())
model.compile(keras.optimizers.Adam(1e-3))
size, limit = int(sys.argv[1]), int(sys.argv[2])
x = np.zeros((size, 32, 32, 3), "uint8")
model.fit(x[:2], batch_size=2, verbose=0)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
limit = limit or used + 10**9
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    print("loss", model.fit(x, batch_size=size, verbose=0).history["loss"])
except MemoryError as error:
    print(limit, error)
"""


def train_in_little_memory(batch_size, limit=0):
    """What a process says that may use so many bytes; 0: a gigabyte more than it has so far."""
    command = [sys.executable, "-c", PLAIN, str(batch_size), str(limit)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


# Without memory TensorFlow aborts the process, and XLA fails wherever it happens to be.
@pytest.mark.skipif(BACKEND != "torch", reason="on a CPU only PyTorch always says so by an error")
@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited and read as Linux does it")
def test_memory_that_really_runs_out():
    limit, message = train_in_little_memory(1024).split(" ", 1)
    size = int(re.search(r"batches of 1024; batch_size=(\d+) fits", message)[1])
    assert 8 <= size <= 512
    # In a process of its own, as one would start again: what failed leaves holes in the memory.
    assert train_in_little_memory(size, limit).startswith("loss [")
