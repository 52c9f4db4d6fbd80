"""What all tests share: threads, markers, seeds and the dtype policy."""

import os
from importlib.util import find_spec

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Processes that test side by side share the cores: threads that wait for each other slow down.
workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
    os.environ[name] = str(max(1, (os.cpu_count() or 1) // workers))

import keras  # noqa: E402
import pytest  # noqa: E402


def pytest_collection_modifyitems(items):
    for item in items:
        if item.get_closest_marker("once") and keras.backend.backend() != "tensorflow":
            item.add_marker(pytest.mark.skip(reason="runs once, with TensorFlow"))
        packages = {name for marker in item.iter_markers("needs") for name in marker.args}
        if missing := sorted(name for name in packages if find_spec(name) is None):
            item.add_marker(pytest.mark.skip(reason=f"needs {' and '.join(missing)}"))


@pytest.fixture(autouse=True)
def seeded():
    keras.utils.set_random_seed(0)


@pytest.fixture(autouse=True)
def dtype_policy():
    """A function that sets the global dtype policy until the test ends."""
    before = keras.config.dtype_policy()
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy(before)
