package h3bundle

import (
	"fmt"
	"math"
	"regexp"
	"strings"
)

var (
	dtypes       = map[string]float64{"float32": 2, "float16": 2, "bfloat16": 2, "float8_e4m3fn": 1, "int8": 1}
	servedDTypes = map[string]float64{"float16": 2, "half": 2, "bfloat16": 2, "float32": 4, "float": 4, "fp8": 1}
	kvDTypes     = map[string]float64{"float16": 2, "bfloat16": 2, "fp8": 1, "fp8_e4m3": 1, "fp8_e5m2": 1}
	grouped      = []string{"awq", "gptq", "gptq_marlin", "awq_marlin", "auto-round", "auto_round", "intel/auto-round", "hqq"}

	attentionModules = []string{"q_proj", "qkv_proj", "o_proj", "q_a_proj", "kv_a_proj_with_mqa", "W_pack"}
	ffnModules       = []string{
		"mlp.gate_proj", "mlp.experts.0.gate_proj", "feed_forward.experts.gate_up_proj", "block_sparse_moe.experts.0.w1", "mlp.experts",
	}
)

const (
	wide       = 2.0 // what is not quantised is served in 16 bits
	scaleBytes = 2.0
	usualGroup = 128
)

// precision fills in bytes of weights by part and of a KV value: as published, then as served.
func (c hfConfig) precision(a *Architecture, served Served) error {
	quantised, err := c.object("quantization_config")
	if err != nil {
		return err
	}
	a.KVBytesPerValue = wide
	if eightBitCache(quantised) {
		a.KVBytesPerValue = 1
	}
	if quantised != nil {
		err = quantisedWeights(a, quantised)
	} else {
		err = c.plainWeights(a)
	}
	if err != nil {
		return err
	}
	return served.of(a)
}

func (c hfConfig) plainWeights(a *Architecture) error {
	stored, err := c.stored()
	a.storeIn(stored)
	return err
}

// storeIn puts all weights into so many bytes; the LM head has two at least, as quantisers leave it.
func (a *Architecture) storeIn(bytes float64) {
	a.BytesPerParameter, a.AttentionBytesPerParameter, a.HeadBytesPerParameter = bytes, bytes, max(bytes, wide)
}

// of changes a published architecture as h3's served.Served does: 16 bits leave quantised weights as they are, and a model that
// runs in 32 bits keeps its KV cache in them.
func (served Served) of(a *Architecture) error {
	weights, err := asked("dtype", served.DType, servedDTypes)
	if err != nil {
		return err
	}
	cache, err := asked("kv_cache_dtype", served.KVCacheDType, kvDTypes)
	if err != nil {
		return err
	}
	if cache == 0 && weights > wide {
		cache = weights
	}
	if cache > 0 {
		a.KVBytesPerValue = cache
	}
	if weights == 0 || weights == wide || weights == a.BytesPerParameter {
		return nil
	}
	if min(a.BytesPerParameter, a.AttentionBytesPerParameter) < wide {
		return fmt.Errorf("dtype=%q of weights that are quantised; expected auto, float16 or bfloat16", served.DType)
	}
	a.storeIn(weights)
	return nil
}

// asked is the size that a server was asked for; 0 for auto.
func asked(key, value string, known map[string]float64) (float64, error) {
	size, ok := known[value]
	if !ok && value != "" && value != "auto" {
		return 0, fmt.Errorf("%s=%q; expected auto, float16, bfloat16 or one of fp8's names", key, value)
	}
	return size, nil
}

// stored is the size of weights that no config quantises; 32-bit ones are served in 16 bits.
func (c hfConfig) stored() (float64, error) {
	for _, key := range []string{"torch_dtype", "dtype"} {
		if value := c.anywhere(key); truthy(value) {
			dtype, _ := value.(string)
			size, ok := dtypes[strings.TrimPrefix(dtype, "torch.")]
			if !ok {
				return 0, fmt.Errorf("torch_dtype=%v; expected float32, float16, bfloat16, float8_e4m3fn or int8", value)
			}
			return size, nil
		}
	}
	return dtypes["bfloat16"], nil
}

func quantisedWeights(a *Architecture, quantised map[string]any) error {
	stored, err := storedBytes(quantised)
	if err != nil {
		return err
	}
	a.BytesPerParameter, a.AttentionBytesPerParameter, a.HeadBytesPerParameter = stored, stored, max(stored, wide)
	if quantised["lm_head"] == true { // GPTQ says so
		a.HeadBytesPerParameter = stored
	}
	patterns := leftOut(quantised)
	if mostMatch(patterns, a.NumLayers, "self_attn.", attentionModules) {
		a.AttentionBytesPerParameter = wide
	}
	if mostMatch(patterns, a.NumLayers, "", ffnModules) {
		a.BytesPerParameter = wide
	}
	return nil
}

