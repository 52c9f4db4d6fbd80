"""What speed.py compares with what: the cases of each table."""

from pathlib import Path
from typing import NamedTuple

BACKENDS = ("tensorflow", "jax", "torch")
POLICIES = ("float32", "mixed_bfloat16")
NETWORKS = {
    "tiny": {
        "image_size": 16,
        "widths": (8, 16),
        "has_attention": (False, True),
        "num_res_blocks": 1,
    },
    "small": {  # 5.9 M parameters
        "image_size": 32,
        "widths": (48, 96, 144),
        "has_attention": (False, False, True),
        "num_res_blocks": 2,
    },
    "large": {  # 63 M: the network of the keras.io example
        "image_size": 64,
        "widths": (64, 128, 256, 512),
        "has_attention": (False, False, True, True),
        "num_res_blocks": 2,
    },
    "huge": {  # 113.7 M: the network of Ho et al. for 256x256
        "image_size": 256,
        "widths": (128, 128, 256, 256, 512, 512),
        "has_attention": (False, False, False, False, True, False),
        "num_res_blocks": 2,
        "norm_groups": 32,
    },
}
BATCH_SIZES = {"tiny": 4, "small": 16, "large": 8, "huge": 1}
STEPS_A_ROUND = {"tiny": 2, "small": 10, "large": 3, "huge": 1}
SAMPLED_AT_ONCE = {"tiny": 2, "small": 16, "large": 4, "huge": 1}
SAMPLERS = {"ddim": 50, "dpm_solver++": 20, "ddpm": 1000}  # with their steps
DIFFUSERS = "diffusers, torch"
NUM_PHOTOGRAPHS, PHOTOGRAPH_SIZE = 64, (500, 375)


class Case(NamedTuple):
    """A row of a table: which generator of which file to run, on which backend.

    `references` are the names of the cases of the same table that this one is compared with.
    """

    name: str
    module: str
    function: str
    options: dict
    backend: str
    references: tuple = ()


class Table(NamedTuple):
    """Cases that take turns."""

    title: str
    cases: list


def training_tables(args):
    for network in args.networks:
        for policy in args.policies:
            options = {
                "network": NETWORKS[network],
                "policy": policy,
                "batch_size": args.batch_size or BATCH_SIZES[network],
                "steps": STEPS_A_ROUND[network],
            }
            title = f"Training step, {network} network, batch {options['batch_size']}, {policy}"
            cases = [*beside_diffusers(args.backends, options), *ceilings(args, options)]
            yield Table(title, cases)


def beside_diffusers(backends, options):
    """A case of training for each backend, and one for diffusers."""
    ours = [Case(b, "speed_ours", "training", options, b, (DIFFUSERS,)) for b in backends]
    return [*ours, Case(DIFFUSERS, "speed_diffusers", "training", options, "torch")]


def ceilings(args, options):
    """What the machine can do at most in that precision."""
    policy, size = options["policy"], args.matrix_size
    product = {"policy": policy, "size": size}
    alone = {name: options[name] for name in ("network", "policy", "batch_size")}
    for backend in args.backends:
        name = f"{backend}: product of {size}x{size} matrices"
        yield Case(name, "speed_ceilings", "matrix_product", product, backend)
        name = f"{backend}: its convolutions alone"
        yield Case(name, "speed_ceilings", "convolutions", alone, backend, (DIFFUSERS,))


def sampling_tables(args):
    network = args.networks[0]
    for sampler in args.samplers:
        steps = SAMPLERS[sampler]
        options = {
            "network": NETWORKS[network],
            "policy": "float32",
            "num_images": args.batch_size or SAMPLED_AT_ONCE[network],
            "steps": min(steps, 5) if network == "tiny" else steps,
        }
        with_sampler = {**options, "sampler": sampler}
        cases = [Case(DIFFUSERS, "speed_diffusers", "sampling", with_sampler, "torch")]
        for backend in args.backends:
            others = {f"{backend}: forward passes alone": "forward_passes"}
            if sampler == "ddim":  # the time does not depend on the sampler
                others[f"{backend}: predict each step"] = "predict_each_step"
            cases += [Case(name, "speed_ours", f, options, backend) for name, f in others.items()]
            name, references = f"{backend}: generate", (*others, DIFFUSERS)
            cases.append(Case(name, "speed_ours", "sampling", with_sampler, backend, references))
        images = options["num_images"]
        title = f"Sampling {images} images, {network} network, {sampler}, {options['steps']} steps"
        yield Table(title, cases)


