package h3bundle

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Architecture is a decoder-only transformer; the fields are those of h3's architecture.Architecture. BytesPerParameter is that
// of FFN and experts; 0 in the fields after it stands for 16 bits, three FFN matrices, no windows and no latent attention.
type Architecture struct {
	NumLayers, HiddenSize, NumHeads, NumKVHeads, HeadDim, VocabSize int64
	DenseFFNSize, NumMoELayers, NumExperts, ExpertsPerToken         int64
	ExpertFFNSize, SharedFFNSize                                    int64
	BytesPerParameter                                               float64

	AttentionBytesPerParameter, HeadBytesPerParameter, KVBytesPerValue float64
	FFNMatrices, WindowTokens, NumWindowLayers                         int64
	KVLoraRank, QLoraRank, QKRopeHeadDim, VHeadDim                     int64
}

// MoE says whether the model routes tokens to experts.
func (a Architecture) MoE() bool { return a.NumExperts >= 2 }

// completed puts what 0 stands for.
func (a Architecture) completed() Architecture {
	for _, size := range []*float64{&a.AttentionBytesPerParameter, &a.HeadBytesPerParameter, &a.KVBytesPerValue} {
		if *size == 0 {
			*size = 2
		}
	}
	if a.FFNMatrices == 0 {
		a.FFNMatrices = 3
	}
	return a
}

// Served is how a server is asked to hold weights and KV cache: vLLM's --dtype (or "fp8") and --kv-cache-dtype; "" is auto.
type Served struct{ DType, KVCacheDType string }

// languageModel: where a model that reads images, too, has the config of its language model.
var languageModel = []string{"text_config", "llm_config", "language_config"}

// What published configs of a family leave out (transformers' Gemma3TextConfig).
var (
	gemma3 = map[string]any{
		"vocab_size": json.Number("262208"), "num_attention_heads": json.Number("8"), "num_key_value_heads": json.Number("4"),
		"head_dim": json.Number("256"), "sliding_window": json.Number("4096"),
	}
	familyLeavesOut = map[string]map[string]any{"gemma3": gemma3, "gemma3_text": gemma3}
)

type hfConfig struct {
	text, outer map[string]any
}

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

// ParseConfig reads a HuggingFace config.json by the rules of h3's hf_config.from_hf_config; the error names the key.
func ParseConfig(data []byte) (Architecture, error) { return ParseConfigServed(data, Served{}) }

// ParseConfigServed reads it as it is served with these precisions.
func ParseConfigServed(data []byte, served Served) (Architecture, error) {
	var outer map[string]any
	if err := decode(data, false, &outer); err != nil {
		return Architecture{}, fmt.Errorf("config.json: %w", err)
	}
	arch, err := architecture(outer, served)
	if err != nil {
		return Architecture{}, fmt.Errorf("config.json: %w", err)
	}
	return arch, nil
}

// languagePart is a config whose text is its language model's part, where it has one.
func languagePart(outer map[string]any) (hfConfig, error) {
	config := hfConfig{outer, outer}
	for _, key := range languageModel {
		nested, err := config.object(key)
		if err != nil {
			return config, err
		}
		if nested != nil {
			config.text = nested
			break
		}
	}
	return config, nil
}

func architecture(outer map[string]any, served Served) (a Architecture, err error) {
	config, err := languagePart(outer)
	if err != nil {
		return a, err
	}
	if defaults := familyLeavesOut[config.modelType()]; defaults != nil {
		text := maps.Clone(defaults)
		maps.Copy(text, config.text)
		config.text = text
	}
	for _, read := range []func(*Architecture) error{
		config.refuseOthers, config.attention, config.windows, config.latent, config.ffn,
		func(a *Architecture) error { return config.precision(a, served) },
	} {
		if err = read(&a); err != nil {
			return Architecture{}, err
		}
	}
	return a, nil
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

// anywhere is a value of the language model's part, else of the whole.
func (c hfConfig) anywhere(key string) any {
	if value := c.text[key]; value != nil {
		return value
	}
	return c.outer[key]
}

func (c hfConfig) modelType() string {
	for _, config := range []map[string]any{c.text, c.outer} {
		if value := config["model_type"]; truthy(value) {
			return strings.ToLower(fmt.Sprint(value))
		}
	}
	return ""
}

// name is the first of the names that has a value, else the first.
func (c hfConfig) name(names []string) string {
	for _, name := range names {
		if c.text[name] != nil {
			return name
		}
	}
	return names[0]
}

// positive is a whole number from 1 to 2^31-1 under any of the names; unset (if > 0) where there is none.
func (c hfConfig) positive(unset int64, names ...string) (int64, error) {
	key := c.name(names)
	value := c.text[key]
	if value == nil {
		if unset > 0 {
			return unset, nil
		}
		return 0, fmt.Errorf("key %q is missing; expected a positive whole number", key)
	}
	most := int64(maxSize)
	if key == "sliding_window" || key == "attention_chunk_size" { // as long as contexts
		most = maxTokens
	}
	number, ok := whole(value)
	if !ok || number <= 0 || number > most {
		return 0, fmt.Errorf("%s=%.60v; expected a positive whole number, at most %d", key, value, most)
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

// count is an optional whole number; 0 where it is absent, null or false.
func (c hfConfig) count(names ...string) (int64, error) {
	key := c.name(names)
	if !truthy(c.text[key]) {
		return 0, nil
	}
	return c.positive(0, key)
}

// list is an optional list; empty where it is absent or null.
func (c hfConfig) list(key string) ([]any, error) {
	value := c.text[key]
	if value == nil {
		return nil, nil
	}
	items, ok := value.([]any)
	if !ok {
		return nil, fmt.Errorf("%s=%v; expected a list", key, value)
	}
	return items, nil
}

// layers are the numbers of layers in an optional list; what is no whole number names none.
func (c hfConfig) layers(key string) (map[int64]bool, error) {
	items, err := c.list(key)
	if err != nil {
		return nil, err
	}
	found := map[int64]bool{}
	for _, item := range items {
		if number, ok := whole(item); ok {
			found[number] = true
		}
	}
	return found, nil
}

// object is an optional object, of the language model's part or of the whole; nil where it is absent or empty.
func (c hfConfig) object(key string) (map[string]any, error) {
	value := c.anywhere(key)
	if !truthy(value) {
		return nil, nil
	}
	object, ok := value.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("%s=%v; expected a mapping", key, value)
	}
	return object, nil
}

// firstTruthy is the first of the keys with a value that counts; "" for none.
func (c hfConfig) firstTruthy(keys []string) string {
	for _, key := range keys {
		if truthy(c.text[key]) {
			return key
		}
	}
	return ""
}

// oneOf says whether a value is one of the texts.
func oneOf(value any, texts ...string) bool {
	text, ok := value.(string)
	return ok && slices.Contains(texts, text)
}
