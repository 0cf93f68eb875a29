package h3bundle

import (
	"encoding/json"
	"fmt"
	"math/rand"
	"slices"
	"testing"
	"time"
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
	params := map[string]string{"base_score": "[0E0]", "num_class": "0", "num_target": "1", "num_feature": fmt.Sprint(len(features))}
	data, err := json.Marshal(map[string]any{"learner": map[string]any{
		"feature_names": features, "learner_model_param": params, "objective": map[string]string{"name": "reg:squarederror"},
		"gradient_booster": map[string]any{"name": "gbtree", "model": map[string]any{
			"gbtree_model_param": map[string]string{"num_trees": fmt.Sprint(len(trees))}, "trees": trees,
		}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func benchmarkKernel(b *testing.B, config string, tp int) {
	kernel, batch := testKernel(b, config, tp), decodeBatch(128)
	booster, err := parseBooster(randomBooster(b, 200, 3), openGolden(b).FeatureNames())
	if err != nil {
		b.Fatal(err)
	}
	kernel.booster = booster
	var c Composition
	for i := range batch.Reqs {
		c.Add(batch.Reqs[i].Computed, 1, batch.Reqs[i].PromptLen)
	}
	b.Run("step", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; i < b.N; i++ {
			batch.Reqs[i%128].Computed = 600 + int64(i%3000)
			kernel.StepTime(batch)
		}
	})
	b.Run("median", func(b *testing.B) { reportMedian(b, kernel, batch) })
	b.Run("without_composition", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; i < b.N; i++ {
			kernel.PeriodUS(&c)
		}
	})
}

// reportMedian times every call by itself (the clock's own cost included) and reports the median.
func reportMedian(b *testing.B, kernel *Kernel, batch Batch) {
	times := make([]time.Duration, 0, b.N)
	for i := 0; i < b.N; i++ {
		batch.Reqs[i%128].Computed = 600 + int64(i%3000)
		start := time.Now()
		kernel.StepTime(batch)
		times = append(times, time.Since(start))
	}
	slices.Sort(times)
	b.ReportMetric(float64(times[len(times)/2]), "median-ns")
}

// 128 requests, 200 trees of depth 3.
func BenchmarkDense(b *testing.B) { benchmarkKernel(b, "llama-2-70b", 4) }

func BenchmarkMoE(b *testing.B) { benchmarkKernel(b, "mixtral-8x7b", 2) }
