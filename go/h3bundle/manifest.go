package h3bundle

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
)

const (
	format        = "h3-bundle"
	formatVersion = 2
	routingRule   = "moe iff num_experts >= 2"
	trustRule     = "linear_trust"
)

// Overheads are what a request waits beside its steps: us, and PipelineSteps, the steps that are already scheduled when it
// arrives, in periods of the running steps (0 where the manifest does not say).
type Overheads struct {
	QueueingUS    float64 `json:"queueing_us"`
	PipelineSteps float64 `json:"pipeline_steps"`
	PostDecodeUS  float64 `json:"post_decode_us"`
	OutputTokenUS float64 `json:"output_token_us"`
}

type constants struct {
	ActivationBytes     float64   `json:"activation_bytes"`
	KVBytes             float64   `json:"kv_bytes"`
	TileQueries         float64   `json:"attention_tile_queries"`
	GEMMEfficiency      float64   `json:"gemm_efficiency"`
	AttentionEfficiency float64   `json:"attention_efficiency"`
	OneShotLatencyUS    float64   `json:"one_shot_latency_us"`
	OneShotEfficiency   float64   `json:"one_shot_efficiency"`
	TwoShotLatencyUS    float64   `json:"two_shot_latency_us"`
	TwoShotRankUS       float64   `json:"two_shot_rank_us"`
	TwoShotEfficiency   float64   `json:"two_shot_efficiency"`
	TwoShotFewRanks     float64   `json:"two_shot_few_ranks"`
	LeastNVLinkBytesS   float64   `json:"least_nvlink_bytes_s"`
	TwoShotBytes        []float64 `json:"two_shot_bytes"`

	SamplerLatencyUS          float64 `json:"sampler_latency_us"`
	SamplerUSPerMillionLogits float64 `json:"sampler_us_per_million_logits"`
	SamplerBandwidthBytesS    float64 `json:"sampler_bandwidth_bytes_s"`
}

type fileEntry struct {
	SHA256 string `json:"sha256"`
	Bytes  int64  `json:"bytes"`
}

type modelEntry struct {
	Booster      string    `json:"booster"`
	Trees        int       `json:"trees"`
	Coefficients []float64 `json:"coefficients"`
	Support      struct {
		Low  []float32 `json:"low"`
		High []float32 `json:"high"`
		// Deployments that the trees serve; nil: any.
		Deployments []knownDeployment `json:"deployments"`
	} `json:"support"`
}

// knownDeployment is a deployment as h3's step table has it.
type knownDeployment struct {
	Hardware          string  `json:"hardware"`
	TensorParallelism float64 `json:"tensor_parallelism"`
	NumLayers         float64 `json:"num_layers"`
	HiddenSize        float64 `json:"hidden_size"`
	NumHeads          float64 `json:"num_heads"`
	NumKVHeads        float64 `json:"num_kv_heads"`
	HeadDim           float64 `json:"head_dim"`
	VocabSize         float64 `json:"vocab_size"`
	DenseFFNSize      float64 `json:"dense_ffn_size"`
	NumMoELayers      float64 `json:"num_moe_layers"`
	NumExperts        float64 `json:"num_experts"`
	ExpertsPerToken   float64 `json:"experts_per_token"`
	ExpertFFNSize     float64 `json:"expert_ffn_size"`
	SharedFFNSize     float64 `json:"shared_ffn_size"`
	BytesPerParameter float64 `json:"bytes_per_parameter"`

	AttentionBytesPerParameter float64 `json:"attention_bytes_per_parameter"`
	HeadBytesPerParameter      float64 `json:"head_bytes_per_parameter"`
	KVBytesPerValue            float64 `json:"kv_bytes_per_value"`
	FFNMatrices                float64 `json:"ffn_matrices"`
	WindowTokens               float64 `json:"window_tokens"`
	NumWindowLayers            float64 `json:"num_window_layers"`
	KVLoraRank                 float64 `json:"kv_lora_rank"`
	QLoraRank                  float64 `json:"q_lora_rank"`
	QKRopeHeadDim              float64 `json:"qk_rope_head_dim"`
	VHeadDim                   float64 `json:"v_head_dim"`
}

