package h3bundle

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

func kernelOn(t testing.TB, config string, tp int, expertParallel bool) *Kernel {
	t.Helper()
	arch, err := ParseConfig([]byte(config))
	if err != nil {
		t.Fatal(err)
	}
	kernel, err := openGolden(t).Kernel(Deployment{Architecture: arch, TensorParallelism: tp, Hardware: "H100", ExpertParallel: expertParallel})
	if err != nil {
		t.Fatal(err)
	}
	return kernel
}

const (
	llama7B  = `{"num_hidden_layers":32,"hidden_size":4096,"num_attention_heads":32,"intermediate_size":11008,"vocab_size":32000}`
	llama70B = `{"num_hidden_layers":80,"hidden_size":8192,"num_attention_heads":64,"num_key_value_heads":8,"intermediate_size":28672,"vocab_size":32000}`
	mixtral  = `{"num_hidden_layers":32,"hidden_size":4096,"num_attention_heads":32,"num_key_value_heads":8,"intermediate_size":14336,
		"vocab_size":32000,"num_local_experts":8,"num_experts_per_tok":2}`
	latent = `{"num_hidden_layers":2,"hidden_size":2048,"num_attention_heads":16,"intermediate_size":10944,"vocab_size":102400,
		"kv_lora_rank":512,"qk_rope_head_dim":64,"qk_nope_head_dim":128,"v_head_dim":128}`
	windowed = `{"num_hidden_layers":6,"hidden_size":1024,"num_attention_heads":8,"num_key_value_heads":4,"head_dim":128,"intermediate_size":4096,
		"vocab_size":32000,"sliding_window":1000,"sliding_window_pattern":6}`
)

func TestWeightsOfARankAreThoseOfHandCounts(t *testing.T) {
	for name, c := range map[string]struct {
		config   string
		tp       int
		ep, tied bool
		bytes    int64
	}{
		"llama-2-7b":          {llama7B, 1, false, false, 2 * (32*(4096*128*(2*32+2*32)+3*4096*11008) + 2*4096*32000)},
		"llama-2-7b, tied":    {llama7B, 1, false, true, 2 * (32*(4096*128*(2*32+2*32)+3*4096*11008) + 4096*32000)},
		"llama-2-70b, tp 4":   {llama70B, 4, false, false, 2 * (80*(8192*128*(2*16+2*2)+3*8192*28672/4) + 2*8192*32000/4)},
		"llama-2-70b, tp 16":  {llama70B, 16, false, false, 2 * (80*(8192*128*(2*4+2*1)+3*8192*28672/16) + 2*8192*32000/16)},
		"mixtral, tp 2":       {mixtral, 2, false, false, 2 * (32*(4096*128*(2*16+2*4)+8*3*4096*14336/2) + 2*4096*32000/2)},
		"mixtral, tp 16 ep":   {mixtral, 16, true, false, 2 * (32*(4096*128*(2*2+2*1)+1*3*4096*14336) + 2*4096*32000/16)},
		"latent vector, tp 4": {latent, 4, false, false, 2 * (2*(2048*4*192+2048*(512+64)+512*4*(128+128)+4*128*2048+3*2048*10944/4) + 2*2048*102400/4)},
	} {
		if bytes := kernelOn(t, c.config, c.tp, c.ep).WeightBytes(c.tied); bytes != c.bytes {
			t.Errorf("%s: %d bytes; expected %d", name, bytes, c.bytes)
		}
	}
}

func TestPublishedModelsHoldTheirParameters(t *testing.T) {
	data, err := os.ReadFile(filepath.Join("testdata", "architectures.json"))
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Cases []struct {
			Name       string          `json:"name"`
			Config     json.RawMessage `json:"config"`
			Parameters float64         `json:"parameters"`
		} `json:"cases"`
	}
	if err := json.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	compared := 0
	for _, c := range file.Cases {
		kernel, tied := kernelOn(t, string(c.Config), 1, false), tiedIn(t, c.Config)
		if a := kernel.origin.deployment.Architecture; c.Parameters == 0 || a.BytesPerParameter != 2 || a.AttentionBytesPerParameter != 2 {
			continue
		}
		compared++
		if bytes := kernel.WeightBytes(tied); bytes != int64(2*c.Parameters) {
			t.Errorf("%s: %d bytes, tied %v; expected 2 x %.0f", c.Name, bytes, tied, c.Parameters)
		}
	}
	if compared < 35 {
		t.Errorf("%d models compared; expected at least 35", compared)
	}
}

