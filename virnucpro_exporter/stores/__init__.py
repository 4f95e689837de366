"""Object stores and web servers: objects named by URL, listed, read by range and written.

`urls` and `paths` import the standard library only, so that a run without URLs needs no extra;
`access` alone imports fsspec, when the first URL is used.
"""
