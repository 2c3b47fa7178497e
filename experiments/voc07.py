"""MinMax-CAM on Pascal VOC 2007: Table 1, the rows VOC07 of Tables 2 and 3, VOC 2007 of Table 4.

    python launch.py --config experiments/voc07.py --workdir runs/voc07
    python launch.py --config experiments/voc07.py:vgg16-kur --workdir runs/voc07-vgg16-kur

The first trains resnet101, vgg16 and efficientnet_b6, each plain and with the regularised head
(-kur); the second one of them. `minmax_jax/recipe.py` tells the settings and the further variants
-official and -tfds.

Needs the official files, unpacked such that `data/VOCdevkit/VOC2007` exists, and Keras' weights in
`weights`: docs/reproduce.md tells where to get both. Score-CAM looks at up to 2,510 images through
2,048 masks each (resnet101; vgg16 512, efficientnet_b6 2,304).

Trained in full nowhere yet; time and memory on an accelerator are not measured.
"""

from minmax_jax.recipe import paper_config


def get_config(variant=None):
    return paper_config("voc07", variant)
