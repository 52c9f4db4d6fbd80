"""What a backend forces to be different, one file each: the training step, compiling, running.

(`replicas.py` belongs to TensorFlow: its training step on several devices. `torch_adam.py` and
`torch_layers.py` belong to PyTorch.)

Ten names. `TrainStep`, `compile_function` and `remat` differ everywhere; the others are those in
`compiled.py`, unless a backend has its own:

- `TrainStep`: a mixin for `DiffusionModel` whose `train_step` and `test_step` only
  differentiate and apply. What they differentiate is written once, in `model.py`; its
  `apply_gradients` calls their `step_optimizer`.
- `compile_function(function, variables, jit_compile)`: compiles a function that reads Keras
  `variables`, for the sampling loop.
- `network_function(network, training)`: calls a functional network with a list of tensors.
- `remat(function)`: the function, but what is inside it is computed again for the gradient.
- `move_averages(averages, values, rate)`: how the averaged weights follow the weights.
- `convolve(x, kernel, bias, strides, padding, dilation_rate)` and
  `group_norm(x, groups, gamma, beta, epsilon, swish)`: what `layers.Conv2D` and
  `layers.GroupNormalization` compute. `bias`, `gamma` and `beta` may be None; `swish` says
  whether to apply it to the result.
- `attend(query, key, value)`: softmax(q kᵀ / √d) v, each `(batch, pixels, heads, d)`.
- `arrange_kernel(kernel)`: moves a new variable of `layers.Conv2D` to where `convolve` wants it.
- `arrange_moments(optimizer, weights)`: lays out what a new optimizer keeps as its weights lie.
"""

import importlib

import keras

from keras_ddpm.backend import compiled

BACKENDS = ("tensorflow", "jax", "torch")

if keras.backend.backend() not in BACKENDS:
    raise ImportError(
        f"Keras runs on {keras.backend.backend()!r}, on which nothing can be trained here. Let the "
        f"environment variable KERAS_BACKEND name one of {', '.join(BACKENDS)}."
    )
_module = importlib.import_module(f"{__name__}.{keras.backend.backend()}")


def _own_or_compiled(name):
    return getattr(_module, name, None) or getattr(compiled, name)


TrainStep = _module.TrainStep
compile_function = _module.compile_function
remat = _module.remat
arrange_kernel = _own_or_compiled("arrange_kernel")
arrange_moments = _own_or_compiled("arrange_moments")
attend = _own_or_compiled("attend")
convolve = _own_or_compiled("convolve")
group_norm = _own_or_compiled("group_norm")
move_averages = _own_or_compiled("move_averages")
network_function = _own_or_compiled("network_function")
