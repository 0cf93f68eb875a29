// Package sim stands in for BLIS's: names and types that a latency backend meets, and nothing behind them.
package sim

type ModelConfig struct {
	NumLayers, HiddenDim, NumHeads, NumKVHeads, HeadDim, VocabSize           int
	IntermediateDim, DenseIntermediateDim, NumLocalExperts, NumExpertsPerTok int
	MoEExpertFFNDim, SharedExpertFFNDim, InterleaveMoELayerStep              int
	FirstKDenseReplace, KVLoraRank, KVBearingLayers                          int
	BytesPerParam, WeightBytesPerParam, KVBytesPerParam                      float64
	HiddenAct                                                                string
}

type HardwareCalib struct{ TFlopsPeak, TFlopsFP8, BwPeakTBs, MfuPrefill, MfuDecode, MemoryGiB float64 }

type LatencyCoeffs struct{ BetaCoeffs, AlphaCoeffs []float64 }

type ModelHardwareConfig struct {
	ModelConfig          ModelConfig
	HWConfig             HardwareCalib
	Model, GPU           string
	TP, DP               int
	EnableExpertParallel bool
	Backend              string
}

type LatencyModel interface {
	StepTime(batch []*Request) int64
	QueueingTime(req *Request) int64
	OutputTokenProcessingTime() int64
	PostDecodeFixedOverhead() int64
}

type AdapterCost interface {
	LoadLatency(id string) float64
	StepOverheadFactor(batch []*Request) float64
}

var validLatencyBackends = map[string]bool{"": true, "roofline": true, "trained-physics": true}

// IsValidLatencyBackend says whether a name is in the list.
func IsValidLatencyBackend(name string) bool { return validLatencyBackends[name] }
