"""Cases of speed.py for this package: generators of facts first, then of seconds, one a round."""

import subprocess
import sys
import time

import numpy as np
from speed_worker import megabytes

LEARNING_RATE = 2e-4


def make_model(network, policy="float32", remat=False):
    """A model, built and compiled."""
    import keras

    from keras_ddpm import DiffusionModel, GaussianDiffusion, build_unet

    keras.config.set_dtype_policy(policy)
    model = DiffusionModel(build_unet(**network), GaussianDiffusion(), remat=remat)
    model.compile(keras.optimizers.Adam(LEARNING_RATE))
    return model


def random_images(network, count):
    shape = (count, network["image_size"], network["image_size"], 3)
    return np.random.default_rng(0).integers(0, 256, shape, "uint8")


def fit(model, data):
    """Seconds of an epoch, to its very end."""
    begin = time.perf_counter()
    model.fit(data, verbose=0)
    return time.perf_counter() - begin


def training(network, policy, batch_size, steps, folder=None, remat=False, tuned=False):
    """Seconds of a training step in `fit`, with Adam and averaged weights.

    On random images, or on those of a folder, as `load_images` brings them; `tuned`: in a dataset
    of tf.data that asks to be tuned.
    """
    from flops import forward_flops

    from keras_ddpm.data import ImageDataset, load_images

    facts, count = {"imported_megabytes": megabytes()}, batch_size * steps
    if folder is None:
        images = random_images(network, count)
    else:
        begin = time.perf_counter()
        images = load_images(folder, image_size=network["image_size"]).images
        facts["images_per_second_loaded"] = len(images) / (time.perf_counter() - begin)
        images = np.tile(images, (-(-count // len(images)), 1, 1, 1))[:count]
    begin = time.perf_counter()  # imports are not part of the first step
    model = make_model(network, policy, remat)
    facts |= {"building": time.perf_counter() - begin, "built_megabytes": megabytes()}
    # Of one kind, as TensorFlow would trace the step again for another, and keep both.
    make_dataset = tuned_dataset if tuned else ImageDataset
    model.fit(make_dataset(images[:batch_size], batch_size=batch_size), verbose=0)
    facts |= {"first_step": time.perf_counter() - begin}
    facts |= {"flops": 3 * batch_size * forward_flops(model.network)}
    dataset = make_dataset(images, batch_size=batch_size)
    fit(model, dataset)
    yield {**facts, "parameters": model.network.count_params()}
    while True:
        yield fit(model, dataset) / steps


def tuned_dataset(images, batch_size):
    import tensorflow as tf

    options = tf.data.Options()
    options.autotune.enabled = True
    return tf.data.Dataset.from_tensor_slices(images).batch(batch_size).with_options(options)


def first_step(network, policy, batch_size):
    """Seconds of a training step in TensorFlow; its facts say what the first one spends them on.

    Building the network, its copy and the optimizer's state; tracing, Python that makes a graph;
    and the first run, in which TensorFlow rewrites that graph and prepares its kernels.
    """
    import tensorflow as tf

    facts = {"imported_megabytes": megabytes()}
    begin = time.perf_counter()
    model = make_model(network, policy)
    built = time.perf_counter()
    facts |= {"built_megabytes": megabytes()}
    batch = (tf.constant(random_images(network, batch_size)),)
    step = tf.function(model.train_step, autograph=False).get_concrete_function(batch)
    traced = time.perf_counter()
    facts |= {"traced_megabytes": megabytes()}

    def run():
        begin = time.perf_counter()
        float(step(batch)["loss"])  # waits for it
        return time.perf_counter() - begin

    seconds = {"building": built - begin, "tracing": traced - built, "running": run()}
    yield {**facts, **seconds, "first_step": sum(seconds.values())}
    while True:
        yield run()


def batches(network, batch_size, steps):
    """Seconds of a batch out of memory, shuffled and mirrored; nobody trains."""
    from keras_ddpm.data import ImageDataset

    dataset = ImageDataset(random_images(network, batch_size * steps), batch_size=batch_size)
    yield {}
    while True:
        begin = time.perf_counter()
        for i in range(steps):
            dataset[i]
        yield (time.perf_counter() - begin) / steps


def sampling(network, policy, num_images, sampler, steps):
    """Seconds of `generate`."""
    model = make_model(network, policy)

    def draw(seed):
        begin = time.perf_counter()
        model.generate(num_images, sampler=sampler, steps=steps, seed=seed, batch_size=num_images)
        return time.perf_counter() - begin

    first = draw(0)
    yield {"first_call": first, "parameters": model.network.count_params()}
    while True:
        yield draw(1)


def forward_passes(network, policy, num_images, steps):
    """Seconds of the network alone, compiled, called once a step."""
    from keras import ops

    from keras_ddpm.backend import compile_function

    model = make_model(network, policy)
    net = model.ema_network
    program = compile_function(
        lambda x, t: net([x, t], training=False), net.variables, model.jit_compile
    )
    x = ops.convert_to_tensor(random_images(network, num_images).astype("float32") / 127.5 - 1)
    t = ops.full((num_images,), 500, dtype="int32")

    def run():
        begin = time.perf_counter()
        for _ in range(steps):
            output = program(x, t)
        ops.convert_to_numpy(output)  # waits for it
        return time.perf_counter() - begin

    run()
    yield {}
    while True:
        yield run()


def predict_each_step(network, policy, num_images, steps):
    """Seconds of DDIM in Python, with one `predict` a step, as the keras.io examples sample."""
    model = make_model(network, policy)
    signal = model.diffusion.alphas_cumprod
    timesteps = np.linspace(len(signal) - 1, 0, steps).round().astype(int)

    def run():
        begin = time.perf_counter()
        x = np.random.default_rng(0).standard_normal((num_images, *model.sample_shape), "float32")
        for t, after in zip(timesteps, [*timesteps[1:], -1]):
            inputs = [x, np.full(num_images, t, "int32")]
            noise = model.ema_network.predict(inputs, batch_size=num_images, verbose=0)
            start = np.clip((x - (1 - signal[t]) ** 0.5 * noise) / signal[t] ** 0.5, -1, 1)
            left = signal[after] if after >= 0 else 1.0
            x = (left**0.5 * start + (1 - left) ** 0.5 * noise).astype("float32")
        return time.perf_counter() - begin

    run()
    yield {}
    while True:
        yield run()


def importing(module):
    """Seconds of a Python that imports a module and ends."""
    yield {}
    while True:
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-c", f"import {module}"], check=True)
        yield time.perf_counter() - begin
