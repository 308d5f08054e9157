"""Labelled collections: images with an artist, a genre, a style, a type or a material each.

What is re-exported here reads and splits them without torch; `multitask` and `transfer` learn from them.
"""

from metlib.labelled.collections import (
    SPLITS,
    UNKNOWN,
    BadLabels,
    Labelled,
    count_classes,
    drop_shared,
    find_learned,
    find_missing_classes,
    find_shared,
    hold_out,
    majority,
    prepare_splits,
    read,
    read_artgan,
    read_metadata,
    read_museum,
    read_nga,
    stratify,
    summarise,
    verify,
)
