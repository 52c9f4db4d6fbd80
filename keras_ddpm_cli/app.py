"""A page on which to choose a model and a sampler, and to watch images emerge from noise."""

import base64
import contextlib
import functools
import html
import io
import socket
import time
from pathlib import Path

from keras_ddpm.plotting import image_grid, to_pillow
from keras_ddpm.presets import list_presets
from keras_ddpm.samplers import SAMPLERS
from keras_ddpm.validation import check_choice, check_int, check_path
from keras_ddpm_cli.common import USER_ERRORS, load_image_model, user_errors
from keras_ddpm_cli.sample import class_names_of, parse_labels

MAX_MODELS = 4  # kept in memory
MAX_IMAGES = 64
MAX_FRAMES = 50  # shown of one sampling
MAX_LETTERS = 500  # of an error, which may hold what a visitor sent
SIDE = 512  # pixels, about, of a picture on the page


def run(args):
    """Serves the page as the command line says."""
    with user_errors():
        try:  # before long work
            socket.create_server((args.host, args.port or 0)).close()
        except (OSError, OverflowError, TypeError, ValueError) as error:
            port = "" if args.port is None else f" --port {args.port}"
            raise ValueError(f"host={args.host}{port} cannot be served: {error}") from error
        page = build_page(args.model)
        print("the page is at", launch(page, args.host, args.port), flush=True)
    page.block_thread()


@contextlib.contextmanager
def errors_on_the_page():
    """Shows wrong input on the page, until the message is clicked away."""
    import gradio

    try:
        yield
    except (*USER_ERRORS, OverflowError) as error:
        text = html.escape(str(error)[:MAX_LETTERS])
        raise gradio.Error(text, duration=None, print_exception=False) from error


def cached_model(source):
    """The model of a file or preset, read once, and again when the file has changed."""
    path = check_path("model", source)
    return _read_model(source, path.stat().st_mtime_ns if path.exists() else None)


@functools.lru_cache(MAX_MODELS)
def _read_model(source, changed):
    return load_image_model(source)


def describe(source):
    """A line of text about a model, and its classes."""
    with errors_on_the_page():
        model = cached_model(source)
        size = " × ".join(map(str, model.sample_shape))
        parameters = f"{model.network.count_params():,}".replace(",", " ")
        text = f"{size}, {parameters} parameters, {model.diffusion.timesteps} timesteps"
        return text, class_names_of(model)


def draw(source, labels, guidance_scale, sampler, steps, eta, num_images, seed):
    """Samples, and yields what the page shows of it: x_t, x̂₀ and a line of text.

    The arguments may be anything that JSON has: a program may ask the page.
    """
    with errors_on_the_page():
        model = cached_model(source)
        check_int("seed", seed, minimum=0)
        check_int("num_images", num_images, maximum=MAX_IMAGES)
        check_choice("sampler", sampler, SAMPLERS)
        labels = parse_labels([] if labels is None else labels, model)
        labels = [labels[i % len(labels)] for i in range(num_images)] if labels else None
        options = {"sampler": sampler, "steps": steps, "eta": eta, "seed": seed}
        options |= {"guidance_scale": guidance_scale, "frames": MAX_FRAMES}
        start = time.perf_counter()
        for t, x_t, x_start in model.watch(num_images, labels, **options):
            done = f"{num_images} images in {time.perf_counter() - start:.1f} s"
            yield to_picture(x_t), to_picture(x_start), done if t < 0 else f"t = {t}"


def to_picture(images):
    """A grid of images as HTML, small ones enlarged. No file: the page shows many a second."""
    grid, png = image_grid(images), io.BytesIO()
    to_pillow(grid, max(1, SIDE // max(grid.shape))).save(png, "png")
    data = base64.b64encode(png.getvalue()).decode()
    return f'<img src="data:image/png;base64,{data}" style="width: 100%">'


def build_page(source=None):
    """The page, a `gradio.Blocks`; `source` is the model that it begins with."""
    try:
        import gradio as gr
    except ImportError as error:
        raise OSError('the page needs Gradio: pip install "keras-ddpm[app]"') from error

    runs = sorted(map(str, Path("runs").glob("*/final.keras")))
    sources = list(dict.fromkeys([*([] if source is None else [source]), *list_presets(), *runs]))
    cached_model(sources[0])  # fails now if it cannot be read
    dropdown = functools.partial(gr.Dropdown, allow_custom_value=True)

    with gr.Blocks(title="keras_ddpm", analytics_enabled=False) as page:
        gr.Markdown("# Images from noise")
        with gr.Row():
            with gr.Column(scale=1, min_width=280):
                info = "a preset, or the path of a .keras file"
                model = dropdown(sources, label="Model", info=info)
                facts = gr.Markdown()
                info = "several: in turn; none: no label"
                labels = dropdown(label="Classes", info=info, multiselect=True)
                guidance_scale = gr.Slider(0, 10, 1, step=0.1, label="Guidance scale")
                with gr.Row():
                    sampler = gr.Dropdown(list(SAMPLERS), value="ddim", label="Sampler")
                    steps = gr.Number(50, label="Steps", min_width=80)
                eta = gr.Slider(0, 1, 0, step=0.05, label="Fresh noise η")
                num_images = gr.Slider(1, MAX_IMAGES, 16, step=1, label="Images")
                seed = gr.Number(0, label="Seed")
            with gr.Column(scale=3):
                with gr.Row():
                    options = {"show_label": True, "container": True, "min_height": 440}
                    x_t = gr.HTML(label="x_t: the noisy state", **options)
                    x_start = gr.HTML(label="x̂₀: the predicted image", **options)
                with gr.Row():
                    generate = gr.Button("Generate", variant="primary")
                    stop = gr.Button("Stop")
                status = gr.Markdown("The first images after a change may take longer.")

        def show_model(source):
            text, classes = describe(source)
            return text, gr.Dropdown(choices=classes, value=[])

        # One at a time: visitors share the models, and a backend's programs. `preprocess` would
        # fail at what is sent by a program before these functions can answer it.
        queue = {"concurrency_id": "model", "concurrency_limit": 1, "preprocess": False}
        shown = {"outputs": [facts, labels], "show_progress_on": facts}
        gr.on([page.load, model.change], show_model, inputs=model, **shown, **queue)
        inputs = [model, labels, guidance_scale, sampler, steps, eta, num_images, seed]
        shown = {"outputs": [x_t, x_start, status], "show_progress_on": [x_t, x_start]}
        sampling = generate.click(draw, inputs=inputs, **shown, **queue)
        stop.click(None, cancels=sampling)
    return page


def launch(page, host="127.0.0.1", port=None):
    """Serves the page from another thread, without anything from elsewhere; returns its address."""
    _, address, _ = page.launch(
        server_name=host,
        server_port=port or None,
        max_file_size=0,  # the page has no use for uploads
        share=False,
        run_history=False,
        ssr_mode=False,
        footer_links=[],
        show_error=True,
        quiet=True,
        prevent_thread_lock=True,
    )
    return address
