package h3bundle

import (
	"math/rand"
	"testing"
)

// variedBatches are batches of 128 requests at different progress, every fourth one with a chunk of prefill: where all steps
// are alike, a processor learns the way through the trees by heart.
func variedBatches(count int) []Batch {
	random, batches := rand.New(rand.NewSource(2)), make([]Batch, count)
	for i := range batches {
		longest := 100 + random.Int63n(4000)
		for range 128 {
			batches[i].Reqs = append(batches[i].Reqs, Req{Scheduled: 1, Computed: 100 + random.Int63n(longest), PromptLen: 100})
		}
		if i%4 == 0 {
			batches[i].Reqs[0] = Req{Scheduled: 1 + random.Int63n(2048), PromptLen: 4096}
		}
	}
	return batches
}

// benchmarkKernel measures a step as BLIS asks for it, and the trees' part of it, for 128 requests and the largest booster that
// tuning allows: 200 trees of depth 4. One walk through trees replaces another only by what a whole step gains.
func benchmarkKernel(b *testing.B, config string, tp int) {
	kernel, batches := testKernel(b, config, tp), variedBatches(256)
	booster, err := parseBooster(randomBooster(b, 200, 4), openGolden(b).FeatureNames())
	if err != nil {
		b.Fatal(err)
	}
	kernel.booster = booster
	rows := make([]row, len(batches))
	for i := range batches {
		var c Composition
		for _, r := range batches[i].Reqs {
			c.Add(r.Computed, r.Scheduled, r.PromptLen)
		}
		rows[i] = kernel.Evaluate(&c).Features
	}
	b.Run("step", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; i < b.N; i++ {
			kernel.StepTime(batches[i%len(batches)])
		}
	})
	b.Run("margin", func(b *testing.B) {
		for i := 0; i < b.N; i++ {
			booster.margin(&rows[i%len(rows)])
		}
	})
}

func BenchmarkDense(b *testing.B) { benchmarkKernel(b, "llama-2-70b", 4) }

func BenchmarkMoE(b *testing.B) { benchmarkKernel(b, "mixtral-8x7b", 2) }
