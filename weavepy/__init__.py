"""weavepy: one encrypted network for the containers of many hosts."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("weavepy")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+unknown"
