"""The same steps at scale, where one machine or its memory is too small: the optional extra `[scale]`."""
