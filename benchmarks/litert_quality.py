"""Measures what weights of fewer bits cost in a LiteRT file of `drawn_flowers_16`.

    python benchmarks/litert_quality.py

For each dtype: the bytes of the file, the largest and the mean difference of its images, between
-1 and 1, from those of the float32 file, the milliseconds of an image, the Fréchet distance of
`sampler_quality.py`, its difference from that of float32 with the error of it, and the share of
flowers that `read_flowers.py` reads as asked. All files start from the same noise.
"""

import time

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from read_flowers import read_flowers
from sampler_quality import jackknife, moments_without_each_block, standard_error, train_classifier

from keras_ddpm import DiffusionModel
from keras_ddpm.data import draw_flowers
from keras_ddpm.files import make_writable
from keras_ddpm.pixels import to_uint8
from keras_ddpm.samplers.noise import initial_noise
from keras_ddpm_cli.parsers import make_parser

OPTIONS = {"sampler": "dpm_solver++", "steps": 20, "eta": 0.0}


def draw(path, noise, labels, batch_size=50):
    """The samples of a file, and the milliseconds of one."""
    run = Interpreter(str(path)).get_signature_runner()
    begin, samples = time.perf_counter(), []
    for start in range(0, len(noise), batch_size):
        part = slice(start, start + batch_size)
        samples.append(run(noise=noise[part], label=labels[part])["output_0"])
    return np.concatenate(samples), 1000 * (time.perf_counter() - begin) / len(noise)


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--num_images", type=int, default=1000)
    parser.add_argument("--num_drawings", type=int, default=20000, help="of the reference")
    parser.add_argument("--output", default="runs/litert_quality", help="folder of the files")
    args = parser.parse_args()
    model, output = DiffusionModel.from_preset("drawn_flowers_16"), make_writable(args.output)
    noise = initial_noise(0, (args.num_images, *model.sample_shape))
    labels = np.arange(args.num_images, dtype="int32") % model.num_classes
    _, network = train_classifier((16, 16), args.num_drawings)
    drawings = draw_flowers(args.num_drawings, image_size=(16, 16), seed=103)[0]
    features = network.predict(drawings, batch_size=500, verbose=0).astype("float64")
    scale = np.sqrt(1000 / features.var(axis=0, ddof=1).sum())
    reference, float32 = moments_without_each_block(scale * features), None
    print("| weights | bytes | largest | mean | ms | Fréchet | minus float32 | read |")
    print("|---" * 8 + "|")
    for dtype in ("float32", "int8", "float16"):
        path = output / f"{dtype}.tflite"
        if not path.exists():
            model.export_sampler(path, format="litert", dtype=dtype, **OPTIONS)
        images, milliseconds = draw(path, noise, labels)
        pixels = to_uint8(images)
        features = network.predict(pixels, batch_size=500, verbose=0).astype("float64")
        distance, without = jackknife(moments_without_each_block(scale * features), reference)
        float32 = float32 or (images, distance, without)
        difference, error = np.abs(images - float32[0]), standard_error(without - float32[2])
        print(
            f"| {dtype} | {path.stat().st_size} | {difference.max():.2g} | {difference.mean():.2g} "
            f"| {milliseconds:.3g} | {distance:.2f} | {distance - float32[1]:+.2f} ± {error:.2f} "
            f"| {(read_flowers(pixels)[0] == labels).mean():.1%} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
