package h3bundle

import (
	"math"
	"math/rand"
	"testing"
)

// explained is the period that Evaluate's explanation stands for.
func explained(k *Kernel, c *Composition) float64 { return max(1, min(k.Evaluate(c).US, MaxPeriodUS)) }

func TestPeriodIsTheExplainedOneToTheLastBit(t *testing.T) {
	bundle, g, trusts := openGolden(t), readGolden(t), map[string]int{}
	for i, v := range g.Vectors {
		kernel, err := bundle.KernelOf(Case{g.Configs[v.Config], v.TensorParallelism, v.Hardware, false, v.Requests})
		if err != nil {
			t.Fatal(err)
		}
		without := *kernel
		without.booster = &booster{}
		for _, k := range []*Kernel{kernel, trusting(kernel, kernel.booster), &without} {
			c := k.Compose(v.Requests)
			if got, expected := k.PeriodUS(&c), explained(k, &c); got != expected {
				t.Errorf("vector %d: %v us; expected %v", i, got, expected)
			}
			switch trust := k.Evaluate(&c).Trust; {
			case k.trusted == 0:
				trusts["untested"]++
			case trust == 0:
				trusts["outside"]++
			case trust < 1:
				trusts["between"]++
			default:
				trusts["inside"]++
			}
		}
	}
	for _, kind := range []string{"untested", "outside", "between", "inside"} {
		if trusts[kind] < 10 {
			t.Errorf("%d steps %s; expected at least 10", trusts[kind], kind)
		}
	}
}

func TestTreesAreNotAskedWhereTheyHaveNoSay(t *testing.T) {
	kernel, batch := testKernel(t, "llama-2-70b", 4), decodeBatch(32)
	broken := &booster{trees: []int32{7}} // asking it panics
	untested, outside := trusting(kernel, broken), trusting(kernel, broken)
	untested.trusted = 0
	outside.features[0].span = newRange(-2, -1)
	bare := trusting(kernel, &booster{})
	for name, k := range map[string]*Kernel{"deployments without trees": untested, "a width outside the training range": outside} {
		if got, expected := k.StepUS(batch), bare.StepUS(batch); got != expected {
			t.Errorf("%s: %v; expected the base %v", name, got, expected)
		}
	}
	defer func() {
		if recover() == nil {
			t.Error("the broken trees were not asked where they are trusted")
		}
	}()
	trusting(kernel, broken).StepUS(batch)
}

// oddTokens are requests that decode, prefill, do nothing, or say what no engine would.
func oddTokens(random *rand.Rand) Tokens {
	odd := []int64{-1, 0, 1, 2, 100, 4096, maxTokens - 1, maxTokens, maxTokens + 1, math.MaxInt64, math.MinInt64}
	pick := func() int64 {
		if random.Intn(8) == 0 {
			return odd[random.Intn(len(odd))]
		}
		return random.Int63n(8192)
	}
	t := Tokens{Computed: pick(), Scheduled: 1, Prompt: pick(), Cached: 0}
	if random.Intn(2) == 0 {
		t.Scheduled, t.Cached = pick(), pick()
	}
	return t
}

func TestABatchIsTheSumOfItsRequests(t *testing.T) {
	random, windows := rand.New(rand.NewSource(3)), 0
	for name := range readGolden(t).Configs {
		kernel := testKernel(t, name, 1)
		if kernel.physics.windowShare > 0 {
			windows++
		}
		for range 200 {
			var batch []Tokens
			c := kernel.Composition()
			for range random.Intn(20) {
				r := oddTokens(random)
				c.Add(max(r.Computed, r.Cached), r.Scheduled, r.Prompt)
				batch = append(batch, r)
			}
			got, expected := kernel.StepUS(batch), explained(kernel, &c)
			if got != expected {
				t.Fatalf("%s: %v us for %v; expected %v", name, got, batch, expected)
			}
		}
	}
	if windows == 0 {
		t.Error("no configuration has a sliding window")
	}
}
