package h3bundle

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// node of a tree: a row goes to child+1 if x < threshold in float32, else to child. A leaf is its own child and has the
// threshold -Inf, so that walking on stays there.
type node struct {
	threshold float32
	feature   uint32 // the top bit says that a missing value goes left
	child     int32
	leaf      float32
}

const missingLeft = 1 << 31

type tree struct {
	root  int32
	depth int32
}

// block is a tree of at most blockDepth levels of splits, laid out as a complete one: node i has the children 2i and 2i+1,
// the root is 1, the leaves are 8 to 15 (less 8). The right child is the odd one.
type block struct {
	threshold [8]float32
	leaf      [8]float32
	feature   [8]uint8
}

const blockDepth = 3

// booster is the sum of trees on a fixed list of features; it is read-only once built.
type booster struct {
	nodes  []node
	trees  []tree
	blocks []block // in the order of trees, if all of them fit into blocks; else none
	width  int
}

// row is a matrix row, as wide as any bundle's feature list may be.
type row [maxFeatures]float32

// margin adds up the leaves in float32, tree by tree from 0, as XGBoost does. The walk has no branch that depends on x, so
// that a processor works on several trees at once; a leaf leads to itself, so a few steps too many do no harm.
func (b *booster) margin(x *row) float32 {
	for _, value := range x[:b.width] {
		if value-value != 0 { // NaN or infinite
			return b.marginMissing(x)
		}
	}
	var total float32
	for i := range b.blocks {
		total += b.blocks[i].at(x)
	}
	if len(b.blocks) > 0 {
		return total
	}
	nodes := b.nodes
	for _, t := range b.trees {
		i := t.root
		for d := t.depth; d > 0; d -= 3 {
			i = nodes[i].next(x)
			i = nodes[i].next(x)
			i = nodes[i].next(x)
		}
		total += nodes[i].leaf
	}
	return total
}

// at is the leaf that a finite row reaches.
func (b *block) at(x *row) float32 {
	i := uint32(1)
	i = 2*i + notLess(x[b.feature[i%8]%maxFeatures], b.threshold[i%8])
	i = 2*i + notLess(x[b.feature[i%8]%maxFeatures], b.threshold[i%8])
	i = 2*i + notLess(x[b.feature[i%8]%maxFeatures], b.threshold[i%8])
	return b.leaf[i%8]
}

// notLess is 0 if x < threshold, else 1.
func notLess(x, threshold float32) uint32 {
	if x < threshold {
		return 0
	}
	return 1
}

// pack lays the trees out as blocks if all of them fit.
func (b *booster) pack() {
	blocks := make([]block, len(b.trees))
	for i, t := range b.trees {
		if t.depth > blockDepth {
			return
		}
		b.fill(&blocks[i], t.root, 1)
	}
	b.blocks = blocks
}

// fill copies the subtree at a node to a place of the block; a leaf above the last level is copied to both sides.
func (b *booster) fill(to *block, from int32, place uint32) {
	n := &b.nodes[from]
	if place >= 8 {
		to.leaf[place-8] = n.leaf
		return
	}
	left, right := n.child+1, n.child
	if n.child == from {
		left, right = from, from
	}
	to.threshold[place], to.feature[place] = n.threshold, uint8(n.feature%maxFeatures)
	b.fill(to, left, 2*place)
	b.fill(to, right, 2*place+1)
}

// next is the child that a finite row goes to.
func (n *node) next(x *row) int32 {
	left := int32(0)
	if x[n.feature%maxFeatures] < n.threshold {
		left = 1
	}
	return n.child + left
}

// marginMissing is margin for rows that are not finite; NaN goes to the default child.
func (b *booster) marginMissing(x *row) float32 {
	var total float32
	for _, t := range b.trees {
		i := t.root
		for b.nodes[i].child != i {
			n := &b.nodes[i]
			value := x[n.feature%maxFeatures]
			left := value < n.threshold
			if value != value {
				left = n.feature&missingLeft != 0
			}
			if i = n.child; left {
				i++
			}
		}
		total += b.nodes[i].leaf
	}
	return total
}

type xgbTree struct {
	LeftChildren    []int32   `json:"left_children"`
	RightChildren   []int32   `json:"right_children"`
	SplitIndices    []int32   `json:"split_indices"`
	SplitConditions []float32 `json:"split_conditions"`
	DefaultLeft     []any     `json:"default_left"`
	SplitType       []int32   `json:"split_type"`
	Categories      []int32   `json:"categories"`
}

type xgbModel struct {
	Learner *struct {
		FeatureNames []string          `json:"feature_names"`
		Params       map[string]string `json:"learner_model_param"`
		Objective    struct {
			Name string `json:"name"`
		} `json:"objective"`
		GradientBooster struct {
			Name  string `json:"name"`
			Model struct {
				Params map[string]string `json:"gbtree_model_param"`
				Trees  []xgbTree         `json:"trees"`
			} `json:"model"`
		} `json:"gradient_booster"`
	} `json:"learner"`
}

