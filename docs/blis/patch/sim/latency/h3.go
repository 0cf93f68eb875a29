package latency

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/inference-sim/h3/go/blis"
	"github.com/inference-sim/h3/go/h3bundle"

	"github.com/inference-sim/inference-sim/sim"
)

// H3 is what the backend "h3" is told beside a deployment; flags set it before the first model is made.
var H3 struct {
	Bundle            string // folder of a bundle; "": the champion that ships with h3
	ModelConfigFolder string // where the model's config.json is; "": BLIS's own values of the model
}

// CheckH3 says why h3 cannot serve a deployment, before anything runs: where an instance is made, an error is a panic.
func CheckH3(hw sim.ModelHardwareConfig) error {
	_, err := prepareH3(hw)
	return err
}

func newH3(hw sim.ModelHardwareConfig, cost sim.AdapterCost) (sim.LatencyModel, error) {
	kernel, err := prepareH3(hw)
	if err != nil {
		return nil, fmt.Errorf("latency model: %w", err)
	}
	hooks := blis.Hooks[*sim.Request]{Count: countH3}
	if cost != nil {
		hooks.StepFactor = cost.StepOverheadFactor
	}
	return blis.New(kernel, hooks), nil
}

func countH3(step *h3bundle.Composition, batch []*sim.Request) {
	for _, r := range batch {
		computed, scheduled, prompt := max(r.ProgressIndex, r.CachedTokens), int64(r.NumNewTokens), int64(r.InputLen())
		if !step.AddDecode(computed, scheduled, prompt) {
			step.Add(computed, scheduled, prompt)
		}
	}
}

func prepareH3(hw sim.ModelHardwareConfig) (*h3bundle.Kernel, error) {
	config := blis.Config{
		Model: valuesOf(hw.ModelConfig), TP: hw.TP, DP: hw.DP, ExpertParallel: hw.EnableExpertParallel,
		GPU: blis.GPU{
			Name: hw.GPU, TFlopsPeak: hw.HWConfig.TFlopsPeak, TFlopsFP8: hw.HWConfig.TFlopsFP8, BwPeakTBs: hw.HWConfig.BwPeakTBs,
			MemoryGiB: hw.HWConfig.MemoryGiB,
		},
	}
	var err error
	if H3.Bundle != "" {
		if config.Bundle, err = h3bundle.Open(H3.Bundle); err != nil {
			return nil, err
		}
	}
	if config.ConfigJSON, err = readIfThere("config.json"); err != nil {
		return nil, err
	}
	if config.GenerationJSON, err = readIfThere("generation_config.json"); err != nil {
		return nil, err
	}
	return blis.Prepare(config)
}

// readIfThere is a file of the model's folder; nil where there is no folder or no such file in it.
func readIfThere(name string) ([]byte, error) {
	if H3.ModelConfigFolder == "" {
		return nil, nil
	}
	data, err := os.ReadFile(filepath.Join(H3.ModelConfigFolder, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return data, err
}

func valuesOf(m sim.ModelConfig) blis.Model {
	return blis.Model{
		NumLayers: m.NumLayers, HiddenDim: m.HiddenDim, NumHeads: m.NumHeads, NumKVHeads: m.NumKVHeads, HeadDim: m.HeadDim,
		VocabSize: m.VocabSize, IntermediateDim: m.IntermediateDim, DenseIntermediateDim: m.DenseIntermediateDim,
		NumLocalExperts: m.NumLocalExperts, NumExpertsPerTok: m.NumExpertsPerTok, MoEExpertFFNDim: m.MoEExpertFFNDim,
		SharedExpertFFNDim: m.SharedExpertFFNDim, InterleaveMoELayerStep: m.InterleaveMoELayerStep,
		FirstKDenseReplace: m.FirstKDenseReplace, KVLoraRank: m.KVLoraRank, KVBearingLayers: m.KVBearingLayers,
		HiddenAct: m.HiddenAct, BytesPerParam: m.BytesPerParam, WeightBytesPerParam: m.WeightBytesPerParam,
		KVBytesPerParam: m.KVBytesPerParam,
	}
}
