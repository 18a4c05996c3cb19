"""`python -m rayrl` is `rayrl`."""

import sys

from rayrl.cli import main

sys.exit(main())
