package h3bundle

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// goldenDir holds the bundle that scripts/make_golden_bundle.py wrote and Python tests read too.
var goldenDir = filepath.Join("testdata", "bundle")

type golden struct {
	FeatureNames []string                   `json:"feature_names"`
	Configs      map[string]json.RawMessage `json:"configs"`
	Truncated    []string                   `json:"truncated_sampling"`
	Vectors      []struct {
		Config            string    `json:"config"`
		TensorParallelism int       `json:"tensor_parallelism"`
		Hardware          string    `json:"hardware"`
		Requests          []Request `json:"requests"`
		Features          []float32 `json:"features"`
		BaseUS            float64   `json:"base_us"`
		Trust             float64   `json:"trust"`
		Margin            float32   `json:"margin"`
		US                float64   `json:"us"`
		LowUS             *float64  `json:"low_us"`
		HighUS            *float64  `json:"high_us"`
		Kind              string    `json:"kind"`
	} `json:"vectors"`
}

func openGolden(t testing.TB) *Bundle {
	t.Helper()
	bundle, err := Open(goldenDir)
	if err != nil {
		t.Fatalf("the golden bundle must be there: %v", err)
	}
	return bundle
}

func readGolden(t testing.TB) golden {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(goldenDir, "golden.json"))
	if err != nil {
		t.Fatalf("the golden file must be there: %v", err)
	}
	var g golden
	if err := json.Unmarshal(data, &g); err != nil {
		t.Fatal(err)
	}
	return g
}

func TestEveryGoldenVectorAgrees(t *testing.T) {
	bundle, g := openGolden(t), readGolden(t)
	if len(g.Vectors) < 500 {
		t.Fatalf("%d golden vectors; expected at least 500", len(g.Vectors))
	}
	trusted, untested, unequal, worstUS := 0, 0, 0, 0.0
	for i, v := range g.Vectors {
		kernel, err := bundle.KernelOf(Case{g.Configs[v.Config], v.TensorParallelism, v.Hardware, slices.Contains(g.Truncated, v.Config), nil})
		if err != nil {
			t.Fatalf("vector %d: %v", i, err)
		}
		composition := kernel.Compose(v.Requests)
		p := kernel.Evaluate(&composition)
		for j, expected := range v.Features {
			if p.Features[j] != expected {
				unequal++
			}
			if d := relative(float64(p.Features[j]), float64(expected)); !(d <= 1e-6) {
				t.Errorf("vector %d: %s is %v; expected %v", i, g.FeatureNames[j], p.Features[j], expected)
			}
		}
		if p.Margin != v.Margin {
			t.Errorf("vector %d: margin %v; expected %v, the same branches in float32", i, p.Margin, v.Margin)
		}
		if !(relative(p.BaseUS, v.BaseUS) <= 1e-9) || !(math.Abs(p.Trust-v.Trust) <= 1e-6) {
			t.Errorf("vector %d: base %v, trust %v; expected %v, %v", i, p.BaseUS, p.Trust, v.BaseUS, v.Trust)
		}
		if worstUS = max(worstUS, relative(p.US, v.US)); !(relative(p.US, v.US) <= 1e-5) {
			t.Errorf("vector %d: %v us; expected %v", i, p.US, v.US)
		}
		if v.Trust > 0 {
			trusted++
		}
		if kernel.trusted == 0 {
			untested++
		}
	}
	t.Logf("%d vectors, %d inside the trusted range, %d features not bit-equal, largest difference %.3g in us", len(g.Vectors), trusted, unequal, worstUS)
	if trusted < 100 || untested < 100 {
		t.Errorf("%d vectors have trust, %d are of deployments without trees; expected at least 100 each", trusted, untested)
	}
}

func testKernel(t testing.TB, config string, tp int) *Kernel {
	t.Helper()
	kernel, err := openGolden(t).KernelOf(Case{readGolden(t).Configs[config], tp, "H100", false, nil})
	if err != nil {
		t.Fatal(err)
	}
	return kernel
}

func decodeBatch(size int) []Tokens {
	batch := make([]Tokens, size)
	for i := range batch {
		batch[i] = Tokens{Scheduled: 1, Computed: int64(600 + 7*i), Prompt: 512}
	}
	return batch
}

func TestAnyBatchTakesAtLeastOneMicrosecond(t *testing.T) {
	kernel, most, least := testKernel(t, "fine-experts-30b", 4), int64(math.MaxInt64), int64(math.MinInt64)
	for _, batch := range [][]Tokens{nil, {{}}, {{-6, -5, -7, -8}}, {{most, most, most, 0}}, {{most - 1, most, most, 0}}, {{least, least, least, least}}} {
		if us := kernel.StepUS(batch); us < 1 || us > MaxPeriodUS {
			t.Errorf("%v us for %v", us, batch)
		}
	}
}

func TestCachedTokensCountAsComputedOnce(t *testing.T) {
	kernel := testKernel(t, "llama-2-7b", 1)
	without := kernel.StepUS([]Tokens{{Scheduled: 100, Computed: 0, Prompt: 600, Cached: 500}})
	with := kernel.StepUS([]Tokens{{Scheduled: 100, Computed: 500, Prompt: 600, Cached: 500}})
	if without != with {
		t.Errorf("%v and %v", without, with)
	}
}

func TestConcurrentCallsAgree(t *testing.T) {
	kernel, batch := testKernel(t, "mixtral-8x7b", 2), decodeBatch(64)
	expected, done := kernel.StepUS(batch), make(chan float64, 64)
	for i := 0; i < cap(done); i++ {
		go func() { done <- kernel.StepUS(batch) }()
	}
	for i := 0; i < cap(done); i++ {
		if got := <-done; got != expected {
			t.Errorf("%v; expected %v", got, expected)
		}
	}
}

func TestStepTimeDoesNotAllocate(t *testing.T) {
	kernel, batch := testKernel(t, "mixtral-8x7b", 2), decodeBatch(128)
	if allocations := testing.AllocsPerRun(100, func() { kernel.StepUS(batch) }); allocations != 0 {
		t.Errorf("%v allocations; expected none", allocations)
	}
}
