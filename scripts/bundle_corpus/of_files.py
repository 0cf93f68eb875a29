"""How boosters and golden vectors are edited, and whether readers accept the result."""

from __future__ import annotations

import json

from bundle_corpus.edits import BOOSTER, MOE, VECTORS, Corpus, Text
from bundle_corpus.places import place, put_all, rows
from bundle_corpus.tables import (
    BAD_LEARNERS,
    BAD_LEAVES,
    BAD_LISTS,
    BAD_SPLITS,
    BAD_VECTORS_FILE,
    GOOD_LEARNERS,
    GOOD_LEAVES,
    NEEDED,
    NOT_NEEDED,
    OTHER_ANSWERS,
    OTHER_LEAVES,
    OTHER_THRESHOLDS,
    VECTOR_KEYS,
    WRONG_ANSWERS,
)


def of_boosters(corpus: Corpus, text: Text) -> None:
    """Everything of a booster but the shape of its trees."""
    put_all(corpus, "refused", text, BAD_LEARNERS)
    put_all(corpus, "accepted", text, GOOD_LEARNERS)
    for path in NEEDED.split():
        corpus.refused(f"{BOOSTER}: {path} missing", text.delete(place(path)))
    for path in NOT_NEEDED.split():
        corpus.accepted(f"{BOOSTER}: {path} missing", text.delete(place(path)))
    trees = place("MODEL/trees")
    corpus.refused(f"{BOOSTER}: trees twice", text.beside(trees, '"trees": []'))
    corpus.accepted(f"{BOOSTER}: trees in capitals beside them", text.beside(trees, '"TREES": []'))
    other = '"SPLIT_CONDITIONS": [9, 9], "Split_Conditions": []'
    corpus.accepted(f"{BOOSTER}: lists in capitals beside them", text.beside(place("TREE/id"), other))
    crash = {"categories_nodes": "[0]", "categories_segments": "[0]", "categories_sizes": "[1000000]"}
    edits = [text.put(place(f"TREE/{name}"), value) for name, value in crash.items()]
    corpus.refused(f"{BOOSTER}: categories of a million", *edits)


def of_trees(corpus: Corpus, text: Text) -> None:
    """Every list of a tree, and what the lists make together."""
    leaf = text.value(place("TREE/left_children")).index(-1)
    whole = ("left_children", "right_children", "split_indices", "default_left")
    for name in (*whole, "split_conditions", "base_weights", "loss_changes", "sum_hessian"):
        path = f"TREE/{name}"
        where, one = place(path), place(f"{path}/0")
        put_all(corpus, "refused", text, f"{path}  {' | '.join(BAD_LISTS)}")
        put_all(corpus, "refused", text, f'{path}/0  null | "0" | 11111111111111111111 | [0] | 1e39')
        corpus.refused(f"{BOOSTER}: {path} missing", text.delete(where))
        corpus.refused(f"{BOOSTER}: {path} twice", text.beside(where, text.member(where)))
        corpus.refused(f"{BOOSTER}: {path} one short", text.delete(one))
        corpus.refused(f"{BOOSTER}: {path} one long", text.beside(one, "0"))
        put_all(corpus, "refused", text, f"{path}/0  {'1.0' if name in whole else 'true'}")
    for number, verdict, table in (
        (0, "refused", BAD_SPLITS), (leaf, "refused", BAD_LEAVES), (leaf, "accepted", GOOD_LEAVES)
    ):  # fmt: skip
        for name, value in rows(table):
            put = text.put(place(f"TREE/{name}/{number}"), value)
            corpus.add(verdict, f"{BOOSTER}: {name} of node {number} is {value}, in a tree", put)
    corpus.refused(f"{BOOSTER}: a cycle", text.put(place("TREE/left_children/1"), "0"))
    default = json.dumps(bool(text.value(place("TREE/default_left/0"))))
    corpus.accepted(f"{BOOSTER}: a default of {default}", text.put(place("TREE/default_left/0"), default))


