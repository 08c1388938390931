"""`python -m vae_manager`: the command line."""

import sys

from vae_manager.cli import main

sys.exit(main())
