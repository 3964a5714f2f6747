"""`python -m tgpo_ray.cli`."""

import sys

from tgpo_ray.cli.commands import main

sys.exit(main())