// known describes a deployment; hardware by its name in the manifest's table.
func known(a Architecture, tensorParallelism int, hardware string) knownDeployment {
	a = a.completed()
	return knownDeployment{
		hardware, float64(tensorParallelism), float64(a.NumLayers), float64(a.HiddenSize), float64(a.NumHeads), float64(a.NumKVHeads),
		float64(a.HeadDim), float64(a.VocabSize), float64(a.DenseFFNSize), float64(a.NumMoELayers), float64(a.NumExperts),
		float64(a.ExpertsPerToken), float64(a.ExpertFFNSize), float64(a.SharedFFNSize), a.BytesPerParameter,
		a.AttentionBytesPerParameter, a.HeadBytesPerParameter, a.KVBytesPerValue, float64(a.FFNMatrices), float64(a.WindowTokens),
		float64(a.NumWindowLayers), float64(a.KVLoraRank), float64(a.QLoraRank), float64(a.QKRopeHeadDim), float64(a.VHeadDim),
	}
}

// serves says whether a model's trees were tested on a deployment.
func (m *modelEntry) serves(d knownDeployment) bool {
	return m.Support.Deployments == nil || slices.Contains(m.Support.Deployments, d)
}

type manifest struct {
	Format        string          `json:"format"`
	FormatVersion json.Number     `json:"format_version"`
	Target        json.RawMessage `json:"target"`
	Formula       string          `json:"formula"`
	Features      []struct {
		Index   int    `json:"index"`
		Name    string `json:"name"`
		DType   string `json:"dtype"`
		Unit    string `json:"unit"`
		Group   string `json:"group"`
		Formula string `json:"formula"`
	} `json:"features"`
	Terms     []string            `json:"terms"`
	Constants constants           `json:"constants"`
	Hardware  map[string]Hardware `json:"hardware"`
	Aliases   map[string]string   `json:"hardware_aliases"`
	Routing   struct {
		Rule  string `json:"rule"`
		Dense string `json:"dense"`
		MoE   string `json:"moe"`
	} `json:"routing"`
	Models         map[string]modelEntry `json:"models"`
	OutsideSupport struct {
		Rule    string `json:"rule"`
		Meaning string `json:"meaning"`
	} `json:"outside_support"`
	TrainedOn      trainedOn            `json:"trained_on"`
	Uncertainty    uncertainty          `json:"uncertainty"`
	Overheads      Overheads            `json:"overheads"`
	XGBoostVersion string               `json:"xgboost_version"`
	Files          map[string]fileEntry `json:"files"`
	Provenance     json.RawMessage      `json:"provenance"`
}

// parseManifest reads a manifest and checks everything in it that does not need the other files.
func parseManifest(data []byte) (*manifest, error) {
	var version struct {
		Format        string      `json:"format"`
		FormatVersion json.Number `json:"format_version"`
	}
	if err := decode(data, false, &version); err != nil {
		return nil, err
	}
	if version.Format != format || version.FormatVersion.String() != fmt.Sprint(formatVersion) {
		return nil, fmt.Errorf("format %q version %q; expected %q version %d", version.Format, version.FormatVersion, format, formatVersion)
	}
	var m manifest
	if err := decode(data, true, &m); err != nil {
		return nil, err
	}
	for _, check := range []func() error{m.checkLists, m.checkNumbers, m.checkModels, m.checkUncertainty} {
		if err := check(); err != nil {
			return nil, err
		}
	}
	return &m, nil
}

func (m *manifest) featureNames() []string {
	names := make([]string, len(m.Features))
	for i, feature := range m.Features {
		names[i] = feature.Name
	}
	return names
}

func (m *manifest) checkLists() error {
	if len(m.Features) < 1 || len(m.Features) > maxFeatures {
		return fmt.Errorf("%d features; expected 1 to %d", len(m.Features), maxFeatures)
	}
	for i, feature := range m.Features {
		if _, ok := featureIndex[feature.Name]; !ok {
			return fmt.Errorf("unknown feature %q", feature.Name)
		}
		if feature.Index != i || feature.DType != "float32" {
			return fmt.Errorf("feature %q has index %d and dtype %q; expected %d and float32", feature.Name, feature.Index, feature.DType, i)
		}
	}
	if len(m.Terms) != int(numTerms) {
		return fmt.Errorf("%d terms; expected %d", len(m.Terms), numTerms)
	}
	for i, name := range m.Terms {
		if name != TermNames[i] {
			return fmt.Errorf("unknown term %q; expected %q", name, TermNames[i])
		}
	}
	if m.Routing.Rule != routingRule || m.OutsideSupport.Rule != trustRule {
		return fmt.Errorf("rules %q and %q; expected %q and %q", m.Routing.Rule, m.OutsideSupport.Rule, routingRule, trustRule)
	}
	return nil
}