def of_answers(corpus: Corpus, manifest: Text, booster: Text) -> None:
    """Bundles that answer otherwise, without golden vectors that would say so."""
    alone = {"removed": [VECTORS]}
    for path, value in rows(OTHER_ANSWERS):
        corpus.accepted(f"answers: {path} is {value}", manifest.put(place(path), value), **alone)
    served = place("DENSE/support/deployments")
    corpus.accepted("answers: trees for any deployment", manifest.delete(served), **alone)
    point = json.dumps(manifest.value(place("DENSE/support/low/8")))
    corpus.accepted(
        "answers: a support of one point", manifest.put(place("DENSE/support/high/8"), point), **alone
    )
    leaf = booster.value(place("TREE/left_children")).index(-1)
    for number, values in ((leaf, OTHER_LEAVES), (0, OTHER_THRESHOLDS)):
        for _, value in rows(f"-  {values}"):
            edit = booster.put(place(f"TREE/split_conditions/{number}"), value)
            corpus.accepted(f"answers: node {number} has {value}", edit, **alone)
    corpus.accepted("answers: another feature", booster.put(place("TREE/split_indices/0"), "0"), **alone)
    beyond = []
    for tree in (f"MODEL/trees/{number}" for number in (0, 1)):
        leaf = booster.value(place(f"{tree}/left_children")).index(-1)
        beyond.append(booster.put(place(f"{tree}/split_conditions/{leaf}"), "51"))
    corpus.refused("answers: leaves beyond 100 together", *beyond, **alone)
    unused = [manifest.put(("routing", "moe"), '"dense"'), manifest.delete(("models", "moe"))]
    corpus.accepted("answers: a booster that no model uses", *unused, Text(MOE).put((), "7"), **alone)


def of_vectors(corpus: Corpus, text: Text) -> None:
    """golden.json: its form, and vectors that differ."""
    last = len(text.value(("vectors",))) - 1
    for key in ("format", "feature_names", "configs", "truncated_sampling", "vectors"):
        corpus.refused(f"{VECTORS}: {key} missing", text.delete((key,)))
        corpus.refused(f"{VECTORS}: {key} null", text.put((key,), "null"))
        corpus.refused(f"{VECTORS}: {key} twice", text.beside((key,), f'"{key}": 1'))
    for key in VECTOR_KEYS:
        corpus.refused(f"{VECTORS}: {key} of a vector missing", text.delete(("vectors", 3, key)))
    put_all(corpus, "refused", text, BAD_VECTORS_FILE)
    for value in ("[]", "not JSON", ""):
        corpus.refused(f"{VECTORS}: {value!r} is all", text.put((), value))
    for number in (0, last):
        put_all(corpus, "refused", text, WRONG_ANSWERS, f"vectors/{number}/")
        nearly = json.dumps(1.001 * text.value(("vectors", number, "us")))
        corpus.refused(
            f"{VECTORS}: vector {number} off by 0.1 %", text.put(("vectors", number, "us"), nearly)
        )
    start, end = text.where["vectors", 499][0], text.where["vectors", last][2]
    corpus.refused(
        f"{VECTORS}: 499 vectors", text.splice(start, end - start, "null"), text.delete(("vectors", 498))
    )
    corpus.accepted(
        f"{VECTORS}: more in a vector", text.beside(("vectors", 3, "kind"), '"Kind": 7, "KIND": null')
    )
    corpus.accepted(f"{VECTORS}: more in the file", text.beside(("format",), '"Format": null'))
    name = text.put(("vectors", 3, "hardware"), '"NVIDIA H100 80GB HBM3"')
    corpus.accepted(f"{VECTORS}: a vector's own word for a known name", name)
    corpus.accepted(f"{VECTORS}: a vector off that no reader evaluates", text.put(("vectors", 3, "us"), "1"))
    unused = text.beside(("configs", "small-1b"), '"none": {"num_hidden_layers": null}')
    corpus.accepted(f"{VECTORS}: a config that no vector names", unused)
