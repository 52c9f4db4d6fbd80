"""A page to play with: choose a model and a sampler, and watch images emerge from noise.

    python examples/app.py
    python examples/app.py --model runs/embedded/final.keras

Open the address it prints. On the left of the two pictures is the noisy state x_t, on the right
what the network takes it for. The page needs Gradio: pip install -e ".[app]". Nothing comes from
the network, nothing is reported to anybody, and by default only this computer can open the page.
The environment variable KERAS_BACKEND chooses between tensorflow, jax and torch.
"""

import argparse
import base64
import contextlib
import functools
import html
import io
import socket
import sys
import time
from pathlib import Path

MOST_MODELS = 4  # kept in memory
MOST_IMAGES = 64
MOST_FRAMES = 50  # shown of one sampling
SIDE = 512  # pixels, about, of a picture on the page


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="what to begin with: a .keras file, or a preset")
    parser.add_argument("--host", default="127.0.0.1", help="who may come (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, help="of the page (default: 7860, or the next free)")
    return parser.parse_args()


def main():
    args = parse_args()
    try:
        check_address(args.host, args.port)
        page = build_page(args.model)
        print("the page is at", launch(page, args.host, args.port), flush=True)
    except (OSError, TypeError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    page.block_thread()


def check_address(host, port):
    """Finds out before long work whether the page can be there."""
    try:
        socket.create_server((host, port or 0)).close()
    except (OSError, OverflowError) as error:
        raise ValueError(f"--host {host} --port {port} cannot be had: {error}") from error


# ---- what the page does ------------------------------------------------------------


def draw(source, labels, guidance_scale, sampler, steps, eta, num_images, seed):
    """Samples, and yields what the page shows of it: x_t, x̂₀ and a line of text."""
    import numpy as np

    from keras_ddpm.validation import check_positive_int

    with errors_on_the_page():
        model = cached_model(source)
        check_positive_int("seed", seed, minimum=0)
        labels = [int(label) if label.isdecimal() else label for label in labels]
        start = time.perf_counter()
        moments = model.watch(
            num_images,
            labels=np.resize(labels, num_images) if labels else None,
            guidance_scale=guidance_scale,
            sampler=sampler,
            steps=steps,
            eta=eta,
            seed=seed,
            frames=MOST_FRAMES,
        )
        for t, x_t, x_start in moments:
            text = f"t = {t}"
            if t < 0:
                text = f"{num_images} images in {time.perf_counter() - start:.1f} s"
            yield to_picture(x_t), to_picture(x_start), text


def describe(source):
    """What there is to say of a model: a line of text, and its classes."""
    with errors_on_the_page():
        model = cached_model(source)
        size = " × ".join(map(str, model.sample_shape))
        parameters = f"{model.network.count_params():,}".replace(",", " ")
        text = f"{size}, {parameters} parameters, {model.diffusion.timesteps} timesteps"
        classes = model.label_names or map(str, range(model.num_classes or 0))
        return text, list(classes)


def cached_model(source):
    """The model of a file or preset, read once, and again when the file has changed."""
    path = Path(source)
    return _read_model(source, path.stat().st_mtime_ns if path.exists() else None)


@functools.lru_cache(MOST_MODELS)
def _read_model(source, changed):
    from keras_ddpm.checkpoints import open_model

    model = open_model(source)
    if not model.is_image:
        raise ValueError(f"{source!r} generates points, not images.")
    return model


def to_picture(images):
    """A grid of images as HTML, small ones enlarged. No file: the page shows many a second."""
    from keras_ddpm.plotting import image_grid, to_pillow

    grid = image_grid(images)
    png = io.BytesIO()
    to_pillow(grid, max(1, SIDE // max(grid.shape))).save(png, "png")
    data = base64.b64encode(png.getvalue()).decode()
    return f'<img src="data:image/png;base64,{data}" style="width: 100%">'


@contextlib.contextmanager
def errors_on_the_page():
    """Wrong input is answered on the page; it stays there until it is clicked away."""
    import gradio

    try:
        yield
    except (MemoryError, OSError, TypeError, ValueError) as error:
        text = html.escape(str(error))
        raise gradio.Error(text, duration=None, print_exception=False) from error


# ---- what the page looks like ------------------------------------------------------------


def build_page(source=None):
    """The page, a `gradio.Blocks`; `source` is the model that it begins with."""
    try:
        import gradio as gr
    except ImportError as error:
        raise OSError('the page needs Gradio: pip install -e ".[app]"') from error

    from keras_ddpm.presets import list_presets
    from keras_ddpm.samplers import SAMPLERS

    runs = sorted(map(str, Path("runs").glob("*/final.keras")))
    sources = list(dict.fromkeys([*([source] if source else []), *list_presets(), *runs]))
    cached_model(sources[0])  # complains now if it cannot be read

    with gr.Blocks(title="keras_ddpm", analytics_enabled=False) as page:
        gr.Markdown("# Images from noise")
        with gr.Row():
            with gr.Column(scale=1, min_width=280):
                model = gr.Dropdown(
                    sources,
                    label="Model",
                    info="a preset, or the path of a .keras file",
                    allow_custom_value=True,
                )
                facts = gr.Markdown()
                labels = gr.Dropdown(
                    label="Classes",
                    info="several: in turn; none: whatever comes",
                    multiselect=True,
                    allow_custom_value=True,
                )
                guidance_scale = gr.Slider(0, 10, 1, step=0.1, label="Guidance scale")
                with gr.Row():
                    sampler = gr.Dropdown(list(SAMPLERS), value="ddim", label="Sampler")
                    steps = gr.Number(50, label="Steps", min_width=80)
                eta = gr.Slider(0, 1, 0, step=0.05, label="Fresh noise η")
                num_images = gr.Slider(1, MOST_IMAGES, 16, step=1, label="Images")
                seed = gr.Number(0, label="Seed")
            with gr.Column(scale=3):
                with gr.Row():
                    options = {"show_label": True, "container": True, "min_height": 440}
                    x_t = gr.HTML(label="x_t: the noisy state", **options)
                    x_start = gr.HTML(label="x̂₀: what the network takes it for", **options)
                with gr.Row():
                    generate = gr.Button("Generate", variant="primary")
                    stop = gr.Button("Stop")
                status = gr.Markdown("The first images after a change may take longer.")

        def show_model(source):
            text, classes = describe(source)
            return text, gr.Dropdown(choices=classes, value=[])

        # One at a time: visitors share the models, and a backend's programs.
        queue = {"concurrency_id": "model", "concurrency_limit": 1}
        gr.on(
            [page.load, model.change],
            show_model,
            inputs=model,
            outputs=[facts, labels],
            show_progress_on=facts,
            **queue,
        )
        sampling = generate.click(
            draw,
            inputs=[model, labels, guidance_scale, sampler, steps, eta, num_images, seed],
            outputs=[x_t, x_start, status],
            show_progress_on=[x_t, x_start],
            **queue,
        )
        stop.click(None, cancels=sampling)
    return page


def launch(page, host="127.0.0.1", port=None):
    """Serves the page from another thread, without anything from elsewhere; returns its address."""
    _, address, _ = page.launch(
        server_name=host,
        server_port=port or None,
        share=False,
        run_history=False,
        ssr_mode=False,
        footer_links=[],
        show_error=True,
        quiet=True,
        prevent_thread_lock=True,
    )
    return address


if __name__ == "__main__":
    main()
