"""`python -m lateint.cli`: the `lateint` command without its script."""

from lateint.cli import main

main()
