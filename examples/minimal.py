"""Trains a small network on drawn flowers in two minutes, with nothing hidden.

    python examples/minimal.py

It writes minimal.png, and minimal.keras for `keras.saving.load_model`.
"""

import keras

from keras_ddpm import (
    DiffusionModel,
    FusedAdam,
    GaussianDiffusion,
    ImageDataset,
    UNet,
    image_grid,
    load_images,
    save_image,
)

keras.utils.set_random_seed(0)
flowers = load_images("drawn_flowers", image_size=16)  # uint8 (4096, 16, 16, 3), 24 classes

# The forward process: x_t = √ᾱ_t x₀ + √(1 − ᾱ_t) ϵ, and what the network predicts of it.
diffusion = GaussianDiffusion(timesteps=1000, schedule="cosine", prediction="velocity")

# The network: two levels, 16x16 and 8x8 pixels, with attention at the second.
network = UNet(
    image_size=16,
    widths=(32, 64),
    has_attention=(False, True),
    num_res_blocks=1,
    num_classes=flowers.num_classes,
)

# The model: the network, the process, and averaged weights, which samples are drawn from.
model = DiffusionModel(network, diffusion, ema_decay=0.99, class_names=flowers.class_names)
model.compile(optimizer=FusedAdam(2e-3, global_clipnorm=1.0), loss="mse")
model.fit(ImageDataset(flowers, batch_size=32, flip=False), epochs=8)

# The reverse process, from noise to images: two of each class, guided towards it.
labels = [label for label in range(flowers.num_classes) for _ in range(2)]
images = model.generate(labels=labels, guidance_scale=2.0, sampler="dpm_solver++", steps=20, seed=0)
save_image("minimal.png", image_grid(images, columns=12), scale=3)
model.save("minimal.keras")
