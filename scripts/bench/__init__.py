"""What h3 costs, in ratios within one run; scripts/bench.py is the command."""