// storedBytes are the bytes of a quantised weight, with its share of the scales of its group.
func storedBytes(quantised map[string]any) (float64, error) {
	method, algorithm := lower(quantised["quant_method"]), lower(quantised["quant_algo"])
	switch {
	case method == "compressed-tensors":
		return compressedBytes(quantised)
	case method == "mxfp4":
		return 0.5 + 1.0/32, nil
	case strings.Contains(algorithm, "nvfp4"):
		return 0.5 + 1.0/16, nil
	case strings.Contains(method, "fp8") || strings.Contains(algorithm, "fp8"):
		return 1, nil
	case method == "bitsandbytes" || truthy(quantised["load_in_4bit"]) || truthy(quantised["load_in_8bit"]):
		return bitsAndBytes(quantised), nil
	}
	for _, key := range []string{"bits", "w_bit"} {
		if quantised[key] == nil {
			continue
		}
		bits, err := wholeBits(key, quantised[key])
		if err != nil {
			return 0, err
		}
		group := groupSize(quantised, method)
		scales := scaleBytes
		if bits < 8 {
			scales += bits / 8
		}
		if group > 0 {
			return bits/8 + scales/group, nil
		}
		return bits / 8, nil
	}
	return 0, fmt.Errorf("quantization_config: quant_method=%q without bits; expected bits, or one of fp8, mxfp4, compressed-tensors, modelopt, bitsandbytes", method)
}

// groupSize is how many weights share a scale; 0 where each channel or tensor has one.
func groupSize(quantised map[string]any, method string) float64 {
	for _, key := range []string{"group_size", "q_group_size"} {
		if value, there := quantised[key]; there {
			size, _ := whole(value)
			return float64(max(0, size))
		}
	}
	if oneOf(method, grouped...) {
		return usualGroup
	}
	return 0
}

func wholeBits(key string, value any) (float64, error) {
	bits, ok := whole(value)
	if !ok || bits <= 0 || bits > 16 {
		return 0, fmt.Errorf("%s=%v; expected a positive whole number, of bits up to 16", key, value)
	}
	return float64(bits), nil
}

// compressedBytes are those of the layers of a compressed-tensors config, all of one size.
func compressedBytes(quantised map[string]any) (float64, error) {
	narrowest, widest := math.Inf(1), 0.0
	groups, _ := quantised["config_groups"].(map[string]any)
	for _, each := range groups {
		group, _ := each.(map[string]any)
		weights, ok := group["weights"].(map[string]any)
		if !ok {
			continue
		}
		bits, err := wholeBits("num_bits", weights["num_bits"])
		if err != nil {
			return 0, err
		}
		scale := scaleBytes
		if bits == 4 && oneOf(weights["type"], "float") {
			scale = 1
		}
		if symmetric, there := weights["symmetric"]; there && !truthy(symmetric) {
			scale += bits / 8
		}
		stored := bits / 8
		if size, _ := whole(weights["group_size"]); size > 0 && bits < 8 {
			stored += scale / float64(size)
		}
		narrowest, widest = min(narrowest, stored), max(widest, stored)
	}
	if widest == 0 {
		return 0, fmt.Errorf("quantization_config: no config_groups with weights.num_bits; expected some")
	}
	if narrowest < widest {
		return 0, fmt.Errorf("config_groups of %g and %g bytes; expected one size", narrowest, widest)
	}
	return widest, nil
}

// bitsAndBytes: a 32-bit scale for 64 weights of 4 bits, quantised to 8 bits itself where doubled.
func bitsAndBytes(quantised map[string]any) float64 {
	if !truthy(quantised["load_in_4bit"]) {
		return 1
	}
	if truthy(quantised["bnb_4bit_use_double_quant"]) {
		return 0.5 + (1+4.0/256)/64
	}
	return 0.5 + 4.0/64
}

// leftOut are the patterns of modules that stay as they are; one that is no regular expression names none.
func leftOut(quantised map[string]any) []*regexp.Regexp {
	var patterns []*regexp.Regexp
	for _, key := range []string{"ignore", "modules_to_not_convert", "ignored_layers", "exclude_modules"} {
		items, _ := quantised[key].([]any)
		for _, item := range items {
			if pattern, err := regexp.Compile(asRegexp(fmt.Sprint(item))); err == nil {
				patterns = append(patterns, pattern)
			}
		}
	}
	return patterns
}

// asRegexp: as the quantisers read it, a regular expression after "re:", else a part of the name, * for anything.
func asRegexp(pattern string) string {
	if expression, ok := strings.CutPrefix(pattern, "re:"); ok {
		return "^(?:" + expression + ")"
	}
	parts := strings.Split(pattern, "*")
	for i := range parts {
		parts[i] = regexp.QuoteMeta(parts[i])
	}
	return `(^|\.)` + strings.Join(parts, ".*") + `($|\.)`
}

// mostMatch says whether the patterns name one of the modules in at least half of the layers.
func mostMatch(patterns []*regexp.Regexp, layers int64, place string, modules []string) bool {
	named := int64(0)
	for layer := range layers {
		if matchesAny(patterns, fmt.Sprintf("model.layers.%d.%s", layer, place), modules) {
			named++
		}
	}
	return 2*named >= layers
}

func matchesAny(patterns []*regexp.Regexp, prefix string, modules []string) bool {
	for _, pattern := range patterns {
		for _, module := range modules {
			if pattern.MatchString(prefix + module) {
				return true
			}
		}
	}
	return false
}

func eightBitCache(quantised map[string]any) bool {
	scheme, _ := quantised["kv_cache_scheme"].(map[string]any)
	bits, _ := whole(scheme["num_bits"])
	return bits == 8 || lower(quantised["kv_cache_quant_algo"]) == "fp8"
}

func lower(value any) string {
	text, _ := value.(string)
	return strings.ToLower(text)
}