func within(name string, value, low, high float64) error {
	if !(value >= low && value <= high) {
		return fmt.Errorf("%s=%g; expected %g to %g", name, value, low, high)
	}
	return nil
}

func (m *manifest) checkNumbers() error {
	c, o := &m.Constants, &m.Overheads
	checks := []bounded{
		{"activation_bytes", c.ActivationBytes, 0.125, 16}, {"kv_bytes", c.KVBytes, 0.125, 16},
		{"attention_tile_queries", c.TileQueries, 1, 65536}, {"gemm_efficiency", c.GEMMEfficiency, 0.001, 1},
		{"attention_efficiency", c.AttentionEfficiency, 0.001, 1}, {"one_shot_latency_us", c.OneShotLatencyUS, 0, 1e6},
		{"one_shot_efficiency", c.OneShotEfficiency, 0.001, 1}, {"two_shot_latency_us", c.TwoShotLatencyUS, 0, 1e6},
		{"two_shot_rank_us", c.TwoShotRankUS, 0, 1e6}, {"two_shot_efficiency", c.TwoShotEfficiency, 0.001, 1},
		{"two_shot_few_ranks", c.TwoShotFewRanks, 1, 65536}, {"least_nvlink_bytes_s", c.LeastNVLinkBytesS, 1e6, 1e18}, {"number of two_shot_bytes", float64(len(c.TwoShotBytes)), 2, 2},
		{"sampler_latency_us", c.SamplerLatencyUS, 0, 1e6}, {"sampler_bandwidth_bytes_s", c.SamplerBandwidthBytesS, 1e6, 1e18},
		{"sampler_us_per_million_logits", c.SamplerUSPerMillionLogits, 0, 1e6}, {"queueing_us", o.QueueingUS, 0, maxNumber},
		{"pipeline_steps", o.PipelineSteps, 0, maxPipelineSteps}, {"post_decode_us", o.PostDecodeUS, 0, maxNumber}, {"output_token_us", o.OutputTokenUS, 0, maxNumber},
	}
	for _, size := range c.TwoShotBytes {
		checks = append(checks, bounded{"two_shot_bytes", size, 0, maxNumber})
	}
	for name, h := range m.Hardware {
		checks = append(checks, h.checks(name)...)
	}
	for _, b := range checks {
		if err := within(b.name, b.value, b.low, b.high); err != nil {
			return err
		}
	}
	for alias, name := range m.Aliases {
		if _, ok := m.Hardware[name]; !ok {
			return fmt.Errorf("hardware alias %q names %q, which is not in the table", alias, name)
		}
	}
	return nil
}

func (m *manifest) checkModels() error {
	for _, name := range []string{m.Routing.Dense, m.Routing.MoE} {
		if _, ok := m.Models[name]; !ok {
			return fmt.Errorf("routing names model %q, which is not there", name)
		}
	}
	for name, model := range m.Models {
		if model.Booster != "booster.json" && model.Booster != "booster_moe.json" {
			return fmt.Errorf("model %q has booster %q; expected booster.json or booster_moe.json", name, model.Booster)
		}
		if len(model.Coefficients) != len(m.Terms) || len(model.Support.Low) != len(m.Features) || len(model.Support.High) != len(m.Features) {
			return fmt.Errorf("model %q: coefficients or support of another length than terms and features", name)
		}
		for _, value := range model.Coefficients {
			if err := within("coefficient of "+name, value, 0, maxNumber); err != nil {
				return err
			}
		}
		for i, low := range model.Support.Low {
			if !(low <= model.Support.High[i]) || math.IsInf(float64(low), 0) {
				return fmt.Errorf("model %q: support of feature %d is %g to %g", name, i, low, model.Support.High[i])
			}
		}
	}
	return nil
}
