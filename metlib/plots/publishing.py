"""Pictures as small PNG files that carry their alt text and the stamp of their data, and as notebooks show them."""

import base64
import html
import io
import math
import textwrap
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from metlib.common.files import replacing
from metlib.plots.theme import DPI, GREY, digits, style

LIMIT = 200_000  # bytes of a published PNG


def publish(fig: Figure | Axes, path: str | Path, *, alt: str, stamp: str, table: pd.DataFrame | None = None) -> Any:
    """Save a figure as a PNG of at most 200 KB, close it, and return it as an IPython Image for a notebook to show.

    `stamp` names the data shown and is written below the picture; `alt` describes it for readers who can't see it.
    The file carries both (Description, Source) and nothing that changes between runs; `table` is written beside it as
    CSV, fractions to four digits, which don't depend on the processor. Raises ValueError for an empty alt or stamp,
    another suffix, and a picture too large at half the resolution.
    """
    path = Path(path)
    alt, stamp = " ".join(alt.split()), " ".join(stamp.split())
    if not alt:
        raise ValueError(f"{path.name} has no alt text: describe in a sentence what the picture shows")
    if not stamp:
        raise ValueError(f"{path.name} has no stamp: name the data, the database and the backbone it shows")
    if path.suffix != ".png":
        raise ValueError(f"{path}: figures are published as .png")
    figure: Any = fig.figure if isinstance(fig, Axes) else fig
    info = PngInfo()
    for key, text in (("Title", path.stem), ("Description", alt), ("Source", stamp)):
        (info.add_text if text.isascii() else info.add_itxt)(key, text)
    try:
        png = _encode(figure, stamp, info)
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from None
    finally:
        plt.close(figure)  # else the notebook would show it a second time
    with replacing(path) as file:
        file.write(png)
    if table is not None:
        index = not isinstance(table.index, pd.RangeIndex)
        with replacing(path.with_suffix(".csv"), "w") as file:
            table.to_csv(file, index=index, float_format=digits, lineterminator="\n")
    return _shown(png, alt)


def _shown(png: bytes, alt: str) -> Any:
    """The picture for a notebook, as image and as HTML: JupyterLab drops the alt text of an image."""
    from IPython.display import Image as Shown

    class Picture(Shown):  # type: ignore[misc]
        def _repr_html_(self) -> str:
            return f'<img src="data:image/png;base64,{base64.b64encode(png).decode()}" alt="{html.escape(alt)}">'

    # As metadata, since older IPython (Colab's) doesn't know the argument `alt`.
    return Picture(data=png, format="png", metadata={"alt": alt})


def _encode(fig: Figure, stamp: str, info: PngInfo) -> bytes:
    """The figure as PNG: in full colour where that is small enough, else in 256 at a resolution that fits."""
    dpi, lines = DPI, textwrap.fill(stamp, max(20, int(fig.get_figwidth() * 16)))
    below = fig.transFigure + ScaledTranslation(0.02, -0.08, fig.dpi_scale_trans)
    with style():
        # Below the figure's edge, where no layout puts anything; the tight box then grows to hold it.
        fig.text(0, 0, lines, transform=below, fontsize=8, color=GREY, va="top", ha="left")
        while dpi >= DPI // 2:
            drawn = io.BytesIO()
            fig.savefig(drawn, format="png", dpi=dpi, bbox_inches="tight", pad_inches=0.1)
            picture = Image.open(drawn).convert("RGB")
            for small in (picture, picture.quantize(256, dither=Image.Dither.NONE)):
                png = io.BytesIO()
                small.save(png, "PNG", optimize=True, pnginfo=info, dpi=(dpi, dpi))
                if png.tell() <= LIMIT:
                    return png.getvalue()
            dpi = int(dpi * min(0.95, math.sqrt(LIMIT / png.tell())))
    raise ValueError(f"over {LIMIT // 1000} KB even at half the resolution: show fewer or smaller images")
