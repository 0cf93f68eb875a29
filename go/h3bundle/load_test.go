package h3bundle

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
)

// goldenFiles is the golden bundle in memory, to be damaged.
func goldenFiles(t testing.TB) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	for _, name := range []string{"manifest.json", "manifest.sha256", "booster.json", "booster_moe.json", "golden.json"} {
		data, err := os.ReadFile(filepath.Join(goldenDir, name))
		if err != nil {
			t.Fatalf("the golden bundle must be there: %v", err)
		}
		files[name] = data
	}
	return files
}

func load(files map[string][]byte) (*Bundle, error) {
	fsys := fstest.MapFS{}
	for name, data := range files {
		fsys["dist/"+name] = &fstest.MapFile{Data: data}
	}
	return Load(fsys, "dist")
}

func replace(old, new string) func([]byte) []byte {
	return func(data []byte) []byte {
		if !bytes.Contains(data, []byte(old)) {
			panic("nothing to replace: " + old)
		}
		return bytes.Replace(data, []byte(old), []byte(new), 1)
	}
}

func TestGoldenBundleLoadsFromAnyFileSystem(t *testing.T) {
	bundle, err := load(goldenFiles(t))
	if err != nil || bundle.Digest() != openGolden(t).Digest() {
		t.Fatalf("%v", err)
	}
}

func TestWhatIsWrongIsNamedWithFileAndPlaceInALine(t *testing.T) {
	for _, edit := range []struct{ old, new, expected string }{
		{`"format_version": 2`, `"format_version": 3`, `format "h3-bundle" version 3; expected "h3-bundle" version 2`},
		{`"name": "kv_to_weights"`, `"name": "queue_depth"`, `features[0]: unknown feature "queue_depth"`},
		{`"weights_us",`, `"weights_ms",`, `terms: ["weights_ms"`},
		{`"queueing_us": 9300.0`, `"queueing_us": 1e12`, "overheads.queueing_us: 1e+12; expected 0 to 1e+09"},
		{`"queueing_us": 9300.0`, `"queueing_us": null`, "overheads.queueing_us: holds null; expected number"},
		{`"queueing_us": 9300.0`, `"queueing_us": 1e999`, "the number 1e999; expected finite ones"},
		{`"queueing_us": 9300.0`, `"queueing_us": NaN`, "not JSON at byte"},
		{`"format": `, `"x\ud800": 1, "format": `, "not JSON at byte 11: half a surrogate pair"},
		{`"format": `, `"format": "x", "format": `, `key "format" stands there twice`},
		{`"moe": "moe"`, `"moe": "other"`, `routing: "other"; expected one of the models`},
		{`"booster": "booster.json"`, `"booster": "../booster.json"`, `models.dense.booster: "../booster.json"; expected booster.json`},
		{`"formula": "`, `"co\nde": "import os", "formula": "`, `unknown key "co\nde"`},
		{`"new_workload": {`, `"new_moon": {`, `uncertainty.kinds: unknown kind "new_moon"`},
		{`"h100": "H100"`, `"h100": "A100"`, `hardware_aliases.h100: "A100"; expected`},
		{`"provenance": {`, `"provenance": {"x": ` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `,`, "nested deeper than 32"},
	} {
		files := goldenFiles(t)
		files["manifest.json"] = replace(edit.old, edit.new)(files["manifest.json"])
		files["manifest.sha256"] = []byte(digest(files["manifest.json"]) + "  manifest.json")
		_, err := load(files)
		if err == nil || !strings.HasPrefix(err.Error(), "bundle: manifest.json: "+edit.expected) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%.60s: %v; expected %q after the file", edit.new, err, edit.expected)
		}
	}
}

func TestHugeFilesAreRefused(t *testing.T) {
	files := goldenFiles(t)
	files["booster.json"] = make([]byte, MaxFileBytes+1)
	if _, err := load(files); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("%v", err)
	}
}

