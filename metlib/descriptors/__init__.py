"""Descriptor sets: where they lie, in pieces and whole, the Met authors' file in and out; nothing here needs torch."""

from metlib.descriptors.sets import (
    OFFICIAL,
    Described,
    concatenate,
    from_official,
    load_descriptors,
    load_labels,
    load_recipe,
    read,
    read_array,
    read_official,
    split_folder,
    write_official,
)
