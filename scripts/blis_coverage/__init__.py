"""What stands behind docs/blis/coverage.md; scripts/make_blis_coverage.py writes it."""
