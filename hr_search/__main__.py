"""`python -m hr_search`."""

import sys

from hr_search.commands.parser import main

sys.exit(main())
