"""The trees inside XGBoost's JSON: a check that they are trees, and a walker in numpy that needs no XGBoost.

    trees = check_booster(json.load(open("booster.json")), ["kv_to_weights", ...], "booster.json")
    margin = Trees.of(trees).margin(matrix)                # float32, as XGBoost adds it up

XGBoost reads a damaged model without looking (a child out of range reads foreign memory), so nothing reaches
it unchecked.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from h3.common.errors import InputError

MAX_TREES = 10_000
MAX_NODES = 65_535
# Sum over trees of the largest |leaf|, log units: exp of it stays finite; a sensible correction is below 5.
MAX_MARGIN = 100.0
Tree = dict[str, Any]  # one tree of XGBoost's JSON
Kind = TypeVar("Kind")
NODE_LISTS = ("left_children", "right_children", "split_indices", "split_conditions", "default_left")
# Numbers of every node that XGBoost keeps for explanations.
STATISTICS = ("base_weights", "loss_changes", "sum_hessian")
# XGBoost's 0, in brackets since 3.1.
ZERO = re.compile(r"\[?-?0(\.0*)?([eE][-+]?[0-9]+)?\]?")
NO_CATEGORIES = ("categories", "categories_nodes", "categories_segments", "categories_sizes")


def check_booster(content: object, features: list[str], where: str) -> list[Tree]:
    """The trees of an XGBoost JSON on exactly these features; raises InputError that says what is not as
    expected.
    """
    learner = _mapping(content, "learner", where)
    _check_version(_items(content, "version", where), where)
    names = learner.get("feature_names")
    if not isinstance(names, list) or names != features:
        unknown = [name for name in names if name not in features] if isinstance(names, list) else []
        said = f"unknown feature {unknown[0]!r}" if unknown else f"feature_names={str(names)[:200]}"
        raise InputError(f"{where}: {said}; expected {', '.join(features)}")
    _check_learner(learner, len(features), where)
    booster = _mapping(learner, "gradient_booster", where)
    if booster.get("name") != "gbtree":
        raise InputError(f"{where}: gradient_booster.name={booster.get('name')!r}; expected 'gbtree'")
    model = _mapping(booster, "model", where)
    trees = _items(model, "trees", where)
    counted = _mapping(model, "gbtree_model_param", where).get("num_trees")
    if len(trees) > MAX_TREES or counted != str(len(trees)):
        raise InputError(f"{where}: {len(trees)} trees; expected num_trees of them, at most {MAX_TREES}")
    _check_rounds(model, len(trees), where)
    bound = sum(
        _check_tree(tree, len(features), f"{where}: tree {number}") for number, tree in enumerate(trees)
    )
    if not bound <= MAX_MARGIN:
        raise InputError(
            f"{where}: leaves add up to {bound:.4g}; expected at most {MAX_MARGIN} (the log of a correction)"
        )
    return trees


def _get(content: object, key: str, kind: type[Kind], where: str) -> Kind:
    value = content.get(key) if isinstance(content, dict) else None
    if not isinstance(value, kind):
        raise InputError(
            f"{where}: {key} is {type(value).__name__}; expected XGBoost's JSON, where it is a"
            f" {kind.__name__}"
        )
    return value


def _mapping(content: object, key: str, where: str) -> dict[str, Any]:
    return _get(content, key, dict, where)


def _items(content: object, key: str, where: str) -> list[Any]:
    return _get(content, key, list, where)


def _check_version(version: list[Any], where: str) -> None:
    if len(version) != 3 or any(type(part) is not int or not 0 <= part < 1000 for part in version):
        raise InputError(f"{where}: version={str(version)[:80]}; expected XGBoost's, three whole numbers")


def _check_rounds(model: Tree, count: int, where: str) -> None:
    """One tree a round, all of them in the one output."""
    expected = {"iteration_indptr": list(range(count + 1)), "tree_info": [0] * count}
    for key, usual in expected.items():
        found = _items(model, key, where)
        if found != usual or any(type(value) is not int for value in found):
            raise InputError(
                f"{where}: {key}={str(model[key])[:80]}; expected one tree a round: {usual[:3]}..."
            )


def _check_learner(learner: Tree, features: int, where: str) -> None:
    params = _mapping(learner, "learner_model_param", where)
    score = params.get("base_score")
    if not isinstance(score, str) or not ZERO.fullmatch(score):
        raise InputError(
            f"{where}: base_score={str(score)[:80]!r}; expected 0, h3's trees are a correction without offset"
        )
    for key, expected in (("num_class", ("0",)), ("num_target", ("1",)), ("num_feature", (str(features),))):
        if params.get(key) not in expected:
            raise InputError(f"{where}: {key}={params.get(key)!r}; expected {expected[0]!r}")
    objective = _mapping(learner, "objective", where).get("name")
    if objective != "reg:squarederror":
        raise InputError(f"{where}: objective={objective!r}; expected 'reg:squarederror'")


def _check_tree(tree: object, features: int, where: str) -> float:
    """The largest |leaf| of a tree that is one: every node reached once from the root, children in range,
    finite numbers.
    """
    left, right, index, condition, default = (_items(tree, name, where) for name in NODE_LISTS)
    count = len(left)
    if not 1 <= count <= MAX_NODES or any(
        len(values) != count for values in (right, index, condition, default)
    ):
        raise InputError(
            f"{where}: lists of {count} nodes and other lengths; expected 1 to {MAX_NODES}, all alike"
        )
    for values, name in ((left, NODE_LISTS[0]), (right, NODE_LISTS[1]), (index, NODE_LISTS[2])):
        if any(type(value) is not int or not -(2**31) <= value < 2**31 for value in values):
            raise InputError(f"{where}: {name} holds something else than whole numbers of 32 bits")
    if any(type(value) not in (int, bool) or value not in (0, 1) for value in default):
        raise InputError(f"{where}: default_left holds something else than 0 and 1")
    assert isinstance(tree, dict)  # it has the lists
    _check_categories(tree, where)
    _check_numbers(condition, "split_conditions", where)
    for name in STATISTICS:
        if len(numbers := _items(tree, name, where)) != count:
            raise InputError(f"{where}: {name} has {len(numbers)} entries; expected {count}, one a node")
        _check_numbers(numbers, name, where)
    for node, children in enumerate(zip(left, right, strict=True)):
        if children == (-1, -1):
            continue
        for child in children:
            if not 0 <= child < count:
                raise InputError(f"{where}: node {node} has child {child}; expected 0 to {count - 1}")
        if not 0 <= index[node] < features:
            raise InputError(
                f"{where}: node {node} splits on feature {index[node]}; expected 0 to {features - 1}"
            )
    return max(abs(float(condition[node])) for node in _leaves(left, right, where))


def _check_categories(tree: Tree, where: str) -> None:
    kinds = _items(tree, "split_type", where) if "split_type" in tree else []
    categories = [_items(tree, name, where) for name in NO_CATEGORIES if name in tree]
    if any(type(kind) is not int or kind != 0 for kind in kinds) or any(categories):
        raise InputError(f"{where}: categorical splits; expected numerical ones only")


def _check_numbers(values: list[Any], name: str, where: str) -> None:
    for value in values:
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not abs(value) <= float(np.finfo(np.float32).max)
        ):
            raise InputError(f"{where}: {name} holds {str(value)[:40]}; expected finite 32-bit numbers")


def _leaves(left: list[int], right: list[int], where: str) -> list[int]:
    """The leaves reached from the root; raises InputError for a cycle."""
    seen, leaves, waiting = {0}, [], [0]
    while waiting:
        node = waiting.pop()
        if left[node] == -1 and right[node] == -1:
            leaves.append(node)
            continue
        for child in (left[node], right[node]):
            if child in seen:
                raise InputError(f"{where}: node {child} is reached twice; expected a tree without cycles")
            seen.add(child)
            waiting.append(child)
    return leaves


def rebuilt(trees: list[Tree], features: list[str], version: list[int]) -> Tree:
    """XGBoost's JSON made of what check_booster checked alone, so that XGBoost reads nothing else."""
    numbered = [_rebuilt_tree(tree, number, len(features)) for number, tree in enumerate(trees)]
    model = {
        "cats": {"enc": [], "feature_segments": [], "sorted_idx": []},
        "gbtree_model_param": {"num_parallel_tree": "1", "num_trees": str(len(trees))},
        "iteration_indptr": list(range(len(trees) + 1)),
        "tree_info": [0] * len(trees),
        "trees": numbered,
    }
    params = {"base_score": "[0E0]", "boost_from_average": "0", "num_class": "0", "num_target": "1"}
    learner = {
        "attributes": {},
        "feature_names": features,
        "feature_types": ["float"] * len(features),
        "gradient_booster": {"model": model, "name": "gbtree"},
        "learner_model_param": params | {"num_feature": str(len(features))},
        "objective": {"name": "reg:squarederror", "reg_loss_param": {"scale_pos_weight": "1"}},
    }
    return {"learner": learner, "version": version}


