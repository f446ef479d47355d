"""How often a test that tries things at random does so: `tools/test long` looks further."""
import os

TIMES = 20 if os.environ.get("APRNB_CAMPAIGN") else 1
