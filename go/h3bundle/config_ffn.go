package h3bundle

import (
	"fmt"
	"math"
	"slices"
)

var (
	expertCountKeys = []string{"num_experts", "moe_num_experts", "n_routed_experts", "num_local_experts", "num_routed_experts"}
	topKKeys        = []string{"num_experts_per_tok", "num_experts_per_token", "experts_per_token", "moe_topk", "top_k"}
	moeStepKeys     = []string{"decoder_sparse_step", fromZero, "interleave_moe_layer_step"}
	// ungated families have two FFN matrices, four times as wide as the model where no width is given.
	ungated = []string{
		"falcon", "refinedweb", "refinedwebmodel", "gpt2", "gpt_neo", "gpt_neox", "gptj", "gpt_bigcode", "opt",
		"bloom", "mpt", "phi", "starcoder2", "nemotron", "codegen", "arcee", "apertus",
	}
	// refused families' steps are of other make: recurrent or linear layers, cross-attention, encoders, sparse attention,
	// two attentions a layer, latent attention whose keys and values are kept whole (MiniCPM3).
	refused = []string{
		"mamba", "mamba2", "falcon_mamba", "falcon_h1", "jamba", "bamba", "zamba", "zamba2", "nemotron_h",
		"rwkv", "recurrent_gemma", "granitemoehybrid", "qwen3_next", "minimax", "kimi_linear", "lfm2", "plamo2", "arctic",
		"mllama", "mllama_text_model", "t5", "bart", "whisper", "gemma3n", "gemma3n_text", "deepseek_v32",
		"deepseek_v4", "minicpm3", "longcat_flash", "bert", "roberta", "xlm-roberta", "modernbert",
	}
	// refusedKeys: the same by what a config has, of whatever family: the kind of layers, and its keys.
	refusedKeys = []struct {
		kind string
		keys []string
	}{
		{"recurrent layers", []string{
			"ssm_cfg", "ssm_state_size", "mamba_d_state", "mamba_d_ssm", "attn_layer_period", "layers_block_type", "hybrid_override_pattern",
		}},
		{linearAttention, []string{"linear_attn_config", "full_attention_interval", "linear_num_value_heads"}},
		{"cross-attention", []string{"cross_attention_layers"}},
		{"sparse attention", []string{"index_topk", "compress_ratios"}},
		{"a dense FFN beside the experts", []string{"parallel_attn_mlp_res"}},
		{"two attentions a layer", []string{"expert_ffn_hidden_size"}},
		// attention whose sizes differ between the layers (Gemma 4, MiMo-V2), or whose cache they share
		{"layers that differ in size or share a cache", []string{
			"block_configs", "global_head_dim", "num_global_key_value_heads", "num_kv_shared_layers", "hidden_size_per_layer_input",
			"hybrid_layer_pattern", "swa_num_key_value_heads",
		}},
	}
)

const (
	ungatedWidth     = 4
	bothHalves       = "qwen"           // the first Qwen gives the width of gate and up projection together
	fromZero         = "moe_layer_freq" // DeepSeek counts layers from 0, Qwen and Llama from 1
	kindsOfAttention = "attn_type_list" // MiniMax: 0 is linear attention
	linearAttention  = "linear attention"
	expectedDecoder  = "expected a decoder of attention and FFN layers"
)

func (c hfConfig) refuseOthers(*Architecture) error {
	for _, other := range refusedKeys {
		if key := c.firstTruthy(other.keys); key != "" {
			return fmt.Errorf("%s: %s: not counted; %s", key, other.kind, expectedDecoder)
		}
	}
	kinds, err := c.list(kindsOfAttention)
	if err != nil {
		return err
	}
	if counted(kinds, int64(len(kinds))) < int64(len(kinds)) {
		return fmt.Errorf("%s: %s: not counted; %s", kindsOfAttention, linearAttention, expectedDecoder)
	}
	if slices.Contains(refused, c.modelType()) {
		return fmt.Errorf("model_type=%q: its steps are not counted; %s", c.modelType(), expectedDecoder)
	}
	if truthy(c.anywhere("is_encoder_decoder")) {
		return fmt.Errorf("is_encoder_decoder=true: encoders are not counted; expected a decoder-only model")
	}
	return nil
}

