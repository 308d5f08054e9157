"""The Met layout on disk: ground truth and images read into checked values, and the Met's own archives fetched."""

from metlib.common.files import leaves_root
from metlib.dataset.images import Problem, read_image, read_size, verify, verify_files
from metlib.dataset.layout import DATABASES, DISTRACTOR, MET_IMAGES, QUERIES, BadGroundTruth, Museum, Split, find, load
