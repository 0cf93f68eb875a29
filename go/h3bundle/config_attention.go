package h3bundle

import "fmt"

// oneFullLayerIn: layers of families whose config does not list them; one in so many attends to everything, the others to the
// window, unless sliding_window_pattern says otherwise.
var oneFullLayerIn = map[string]int64{"gemma2": 2, "gemma3": 6, "gemma3_text": 6, "cohere2": 4}

const (
	chunkedFullLayerIn = 4 // Llama 4
	mostLayers         = 4096
)

func (c hfConfig) attention(a *Architecture) error {
	for _, field := range []struct {
		target *int64
		names  []string
		unset  func() int64
	}{
		{&a.NumLayers, []string{"num_hidden_layers", "n_layer", "num_layers", "n_layers"}, nil},
		{&a.HiddenSize, []string{"hidden_size", "n_embd", "n_embed", "d_model"}, nil},
		{&a.NumHeads, []string{"num_attention_heads", "n_head", "n_heads"}, nil},
		{&a.HeadDim, []string{"head_dim", "kv_channels"}, func() int64 { return max(1, a.HiddenSize/a.NumHeads) }},
		{&a.VocabSize, []string{"vocab_size", "padded_vocab_size"}, nil},
	} {
		unset := int64(0)
		if field.unset != nil {
			unset = field.unset()
		}
		var err error
		if *field.target, err = c.positive(unset, field.names...); err != nil {
			return err
		}
	}
	if a.NumLayers > mostLayers {
		return fmt.Errorf("num_hidden_layers=%d; expected at most %d", a.NumLayers, mostLayers)
	}
	var err error
	if a.NumKVHeads, err = c.kvHeads(a.NumHeads); err != nil {
		return err
	}
	if a.NumHeads%a.NumKVHeads != 0 {
		key := c.name([]string{"num_key_value_heads", "num_kv_heads", "n_head_kv", "multi_query_group_num"})
		return fmt.Errorf("%s=%d; expected a divisor of the %d heads", key, a.NumKVHeads, a.NumHeads)
	}
	return nil
}

// kvHeads are the key/value heads; Falcon, ChatGLM and BigCode say "multi query" first.
func (c hfConfig) kvHeads(heads int64) (int64, error) {
	switch {
	case c.text["num_key_value_heads"] != nil:
		return c.positive(0, "num_key_value_heads")
	case truthy(c.text["new_decoder_architecture"]) || truthy(c.text["n_head_kv"]):
		return c.positive(0, "num_kv_heads", "n_head_kv")
	case truthy(c.text["multi_query_attention"]):
		return c.positive(0, "multi_query_group_num")
	case truthy(c.text["multi_query"]):
		return 1, nil
	}
	return heads, nil
}

// latent reads the sizes of latent attention (MLA), where there is one.
func (c hfConfig) latent(a *Architecture) error {
	rank, err := c.count("kv_lora_rank")
	if err != nil || rank == 0 {
		return err
	}
	a.KVLoraRank = rank
	if a.QLoraRank, err = c.count("q_lora_rank"); err != nil {
		return err
	}
	if a.QKRopeHeadDim, err = c.positive(0, "qk_rope_head_dim"); err != nil {
		return err
	}
	plain, err := c.positive(0, "qk_nope_head_dim")
	if err != nil {
		return err
	}
	a.HeadDim = plain + a.QKRopeHeadDim
	a.VHeadDim, err = c.positive(0, "v_head_dim")
	return err
}

// windows counts the layers with a sliding window and how far it reaches; chunked attention counts as a window of the chunk.
func (c hfConfig) windows(a *Architecture) error {
	size, err := c.count("sliding_window")
	if err == nil && size == 0 {
		size, err = c.count("attention_chunk_size")
	}
	if err != nil {
		return err
	}
	layers, err := c.windowLayers(a.NumLayers, size)
	if err != nil {
		return err
	}
	if size > 0 && layers > 0 {
		a.WindowTokens, a.NumWindowLayers = size, layers
	}
	return nil
}

func (c hfConfig) windowLayers(layers, size int64) (int64, error) {
	kinds, err := c.list("layer_types")
	if err != nil {
		return 0, err
	}
	if len(kinds) > 0 {
		return listedWindows(kinds, layers)
	}
	if size == 0 {
		return 0, nil
	}
	if used := c.text["use_sliding_window"]; used != nil { // Qwen
		if !truthy(used) {
			return 0, nil
		}
		first, err := c.count("max_window_layers")
		return max(0, layers-first), err
	}
	if truthy(c.text["attention_chunk_size"]) {
		return c.chunkedLayers(layers)
	}
	oneIn, err := c.count("sliding_window_pattern")
	if err != nil {
		return 0, err
	}
	if oneIn == 0 {
		oneIn = oneFullLayerIn[c.modelType()]
	}
	if oneIn == 0 {
		return layers, nil
	}
	return layers - layers/oneIn, nil
}

func listedWindows(kinds []any, layers int64) (int64, error) {
	if int64(len(kinds)) < layers {
		return 0, fmt.Errorf("layer_types has %d layers; expected num_hidden_layers=%d", len(kinds), layers)
	}
	count := int64(0)
	for i, kind := range kinds {
		window := oneOf(kind, "sliding_attention", "chunked_attention")
		if !window && !oneOf(kind, "full_attention") {
			return 0, fmt.Errorf("layer_types has %v; expected sliding_attention, chunked_attention, full_attention", kind)
		}
		if window && int64(i) < layers {
			count++
		}
	}
	return count, nil
}

func (c hfConfig) chunkedLayers(layers int64) (int64, error) {
	rotary, err := c.list("no_rope_layers") // 1: rotary positions, and chunked
	if err != nil {
		return 0, err
	}
	if len(rotary) > 0 {
		return counted(rotary, layers), nil
	}
	interval, err := c.count("no_rope_layer_interval")
	if interval == 0 {
		interval = chunkedFullLayerIn
	}
	return layers - layers/interval, err
}

// counted is how many of the first values count as true.
func counted(values []any, first int64) int64 {
	count := int64(0)
	for i, value := range values {
		if int64(i) < first && truthy(value) {
			count++
		}
	}
	return count
}
