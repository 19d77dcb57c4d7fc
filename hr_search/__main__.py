"""`python -m hr_search`."""

import sys

from hr_search.cli import main

sys.exit(main())
