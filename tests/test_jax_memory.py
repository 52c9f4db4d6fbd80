"""What XLA's compiler took is given back to the system before what it compiled runs."""

import keras
import pytest

if keras.backend.backend() != "jax":
    pytest.skip("only JAX compiles with XLA alone", allow_module_level=True)

import jax

from keras_ddpm.backend import jax as backend

if backend._trim is None:
    pytest.skip("only glibc can", allow_module_level=True)


@pytest.mark.parametrize("at_least, expected", [(0.0, [0]), (60.0, [])])
def test_compiling_for_long_gives_memory_back(monkeypatch, at_least, expected):
    """With a real compilation, so that it is seen if JAX gives its event another name."""
    pads = []
    monkeypatch.setattr(backend, "_trim", pads.append)
    monkeypatch.setattr(backend, "LONG_COMPILATION", at_least)
    jax.jit(lambda x: 3 * x + at_least).lower(jax.ShapeDtypeStruct((7,), "float32")).compile()
    assert pads == expected