// parseBooster reads XGBoost's JSON on exactly these features.
func parseBooster(data []byte, features []string) (*booster, error) {
	var model xgbModel
	if err := decode(data, false, &model); err != nil {
		return nil, err
	}
	if model.Learner == nil {
		return nil, errors.New("learner is missing; expected XGBoost's JSON")
	}
	if err := checkLearner(&model, features); err != nil {
		return nil, err
	}
	built, bound := &booster{width: len(features)}, 0.0
	for number := range model.Learner.GradientBooster.Model.Trees {
		largest, err := built.add(&model.Learner.GradientBooster.Model.Trees[number], len(features))
		if err != nil {
			return nil, fmt.Errorf("tree %d: %w", number, err)
		}
		bound += largest
	}
	if !(bound <= maxMargin) {
		return nil, fmt.Errorf("leaves add up to %g; expected at most %g (the log of a correction)", bound, maxMargin)
	}
	built.pack()
	return built, nil
}

func checkLearner(model *xgbModel, features []string) error {
	learner := model.Learner
	if len(learner.FeatureNames) != len(features) {
		return fmt.Errorf("%d features; expected %d", len(learner.FeatureNames), len(features))
	}
	for i, name := range learner.FeatureNames {
		if name != features[i] {
			return fmt.Errorf("unknown feature %q; expected %q", name, features[i])
		}
	}
	score, err := strconv.ParseFloat(strings.Trim(learner.Params["base_score"], "[]"), 64)
	if err != nil || score != 0 {
		return fmt.Errorf("base_score=%q; expected 0", learner.Params["base_score"])
	}
	booster := &learner.GradientBooster
	trees := len(booster.Model.Trees)
	for _, check := range []struct{ name, found, expected string }{
		{"num_class", learner.Params["num_class"], "0"}, {"num_target", learner.Params["num_target"], "1"},
		{"num_feature", learner.Params["num_feature"], strconv.Itoa(len(features))},
		{"objective", learner.Objective.Name, "reg:squarederror"}, {"gradient_booster", booster.Name, "gbtree"},
		{"num_trees", booster.Model.Params["num_trees"], strconv.Itoa(trees)},
	} {
		if check.found != check.expected {
			return fmt.Errorf("%s=%q; expected %q", check.name, check.found, check.expected)
		}
	}
	if trees > maxTrees {
		return fmt.Errorf("%d trees; expected at most %d", trees, maxTrees)
	}
	return nil
}

// add checks a tree, appends it level by level with children side by side, and returns its largest |leaf|.
func (b *booster) add(t *xgbTree, features int) (float64, error) {
	if err := t.check(features); err != nil {
		return 0, err
	}
	root := int32(len(b.nodes))
	b.nodes = append(b.nodes, node{})
	seen := make([]bool, len(t.LeftChildren))
	seen[0] = true
	largest, depth := 0.0, int32(0)
	type placed struct{ from, at int32 }
	for level := []placed{{0, root}}; len(level) > 0; depth++ {
		var next []placed
		for _, p := range level {
			left, right := t.LeftChildren[p.from], t.RightChildren[p.from]
			if left == -1 && right == -1 {
				value := t.SplitConditions[p.from]
				b.nodes[p.at] = node{float32(math.Inf(-1)), 0, p.at, value}
				largest = max(largest, math.Abs(float64(value)))
				continue
			}
			at := int32(len(b.nodes))
			for side, child := range [2]int32{right, left} {
				if child < 0 || int(child) >= len(seen) {
					return 0, fmt.Errorf("node %d has child %d; expected 0 to %d", p.from, child, len(seen)-1)
				}
				if seen[child] {
					return 0, fmt.Errorf("node %d is reached twice; expected a tree without cycles", child)
				}
				seen[child] = true
				next = append(next, placed{child, at + int32(side)})
				b.nodes = append(b.nodes, node{})
			}
			split, err := t.split(p.from, features)
			if err != nil {
				return 0, err
			}
			split.child = at
			b.nodes[p.at] = split
		}
		level = next
	}
	b.trees = append(b.trees, tree{root, depth - 1})
	return largest, nil
}

func (t *xgbTree) check(features int) error {
	count := len(t.LeftChildren)
	for _, length := range []int{len(t.RightChildren), len(t.SplitIndices), len(t.SplitConditions), len(t.DefaultLeft)} {
		if count < 1 || count > maxNodes || length != count {
			return fmt.Errorf("lists of %d and %d nodes; expected 1 to %d, all alike", count, length, maxNodes)
		}
	}
	for _, kind := range t.SplitType {
		if kind != 0 {
			return errors.New("categorical splits; expected numerical ones only")
		}
	}
	if len(t.Categories) > 0 {
		return errors.New("categorical splits; expected numerical ones only")
	}
	for _, value := range t.SplitConditions {
		if math.IsNaN(float64(value)) || math.IsInf(float64(value), 0) {
			return errors.New("split_conditions holds a number that is not finite")
		}
	}
	return nil
}

func (t *xgbTree) split(from int32, features int) (node, error) {
	index := t.SplitIndices[from]
	if index < 0 || int(index) >= features {
		return node{}, fmt.Errorf("node %d splits on feature %d; expected 0 to %d", from, index, features-1)
	}
	split := node{threshold: t.SplitConditions[from], feature: uint32(index)}
	switch said := fmt.Sprint(t.DefaultLeft[from]); said {
	case "1", "true":
		split.feature |= missingLeft
	case "0", "false":
	default:
		return node{}, fmt.Errorf("default_left holds %q; expected 0 or 1", said)
	}
	return split, nil
}
