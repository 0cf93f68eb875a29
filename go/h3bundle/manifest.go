package h3bundle

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
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
	QueueingUS    float64 `json:"queueing_us" within:"0,1e9"`
	PipelineSteps float64 `json:"pipeline_steps,optional" within:"0,1000"`
	PostDecodeUS  float64 `json:"post_decode_us" within:"0,1e9"`
	OutputTokenUS float64 `json:"output_token_us" within:"0,1e9"`
}

type constants struct {
	ActivationBytes     float64   `json:"activation_bytes" within:"0.125,16"`
	KVBytes             float64   `json:"kv_bytes" within:"0.125,16"`
	TileQueries         float64   `json:"attention_tile_queries,whole" within:"1,65536"`
	GEMMEfficiency      float64   `json:"gemm_efficiency" within:"0.001,1"`
	AttentionEfficiency float64   `json:"attention_efficiency" within:"0.001,1"`
	OneShotLatencyUS    float64   `json:"one_shot_latency_us" within:"0,1e6"`
	OneShotEfficiency   float64   `json:"one_shot_efficiency" within:"0.001,1"`
	TwoShotLatencyUS    float64   `json:"two_shot_latency_us" within:"0,1e6"`
	TwoShotRankUS       float64   `json:"two_shot_rank_us" within:"0,1e6"`
	TwoShotEfficiency   float64   `json:"two_shot_efficiency" within:"0.001,1"`
	TwoShotFewRanks     float64   `json:"two_shot_few_ranks,whole" within:"1,65536"`
	LeastNVLinkBytesS   float64   `json:"least_nvlink_bytes_s" within:"1e6,1e18"`
	TwoShotBytes        []float64 `json:"two_shot_bytes,whole" items:"2,2" within:"0,1e9"`

	SamplerLatencyUS          float64 `json:"sampler_latency_us" within:"0,1e6"`
	SamplerUSPerMillionLogits float64 `json:"sampler_us_per_million_logits" within:"0,1e6"`
	SamplerBandwidthBytesS    float64 `json:"sampler_bandwidth_bytes_s" within:"1e6,1e18"`
}

type fileEntry struct {
	SHA256 string `json:"sha256"`
	Bytes  int64  `json:"bytes" within:"1,64e6"`
}

type modelEntry struct {
	Booster      string    `json:"booster"`
	Trees        int       `json:"trees" within:"0,10000"`
	Coefficients []float64 `json:"coefficients" within:"0,1e9"`
	Support      struct {
		Low  []float64 `json:"low" within:"-3.4e38,3.4e38"`
		High []float64 `json:"high" within:"-3.4e38,3.4e38"`
		// Deployments that the trees serve; nil: any.
		Deployments []knownDeployment `json:"deployments,optional" items:"0,4096"`
	} `json:"support"`
}

