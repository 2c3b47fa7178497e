"""MinMax-CAM on Planet: Amazon from Space: the rows P:AfS of Tables 2 and 3, P:AfS Val of Table 4.

    python launch.py --config experiments/planet.py --workdir runs/planet
    python launch.py --config experiments/planet.py:resnet101-kur --workdir runs/planet-kur

The first trains resnet101 with the plain and with the regularised head (-kur), the second one of
them. `minmax_jax/recipe.py` tells the settings and the further variant -official.

Needs Kaggle's files, unpacked such that `data/planet/train_v2.csv` and `data/planet/train-jpg`
exist, and Keras' weights in `weights`: docs/reproduce.md tells where to get both. Score-CAM looks
at up to 12,143 images through 2,048 masks each.

Trained in full nowhere yet; time and memory on an accelerator are not measured.
"""

from minmax_jax.recipe import paper_config


def get_config(variant=None):
    return paper_config("planet", variant)