def input_tables(args):
    network = "tiny" if args.networks == ["tiny"] else "small"
    folder = args.photographs or write_photographs(Path(args.scratch), NUM_PHOTOGRAPHS)
    options = {
        "network": NETWORKS[network],
        "policy": "float32",
        "batch_size": BATCH_SIZES[network],
        "steps": STEPS_A_ROUND[network],
    }
    backend, alone = args.backends[0], "training on arrays"
    few = {name: options[name] for name in ("network", "batch_size", "steps")}
    from_folder = {**options, "folder": str(folder)}
    arrays = Case(alone, "speed_ours", "training", options, backend)

    def beside(name, options):
        return arrays._replace(name=name, options=options, references=(alone,))

    cases = [arrays, beside("training on a folder", from_folder)]
    if backend == "tensorflow":
        cases.append(beside("training on tf.data, tuned", {**options, "tuned": True}))
    cases.append(Case("a batch alone", "speed_ours", "batches", few, backend))
    yield Table(f"Input, {network} network, batch {options['batch_size']}, {backend}", cases)


def start_tables(args):
    for backend in args.backends:
        keras, ours = (
            Case(f"import {module}", "speed_ours", "importing", {"module": module}, backend)
            for module in ("keras", "keras_ddpm")
        )
        yield Table(f"Import, {backend}", [keras, ours._replace(references=(keras.name,))])
    if "tensorflow" in args.backends:
        network = args.networks[-1]
        options = {
            "network": NETWORKS[network],
            "policy": "float32",
            "batch_size": args.batch_size or BATCH_SIZES[network],
        }
        case = Case("a training step", "speed_ours", "first_step", options, "tensorflow")
        yield Table(f"The first step, {network} network, tensorflow", [case])


def memory_tables(args):
    network = args.networks[-1]
    for size, batch_size in memory_sizes(network):
        options = {
            "network": {**NETWORKS[network], "image_size": size},
            "policy": "float32",
            "batch_size": batch_size,
            "steps": 1,
        }
        title = f"Memory of training, {network} network, {size}x{size}, batch {batch_size}"
        yield Table(title, beside_diffusers(args.backends, options))


def remat_tables(args):
    network = "tiny" if args.networks == ["tiny"] else "huge"
    options = {
        "network": NETWORKS[network],
        "policy": "float32",
        "batch_size": BATCH_SIZES[network],
        "steps": 1,
    }
    for backend in args.backends:
        # Where images are tiny, what is left is the memory of weights, gradients and program.
        tiny = {**options, "network": {**NETWORKS[network], "image_size": 32}}
        few = Case(f"{backend}, 32x32", "speed_ours", "training", tiny, backend)
        kept = few._replace(name=backend, options=options)
        again = kept._replace(name=f"{backend}, remat", options={**options, "remat": True})
        title = (
            f"Blocks computed twice, {network} network, batch {options['batch_size']}, {backend}"
        )
        yield Table(title, [few, kept, again._replace(references=(kept.name,))])


def memory_sizes(network):
    size, batch_size = NETWORKS[network]["image_size"], BATCH_SIZES[network]
    return [(size, batch_size // 2), (size, 2 * batch_size), (2 * size, batch_size // 2)]


GROUPS = {
    "training": training_tables,
    "sampling": sampling_tables,
    "input": input_tables,
    "start": start_tables,
    "memory": memory_tables,
    "remat": remat_tables,
}


def write_photographs(folder, count):
    """JPEGs of the size that photographs on the web have; smooth noise, so that they compress."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for i in range(count):
        coarse = rng.integers(0, 256, (12, 16, 3), "uint8")
        image = Image.fromarray(coarse).resize(PHOTOGRAPH_SIZE, Image.Resampling.BICUBIC)
        image.save(folder / f"{i:03d}.jpg", quality=90)
    return folder
