"""Networks that turn images into descriptors: GeM, the `Embedder`, named recipes, checkpoints in and out."""

from metlib.backbone.embedder import EMBEDDED, Embedder, GeM, Panel, build, fold_batch_norm, gem, load, save
from metlib.backbone.recipes import RECIPES, Recipe, of_timm
