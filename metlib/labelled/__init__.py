"""Labelled collections: images with an artist, a genre, a style, a type or a material each.

What is re-exported here reads and splits them without torch; `multitask` and `transfer` learn from them.
"""

from metlib.common.checks import UNKNOWN
from metlib.labelled.collections import SPLITS, BadLabels, Labelled
from metlib.labelled.readers import read, read_artgan, read_metadata, read_museum, read_nga
from metlib.labelled.splits import drop_shared, find_learned, find_shared, hold_out, prepare_splits, stratify
from metlib.labelled.summary import count_classes, find_missing_classes, majority, summarise, verify
