"""Does the hypothesis hold: for whom, why, against whom; and the report that says so."""
