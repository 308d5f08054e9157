"""Networks that turn images into descriptors: GeM, the `Embedder`, recipes, checkpoints, RLA (aggregation)."""

from metlib.backbone.checkpoints import build, load, save
from metlib.backbone.embedder import Embedder, GeM, fold_batch_norm, gem
from metlib.backbone.recipes import RECIPES, Recipe, of_timm
