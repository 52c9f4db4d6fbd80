"""Cases of speed.py for this package: generators of facts first, then of the seconds of a round."""

import math
import tempfile
import time

import keras
import numpy as np
from keras import ops

from keras_ddpm import DiffusionModel, FusedAdam, GaussianDiffusion, ImageDataset, UNet
from keras_ddpm.backend import compile_function
from keras_ddpm.layers import SelfAttention
from keras_ddpm_cli.common import tune_xla

tune_xla()  # as the commands do


def make_model(network, policy="float32"):
    keras.config.set_dtype_policy(policy)
    model = DiffusionModel(UNet(**network), GaussianDiffusion())
    model.compile(FusedAdam(2e-4))
    return model


def random_images(network, count):
    shape = (count, network["image_size"], network["image_size"], 3)
    return np.random.default_rng(0).integers(0, 256, shape, "uint8")


def repeat(run):
    """The seconds of each call."""
    while True:
        begin = time.perf_counter()
        run()
        yield time.perf_counter() - begin


def training(network, policy, batch_size, steps):
    """The seconds of a training step in `fit`, with Adam and averaged weights."""
    images = random_images(network, batch_size * steps)
    begin = time.perf_counter()
    model = make_model(network, policy)
    model.fit(ImageDataset(images[:batch_size], batch_size=batch_size), verbose=0)
    first = time.perf_counter() - begin
    dataset = ImageDataset(images, batch_size=batch_size)
    model.fit(dataset, verbose=0)
    # The gradient costs twice as many operations as the network.
    yield {"first": first, "flops": 3 * batch_size * forward_flops(model.network)}
    for seconds in repeat(lambda: model.fit(dataset, verbose=0)):
        yield seconds / steps


def sampling(network, num_images, sampler, steps, batch_size=None):
    """The seconds of `generate`."""
    batch_size = batch_size or num_images
    model = make_model(network)

    def run():
        model.generate(num_images, sampler=sampler, steps=steps, seed=0, batch_size=batch_size)

    rounds = repeat(run)
    yield {"first": next(rounds)}
    yield from rounds


def training_from_disk(network, num_images, batch_size, steps):
    """The seconds of a training step with a set of that many images in a file on disk."""
    with tempfile.TemporaryDirectory() as folder:
        shape = (num_images, network["image_size"], network["image_size"], 3)
        images = np.lib.format.open_memmap(f"{folder}/images.npy", "w+", np.uint8, shape)
        rng = np.random.default_rng(0)
        for part in np.array_split(np.arange(num_images), max(1, num_images // 10000)):
            images[part] = rng.integers(0, 256, (len(part), *shape[1:]), "uint8")
        images.flush()
        images = np.load(f"{folder}/images.npy", mmap_mode="r")
        model = make_model(network)

        def run():
            dataset = ImageDataset(images, batch_size=batch_size)
            model.fit(dataset, steps_per_epoch=steps, verbose=0)

        run()
        yield {}
        for seconds in repeat(run):
            yield seconds / steps


def forward_passes(network, num_images, steps):
    """The seconds of the compiled network alone, called once for each step."""
    model = make_model(network)
    net = model.ema_network
    program = compile_function(
        lambda x, t: net([x, t], training=False), net.variables, model.jit_compile
    )
    x = ops.convert_to_tensor(random_images(network, num_images).astype("float32") / 127.5 - 1)
    t = ops.full((num_images,), 500, dtype="int32")

    def run():
        for _ in range(steps):
            output = program(x, t)
        ops.convert_to_numpy(output)  # waits for it

    run()
    yield {}
    yield from repeat(run)


def product(policy, size):
    """The seconds of a product of two square matrices: what the machine can do at most."""
    dtype = keras.DTypePolicy(policy).compute_dtype
    rng = np.random.default_rng(0)
    a, b = (
        ops.convert_to_tensor(rng.standard_normal((size, size), "float32"), dtype) for _ in range(2)
    )
    program = compile_function(ops.matmul, [], jit_compile=False)

    def run():
        ops.convert_to_numpy(ops.cast(program(a, b)[:1, :1], "float32"))  # waits for it

    run()
    yield {"flops": 2 * size**3}
    yield from repeat(run)


def forward_flops(network):
    """The floating point operations of a UNet for one image, two for each multiply-add.

    Only convolutions and products of matrices count, as is usual.
    """
    total = 0
    for layer in network.layers:
        pixels = math.prod(layer.output.shape[1:-1])
        attends = isinstance(layer, SelfAttention)
        for weight in layer.trainable_weights:
            if weight.path.endswith("kernel"):
                per_pixel = attends or len(weight.shape) == 4
                total += 2 * math.prod(weight.shape) * (pixels if per_pixel else 1)
        if attends:  # q kᵀ, and its product with v
            total += 4 * pixels**2 * layer.output.shape[-1]
    return total
