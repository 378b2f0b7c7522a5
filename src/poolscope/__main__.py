"""``python -m poolscope``."""

from poolscope.cli import main

raise SystemExit(main())