func TestConfigsWithoutWhatIsNeededAreRefused(t *testing.T) {
	base := `"num_hidden_layers":2,"hidden_size":64,"num_attention_heads":4,"intermediate_size":128,"vocab_size":100`
	for config, expected := range map[string]string{
		`{}`:                                `"num_hidden_layers" is missing`,
		`[]`:                                "JSON",
		`{"a":`:                             "JSON",
		`{` + base:                          "JSON",
		`{` + base + `,"kv_lora_rank":512}`: "qk_rope_head_dim",
		`{` + base + `,"num_experts":8}`:    "num_experts_per_tok",
		`{` + base + `,"num_experts":8,"top_k":9}`:                        "exceeds",
		`{` + base + `,"torch_dtype":"int3"}`:                             "torch_dtype",
		`{` + base + `,"head_dim":-1}`:                                    "head_dim",
		`{` + base + `,"head_dim":16.0}`:                                  "head_dim",
		`{` + base + `,"num_key_value_heads":true}`:                       "num_key_value_heads",
		`{` + base + `,"text_config":3}`:                                  "text_config",
		`{` + base + `,"quantization_config":{"bits":1e300}}`:             "bits",
		`{"x":` + strings.Repeat(`[`, 99) + strings.Repeat(`]`, 99) + `}`: "nested",
	} {
		if _, err := ParseConfig([]byte(config)); err == nil || !strings.Contains(err.Error(), expected) {
			t.Errorf("%.90s: %v; expected an error with %q", config, err, expected)
		}
	}
	if _, err := ParseConfig([]byte(`{` + base + `}`)); err != nil {
		t.Error(err)
	}
}

func TestTensorParallelismMustDivideTheHeads(t *testing.T) {
	bundle, g := openGolden(t), readGolden(t)
	for _, tp := range []int{0, -1, 3, 128} {
		if _, err := bundle.KernelOf(Case{g.Configs["llama-2-7b"], tp, "H100", false, nil}); err == nil {
			t.Errorf("tensor parallelism %d was accepted", tp)
		}
	}
	if _, err := bundle.KernelOf(Case{g.Configs["llama-2-7b"], 1, "abacus", false, nil}); err == nil {
		t.Error("unknown hardware was accepted")
	}
}

// FuzzLoad edits manifest, booster and config; what loads must give a finite, positive step time.
func FuzzLoad(f *testing.F) {
	files := goldenFiles(f)
	config := []byte(`{"num_hidden_layers":2,"hidden_size":64,"num_attention_heads":4,"intermediate_size":128,"vocab_size":100}`)
	small := boosterJSON(f, openGolden(f).FeatureNames(), []map[string]any{smallTree()})
	f.Add(files["manifest.json"], small, config)
	f.Add(bytes.ReplaceAll(files["manifest.json"], []byte(`"trees": 40`), []byte(`"trees": 1`)), small, config)
	f.Add([]byte("{}"), small, []byte(fmt.Sprintf(`{"text_config":%s}`, config)))
	f.Fuzz(func(t *testing.T, manifestJSON, boosterJSON, configJSON []byte) {
		arch, configErr := ParseConfig(configJSON)
		m, err := parseManifest(manifestJSON)
		b, boosterErr := parseBooster(boosterJSON, fuzzFeatures)
		if boosterErr == nil {
			b.margin(&row{})
		}
		if err != nil || configErr != nil {
			return
		}
		bundle, err := assemble(m, map[string][]byte{"booster.json": boosterJSON, "booster_moe.json": boosterJSON}, "")
		if err != nil {
			return
		}
		kernel, err := bundle.Kernel(Deployment{Architecture: arch, TensorParallelism: 1, Hardware: "H100"})
		if err != nil {
			return
		}
		for _, batch := range [][]Tokens{nil, decodeBatch(3), {{100, 2048, 4096, 0}}} {
			if us := kernel.StepUS(batch); us < 1 || us > MaxPeriodUS {
				t.Fatalf("%g us", us)
			}
		}
	})
}

var fuzzFeatures = []string{
	"kv_to_weights", "compute_to_weights", "compute_excess_to_weights", "prefill_attention_to_weights", "all_reduce_to_weights",
	"prefill_share", "prefill_step_share", "expert_coverage", "tokens_per_expert",
}

// FuzzBatch reads batches; what can be read gives a finite, positive step time.
func FuzzBatch(f *testing.F) {
	kernel := testKernel(f, "mixtral-8x7b", 2)
	f.Add([]byte(`[[600, 1, 512], [0, 300, 300]]`))
	f.Add([]byte(`{"requests": [{"progress_index": 0, "new_tokens": 5, "prompt_tokens": 9}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		requests, err := ParseBatch(data)
		composition := kernel.Compose(requests)
		if us := kernel.PeriodUS(&composition); err == nil && !(us >= 1 && us <= MaxPeriodUS) {
			t.Fatalf("%v us", us)
		}
	})
}
