"""Classifier-free guidance: Ho & Salimans (2022)."""

from keras import ops


def guide(denoiser, x_t, t, label, no_label, scale):
    """What a denoiser says when it is pushed towards a label.

    ϵ = ϵ_uncond + s (ϵ_cond − ϵ_uncond), both from one doubled batch. With s = 1 that is ϵ_cond;
    Ho & Salimans' w (eq. 6) is s − 1. x₀ and v depend on ϵ linearly, so the same mix of them is
    the same guidance.

    Args:
        denoiser: function `(x_t, t, label) -> prediction`.
        x_t: float tensor `(batch, ...)`.
        t: int32 tensor `(batch,)`.
        label: int32 tensor `(batch,)`.
        no_label: int, the label that means "no label".
        scale: float tensor `(batch,)`, the guidance scale s of each image.

    Returns:
        float32 tensor like `x_t`.

    Example:

    ```python
    x0 = sample(lambda x_t, t: guide(denoiser, x_t, t, label, 10, scale), diffusion, noise)
    ```
    """
    both = denoiser(
        ops.concatenate([x_t, x_t]),
        ops.concatenate([t, t]),
        ops.concatenate([label, ops.full_like(label, no_label)]),
    )
    conditional, unconditional = ops.split(both, 2)
    scale = ops.reshape(scale, (-1,) + (1,) * (len(x_t.shape) - 1))
    return unconditional + scale * (conditional - unconditional)
