"""weavepy: one encrypted network for the containers of many hosts."""

from typing import TYPE_CHECKING

__version__: str

if not TYPE_CHECKING:

    def __getattr__(name):
        """Look the version up when it is asked for: importing the machinery takes 30 ms."""
        if name != "__version__":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("weavepy")
        except PackageNotFoundError:  # run from a source tree that was never installed
            return "0+unknown"