func tiedIn(t *testing.T, config []byte) bool {
	t.Helper()
	tied, err := TiesEmbeddings(config)
	if err != nil {
		t.Fatal(err)
	}
	return tied
}

func TestAConfigsOwnWordOnTiedEmbeddingsGoesFirst(t *testing.T) {
	for config, expected := range map[string]bool{
		`{"model_type":"gemma2"}`:                             true,
		`{"model_type":"falcon","tie_word_embeddings":false}`: false,
		`{"model_type":"llama","tie_word_embeddings":true}`:   true,
		`{"model_type":"llama"}`:                              false,
		`{"tie_word_embeddings":false,"text_config":{"hidden_size":1,"tie_word_embeddings":true}}`:  true,
		`{"tie_word_embeddings":true,"text_config":{"hidden_size":1,"model_type":"mistral"}}`:       true,
		`{"model_type":"gemma3","text_config":{"model_type":"gemma3_text","num_hidden_layers":34}}`: true,
	} {
		if tied := tiedIn(t, []byte(config)); tied != expected {
			t.Errorf("%s: tied %v; expected %v", config, tied, expected)
		}
	}
	for _, config := range []string{`{"tie_word_embeddings":"yes"}`, `{`, `{"text_config":3}`} {
		if _, err := TiesEmbeddings([]byte(config)); err == nil {
			t.Errorf("%s: expected an error", config)
		}
	}
}

func TestKVCacheIsCountedInBlocks(t *testing.T) {
	for name, c := range map[string]struct {
		config string
		tp     int
		tokens int64
		bytes  int64
	}{
		"no token":                {llama7B, 1, 0, 0},
		"fewer than none":         {llama7B, 1, -5, 0},
		"one token":               {llama7B, 1, 1, 16 * 524288},
		"a full block":            {llama7B, 1, 16, 16 * 524288},
		"one more":                {llama7B, 1, 17, 32 * 524288},
		"two KV heads a rank":     {llama70B, 4, 100, 112 * 2 * 80 * 2 * 2 * 128},
		"copies of KV heads":      {llama70B, 16, 100, 112 * 2 * 80 * 2 * 1 * 128},
		"latent on every rank":    {latent, 4, 100, 112 * 2 * 2 * (512 + 64)},
		"below the window":        {windowed, 1, 900, 912 * 2 * 6 * 2 * 4 * 128},
		"beyond it, one layer in": {windowed, 1, 8000, (8000 + 5*64*16) * 2 * 2 * 4 * 128},
	} {
		if bytes := kernelOn(t, c.config, c.tp, false).KVBytes(c.tokens, 16); bytes != c.bytes {
			t.Errorf("%s: %d bytes; expected %d", name, bytes, c.bytes)
		}
	}
}

func TestAKernelSaysWhatItRestsOn(t *testing.T) {
	bundle := openGolden(t)
	origin := kernelOn(t, mixtral, 2, false).Origin()
	if origin.Digest != bundle.Digest() || origin.Hardware != "H100" || origin.OverPCIe || !origin.KernelsMeasured || origin.Serves != "MoE models" {
		t.Errorf("%+v", origin)
	}
	if sum := origin.Coefficients[termWeights] + origin.Coefficients[termStep]; !(sum > 0) || origin.Trees < 1 || len(origin.TrainedOn) < 1 {
		t.Errorf("%+v", origin)
	}
	arch, _ := ParseConfig([]byte(llama7B))
	kernel, err := bundle.Kernel(Deployment{Architecture: arch, TensorParallelism: 2, Hardware: "l40s"})
	if err != nil || !kernel.Origin().OverPCIe || kernel.Origin().Hardware != "L40S" || kernel.Origin().Serves != "dense models" {
		t.Errorf("%v, %+v", err, kernel.Origin())
	}
}
