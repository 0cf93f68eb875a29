package h3bundle

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
)

// Architecture is a decoder-only transformer; the fields are those of h3's catalog.Architecture.
type Architecture struct {
	NumLayers, HiddenSize, NumHeads, NumKVHeads, HeadDim, VocabSize int64
	DenseFFNSize, NumMoELayers, NumExperts, ExpertsPerToken         int64
	ExpertFFNSize, SharedFFNSize                                    int64
	BytesPerParameter                                               float64
}

// MoE says whether the model routes tokens to experts.
func (a Architecture) MoE() bool { return a.NumExperts >= 2 }

var (
	expertCountKeys   = []string{"num_experts", "moe_num_experts", "n_routed_experts", "num_local_experts", "num_routed_experts"}
	topKKeys          = []string{"num_experts_per_tok", "num_experts_per_token", "moe_topk", "top_k"}
	moeStepKeys       = []string{"decoder_sparse_step", "moe_layer_freq", "interleave_moe_layer_step"}
	bytesPerParameter = map[string]float64{"float32": 4, "float16": 2, "bfloat16": 2, "float8_e4m3fn": 1, "int8": 1}
)

type hfConfig map[string]any

// greedyBelow: vLLM takes a lower temperature as greedy, where nothing is truncated.
const greedyBelow = 1e-5

// TruncatesSampling says whether a generation_config.json sets top-p or top-k, by the rules of h3's sampling.truncates.
func TruncatesSampling(data []byte) (bool, error) {
	var settings struct {
		Temperature *float64 `json:"temperature"`
		TopP        *float64 `json:"top_p"`
		TopK        *float64 `json:"top_k"`
	}
	if err := decode(data, false, &settings); err != nil {
		return false, fmt.Errorf("generation_config.json: %w", err)
	}
	or := func(value *float64, otherwise float64) float64 {
		if value == nil {
			return otherwise
		}
		return *value
	}
	return or(settings.Temperature, 1) >= greedyBelow && (or(settings.TopP, 1) < 1 || or(settings.TopK, 0) > 0), nil
}

// ParseConfig reads a HuggingFace config.json by the rules of h3's catalog.from_hf_config.
//
// Gated FFNs of three matrices are assumed; latent attention (kv_lora_rank) is refused. The error names the key.
func ParseConfig(data []byte) (Architecture, error) {
	var config hfConfig
	if err := decode(data, false, &config); err != nil {
		return Architecture{}, fmt.Errorf("config.json: %w", err)
	}
	arch, err := architecture(config)
	if err != nil {
		return Architecture{}, fmt.Errorf("config.json: %w", err)
	}
	return arch, nil
}

func architecture(config hfConfig) (Architecture, error) {
	if inner := config["text_config"]; truthy(inner) {
		nested, ok := inner.(map[string]any)
		if !ok {
			return Architecture{}, fmt.Errorf("text_config is no object")
		}
		config = nested
	}
	if truthy(config["kv_lora_rank"]) {
		return Architecture{}, fmt.Errorf("kv_lora_rank=%v: multi-head latent attention is not supported", config["kv_lora_rank"])
	}
	var a Architecture
	var ffn int64
	for _, field := range []struct {
		key    string
		target *int64
		unset  *int64
		over   *int64
	}{
		{"num_hidden_layers", &a.NumLayers, nil, nil}, {"hidden_size", &a.HiddenSize, nil, nil},
		{"num_attention_heads", &a.NumHeads, nil, nil}, {"intermediate_size", &ffn, nil, nil},
		{"head_dim", &a.HeadDim, &a.HiddenSize, &a.NumHeads}, {"num_key_value_heads", &a.NumKVHeads, &a.NumHeads, nil},
		{"vocab_size", &a.VocabSize, nil, nil},
	} {
		var err error
		if *field.target, err = config.positive(field.key, quotient(field.unset, field.over)); err != nil {
			return Architecture{}, err
		}
	}
	if err := config.experts(&a, ffn); err != nil {
		return Architecture{}, err
	}
	if a.NumMoELayers < a.NumLayers {
		a.DenseFFNSize = ffn
	}
	var err error
	a.BytesPerParameter, err = config.bytesPerParameter()
	return a, err
}

// quotient is the default of a key: 0 for none.
func quotient(value, over *int64) int64 {
	switch {
	case value == nil:
		return 0
	case over == nil:
		return *value
	}
	return *value / *over
}

// truthy is Python's truth of a JSON value.
func truthy(value any) bool {
	switch v := value.(type) {
	case nil:
		return false
	case bool:
		return v
	case json.Number:
		f, err := v.Float64()
		return err != nil || f != 0
	case string:
		return v != ""
	case map[string]any:
		return len(v) > 0
	case []any:
		return len(v) > 0
	}
	return true
}

