"""The same maps by pytorch-grad-cam, from the same weights: how equal, and how much slower.

    python -m benchmarks.peers [--networks mobilenet_v2,resnet50] [--methods grad_cam,score_cam]
        [--batch 8] [--size 224] [--json FILE]

Needs torch, torchvision and grad-cam (`pip install torch torchvision grad-cam`). A torchvision
model with random weights is loaded by `load_network`; each makes the maps of three labels, ours in
one call and theirs in one a label, as its README shows, channels last, on every core. Grad-CAM sees
a batch, Score-CAM one image.

Theirs come in the size of the image, normalised before they are resized and again afterwards, so
ours are normalised in that size: two min-max normalisations are one.
"""

from __future__ import annotations

import functools
import os
import pathlib
import sys
import tempfile
from collections.abc import Sequence
from unittest import mock

import jax
import numpy as np

from benchmarks import forward, harness
from minmax_jax import NamedLabels, make_explain_fn, normalize_maps, resize_maps
from minmax_jax.pretrained import load_network

_LABELS = (0, 1, 2)
# (how many times faster ours should be, how far apart maps in 0..1 may be)
_GOALS = {"grad_cam": (5.0, 1e-3), "score_cam": (2.5, 1e-3)}
# The layer of torchvision's models whose output is our last tap.
_LAYERS = {
    "mobilenet_v2": lambda model: model.features[-1],
    "resnet50": lambda model: model.layer4[-1],
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = harness.parser(__doc__, networks=",".join(_LAYERS))
    parser.set_defaults(size=224)
    parser.add_argument("--methods", default=",".join(_GOALS))
    parser.add_argument("--batch", type=int, default=8, help="images of Grad-CAM")
    options = parser.parse_args(argv)
    try:
        import pytorch_grad_cam  # noqa: F401
        import torch
    except ImportError as error:
        sys.exit(f"error: {error}; pip install torch torchvision grad-cam")
    torch.set_num_threads(os.cpu_count() or 1)
    rows = []
    for name in options.networks.split(","):
        model, loaded = _same_network(name, harness.random_images(8, options.size))
        for method in options.methods.split(","):
            rows += _rows(name, method, model, loaded, options)
    harness.report(rows, options, peers=("torch", "torchvision", "grad-cam"))


def _same_network(name, images):
    """torchvision's model, its statistics those of the images, and ours with its weights."""
    import torch

    torch.manual_seed(0)
    model = forward.torch_model(name)
    forward.settle_statistics(model, torch.from_numpy(images).permute(0, 3, 1, 2))
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "model.pt")
        torch.save(model.state_dict(), path)
        return model, load_network(path, name=name, key=jax.random.key(0))


def _rows(name, method, model, loaded, options) -> list[harness.Row]:
    number = options.batch if method == "grad_cam" else 1
    images = harness.random_images(number, options.size)
    functions = {
        "ours": _ours(method, loaded, images),
        "theirs": {"grad_cam": _grad_cam, "score_cam": _score_cam}[method](name, model, images),
    }
    repeats = options.repeats if method == "grad_cam" else 1
    difference = float(np.abs(functions["ours"]() - functions["theirs"]()).max())
    times = harness.seconds(functions, repeats=repeats)
    faster, apart = _GOALS[method]
    what = f"{name}, {method}, {number} images, {len(_LABELS)} labels"
    return [
        harness.Row(f"{what}, ours", 1e3 * times["ours"], "ms"),
        harness.Row(f"{what}, theirs", 1e3 * times["theirs"], "ms"),
        harness.Row(what, times["theirs"] / times["ours"], "times faster", faster, "high"),
        harness.Row(f"{what}, maps", difference, "largest difference", apart),
    ]


def _ours(method, loaded, images):
    """A function that makes maps `(n b H W)`, on the host as theirs."""
    explain_fn = make_explain_fn(loaded.network, method, select=NamedLabels(_LABELS))
    variables, size = jax.device_put(loaded.variables), images.shape[1:3]
    finish = jax.jit(lambda maps: normalize_maps(resize_maps(maps, size)).swapaxes(0, 1))
    return lambda: np.asarray(finish(explain_fn(variables, images)[0]))


def _grad_cam(name, model, images):
    import torch
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    method = GradCAM(model=model, target_layers=[_LAYERS[name](model)])
    batch = torch.from_numpy(images).permute(0, 3, 1, 2)
    targets = [[ClassifierOutputTarget(label)] * len(images) for label in _LABELS]
    return lambda: np.stack([method(input_tensor=batch, targets=target) for target in targets])


def _score_cam(name, model, images):
    """Their Score-CAM brought to the variant that is ours, at no cost to either.

    They weigh a channel by the softmax over all channels of its target. Of targets log(sigmoid(x))
    that is sigmoid(x) over a sum that is the same for all channels, and vanishes with the
    normalisation. They align the corners of the masks they enlarge, we the edges of the pixels:
    here both do the latter.
    """
    import torch
    from pytorch_grad_cam import ScoreCAM

    method = ScoreCAM(model=model, target_layers=[_LAYERS[name](model)])
    batch = torch.from_numpy(images).permute(0, 3, 1, 2)
    targets = [
        [lambda logits, label=label: torch.nn.functional.logsigmoid(logits[label])] * len(images)
        for label in _LABELS
    ]
    upsample = functools.partial(torch.nn.Upsample, mode="bilinear")

    def run():
        with mock.patch.object(torch.nn, "UpsamplingBilinear2d", upsample):
            return np.stack([method(input_tensor=batch, targets=target) for target in targets])

    return run


if __name__ == "__main__":
    main()
