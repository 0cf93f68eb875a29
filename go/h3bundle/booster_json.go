package h3bundle

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

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
	built, bound := &booster{}, 0.0
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
	return built.prepare(), nil
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

// add checks a tree, appends its nodes with children side by side, and returns its largest |leaf|.
func (b *booster) add(t *xgbTree, features int) (float64, error) {
	if err := t.check(); err != nil {
		return 0, err
	}
	type placed struct{ from, at int32 }
	open := []placed{{0, int32(len(b.nodes))}}
	b.trees = append(b.trees, open[0].at)
	b.nodes = append(b.nodes, node{})
	seen, largest := make([]bool, len(t.LeftChildren)), 0.0
	seen[0] = true
	for ; len(open) > 0; open = open[1:] {
		p := open[0]
		left, right := t.LeftChildren[p.from], t.RightChildren[p.from]
		if left == -1 && right == -1 {
			value := t.SplitConditions[p.from]
			b.nodes[p.at].value = value
			largest = max(largest, math.Abs(float64(value)))
			continue
		}
		at := int32(len(b.nodes))
		for _, child := range [2]int32{right, left} {
			if child < 0 || int(child) >= len(seen) {
				return 0, fmt.Errorf("node %d has child %d; expected 0 to %d", p.from, child, len(seen)-1)
			}
			if seen[child] {
				return 0, fmt.Errorf("node %d is reached twice; expected a tree without cycles", child)
			}
			seen[child] = true
			open = append(open, placed{child, int32(len(b.nodes))})
			b.nodes = append(b.nodes, node{})
		}
		split, err := t.split(p.from, features)
		if err != nil {
			return 0, err
		}
		split.child = at
		b.nodes[p.at] = split
	}
	return largest, nil
}

func (t *xgbTree) check() error {
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
	split := node{value: t.SplitConditions[from], feature: uint8(index)}
	switch said := fmt.Sprint(t.DefaultLeft[from]); said {
	case "1", "true":
		split.missingLeft = true
	case "0", "false":
	default:
		return node{}, fmt.Errorf("default_left holds %q; expected 0 or 1", said)
	}
	return split, nil
}