// positive is a whole number from 1 to 2^31-1; unset (if > 0) where the key is absent or null.
func (c hfConfig) positive(key string, unset int64) (int64, error) {
	value := c[key]
	if value == nil {
		if unset > 0 {
			return unset, nil
		}
		return 0, fmt.Errorf("key %q is missing; expected a positive whole number", key)
	}
	number, ok := whole(value)
	if !ok || number <= 0 || number > maxTokens {
		return 0, fmt.Errorf("%s=%v; expected a positive whole number", key, value)
	}
	return number, nil
}

func whole(value any) (int64, bool) {
	number, ok := value.(json.Number)
	if !ok {
		return 0, false
	}
	whole, err := number.Int64()
	return whole, err == nil
}

// count is a whole number of at least 0; 0 where the key is absent, null or false.
func (c hfConfig) count(key string) (int64, error) {
	if !truthy(c[key]) {
		return 0, nil
	}
	number, ok := whole(c[key])
	if !ok || number < 0 || number > maxTokens {
		return 0, fmt.Errorf("%s=%v; expected a whole number of at least 0", key, c[key])
	}
	return number, nil
}

func (c hfConfig) firstTruthy(keys []string) string {
	for _, key := range keys {
		if truthy(c[key]) {
			return key
		}
	}
	return ""
}

func (c hfConfig) experts(a *Architecture, ffn int64) error {
	countKey := ""
	for _, key := range expertCountKeys {
		if number, ok := whole(c[key]); ok && number >= 2 {
			countKey = key
			break
		}
	}
	if countKey == "" {
		return nil
	}
	experts, err := c.positive(countKey, 0)
	if err != nil {
		return err
	}
	topKKey := c.firstTruthy(topKKeys)
	if topKKey == "" {
		return fmt.Errorf("%s=%d but no num_experts_per_tok; expected the experts that a token visits", countKey, experts)
	}
	topK, err := c.positive(topKKey, 0)
	if err != nil {
		return err
	}
	if topK > experts {
		return fmt.Errorf("%s=%d exceeds %s=%d", topKKey, topK, countKey, experts)
	}
	a.NumExperts, a.ExpertsPerToken = experts, topK
	if a.ExpertFFNSize, err = c.positive("moe_intermediate_size", ffn); err != nil {
		return err
	}
	return c.moeLayers(a)
}

func (c hfConfig) moeLayers(a *Architecture) error {
	shared, err := c.count("shared_expert_intermediate_size")
	if err != nil {
		return err
	}
	if shared == 0 {
		number, err := c.count("n_shared_experts")
		if err != nil {
			return err
		}
		if shared = a.ExpertFFNSize * number; shared > math.MaxInt32*int64(1024) {
			return fmt.Errorf("n_shared_experts=%d; expected fewer", number)
		}
	}
	denseFirst, err := c.count("first_k_dense_replace")
	if err != nil {
		return err
	}
	step := int64(1)
	if key := c.firstTruthy(moeStepKeys); key != "" {
		if step, err = c.positive(key, 0); err != nil {
			return err
		}
	}
	a.SharedFFNSize = shared
	a.NumMoELayers = max(0, a.NumLayers-denseFirst) / step
	return nil
}

func (c hfConfig) bytesPerParameter() (float64, error) {
	if truthy(c["quantization_config"]) {
		quantised, ok := c["quantization_config"].(map[string]any)
		if !ok {
			return 0, fmt.Errorf("quantization_config is no object")
		}
		return quantisedBytes(quantised)
	}
	for _, key := range []string{"torch_dtype", "dtype"} {
		if truthy(c[key]) {
			dtype, _ := c[key].(string)
			size, ok := bytesPerParameter[dtype]
			if !ok {
				return 0, fmt.Errorf("%s=%v; expected float32, float16, bfloat16, float8_e4m3fn or int8", key, c[key])
			}
			return size, nil
		}
	}
	return bytesPerParameter["bfloat16"], nil
}

func quantisedBytes(quantised map[string]any) (float64, error) {
	if method, ok := quantised["quant_method"].(string); ok && strings.Contains(strings.ToLower(method), "fp8") {
		return 1, nil
	}
	unset := int64(8)
	if truthy(quantised["load_in_4bit"]) {
		unset = 4
	}
	bits, err := hfConfig(quantised).positive("bits", unset)
	if err == nil && bits > 64 {
		err = fmt.Errorf("bits=%d; expected at most 64", bits)
	}
	return float64(bits) / 8, err
}
