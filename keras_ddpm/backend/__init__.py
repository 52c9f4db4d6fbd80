"""What a backend forces to be different, one file each: the training step, and compiling.

Every file defines the same two names:

- `TrainStep`: a mixin for `DiffusionModel` whose `train_step` and `test_step` only
  differentiate and apply. What they differentiate is written once, in `model.py`; its
  `apply_gradients` calls their `step_optimizer`.
- `compile_function(function, variables, jit_compile)`: compiles a function that reads Keras
  `variables`, for the sampling loop.
"""

import importlib

import keras

_module = importlib.import_module(f"{__name__}.{keras.backend.backend()}")
TrainStep = _module.TrainStep
compile_function = _module.compile_function
