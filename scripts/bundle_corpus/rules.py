"""The rules by which make_bundle_corpus.py edits the golden bundle, and whether readers accept the result.

for case in cases():
    case["name"], case["verdict"], case["splices"]
"""

from __future__ import annotations

from bundle_corpus import of_files, of_manifest
from bundle_corpus.edits import BOOSTER, MANIFEST, VECTORS, Case, Corpus, Text


def cases() -> list[Case]:
    """All cases, without answers."""
    corpus = Corpus()
    manifest, booster = Text(MANIFEST), Text(BOOSTER)
    corpus.accepted("the golden bundle itself")
    of_manifest.of_every_key(corpus, manifest)
    of_manifest.of_the_manifest(corpus, manifest)
    of_manifest.of_encodings(corpus, manifest)
    of_manifest.of_digests(corpus)
    of_manifest.of_names(corpus, manifest)
    of_files.of_boosters(corpus, booster)
    of_files.of_trees(corpus, booster)
    of_files.of_answers(corpus, manifest, booster)
    of_files.of_vectors(corpus, Text(VECTORS))
    return corpus.cases
