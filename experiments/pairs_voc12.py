"""Representative classes on Pascal VOC 2012: Tables 1, 2, 4 and 5 of the second paper.

    python launch.py --config experiments/pairs_voc12.py --workdir runs/pairs_voc12
    python launch.py --config experiments/pairs_voc12.py:mobilenet_v2 \
        --workdir runs/pairs_voc12-mobile

The first runs resnet101, with vgg19 for the similarity, the second mobilenet_v2, also with vgg19;
`minmax_jax/pairs/recipe.py` lists the variants and the settings. Oracle and all classes (Table 1)
need every pair, 190 networks: `--config.pairs.modes="('all','top-1','top-2','top-3','top-4')"`.

Needs the official files, unpacked such that `data/VOCdevkit/VOC2012` exists (docs/reproduce.md),
and torchvision's weights in `weights`. Scored are the 1,449 validation images with masks;
`--config.data.validation.image_set=train` takes the training images with masks.

Trained in full nowhere yet; time and memory on an accelerator are not measured.
"""

from minmax_jax.pairs.recipe import paper_config


def get_config(variant=None):
    config = paper_config("voc12", variant)
    with config.unlocked():
        config.data.validation.image_set = ""  # that of the split; a flag needs a field
    return config
