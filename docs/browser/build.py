"""Builds a page that draws flowers in the visitor's browser: static files for any web server.

    python docs/browser/build.py
    python -m http.server --directory build/browser

Needs npm, KERAS_BACKEND=tensorflow, and `pip install "keras-ddpm[export]"`.
"""

import json
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from keras_ddpm import DiffusionModel
from keras_ddpm.files import make_writable
from keras_ddpm_cli.parsers import make_parser

HERE = Path(__file__).parent
RUNTIME = "onnxruntime-web@1.30.0"
RUNTIME_FILES = ["ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"]


def fetch_runtime(folder):
    with tempfile.TemporaryDirectory() as temporary:
        command = ["npm", "pack", RUNTIME, "--silent", "--pack-destination", temporary]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        (archive,) = Path(temporary).glob("*.tgz")
        with tarfile.open(archive) as package:
            for name in RUNTIME_FILES:
                content = package.extractfile(f"package/dist/{name}").read()
                (folder / name).write_bytes(content)


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--output", default="build/browser", help="folder (default: %(default)s)")
    folder = make_writable(parser.parse_args().output)
    if shutil.which("npm") is None:
        parser.error("npm is missing: it fetches onnxruntime-web")
    fetch_runtime(folder)
    for name in ("index.html", "draw.js"):
        shutil.copy(HERE / name, folder)
    model = DiffusionModel.from_preset("drawn_flowers_16")
    facts = {"shape": model.sample_shape, "classes": model.class_names}
    (folder / "model.json").write_text(json.dumps(facts))
    options = {"sampler": "dpm_solver++", "steps": 20, "guided": True}
    model.export_sampler(folder / "flowers.onnx", format="onnx", **options)


if __name__ == "__main__":
    main()
