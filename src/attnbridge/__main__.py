"""``python -m attnbridge``: the same as the command ``attnbridge``."""

import sys

from attnbridge.cli import main

sys.exit(main())
