"""MinMax-CAM on Pascal VOC 2012: the rows VOC12 of Tables 2 and 3, VOC 2012 of Table 4.

    python launch.py --config experiments/voc12.py --workdir runs/voc12
    python launch.py --config experiments/voc12.py:resnet101-kur --workdir runs/voc12-kur

The first trains resnet101 with the plain and with the regularised head (-kur), the second one of
them. `minmax_jax/recipe.py` tells the settings and the further variants -official and -tfds.

Needs the official files, unpacked such that `data/VOCdevkit/VOC2012` exists, and Keras' weights in
`weights`: docs/reproduce.md tells where to get both. Score-CAM looks at up to 5,823 images through
2,048 masks each.

Trained in full nowhere yet; time and memory on an accelerator are not measured.
"""

from minmax_jax.recipe import paper_config


def get_config(variant=None):
    return paper_config("voc12", variant)
