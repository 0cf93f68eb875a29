package h3bundle

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"math/rand"
	"reflect"
	"strings"
	"testing"
)

// randomBooster is XGBoost JSON of complete trees with thresholds drawn from the golden vectors' features, so that rows
// take all branches.
func randomBooster(t testing.TB, trees, depth int) []byte {
	t.Helper()
	g, random := readGolden(t), rand.New(rand.NewSource(1))
	inner := 1<<depth - 1
	var all []map[string]any
	for range trees {
		tree := map[string]any{}
		left, right, index, defaults := []int{}, []int{}, []int{}, []int{}
		condition := []float32{}
		for i := range 2*inner + 1 {
			if i >= inner {
				left, right, index, condition = append(left, -1), append(right, -1), append(index, 0), append(condition, random.Float32()*0.02-0.01)
			} else {
				feature := random.Intn(len(g.FeatureNames))
				left, right, index = append(left, 2*i+1), append(right, 2*i+2), append(index, feature)
				condition = append(condition, g.Vectors[random.Intn(len(g.Vectors))].Features[feature])
			}
			defaults = append(defaults, random.Intn(2))
		}
		tree["left_children"], tree["right_children"], tree["split_indices"] = left, right, index
		tree["split_conditions"], tree["default_left"] = condition, defaults
		all = append(all, tree)
	}
	return boosterJSON(t, g.FeatureNames, all)
}

func boosterJSON(t testing.TB, features []string, trees []map[string]any) []byte {
	t.Helper()
	outputs, rounds := make([]int, len(trees)), make([]int, len(trees)+1)
	for i, tree := range trees {
		rounds[i+1] = i + 1
		for _, statistics := range []string{"base_weights", "loss_changes", "sum_hessian"} {
			tree[statistics] = make([]int, reflect.ValueOf(tree["left_children"]).Len())
		}
	}
	params := map[string]string{"base_score": "[0E0]", "num_class": "0", "num_target": "1", "num_feature": fmt.Sprint(len(features))}
	data, err := json.Marshal(map[string]any{"version": []int{3, 2, 0}, "learner": map[string]any{
		"feature_names": features, "learner_model_param": params, "objective": map[string]string{"name": "reg:squarederror"},
		"gradient_booster": map[string]any{"name": "gbtree", "model": map[string]any{
			"gbtree_model_param": map[string]string{"num_trees": fmt.Sprint(len(trees))}, "trees": trees,
			"tree_info": outputs, "iteration_indptr": rounds,
		}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func smallTree() map[string]any {
	return map[string]any{
		"left_children": []int{1, 3, -1, -1, -1}, "right_children": []int{2, 4, -1, -1, -1}, "split_indices": []int{0, 1, 0, 0, 0},
		"split_conditions": []any{0.5, 0.25, 0.1, 0.2, 0.3}, "default_left": []int{1, 0, 0, 0, 0},
	}
}

func TestTreesThatAreNoneAreRefused(t *testing.T) {
	features := []string{"kv_to_weights", "prefill_share"}
	for name, edit := range map[string]struct {
		change   map[string]any
		expected string
	}{
		"cycle":               {map[string]any{"left_children": []int{1, 0, -1, -1, -1}}, "reached twice"},
		"child out of range":  {map[string]any{"right_children": []int{2, 5, -1, -1, -1}}, "has child 5"},
		"negative child":      {map[string]any{"right_children": []int{2, -7, -1, -1, -1}}, "has child -7"},
		"one child":           {map[string]any{"right_children": []int{2, -1, -1, -1, -1}}, "has child -1"},
		"huge number":         {map[string]any{"split_conditions": []any{0.5, 0.25, json.Number("1e39"), 0.2, 0.3}}, "split_conditions[2]: 1e+39; expected"},
		"huge leaf":           {map[string]any{"split_conditions": []any{0.5, 0.25, 1e6, 0.2, 0.3}}, "add up"},
		"unknown feature":     {map[string]any{"split_indices": []int{0, 9, 0, 0, 0}}, "feature 9"},
		"short list":          {map[string]any{"split_indices": []int{0, 1}}, "lists of"},
		"categorical":         {map[string]any{"split_type": []int{1, 0, 0, 0, 0}}, "split_type[0]: 1; expected"},
		"default of no sense": {map[string]any{"default_left": []any{"x", 0, 0, 0, 0}}, "default_left"},
	} {
		tree := smallTree()
		maps.Copy(tree, edit.change)
		if _, err := parseBooster(boosterJSON(t, features, []map[string]any{tree}), features); err == nil || !strings.Contains(err.Error(), edit.expected) {
			t.Errorf("%s: %v; expected an error with %q", name, err, edit.expected)
		}
	}
	if _, err := parseBooster(boosterJSON(t, []string{"a", "b"}, []map[string]any{}), features); err == nil || !strings.Contains(err.Error(), `unknown feature, or another order: ["a" "b"]`) {
		t.Errorf("features: %v", err)
	}
}

func TestRowsGoLeftBelowTheThresholdAndMissingOnesToTheDefault(t *testing.T) {
	b, err := parseBooster(boosterJSON(t, []string{"a", "b"}, []map[string]any{smallTree()}), []string{"a", "b"})
	if err != nil {
		t.Fatal(err)
	}
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	for _, c := range []struct{ a, b, leaf float32 }{
		{0.5, 0, 0.1}, {0.49999997, 0.25, 0.3}, {0, 0.2499999, 0.2}, {nan, 0, 0.2}, {nan, nan, 0.3}, {0, nan, 0.3}, {inf, 0, 0.1}, {-inf, -inf, 0.2},
	} {
		x := row{c.a, c.b}
		if got := b.margin(&x); got != c.leaf {
			t.Errorf("margin(%v, %v) = %v; expected %v", c.a, c.b, got, c.leaf)
		}
	}
}

func TestMarginIsTheSumOfTheLeavesThatTheFileLeadsTo(t *testing.T) {
	nan := float32(math.NaN())
	for depth := range 6 {
		data := randomBooster(t, 50, depth)
		b, err := parseBooster(data, fuzzFeatures)
		if err != nil {
			t.Fatal(err)
		}
		var model xgbModel
		if err := bind(data, &model); err != nil {
			t.Fatal(err)
		}
		for i, v := range readGolden(t).Vectors {
			var x row
			copy(x[:], v.Features)
			x[i%(2*len(v.Features))] = nan // in every other row a feature is missing
			var expected float32
			for _, tree := range model.Learner.GradientBooster.Model.Trees {
				expected += tree.leaf(&x)
			}
			if got := b.margin(&x); got != expected {
				t.Fatalf("depth %d, vector %d: %v; expected %v", depth, i, got, expected)
			}
		}
	}
}

// leaf follows the file's own lists.
func (t *xgbTree) leaf(x *row) float32 {
	at := int32(0)
	for t.LeftChildren[at] != -1 {
		value := x[t.SplitIndices[at]]
		missing := math.IsNaN(float64(value))
		if value < float32(t.SplitConditions[at]) || missing && t.DefaultLeft[at].text == "1" {
			at = t.LeftChildren[at]
		} else {
			at = t.RightChildren[at]
		}
	}
	return float32(t.SplitConditions[at])
}

func TestBoosterWithoutTreesIsTheBaseAlone(t *testing.T) {
	b, err := parseBooster(boosterJSON(t, []string{"a"}, []map[string]any{}), []string{"a"})
	if err != nil || b.margin(&row{1}) != 0 {
		t.Errorf("%v", err)
	}
}
