"""The report of a comparison, as Markdown and as one HTML page from the same templates.

    markdown(verdict), html(verdict, predictions)
    fold_table(verdict)                             # one table of it, Markdown

What the report says and how its tables are laid out stands in templates/; Python has formatting and figures.
"""

from h3.verdict.report.render import fold_table, html, markdown
from h3.verdict.report.rows import said

__all__ = ["fold_table", "html", "markdown", "said"]
