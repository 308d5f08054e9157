"""The pictures of the course."""

from metlib.plots.charts import (
    class_counts,
    confusion,
    heatmap,
    histogram_counts,
    long_tail,
    precision_recall,
    reliability,
    scatter,
    score_bars,
    score_lines,
    similarity_histogram,
    spectrum,
)
from metlib.plots.pictures import Case, gallery, pairs, pooling, sheet
from metlib.plots.publishing import publish
from metlib.plots.theme import COLOURS, CYCLE, style
