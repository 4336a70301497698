"""`python -m weavepy` is the `weavepy` command."""

import sys

from weavepy.cli import main

sys.exit(main())
