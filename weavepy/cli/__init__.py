"""The command line: `main` is the `weavepy` command.

Each command's module is imported when that command runs, and no sooner: `weavepy attach` starts
once per container and must not load an HTTP server for it.
"""

import sys


def main() -> int:
    from weavepy.cli.root import run

    return run(sys.argv[1:])
