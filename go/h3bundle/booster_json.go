package h3bundle

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
)

type xgbTree struct {
	_               open
	LeftChildren    []int32   `json:"left_children" items:"1,65535"`
	RightChildren   []int32   `json:"right_children"`
	SplitIndices    []int32   `json:"split_indices"`
	SplitConditions []float64 `json:"split_conditions" within:"-0x1.fffffep127,0x1.fffffep127"`
	DefaultLeft     []value   `json:"default_left"`

	// Of every node, for explanations: read so that what h3 refuses is refused here.
	BaseWeights []float64 `json:"base_weights" within:"-0x1.fffffep127,0x1.fffffep127"`
	LossChanges []float64 `json:"loss_changes" within:"-0x1.fffffep127,0x1.fffffep127"`
	SumHessian  []float64 `json:"sum_hessian" within:"-0x1.fffffep127,0x1.fffffep127"`

	SplitType          []int32 `json:"split_type,optional" within:"0,0"`
	Categories         []value `json:"categories,optional" items:"0,0"`
	CategoriesNodes    []value `json:"categories_nodes,optional" items:"0,0"`
	CategoriesSegments []value `json:"categories_segments,optional" items:"0,0"`
	CategoriesSizes    []value `json:"categories_sizes,optional" items:"0,0"`
}

type xgbModel struct {
	_       open
	Version []int `json:"version" items:"3,3" within:"0,999"`
	Learner struct {
		_            open
		FeatureNames []string `json:"feature_names"`
		Params       struct {
			_          open
			BaseScore  string `json:"base_score"`
			NumClass   string `json:"num_class"`
			NumTarget  string `json:"num_target"`
			NumFeature string `json:"num_feature"`
		} `json:"learner_model_param"`
		Objective struct {
			_    open
			Name string `json:"name"`
		} `json:"objective"`
		GradientBooster struct {
			_     open
			Name  string `json:"name"`
			Model struct {
				_      open
				Params struct {
					_        open
					NumTrees string `json:"num_trees"`
				} `json:"gbtree_model_param"`
				Rounds  []int     `json:"iteration_indptr"` // where each round's trees begin, and the end
				Outputs []int     `json:"tree_info"`        // the output of each tree
				Trees   []xgbTree `json:"trees" items:"0,10000"`
			} `json:"model"`
		} `json:"gradient_booster"`
	} `json:"learner"`
}

// parseBooster reads XGBoost's JSON on exactly these features.
func parseBooster(data []byte, features []string) (*booster, error) {
	var model xgbModel
	if err := bind(data, &model); err != nil {
		return nil, err
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

// zeroScore is a base_score of 0 as XGBoost writes it, in brackets since 3.1.
var zeroScore = regexp.MustCompile(`^\[?-?0(\.0*)?([eE][-+]?[0-9]+)?\]?$`)

func checkLearner(model *xgbModel, features []string) error {
	learner := &model.Learner
	if !slices.Equal(learner.FeatureNames, features) {
		return fmt.Errorf("learner.feature_names: unknown feature, or another order: %.200q; expected %q", learner.FeatureNames, features)
	}
	params, booster := &learner.Params, &learner.GradientBooster
	if !zeroScore.MatchString(params.BaseScore) {
		return fmt.Errorf("base_score=%.80q; expected 0", params.BaseScore)
	}
	trees := len(booster.Model.Trees)
	for _, check := range []struct{ name, found, expected string }{
		{"num_class", params.NumClass, "0"}, {"num_target", params.NumTarget, "1"}, {"num_feature", params.NumFeature, strconv.Itoa(len(features))},
		{"objective", learner.Objective.Name, "reg:squarederror"}, {"gradient_booster", booster.Name, "gbtree"},
		{"num_trees", booster.Model.Params.NumTrees, strconv.Itoa(trees)},
	} {
		if check.found != check.expected {
			return fmt.Errorf("%s=%.80q; expected %q", check.name, check.found, check.expected)
		}
	}
	if len(booster.Model.Rounds) != trees+1 || len(booster.Model.Outputs) != trees {
		return fmt.Errorf("iteration_indptr or tree_info of another length than %d trees have, one a round", trees)
	}
	for i, from := range booster.Model.Rounds {
		if from != i || (i < trees && booster.Model.Outputs[i] != 0) {
			return fmt.Errorf("iteration_indptr or tree_info: tree %d; expected one tree a round, all of output 0", i)
		}
	}
	return nil
}

// add checks a tree, appends its nodes with children side by side, and returns its largest |leaf|.
func (b *booster) add(t *xgbTree, features int) (float64, error) {
	if err := t.check(features); err != nil {
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
			b.nodes[p.at].value = float32(value)
			largest = max(largest, math.Abs(value))
			continue
		}
		at := int32(len(b.nodes))
		for _, child := range [2]int32{right, left} {
			if seen[child] {
				return 0, fmt.Errorf("node %d is reached twice; expected a tree without cycles", child)
			}
			seen[child] = true
			open = append(open, placed{child, int32(len(b.nodes))})
			b.nodes = append(b.nodes, node{})
		}
		missing, _ := missingLeft(&t.DefaultLeft[p.from])
		b.nodes[p.at] = node{
			value: float32(t.SplitConditions[p.from]), child: at, feature: uint8(t.SplitIndices[p.from]), missingLeft: missing,
		}
	}
	return largest, nil
}

func (t *xgbTree) check(features int) error {
	count := len(t.LeftChildren)
	for _, length := range []int{
		len(t.RightChildren), len(t.SplitIndices), len(t.SplitConditions), len(t.DefaultLeft), len(t.BaseWeights), len(t.LossChanges), len(t.SumHessian),
	} {
		if length != count {
			return fmt.Errorf("lists of %d and %d nodes; expected all alike", count, length)
		}
	}
	for i, left := range t.LeftChildren {
		if _, ok := missingLeft(&t.DefaultLeft[i]); !ok {
			return errors.New("default_left holds something else than 0 and 1")
		}
		right, index := t.RightChildren[i], t.SplitIndices[i]
		if left == -1 && right == -1 {
			continue
		}
		for _, child := range [2]int32{left, right} {
			if child < 0 || int(child) >= count {
				return fmt.Errorf("node %d has child %d; expected 0 to %d", i, child, count-1)
			}
		}
		if index < 0 || int(index) >= features {
			return fmt.Errorf("node %d splits on feature %d; expected 0 to %d", i, index, features-1)
		}
	}
	return nil
}

func missingLeft(v *value) (left, ok bool) {
	switch {
	case v.kind == 'b':
		return v.text == "true", true
	case v.kind == '0' && (v.text == "0" || v.text == "-0" || v.text == "1"):
		return v.text == "1", true
	}
	return false, false
}
