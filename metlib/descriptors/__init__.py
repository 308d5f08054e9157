"""Descriptor sets: where they lie, in pieces and whole, the Met authors' file in and out; nothing here needs torch."""

from metlib.descriptors.official import OFFICIAL, read_official, write_official
from metlib.descriptors.sets import Described, Visits, concatenate, from_official, read, visited
from metlib.descriptors.shards import DESCRIPTORS, load_descriptors, load_labels, load_recipe, name_folder, split_folder