func (c hfConfig) ffn(a *Architecture) error {
	a.FFNMatrices = 3
	width := int64(0)
	if slices.Contains(ungated, c.modelType()) || oneOf(c.anywhere("hidden_act"), "relu2") {
		a.FFNMatrices, width = 2, ungatedWidth*a.HiddenSize
	}
	ffn, err := c.positive(width, "intermediate_size", "ffn_hidden_size", "n_inner", "ffn_dim")
	if err != nil {
		return err
	}
	if c.modelType() == bothHalves {
		ffn /= 2
	}
	if err := c.experts(a, ffn); err != nil {
		return err
	}
	dense, err := c.count("intermediate_size_mlp") // Llama 4: of the layers without experts
	if err != nil {
		return err
	}
	if dense == 0 {
		dense = ffn
	}
	if a.NumMoELayers < a.NumLayers {
		a.DenseFFNSize = dense
	}
	return nil
}

func (c hfConfig) experts(a *Architecture, ffn int64) error {
	countKey := ""
	for _, key := range expertCountKeys {
		number, err := c.count(key)
		if err != nil {
			return err
		}
		if countKey == "" && number >= 2 {
			countKey = key
		}
	}
	if countKey == "" {
		return nil
	}
	experts, err := c.positive(0, countKey)
	if err != nil {
		return err
	}
	topKKey := c.firstTruthy(topKKeys)
	if topKKey == "" {
		return fmt.Errorf("%s=%d but no num_experts_per_tok; expected the experts that a token visits", countKey, experts)
	}
	topK, err := c.positive(0, topKKey)
	if err != nil {
		return err
	}
	if topK > experts {
		return fmt.Errorf("%s=%d exceeds %s=%d; expected at most that", topKKey, topK, countKey, experts)
	}
	a.NumExperts, a.ExpertsPerToken = experts, topK
	if a.ExpertFFNSize, err = c.positive(ffn, "moe_intermediate_size"); err != nil {
		return err
	}
	if a.SharedFFNSize, err = c.shared(a.ExpertFFNSize); err != nil {
		return err
	}
	a.NumMoELayers, err = c.moeLayers(a.NumLayers)
	return err
}

// shared is the total width of the experts that every token visits; Llama 4 has one in each MoE layer.
func (c hfConfig) shared(expertFFN int64) (int64, error) {
	if truthy(c.text["intermediate_size_mlp"]) {
		return expertFFN, nil
	}
	named, err := c.count("shared_expert_intermediate_size", "shared_intermediate_size")
	if err != nil || named > 0 {
		return named, err
	}
	number, err := c.count("n_shared_experts", "num_shared_experts")
	if err == nil && expertFFN*number > math.MaxInt32 {
		err = fmt.Errorf("n_shared_experts=%d; expected fewer", number)
	}
	return expertFFN * number, err
}

// moeLayers counts the layers with experts: those listed, or every so many beyond the first dense ones but for those listed.
func (c hfConfig) moeLayers(layers int64) (int64, error) {
	listed, err := c.layers("moe_layers")
	if err != nil {
		return 0, err
	}
	if len(listed) > 0 {
		return among(listed, layers), nil
	}
	if each, ok := c.text["moe_layer_freq"].([]any); ok {
		return counted(each, layers), nil
	}
	first, err := c.count("first_k_dense_replace")
	if err != nil {
		return 0, err
	}
	step, key := int64(1), c.firstTruthy(moeStepKeys)
	if key != "" {
		if step, err = c.positive(0, key); err != nil {
			return 0, err
		}
	}
	dense, err := c.layers("mlp_only_layers")
	if err != nil {
		return 0, err
	}
	offset := int64(1)
	if key == "" || key == fromZero {
		offset = 0
	}
	count := int64(0)
	for layer := first; layer < layers; layer++ {
		if (layer+offset)%step == 0 && !dense[layer] {
			count++
		}
	}
	return count, nil
}

// among is how many of the layers are named.
func among(named map[int64]bool, layers int64) int64 {
	count := int64(0)
	for layer := range named {
		if layer >= 0 && layer < layers {
			count++
		}
	}
	return count
}
