"""Networks that turn images into descriptors: GeM, the `Embedder`, named recipes, checkpoints in and out."""

from metlib.backbone.checkpoints import EMBEDDED, build, load, save
from metlib.backbone.embedder import Embedder, GeM, gem
from metlib.backbone.folding import fold_batch_norm
from metlib.backbone.recipes import RECIPES, Recipe, of_timm