// knownDeployment is a deployment as h3's step table has it.
type knownDeployment struct {
	Hardware          string  `json:"hardware" items:"0,64"`
	TensorParallelism float64 `json:"tensor_parallelism" within:"0,2147483647"`
	NumLayers         float64 `json:"num_layers" within:"0,2147483647"`
	HiddenSize        float64 `json:"hidden_size" within:"0,2147483647"`
	NumHeads          float64 `json:"num_heads" within:"0,2147483647"`
	NumKVHeads        float64 `json:"num_kv_heads" within:"0,2147483647"`
	HeadDim           float64 `json:"head_dim" within:"0,2147483647"`
	VocabSize         float64 `json:"vocab_size" within:"0,2147483647"`
	DenseFFNSize      float64 `json:"dense_ffn_size" within:"0,2147483647"`
	NumMoELayers      float64 `json:"num_moe_layers" within:"0,2147483647"`
	NumExperts        float64 `json:"num_experts" within:"0,2147483647"`
	ExpertsPerToken   float64 `json:"experts_per_token" within:"0,2147483647"`
	ExpertFFNSize     float64 `json:"expert_ffn_size" within:"0,2147483647"`
	SharedFFNSize     float64 `json:"shared_ffn_size" within:"0,2147483647"`
	BytesPerParameter float64 `json:"bytes_per_parameter" within:"0,2147483647"`

	AttentionBytesPerParameter float64 `json:"attention_bytes_per_parameter" within:"0,2147483647"`
	HeadBytesPerParameter      float64 `json:"head_bytes_per_parameter" within:"0,2147483647"`
	KVBytesPerValue            float64 `json:"kv_bytes_per_value" within:"0,2147483647"`
	FFNMatrices                float64 `json:"ffn_matrices" within:"0,2147483647"`
	WindowTokens               float64 `json:"window_tokens" within:"0,2147483647"`
	NumWindowLayers            float64 `json:"num_window_layers" within:"0,2147483647"`
	KVLoraRank                 float64 `json:"kv_lora_rank" within:"0,2147483647"`
	QLoraRank                  float64 `json:"q_lora_rank" within:"0,2147483647"`
	QKRopeHeadDim              float64 `json:"qk_rope_head_dim" within:"0,2147483647"`
	VHeadDim                   float64 `json:"v_head_dim" within:"0,2147483647"`
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

type feature struct {
	Index   int    `json:"index"`
	Name    string `json:"name"`
	DType   string `json:"dtype"`
	Unit    string `json:"unit"`
	Group   string `json:"group"`
	Formula string `json:"formula"`
}

// features are those that this package computes, as a manifest describes them.
var features = []feature{
	{0, "kv_to_weights", "float32", "ratio", "memory", "kv_us / weights_us"},
	{1, "compute_to_weights", "float32", "ratio", "compute", "gemm_us / weights_us"},
	{2, "compute_excess_to_weights", "float32", "ratio", "compute", "compute_excess_us / weights_us"},
	{3, "prefill_attention_to_weights", "float32", "ratio", "prefill", "prefill_attention_us / weights_us"},
	{4, "all_reduce_to_weights", "float32", "ratio", "communication", "all_reduce_us / weights_us"},
	{5, "prefill_share", "float32", "ratio", "prefill", "prefill_tokens / (prefill_tokens + decode_tokens)"},
	{6, "prefill_step_share", "float32", "ratio", "prefill", "min(1, num_prefill_reqs)"},
	{7, "expert_coverage", "float32", "ratio", "experts", "1 - (1 - experts_per_token / num_experts)^tokens; 1 for dense"},
	{8, "tokens_per_expert", "float32", "tokens", "experts", "tokens * experts_per_token / num_experts; 0 for dense"},
}

type manifest struct {
	Format        string `json:"format"`
	FormatVersion int    `json:"format_version"`
	Target        struct {
		Name    string `json:"name"`
		Unit    string `json:"unit"`
		Meaning string `json:"meaning"`
	} `json:"target"`
	Formula   string              `json:"formula"`
	Features  []feature           `json:"features"`
	Terms     []string            `json:"terms"`
	Constants constants           `json:"constants"`
	Hardware  map[string]Hardware `json:"hardware" items:"1,4096"`
	Aliases   map[string]string   `json:"hardware_aliases" items:"1,4096"` // once checked: every name that the hardware answers to
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
	TrainedOn      trainedOn   `json:"trained_on"`
	Uncertainty    uncertainty `json:"uncertainty"`
	Overheads      Overheads   `json:"overheads"`
	XGBoostVersion string      `json:"xgboost_version"`
	Files          struct {
		Booster    fileEntry  `json:"booster.json"`
		BoosterMoE *fileEntry `json:"booster_moe.json,optional"`
		Golden     fileEntry  `json:"golden.json"`
	} `json:"files"`
	Provenance provenance `json:"provenance"`
}

type provenance struct {
	_          open
	DataDigest string   `json:"data_digest"`
	Commit     string   `json:"commit"`
	Folds      []object `json:"folds"`
	Data       value    `json:"data,optional"`
	Overheads  value    `json:"overheads,optional"`
}

// parseManifest reads a manifest and checks everything in it that does not need the other files.
func parseManifest(data []byte) (*manifest, error) {
	var version struct {
		_             open
		Format        string `json:"format"`
		FormatVersion int    `json:"format_version"`
	}
	content, err := parse(data)
	if err != nil {
		return nil, err
	}
	if err := content.bind(&version); err != nil {
		return nil, err
	}
	if version.Format != format || version.FormatVersion != formatVersion {
		return nil, fmt.Errorf("format %.80q version %d; expected %q version %d", version.Format, version.FormatVersion, format, formatVersion)
	}
	var m manifest
	if err := content.bind(&m); err != nil {
		return nil, err
	}
	for _, check := range []func() error{m.checkWords, m.checkFeatures, m.checkHardware, m.checkModels, m.checkUncertainty} {
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

var (
	sha256Pattern  = regexp.MustCompile(`^[0-9a-f]{64}$`)
	versionPattern = regexp.MustCompile(`^[0-9]+\.[0-9]+\.[0-9]+`)
)

// checkWords checks what has one meaning only, and the forms of digests and versions.
func (m *manifest) checkWords() error {
	for _, word := range []struct{ place, found, expected string }{
		{"target.name", m.Target.Name, "period_us"}, {"target.unit", m.Target.Unit, "us"}, {"routing.rule", m.Routing.Rule, routingRule},
		{"outside_support.rule", m.OutsideSupport.Rule, trustRule},
	} {
		if word.found != word.expected {
			return fmt.Errorf("%s: %.80q; expected %q", word.place, word.found, word.expected)
		}
	}
	if !versionPattern.MatchString(m.XGBoostVersion) {
		return fmt.Errorf("xgboost_version: %.80q; expected three numbers", m.XGBoostVersion)
	}
	for _, name := range m.fileNames() {
		if entry := m.file(name); !sha256Pattern.MatchString(entry.SHA256) {
			return fmt.Errorf("files.%s.sha256: %.80q; expected 64 hexadecimal digits", name, entry.SHA256)
		}
	}
	return nil
}

// fileNames are the files beside the manifest.
func (m *manifest) fileNames() []string {
	names := []string{"booster.json", "golden.json"}
	if m.Files.BoosterMoE != nil {
		names = append(names, "booster_moe.json")
	}
	return names
}

func (m *manifest) file(name string) *fileEntry {
	return map[string]*fileEntry{"booster.json": &m.Files.Booster, "golden.json": &m.Files.Golden, "booster_moe.json": m.Files.BoosterMoE}[name]
}

// checkFeatures checks that the features are those of this package without some groups, and all of its terms.
func (m *manifest) checkFeatures() error {
	kept := map[string]bool{}
	for _, feature := range m.Features {
		kept[feature.Group] = true
	}
	var expected []feature
	for _, known := range features {
		if kept[known.Group] {
			known.Index = len(expected)
			expected = append(expected, known)
		}
	}
	for i, feature := range m.Features {
		if i >= len(expected) || feature != expected[i] {
			return fmt.Errorf("features[%d]: unknown feature %.80q, or another meaning or place than it has in this package", i, feature.Name)
		}
	}
	if len(m.Features) < 1 || len(m.Features) != len(expected) {
		return fmt.Errorf("features: %d; expected all of a group, %d", len(m.Features), len(expected))
	}
	if !slices.Equal(m.Terms, TermNames[:]) {
		return fmt.Errorf("terms: %.200q; expected %s", m.Terms, strings.Join(TermNames[:], ", "))
	}
	return nil
}

func (m *manifest) checkModels() error {
	for _, name := range []string{m.Routing.Dense, m.Routing.MoE} {
		if _, ok := m.Models[name]; !ok {
			return fmt.Errorf("routing: %.80q; expected one of the models", name)
		}
	}
	for name, model := range m.Models {
		where := "models" + keyPlace(name)
		if model.Booster != "booster.json" && (model.Booster != "booster_moe.json" || m.Files.BoosterMoE == nil) {
			return fmt.Errorf("%s.booster: %.80q; expected booster.json, or booster_moe.json if it is among files", where, model.Booster)
		}
		if len(model.Coefficients) != len(m.Terms) || len(model.Support.Low) != len(m.Features) || len(model.Support.High) != len(m.Features) {
			return fmt.Errorf("%s: coefficients or support of another length than terms and features", where)
		}
		for i, low := range model.Support.Low {
			if high := model.Support.High[i]; low > high {
				return fmt.Errorf("%s.support: feature %d has %g to %g; expected the lower bound first", where, i, low, high)
			}
		}
	}
	return nil
}
