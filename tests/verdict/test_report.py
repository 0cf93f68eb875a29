"""The report: one text in two formats, whatever stands in the names and reasons that it repeats."""

import re
from html.parser import HTMLParser

import pandas as pd
import pytest

from h3.verdict import report
from h3.verdict.ablation import Ablation, Step
from h3.verdict.chosen import NotCompared
from h3.verdict.diagnostics import diagnose
from h3.verdict.hypothesis import FoldVerdict
from h3.verdict.report.filters import is_words, number, shade_style, shades, span


class Page(HTMLParser):
    """Headings, paragraphs and table rows of a page, as a reader sees them; tags that were not closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.headings, self.paragraphs, self.rows = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        if tag not in ("meta", "img"):
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")
        if tag in ("h2", "p"):
            {"h2": self.headings, "p": self.paragraphs}[tag].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        data = data.replace("\u00a0", " ")
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += data
        elif "h2" in self.open:
            self.headings[-1] += data
        elif "p" in self.open:
            self.paragraphs[-1] += data


def predictions():
    observed = pd.Series([1e4, 2e4, 3e4])
    frame = pd.DataFrame(
        {"experiment": "one", "step_id": range(3), "phase": "decode", "observed_us": observed}
    )
    counts = (
        "num_prefill_reqs",
        "num_decode_reqs",
        "prefill_tokens",
        "decode_tokens",
        "decode_kv_tokens_sum",
    )
    frame = frame.assign(predicted_us=observed * 1.1, base_us=observed, ape=10.0)
    return frame.assign(**dict.fromkeys(counts, 2.0))


@pytest.fixture
def verdict(verdict_of):
    """A verdict with something to say in most sections, and names that mean something to HTML or Markdown."""
    steps = [Step(label=label, mape=mape) for label, mape in (("study", 2559.7), ("here", 90.0), ("h3", 5.0))]
    return verdict_of(
        {},
        diagnostics={"lomo_mixtral": diagnose(predictions())},
        ablation=Ablation(variants=[], waterfall=steps),
        left_out=[NotCompared(what="a|b <i>", why='broke & "fell"\nover')],
    )


def test_both_formats_have_the_same_headings_texts_and_tables(verdict):
    page, text = Page(report.html(verdict, {"lomo_mixtral": predictions()})), report.markdown(verdict)
    blocks = text.split("\n\n")
    assert page.headings == [block.removeprefix("## ") for block in blocks if block.startswith("## ")]
    prose = [block.replace("`", "") for block in blocks[1:] if not block.startswith(("#", "|"))]
    captions = {block.removeprefix("### ") for block in blocks if block.startswith("### ")}
    assert [each.strip() for each in page.paragraphs if each not in captions] == [
        each.strip() for each in prose
    ]
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    cells = [
        [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines
    ]
    assert [[" ".join(cell.split()) for cell in row] for row in page.rows] == cells
    assert not page.open


def test_what_names_and_reasons_hold_is_shown_not_obeyed(verdict):
    html, text = report.html(verdict, {"lomo_mixtral": predictions()}), report.markdown(verdict)
    assert "a|b &lt;i&gt;" in html
    assert "<i>" not in html
    assert '| a\\|b <i> | broke & "fell" over |' in text


def test_only_the_page_has_pictures(verdict):
    alts = re.findall(r'<img [^>]*alt="([^"]*)"', report.html(verdict, {"lomo_mixtral": predictions()}))
    assert alts == [
        "MAPE of each fold with interval",
        "held-out error after each step",
        "signed error of lomo_mixtral",
    ]
    assert not re.search("img|svg", report.markdown(verdict))


def test_the_fold_table_alone_is_the_one_of_the_report(verdict_of):
    known = {"kind": "lomo", "holdout": "m", "threshold": 20.0}
    held = FoldVerdict(
        fold="x",
        moe=True,
        status="supported",
        mape=2.5,
        interval=(2, 3),
        over_experiments=(1, 4),
        n_test=9000,
        **known,
    )
    missing = FoldVerdict(fold="y", moe=False, status="missing", **known)
    verdict = verdict_of({}, folds=(held, missing))
    assert report.fold_table(verdict).splitlines()[2:] == [
        "| x (MoE) | 2.50 | 2.00 to 3.00 | 1.00 to 4.00 | 20 | holds | – | – | – | 9,000 |",
        "| y | – | – | – | 20 | missing | – | – | – | – |",
    ]
    assert report.fold_table(verdict) in report.markdown(verdict)


def test_numbers_read_as_numbers():
    assert [number(-0.001, 1, sign=True), number(1234.56, 1), number(None)] == ["+0.0", "1,234.6", "–"]
    assert [span((1.0, 2.0), 1, sign=True), span((None, None)), span(None)] == ["+1.0 to +2.0", "–", "–"]
    assert [is_words(cell) for cell in ("lomo", "20260101-one", "12.3 <", "–")] == [True, True, False, False]


def test_the_darkest_cell_is_the_largest_number_and_stays_readable():
    assert shades([[None, 1.0], [3.0, 2.0]]) == [[None, 0.0], [1.0, 0.5]]
    assert shades([[1.0, 10.0, 100.0]], log=True) == [[0.0, pytest.approx(0.5), 1.0]]
    assert shade_style(1.0).endswith("color:#fff")
    assert shade_style(0.0).endswith("color:#111")
