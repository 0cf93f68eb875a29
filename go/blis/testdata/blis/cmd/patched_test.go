package cmd

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/inference-sim/inference-sim/sim"
	"github.com/inference-sim/inference-sim/sim/latency"
)

func TestH3IsTheDefaultAndResolvesWhatItNeeds(t *testing.T) {
	backend, resolved := Run("H100", "", 1)
	if backend != "h3" || !slices.Equal(resolved, []string{"model's folder", "KV blocks"}) || !sim.IsValidLatencyBackend("h3") {
		t.Errorf("%q, resolved %v", backend, resolved)
	}
}

func TestWhatCannotBeServedIsSaidBeforeAnythingIsMade(t *testing.T) {
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, "config.json"), []byte(`{"model_type": "mamba2"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for expected, run := range map[string]func(){
		"data parallelism 2": func() { Run("H100", "", 2) },
		"mamba2":             func() { Run("H100", folder, 1) },
	} {
		if said := stopped(run); !strings.Contains(said, expected) {
			t.Errorf("%q; expected %q", said, expected)
		}
	}
}

func stopped(run func()) (said string) {
	defer func() { said, _ = recover().(string) }()
	run()
	return ""
}

type doubled struct{}

func (doubled) LoadLatency(string) float64                      { return 0 }
func (doubled) StepOverheadFactor(batch []*sim.Request) float64 { return 2 }

func TestAdaptersAndCachedPrefixesCount(t *testing.T) {
	hw := sim.ModelHardwareConfig{
		ModelConfig: sim.ModelConfig{NumLayers: 32, HiddenDim: 4096, NumHeads: 32, NumKVHeads: 32, VocabSize: 32000, IntermediateDim: 11008},
		HWConfig:    sim.HardwareCalib{TFlopsPeak: 989.5, TFlopsFP8: 1979, BwPeakTBs: 3.35, MemoryGiB: 80}, GPU: "H100", TP: 1, DP: 1, Backend: "h3",
	}
	latency.H3.ModelConfigFolder = ""
	step := func(cached int, opts ...latency.Option) int64 {
		model, err := latency.NewLatencyModel(sim.LatencyCoeffs{}, hw, opts...)
		if err != nil {
			t.Fatal(err)
		}
		request := &sim.Request{Input: int64(16*cached + 512)}
		sim.Schedule(request, cached)
		return model.StepTime([]*sim.Request{request})
	}
	if plain, twice := step(0), step(0, latency.WithAdapterCost(doubled{})); twice < 2*plain-1 || twice > 2*plain+1 {
		t.Errorf("%d us, %d with adapters that double it", plain, twice)
	}
	if plain, cached := step(0), step(384); float64(cached) < 1.2*float64(plain) {
		t.Errorf("512 tokens: %d us alone, %d after 6144 cached ones", plain, cached)
	}
}
