"""MinMax-CAM on COCO 2017: the rows COCO of Tables 2 and 3, COCO 2017 of Table 4.

    python launch.py --config experiments/coco17.py --workdir runs/coco17
    python launch.py --config experiments/coco17.py:resnet101-kur --workdir runs/coco17-kur

The first trains resnet101 with the plain and with the regularised head (-kur), the second one of
them. `minmax_jax/recipe.py` tells the settings and the further variants -official and -tfds.

Needs the official files, unpacked such that `data/annotations`, `data/train2017` and
`data/val2017` exist, and Keras' weights in `weights`: docs/reproduce.md tells where to get both.
Score-CAM looks at up to 5,000 images through 2,048 masks each; the features of all images, kept
while the head is trained alone, take 1 GB of the host's memory.

Trained in full nowhere yet; time and memory on an accelerator are not measured.
"""

from minmax_jax.recipe import paper_config


def get_config(variant=None):
    return paper_config("coco17", variant)
