"""The modules of this example are imported by their bare names, as from a script."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