def _rebuilt_tree(tree: Tree, number: int, features: int) -> Tree:
    count = len(tree["left_children"])
    parents = [2**31 - 1] * count  # of the root, as XGBoost has it
    for node in range(count):
        for child in (tree["left_children"][node], tree["right_children"][node]):
            if child >= 0:
                parents[child] = node
    param = {"num_deleted": "0", "num_feature": str(features), "num_nodes": str(count)}
    splits = [left >= 0 for left in tree["left_children"]]
    return {
        **{name: tree[name] for name in NODE_LISTS[:2]},
        # A leaf splits on nothing, whatever its file says.
        **{
            name: [int(value) * split for value, split in zip(tree[name], splits, strict=True)]
            for name in ("split_indices", "default_left")
        },
        **{name: _short(tree[name]) for name in ("split_conditions", *STATISTICS)},
        **{name: [] for name in NO_CATEGORIES},
        "id": number,
        "parents": parents,
        "split_type": [0] * count,
        "tree_param": param | {"size_leaf_vector": "1"},
    }


def _short(values: list[float]) -> list[float]:
    """The 32-bit numbers that the walker uses, as the shortest decimals that round to them."""
    return [float(str(value)) for value in np.array(values, dtype=float).astype(np.float32)]


@dataclass(frozen=True)
class Trees:
    """Checked trees as arrays of their nodes one after the other, so that one large tree among many takes no
    room in the others; a leaf is its own child on both sides, its value in `value`. `roots` and `depths` have
    one entry a tree.
    """

    left: np.ndarray
    right: np.ndarray
    feature: np.ndarray
    threshold: np.ndarray
    default_left: np.ndarray
    value: np.ndarray
    roots: np.ndarray
    depths: tuple[int, ...]

    @classmethod
    def of(cls, trees: list[Tree]) -> Trees:
        """From what check_booster returns."""
        sizes = [len(tree["left_children"]) for tree in trees]
        roots = np.cumsum([0, *sizes])[:-1]
        kinds = (int, int, int, float, bool)
        lists: list[np.ndarray] = [
            np.array([value for tree in trees for value in tree[name]], dtype=kind)
            for name, kind in zip(NODE_LISTS, kinds, strict=True)
        ]
        left, right, feature, condition, default_left = lists
        leaf, start = left < 0, np.repeat(roots, sizes)
        own = np.arange(len(left))
        threshold = condition.astype(np.float32)
        return cls(
            np.where(leaf, own, left + start),
            np.where(leaf, own, right + start),
            np.where(leaf, 0, feature),
            threshold,
            default_left,
            np.where(leaf, threshold, np.float32(0)),
            roots,
            tuple(_depth(tree["left_children"], tree["right_children"]) for tree in trees),
        )

    @property
    def count(self) -> int:
        """How many trees there are."""
        return len(self.roots)

    @property
    def depth(self) -> int:
        """The depth of the deepest, 0 for a leaf alone."""
        return max(self.depths, default=0)

    def margin(self, matrix: np.ndarray) -> np.ndarray:
        """Sum of the leaves that each row reaches, float32 of shape (rows,), added tree by tree from 0.

        `matrix`: float32 of shape (rows, features). A row goes left iff x < threshold in float32, NaN to the
        default child.
        """
        total = np.zeros(len(matrix), np.float32)
        rows = np.arange(len(matrix))
        for root, depth in zip(self.roots, self.depths, strict=True):
            node = np.full(len(matrix), root)
            for _ in range(depth):
                x = matrix[rows, self.feature[node]]
                go_left = np.where(np.isnan(x), self.default_left[node], x < self.threshold[node])
                node = np.where(go_left, self.left[node], self.right[node])
            total += self.value[node]
        return total


def _depth(left: list[int], right: list[int]) -> int:
    depth, level = 0, [0]
    while level := [child for node in level if left[node] >= 0 for child in (left[node], right[node])]:
        depth += 1
    return depth
