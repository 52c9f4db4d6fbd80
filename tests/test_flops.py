"""The count of operations, beside that of PyTorch's own counter."""

import sys
from pathlib import Path

import keras
import pytest
from keras import ops

from keras_ddpm import build_unet

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="the counter is PyTorch's: KERAS_BACKEND=torch"
)


@pytest.mark.parametrize(
    "network",
    [
        {"image_size": (16, 8), "has_attention": (False, False)},
        {"image_size": 8, "has_attention": (True, True), "num_heads": 2, "channels": 1},
    ],
)
def test_as_many_operations_as_are_run(network, monkeypatch):
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    sys.modules.pop("flops", None)
    from flops import forward_flops

    network = build_unet(widths=(8, 16), num_res_blocks=1, **network)
    x_t, t = (ops.zeros((3, *i.shape[1:]), i.dtype) for i in network.inputs)
    # Fused attention on a CPU escapes the counter.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        network([x_t, t])
    assert counter.get_total_flops() == 3 * forward_flops(network)
