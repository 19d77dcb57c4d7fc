"""Train search encoders for HR (vacancy, job title, CV) and prove that they are better.

Tables of pairs go in, an encoder comes out, and every number about it is a row in a table.
"""

import os

# Nothing is reported to anybody; set before any Hub library reads it.
for _name in ("HF_HUB_DISABLE_TELEMETRY", "DISABLE_TELEMETRY", "DO_NOT_TRACK"):
    os.environ.setdefault(_name, "1")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

__version__ = "0.1.0"
