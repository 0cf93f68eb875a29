package blis

import (
	"fmt"
	"slices"
	"strings"

	"github.com/inference-sim/h3/go/h3bundle"
)

// Model has the values of BLIS's model configuration under its names there; 0 where it has none. What BLIS infers elsewhere
// (quantisation by a model's name or a flag, the precision of the KV cache) is in the last three.
type Model struct {
	NumLayers, HiddenDim, NumHeads, NumKVHeads, HeadDim, VocabSize int
	IntermediateDim, DenseIntermediateDim                          int
	NumLocalExperts, NumExpertsPerTok                              int
	MoEExpertFFNDim, SharedExpertFFNDim                            int
	InterleaveMoELayerStep, FirstKDenseReplace                     int
	KVLoraRank, KVBearingLayers                                    int
	HiddenAct                                                      string

	BytesPerParam       float64 // of activations, and of weights that nothing else is said of
	WeightBytesPerParam float64 // of quantised weights; 0: BytesPerParam
	KVBytesPerParam     float64 // of the KV cache; 0: BytesPerParam
}

const (
	leastExperts = 2   // fewer are a dense model, in BLIS and in h3
	servedBytes  = 2.0 // vLLM serves 32-bit checkpoints in 16 bits
)

// twoMatrices are activations of FFNs without a gate.
var twoMatrices = []string{"gelu", "gelu_new", "gelu_fast", "relu", "relu2", "quick_gelu"}

// Architecture is the model's, by the rules of h3bundle.ParseConfig as far as the values go. They hold no sliding windows, no
// parts left out of a quantisation and not all sizes of latent attention: where BLIS has the config.json, give that too
// (Config.ConfigJSON). The error names the value that cannot be served.
func (m Model) Architecture() (h3bundle.Architecture, error) {
	a := h3bundle.Architecture{
		NumLayers: int64(m.NumLayers), HiddenSize: int64(m.HiddenDim), NumHeads: int64(m.NumHeads), NumKVHeads: int64(m.NumKVHeads),
		HeadDim: int64(m.HeadDim), VocabSize: int64(m.VocabSize), DenseFFNSize: int64(m.IntermediateDim),
		FFNMatrices: 3,
	}
	if err := m.check(); err != nil {
		return h3bundle.Architecture{}, err
	}
	if a.NumKVHeads == 0 {
		a.NumKVHeads = a.NumHeads
	}
	if a.HeadDim == 0 {
		a.HeadDim = a.HiddenSize / a.NumHeads
	}
	if slices.Contains(twoMatrices, strings.ToLower(m.HiddenAct)) {
		a.FFNMatrices = 2
	}
	if m.NumLocalExperts >= leastExperts {
		m.experts(&a)
	}
	m.precision(&a)
	return a, nil
}

func (m Model) check() error {
	for _, value := range []struct {
		name  string
		value int
	}{
		{"NumLayers", m.NumLayers}, {"HiddenDim", m.HiddenDim}, {"NumHeads", m.NumHeads}, {"VocabSize", m.VocabSize},
	} {
		if value.value < 1 {
			return fmt.Errorf("model: %s=%d; expected a positive number", value.name, value.value)
		}
	}
	if m.KVLoraRank > 0 {
		return fmt.Errorf("model: KVLoraRank=%d: latent attention has sizes that these values lack; expected its config.json beside them", m.KVLoraRank)
	}
	if m.KVBearingLayers > 0 && m.KVBearingLayers < m.NumLayers {
		return fmt.Errorf("model: KVBearingLayers=%d of %d layers: linear attention in the others was never measured; expected attention in all", m.KVBearingLayers, m.NumLayers)
	}
	return nil
}

// experts fills in a sparse model: as HuggingFace counts, layer i of 0, 1, ... has experts iff i+1 divides by
// interleave_moe_layer_step (1, or 0 for none: all of them), beginning after the first dense ones.
func (m Model) experts(a *h3bundle.Architecture) {
	a.NumExperts, a.ExpertsPerToken = int64(m.NumLocalExperts), int64(m.NumExpertsPerTok)
	a.ExpertFFNSize, a.SharedFFNSize = or(m.MoEExpertFFNDim, m.IntermediateDim), int64(m.SharedExpertFFNDim)
	sparse := m.NumLayers
	if m.InterleaveMoELayerStep > 1 {
		sparse = m.NumLayers / m.InterleaveMoELayerStep
	}
	sparse = max(0, min(sparse, m.NumLayers-m.FirstKDenseReplace))
	a.NumMoELayers = int64(sparse)
	a.DenseFFNSize = 0
	if sparse < m.NumLayers {
		a.DenseFFNSize = or(m.DenseIntermediateDim, m.IntermediateDim)
	}
}

func or(value, otherwise int) int64 {
	if value > 0 {
		return int64(value)
	}
	return int64(otherwise)
}

// precision fills in bytes: quantised weights are those of attention and FFN, the LM head stays in 16 bits.
func (m Model) precision(a *h3bundle.Architecture) {
	plain := servedBytes
	if m.BytesPerParam > 0 {
		plain = min(m.BytesPerParam, servedBytes)
	}
	weights := plain
	if m.WeightBytesPerParam > 0 {
		weights = m.WeightBytesPerParam
	}
	a.BytesPerParameter, a.AttentionBytesPerParameter, a.HeadBytesPerParameter = weights, weights, max(weights, servedBytes)
	a.KVBytesPerValue = max(plain, servedBytes)
	if m.KVBytesPerParam > 0 {
		a.KVBytesPerValue = m.KVBytesPerParam
	}
}

// inferred puts what BLIS found out elsewhere over an architecture that was read from a config.json: a quantisation that the
// config does not say (known by the model's name, or told by a flag), and the KV cache's precision.
func (m Model) inferred(a *h3bundle.Architecture) {
	if m.WeightBytesPerParam > 0 && a.BytesPerParameter == servedBytes && a.AttentionBytesPerParameter == servedBytes {
		a.BytesPerParameter, a.AttentionBytesPerParameter = m.WeightBytesPerParam, m.WeightBytesPerParam
	}
	if m.KVBytesPerParam > 0 {
		a.KVBytesPerValue = m.KVBytesPerParam
	}
}
