"""The report of a comparison: sections, figures and the template."""
