"""What docs/recipes.md calls of torch-fidelity 0.4, which would download a network."""

from pathlib import Path


def calculate_metrics(*, input1, input2, cuda=True, batch_size=64, fid=False, kid=False):
    images = [len(list(Path(folder).glob("*.png"))) for folder in (input1, input2)]
    assert images[0] == images[1] > 0
    metrics = {"frechet_inception_distance": 1.0} if fid else {}
    if kid:
        metrics |= {"kernel_inception_distance_mean": 1.0, "kernel_inception_distance_std": 0.0}
    return metrics
