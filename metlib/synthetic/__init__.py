"""A museum painted by code, in the Met's layout, and its drawing code."""

from metlib.synthetic.museum import find_or_paint, write_museum
