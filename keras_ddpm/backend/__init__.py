"""The code that differs between backends, one file each.

- `TrainStep`: a mixin for `DiffusionModel` whose `train_step` and `test_step` differentiate and
  apply. What they differentiate is written once, in `model/training.py`.
- `compile_function(function, variables, jit_compile)`: compiles a function that reads Keras
  `variables`, for sampling.
- `ANY_SIZE`: whether such a program serves batches of any size.
- `network_function(network, training)`: the network as a function of a list of tensors.
- `Conv2D` and `dot_product_attention`: those of Keras, except on PyTorch.
- `GroupNormalization`: PyTorch's own, or that of `group_norm.py`.
- `lerp(average, weight, rate)`: moves an averaged weight towards a weight, in place.
- `adam_step(weight, momentum, velocity, gradient, *numbers)`: one step of Adam for one weight, in
  place, with the `adam_numbers(step_size, beta_1, beta_2, epsilon)` of all weights.
"""

import importlib

import keras

BACKENDS = ("tensorflow", "jax", "torch")

if keras.backend.backend() not in BACKENDS:
    raise ImportError(
        f"KERAS_BACKEND={keras.backend.backend()} cannot train. Set the environment variable "
        f"KERAS_BACKEND to one of {', '.join(BACKENDS)}."
    )
_module = importlib.import_module(f"{__name__}.{keras.backend.backend()}")
ANY_SIZE = _module.ANY_SIZE
TrainStep = _module.TrainStep
adam_numbers = _module.adam_numbers
adam_step = _module.adam_step
compile_function = _module.compile_function
lerp = _module.lerp
network_function = _module.network_function
if keras.backend.backend() == "torch":
    from keras_ddpm.backend.torch_layers import Conv2D, GroupNormalization, dot_product_attention
else:
    from keras.layers import Conv2D
    from keras.ops import dot_product_attention

    from keras_ddpm.backend.group_norm import GroupNormalization
