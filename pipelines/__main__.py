"""`python -m pipelines` is `cascadeguard`."""

from pipelines.cli import main

main()
