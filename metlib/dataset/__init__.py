"""The Met layout on disk: ground truth and images read into checked values, and the Met's own archives fetched."""

from metlib.dataset.layout import (
    DATABASES,
    DISTRACTOR,
    MET_IMAGES,
    QUERIES,
    BadGroundTruth,
    Museum,
    Problem,
    Split,
    find,
    leaves_root,
    load,
    read_image,
    read_size,
    verify,
    verify_files,
)
