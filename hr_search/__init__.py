"""Train search encoders for HR (vacancy, job title, CV) and prove that they are better.

Tables of pairs go in, an encoder comes out, and every number about it is a row in a table.
"""

import os

# Nothing is reported to anybody; set before any Hub library reads it.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("DO_NOT_TRACK", "1")

__version__ = "0.1.0"
